//! The key API: lists, creates, shows, changes and revokes keys under one path (design section 3).
//!
//! Does not authenticate, and does not read bodies off the wire: its caller brings a valid key and the whole body.
//! Invariants: a path that the mount covers is answered here and never forwarded; what a caller may change is decided
//! by the keyring, on the records as they are at that moment, and written to the audit trail there; only a creation
//! shows a key's text.

mod body;
mod browser;
mod page;
mod precondition;
mod settings;
mod view;

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::request::Parts;
use http::{HeaderValue, Method, Response};

use crate::http::Refusal;
use crate::key::{KEY_READ, KEY_WRITE, KeyReference, ScopeCatalog, ScopeSet};
use crate::keyring::{ChangeError, Holder, KeyView, Keyring, Unavailable};
use crate::policy;
use crate::route::Host;
use crate::store::{Actor, Who};

use page::Page;
pub use settings::{ListenerName, MountPath, Settings};

/// Stands for the calling key where a path names a key.
const CALLER: &str = "self";

/// The key API of one gate.
pub struct Admin {
    mount: MountPath,
    catalog: ScopeCatalog,
    keyring: Arc<Keyring>,
    /// The names that the gate is known by; none: it was not told.
    hosts: Vec<Host>,
}

/// One call: a request whose key is known to be valid, with its whole body.
pub struct Call {
    pub parts: Parts,
    pub body: Bytes,
    pub caller: Arc<Holder>,
    /// The client's address, for the audit trail.
    pub address: IpAddr,
}

/// What a call asks for. Keys are named as the path has them: they are read after the caller's scopes are checked, so
/// that a caller without them learns nothing about any key.
pub(crate) enum Operation<'p> {
    Create,
    Delete { key: &'p str },
    DeleteCaller,
    Get { key: &'p str },
    GetCaller,
    List,
    Update { key: &'p str },
}

impl Admin {
    pub fn new(settings: &Settings, catalog: ScopeCatalog, keyring: Arc<Keyring>, hosts: Vec<Host>) -> Self {
        Self { mount: settings.path.clone(), catalog, keyring, hosts }
    }

    /// Whether `path` is the mount or below it, and so never a route's.
    pub fn covers(&self, path: &str) -> bool {
        self.mount.covers(path)
    }

    /// Answers a call. A change that is answered with success is on disk.
    ///
    /// # Errors
    /// The [`Refusal`] to send instead. Nothing has changed then; after [`Refusal::StoreUnavailable`] something may have.
    pub async fn answer(&self, call: Call) -> Result<Response<Bytes>, Refusal> {
        let operation = self.admit(&call.parts, &call.caller)?;
        let response = match operation {
            Operation::Create => self.create(&call).await?,
            Operation::Delete { key } => self.delete(&call, reference(key)?).await?,
            Operation::DeleteCaller => self.delete(&call, own_key(&call)).await?,
            Operation::Get { key } => view::item(&self.present(&reference(key)?).await?),
            Operation::GetCaller => view::item(&self.present(&own_key(&call)).await?),
            Operation::List => self.list(&call).await?,
            Operation::Update { key } => self.update(&call, reference(key)?).await?,
        };
        if call.parts.method == Method::HEAD {
            return Ok(without_body(response));
        }
        Ok(response)
    }

    /// What a call would do, if its caller may: told before its body is asked for.
    ///
    /// # Errors
    /// The [`Refusal`] to send instead.
    pub(crate) fn admit<'p>(&self, parts: &'p Parts, caller: &Holder) -> Result<Operation<'p>, Refusal> {
        let operation = operation(&self.mount, parts.method.as_str(), parts.uri.path())?;
        browser::refuse_cross_site(&parts.headers, &self.hosts)?;
        require(caller, operation.scope())?;
        Ok(operation)
    }

    async fn list(&self, call: &Call) -> Result<Response<Bytes>, Refusal> {
        let page = Page::parse(call.parts.uri.query())?;
        let (views, total) = self.keyring.list(page.offset(), page.limit()).await?;
        Ok(view::list(&views, total, &page))
    }

    async fn create(&self, call: &Call) -> Result<Response<Bytes>, Refusal> {
        let draft = body::draft(&call.parts.headers, &call.body, &self.catalog)?;
        let (secret, key) = self.keyring.create(call.actor(), draft).await?;
        Ok(view::created(&key, &secret, &self.mount))
    }

    async fn update(&self, call: &Call, target: KeyReference) -> Result<Response<Bytes>, Refusal> {
        let update = body::update(&call.parts.headers, &call.body, &self.catalog)?;
        let before = self.present(&target).await?;
        // Before anything is told of a key that is above the caller.
        policy::grant(&call.caller.record().scopes, before.record.scopes.clone())?;
        if update.kind.is_some_and(|kind| kind != before.record.kind) {
            return Err(body::kind_differs(before.record.kind));
        }
        let if_match = precondition::if_match(&call.parts.headers, before.record.revision);
        let after = self.keyring.update(call.actor(), target, update.changes, if_match).await?;
        Ok(view::item(&after))
    }

    async fn delete(&self, call: &Call, target: KeyReference) -> Result<Response<Bytes>, Refusal> {
        let before = self.present(&target).await?;
        let if_match = precondition::if_match(&call.parts.headers, before.record.revision);
        self.keyring.delete(call.actor(), target, if_match).await?;
        Ok(view::deleted())
    }

    async fn present(&self, target: &KeyReference) -> Result<KeyView, Refusal> {
        self.keyring.get(target).await?.ok_or(Refusal::KeyNotFound)
    }
}

