//! Admission: who sends a request, by which route, and whether scopes and limits let it pass now.
//!
//! The order of the steps is the order in which refusals win (design, section 5). Reads no body and sends nothing.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use http::StatusCode;
use http::header::{HOST, HeaderMap};
use http::request::Parts;

use crate::credential::{self, CredentialError};
use crate::http::Refusal;
use crate::http::headers::Origin;
use crate::key::{KeyId, KeySecret};
use crate::keyring::Holder;
use crate::limit::{Allowance, Slot};
use crate::policy::{self, Permit, Requirement};
use crate::route::{Found, Path, Pattern};

use super::Proxy;
use super::gate::{Gate, Route};

/// A request's head and where it comes from.
#[derive(Clone, Copy)]
pub struct Head<'h> {
    pub parts: &'h Parts,
    pub origin: Origin,
    /// When the request came: what limits go by.
    pub now: Instant,
}

/// What was found out about a request, however its admission ends.
#[derive(Default)]
pub struct Trail<'g> {
    pub route: Option<&'g Route>,
    pub key: Option<KeyId>,
}

/// A request that may pass.
pub struct Admitted<'g> {
    pub permit: Permit<Arc<Holder>>,
    pub route: &'g Route,
    /// The line that matched.
    pub pattern: &'g Pattern,
    /// Where the `{credential}` segment lies in the path.
    pub credential: Option<Range<usize>>,
    /// The request's place in its key's concurrency limit, held until the response has ended.
    pub slot: Option<Slot>,
}

impl Proxy {
    /// Admits a request or says why not. Waits for nothing when the key is cached.
    ///
    /// # Errors
    /// The first [`Refusal`] in the design's order.
    pub async fn admit<'g>(
        &self,
        gate: &'g Gate,
        head: Head<'_>,
        trail: &mut Trail<'g>,
    ) -> Result<Admitted<'g>, Refusal> {
        let path = Path::parse(head.parts.uri.path()).map_err(Refusal::MalformedPath)?;
        let host = if gate.table.names_hosts() { host_name(&head.parts.headers) } else { None };
        let (route, pattern, credential) = match gate.table.find(host, &path, head.parts.method.as_str()) {
            Found::Line { line: route, pattern, credential } => (route, pattern, credential),
            Found::MethodNotAllowed { allow } => {
                let miss = Refusal::MethodNotAllowed { allow: allow.to_owned() };
                return Err(Box::pin(self.miss(gate, head, &path, miss, trail)).await);
            }
            Found::Nothing => return Err(Box::pin(self.miss(gate, head, &path, Refusal::RouteUnknown, trail)).await),
        };
        trail.route = Some(route);
        check_opt_ins(route.settings.allow_encoded_slash, route.settings.allow_semicolon, &path)?;
        let holder = self.holder_for(gate, head, route, &path, credential.clone(), trail).await?;
        let permit = policy::authorize(&route.settings.requirement, holder)?;
        let slot = limit(&gate.allowance, route, permit.key(), head.now)?;
        if let Some(holder) = permit.key() {
            self.keyring.note_use(holder, head.now);
        }
        Ok(Admitted { permit, route, pattern, credential, slot })
    }

    /// A miss is told to a valid key alone: strangers do not learn which paths exist.
    async fn miss(
        &self,
        gate: &Gate,
        head: Head<'_>,
        path: &Path<'_>,
        miss: Refusal,
        trail: &mut Trail<'_>,
    ) -> Refusal {
        if let Err(refusal) = check_opt_ins(false, false, path) {
            return refusal;
        }
        match self.holder(gate, head, trail).await {
            Ok(_) => miss,
            Err(refusal) => refusal,
        }
    }

    /// The holder of the key that the headers carry, wherever the general options allow one.
    pub(super) async fn holder(
        &self,
        gate: &Gate,
        head: Head<'_>,
        trail: &mut Trail<'_>,
    ) -> Result<Arc<Holder>, Refusal> {
        check_address(gate, head)?;
        self.authenticate(credential::in_headers(&head.parts.headers, &gate.sources), trail).await
    }

    async fn holder_for(
        &self,
        gate: &Gate,
        head: Head<'_>,
        route: &Route,
        path: &Path<'_>,
        segment: Option<Range<usize>>,
        trail: &mut Trail<'_>,
    ) -> Result<Option<Arc<Holder>>, Refusal> {
        // Nothing is authenticated on a public route, so no limiter of failures stands before it either.
        if route.settings.requirement == Requirement::Public {
            return Ok(None);
        }
        check_address(gate, head)?;
        let secret = match segment {
            Some(segment) => credential::in_text(&path.raw()[segment]).map(Some),
            None => presented(head.parts, route),
        };
        self.authenticate(secret, trail).await.map(Some)
    }

    async fn authenticate(
        &self,
        secret: Result<Option<KeySecret>, CredentialError>,
        trail: &mut Trail<'_>,
    ) -> Result<Arc<Holder>, Refusal> {
        let secret = match secret {
            Ok(Some(secret)) => secret,
            Ok(None) => return Err(Refusal::CredentialsMissing),
            Err(CredentialError::Conflicting) => return Err(Refusal::CredentialsConflicting),
            Err(CredentialError::Malformed) => return Err(Refusal::CredentialsMalformed),
        };
        match self.keyring.holder(&secret).await {
            Ok(Some(holder)) => {
                trail.key = Some(holder.record().id);
                Ok(holder)
            }
            Ok(None) => Err(Refusal::KeyUnknown),
            Err(_) => Err(Refusal::StoreUnavailable),
        }
    }
}

