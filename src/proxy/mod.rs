//! The public handler: every request from admission to the last byte of its response.
//!
//! One function read top to bottom ([`Door::serve`]) and an outer one that turns refusals into responses and records
//! ([`Door::handle`]). Does not parse, decide or store: it calls what does, in the order of the design's section 5.

mod account;
mod admit;
mod body;
mod forward;
mod gate;
mod manage;
mod settings;
mod target;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, HeaderValue};
use http::request::Parts;
use http::{Request, Response};
use hyper::body::Incoming;

use crate::http::headers::Origin;
use crate::http::{Refusal, RequestId};
use crate::keyring::Keyring;
use crate::limit::Failures;
use crate::metrics::{LimitKind, Metrics, Outcome};
use crate::policy;
use crate::route::Path;
use crate::server::{Exchange, Handler};

pub use body::{Body, RequestBody};
pub use gate::{Gate, Route};
pub use settings::{
    CredentialSegment, HostName, LimitStatus, ParameterName, RouteSettings, Settings,
};

use account::Account;
use admit::Identified;

/// What all workers share.
pub struct Proxy {
    /// The present configuration's routes: a request keeps the one that it began with.
    pub gate: arc_swap::ArcSwap<Gate>,
    pub keyring: Arc<Keyring>,
    pub failures: Failures,
    pub metrics: Arc<Metrics>,
    /// Where the key API's calls run, so that a slow one slows no request.
    pub control: tokio::runtime::Handle,
}

/// One worker's handler of a listener.
#[derive(Clone)]
pub struct Door {
    proxy: Arc<Proxy>,
    worker: usize,
    serves: Serves,
}

/// What a listener offers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Serves {
    KeysOnly,
    Routes,
    RoutesAndKeys,
}

/// One request on its way through the ladder.
struct Visit<'v> {
    gate: &'v Gate,
    exchange: &'v Exchange,
    parts: Parts,
    origin: Origin,
    started: Instant,
}

impl Handler for Door {
    type Body = Body;

    async fn handle(&self, request: Request<Incoming>, exchange: Exchange) -> Response<Body> {
        let gate = self.proxy.gate.load_full();
        let mut account = Account::open(&self.proxy.metrics, &gate, &request, &exchange);
        match self.serve(&gate, &exchange, request, &mut account).await {
            Ok(response) => response.map(|body| body.charged_to(account)),
            Err(refusal) => self.refuse(refusal, &gate, account),
        }
    }
}

impl Door {
    pub fn new(proxy: Arc<Proxy>, worker: usize, serves: Serves) -> Self {
        Self { proxy, worker, serves }
    }

    /// Whether this listener's key API owns the path.
    pub fn owns(&self, path: &str) -> bool {
        self.serves != Serves::Routes && self.proxy.gate.load().admin.covers(path)
    }

    async fn serve(
        &self,
        gate: &Gate,
        exchange: &Exchange,
        request: Request<Incoming>,
        account: &mut Account,
    ) -> Result<Response<Body>, Refusal> {
        if let Some(malformed) = exchange.malformed() {
            return Err(Refusal::Malformed(malformed));
        }
        let (parts, body) = request.into_parts();
        let origin = Origin::of(exchange.peer().ip(), &parts.headers, &gate.trusted_proxies);
        account.client = origin.client;
        let visit = Visit { gate, exchange, parts, origin, started: account.started };
        gate.check_host(visit.host())?;
        let path = visit.parts.uri.path().to_owned();
        let path = Path::parse(&path).map_err(Refusal::MalformedPath)?;
        if self.serves != Serves::Routes && gate.admin.covers(path.raw()) {
            return self.manage(visit, body, account).await;
        }
        let identified = self.identify(&visit, &path, account).await?;
        let Identified { route, holder, credential } = identified;
        let record = holder.as_deref().map(crate::keyring::Holder::record);
        let permit = policy::authorize(&route.settings.requirement, record).map_err(admit::denied)?;
        account.slot = self.limit(route, holder.as_deref(), visit.started)?;
        if let Some(holder) = &holder {
            self.proxy.keyring.note_use(holder);
        }
        let identity = holder.as_deref().map(crate::keyring::Holder::identity);
        self.proxy.metrics.admission(if holder.is_some() { Outcome::Admitted } else { Outcome::AdmittedPublic });
        self.forward(permit, forward::Passage { visit, route, identity, credential }, body, account).await
    }

    fn refuse(&self, refusal: Refusal, gate: &Gate, mut account: Account) -> Response<Body> {
        self.count(&refusal, &account);
        let closes = refusal.closes_connection() || account.body_unread;
        let request_id = *account.request_id.get_or_insert_with(RequestId::new);
        tracing::debug!(request_id = %request_id, client = %account.client, reason = %refusal, "refused");
        let mut response = refusal.into_response(request_id, &gate.challenge);
        if closes {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        account.status = response.status().as_u16();
        response.map(|body| Body::local(body).charged_to(account))
    }

    fn count(&self, refusal: &Refusal, account: &Account) {
        let metrics = &self.proxy.metrics;
        if let Some(outcome) = refusal.outcome() {
            metrics.admission(outcome);
        }
        match refusal {
            Refusal::AddressLimited { .. } => metrics.limited(LimitKind::Address),
            Refusal::KeyConcurrencyLimited { .. } => metrics.limited(LimitKind::KeyConcurrency),
            Refusal::KeyRateLimited { .. } => metrics.limited(LimitKind::KeyRate),
            Refusal::RouteRateLimited { .. } => metrics.limited(LimitKind::RouteRate),
            _ => {}
        }
        if refusal.is_failed_authentication() {
            self.proxy.failures.failed(account.client, Instant::now());
        }
    }
}

impl Visit<'_> {
    /// The host that the request names, without its port. The guard has checked its form.
    fn host(&self) -> Option<&str> {
        let host = self.parts.headers.get(HOST)?.to_str().ok()?;
        if host.starts_with('[') {
            return host.split_inclusive(']').next();
        }
        host.split(':').next()
    }
}

/// A body that is ours, whole.
fn whole(response: Response<Bytes>) -> Response<Body> {
    response.map(Body::local)
}