impl Operation<'_> {
    /// The scope that the caller must hold; `None` where any key will do.
    fn scope(&self) -> Option<&'static str> {
        match self {
            Self::Create | Self::Delete { .. } | Self::Update { .. } => Some(KEY_WRITE),
            Self::DeleteCaller | Self::GetCaller => None,
            Self::Get { .. } | Self::List => Some(KEY_READ),
        }
    }
}

impl Call {
    fn actor(&self) -> Actor {
        Actor { who: Who::Key(self.caller.record().id), address: Some(self.address) }
    }
}

impl From<ChangeError> for Refusal {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::ActorGone => Self::KeyUnknown,
            ChangeError::Denied(deny) => deny.into(),
            ChangeError::FixedScopes { fixed } => body::scopes_are_fixed(&fixed),
            ChangeError::Full => Self::KeysFull,
            ChangeError::ImmutableScopes => Self::ImmutableScopes,
            ChangeError::LastAdminKey => Self::LastAdminKey,
            ChangeError::NotFound => Self::KeyNotFound,
            ChangeError::ScopesRequired => body::scopes_are_missing(),
            ChangeError::Stale => Self::Stale,
            // Only a key brought from outside can have an id that is taken; this API mints its own.
            ChangeError::Taken => Self::Internal,
            ChangeError::Unavailable => Self::StoreUnavailable,
        }
    }
}

impl From<Unavailable> for Refusal {
    fn from(_: Unavailable) -> Self {
        Self::StoreUnavailable
    }
}

/// The scope that a call needs; `None` where any key will do.
///
/// # Errors
/// The [`Refusal`] of a call that there is not.
pub(crate) fn scope_needed(mount: &MountPath, method: &str, path: &str) -> Result<Option<&'static str>, Refusal> {
    operation(mount, method, path).map(|operation| operation.scope())
}

fn operation<'p>(mount: &MountPath, method: &str, path: &'p str) -> Result<Operation<'p>, Refusal> {
    let below = path.strip_prefix(mount.as_str()).ok_or(Refusal::RouteUnknown)?;
    let key = match below.strip_prefix('/') {
        None if below.is_empty() => return collection_operation(method),
        Some(key) if !key.is_empty() && !key.contains('/') => key,
        _ => return Err(Refusal::RouteUnknown),
    };
    if key == CALLER { caller_operation(method) } else { item_operation(method, key) }
}

fn collection_operation<'p>(method: &str) -> Result<Operation<'p>, Refusal> {
    match method {
        "GET" | "HEAD" => Ok(Operation::List),
        "POST" => Ok(Operation::Create),
        _ => Err(not_allowed("GET, HEAD, POST")),
    }
}

fn caller_operation<'p>(method: &str) -> Result<Operation<'p>, Refusal> {
    match method {
        "DELETE" => Ok(Operation::DeleteCaller),
        "GET" | "HEAD" => Ok(Operation::GetCaller),
        _ => Err(not_allowed("GET, HEAD, DELETE")),
    }
}

fn item_operation<'p>(method: &str, key: &'p str) -> Result<Operation<'p>, Refusal> {
    match method {
        "DELETE" => Ok(Operation::Delete { key }),
        "GET" | "HEAD" => Ok(Operation::Get { key }),
        "PATCH" | "PUT" => Ok(Operation::Update { key }),
        _ => Err(not_allowed("GET, HEAD, PUT, PATCH, DELETE")),
    }
}

fn not_allowed(allow: &str) -> Refusal {
    Refusal::MethodNotAllowed { allow: allow.to_owned() }
}

fn require(caller: &Holder, scope: Option<&str>) -> Result<(), Refusal> {
    match scope {
        Some(scope) if !caller.record().scopes.holds_named(scope) => {
            Err(Refusal::ScopeMissing { required: ScopeSet::of(&[scope]), any: false })
        }
        _ => Ok(()),
    }
}

/// What cannot be a key's name names no key: the answer is that of an unknown one.
fn reference(key: &str) -> Result<KeyReference, Refusal> {
    key.parse().map_err(|_| Refusal::KeyNotFound)
}

fn own_key(call: &Call) -> KeyReference {
    KeyReference::Id(call.caller.record().id)
}

/// RFC 9110 §9.3.2: the header fields that GET would have sent, the length too, and no content.
fn without_body(mut response: Response<Bytes>) -> Response<Bytes> {
    let length = HeaderValue::from(response.body().len());
    response.headers_mut().insert(CONTENT_LENGTH, length);
    response.body_mut().clear();
    response
}