fn check_address(gate: &Gate, head: Head<'_>) -> Result<(), Refusal> {
    match gate.failures.blocked(head.origin.client, head.now) {
        Some(wait) => Err(Refusal::AddressLimited { wait }),
        None => Ok(()),
    }
}

/// The host that a request names, without its port. The guard has checked its form.
pub(super) fn host_name(headers: &HeaderMap) -> Option<&str> {
    std::str::from_utf8(headers.get(HOST)?.as_bytes()).ok().map(without_port)
}

/// What a `Host` value of valid form names.
pub(crate) fn without_port(host: &str) -> &str {
    let end = if host.starts_with('[') {
        host.find(']').map(|bracket| bracket + 1)
    } else {
        host.bytes().position(|byte| byte == b':')
    };
    &host[..end.unwrap_or(host.len())]
}

fn presented(parts: &Parts, route: &Route) -> Result<Option<KeySecret>, CredentialError> {
    let (Some(name), Some(query)) = (&route.settings.credential_query, parts.uri.query()) else {
        return credential::in_headers(&parts.headers, &route.settings.sources);
    };
    let in_query = credential::in_query(query, name.as_str())?;
    let in_headers = match credential::in_headers(&parts.headers, &route.settings.sources) {
        // Other credentials than ours may go with a key in the query.
        Err(CredentialError::Malformed) if in_query.is_some() => None,
        in_headers => in_headers?,
    };
    credential::one_of(in_headers, in_query)
}

pub(crate) fn check_opt_ins(encoded_slash: bool, semicolon: bool, path: &Path<'_>) -> Result<(), Refusal> {
    if path.has_encoded_slash() && !encoded_slash {
        return Err(Refusal::EncodedSlash);
    }
    if path.has_semicolon() && !semicolon {
        return Err(Refusal::Semicolon);
    }
    Ok(())
}

/// Takes from the key's and the route's limits: the strictest wins.
fn limit(
    allowance: &Allowance,
    route: &Route,
    holder: Option<&Arc<Holder>>,
    now: Instant,
) -> Result<Option<Slot>, Refusal> {
    let status = route.settings.limit_status.into();
    let slot = match holder {
        Some(holder) => limit_key(holder, allowance, status, now)?,
        None => None,
    };
    match route.limit.as_ref().map(|limit| limit.bucket.take(&limit.quota, now)) {
        Some(Err(wait)) => Err(Refusal::RouteRateLimited { wait, status }),
        _ => Ok(slot),
    }
}

/// Takes from a key's own limits.
pub(super) fn limit_key(
    holder: &Holder,
    allowance: &Allowance,
    status: StatusCode,
    now: Instant,
) -> Result<Option<Slot>, Refusal> {
    if let Some(Err(wait)) = allowance.quota.as_ref().map(|quota| holder.bucket().take(quota, now)) {
        return Err(Refusal::KeyRateLimited { wait, status });
    }
    match allowance.concurrency.map(|max| holder.concurrency().try_enter(max)) {
        Some(None) => Err(Refusal::KeyConcurrencyLimited { status }),
        Some(slot) => Ok(slot),
        None => Ok(None),
    }
}
