//! The public handler: every request from admission to the last byte of its response.
//!
//! One function read top to bottom (`Door::serve`) and an outer one that turns refusals into responses and records
//! ([`Door::handle`]). Does not parse, decide or store: it calls what does, in the order of the design's section 5.

mod account;
mod admit;
mod body;
mod forward;
mod gate;
mod manage;
mod request_body;
mod rewrite;
mod running;
mod settings;
mod target;
mod tunnel;
mod upload;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response};

use crate::admin::ListenerName;
use crate::http::headers::{Origin, Scheme, is_trusted};
use crate::http::{Dialect, Refusal, RequestId, shorten};
use crate::keyring::Keyring;
use crate::metrics::{LimitKind, Metrics, Outcome};
use crate::server::{Exchange, Handler, Incoming};

pub use admit::{Admitted, Head, Trail};
pub(crate) use admit::{check_opt_ins, without_port};
pub use body::Body;
pub use gate::{Gate, Route, RouteLimit};
pub use request_body::RequestBody;
pub(crate) use rewrite::forwarded_target;
pub use rewrite::{FieldRules, HostHeader, PathPrefix, Rewrite};
pub use running::Running;
pub use settings::{CredentialSegment, HostName, LimitStatus, ParameterName, RouteSettings, Settings};

use account::Account;
use forward::Passage;
use manage::Call;

/// A stranger gets so many bytes for each that it has sent, if it can be told what it needs in that.
const AMPLIFICATION_MAX: usize = 10;

/// What ends a stream whose request has not ended.
const RESET_BYTES: usize = 13;

/// What all workers share.
pub struct Proxy {
    /// The present configuration's routes: a request keeps the one that it began with.
    pub gate: arc_swap::ArcSwap<Gate>,
    pub keyring: Arc<Keyring>,
    /// What ends when its key admits it no more.
    pub running: Arc<Running>,
    pub metrics: Arc<Metrics>,
    /// Where the key API's calls run, so that a slow one slows no request.
    pub control: tokio::runtime::Handle,
}

/// One worker's handler of a listener.
#[derive(Clone)]
pub struct Door {
    proxy: Arc<Proxy>,
    worker: usize,
    listener: ListenerName,
}

impl Handler for Door {
    type Body = Body;

    async fn handle(&self, request: Request<Incoming>, exchange: Exchange) -> Response<Body> {
        let gate = self.proxy.gate.load_full();
        let dialect = Dialect::of(&request);
        let mut account = Account::open(&self.proxy.metrics, &gate, &request, &exchange);
        match self.serve(&gate, &exchange, request, &mut account).await {
            Ok(mut response) => {
                response.body_mut().charge_to(account);
                response
            }
            Err(refusal) => self.refuse(refusal, dialect, &gate, account, &exchange),
        }
    }

    fn is_trusted_proxy(&self, peer: IpAddr) -> bool {
        is_trusted(peer, &self.proxy.gate.load().trusted_proxies)
    }
}

fn scheme_of(exchange: &Exchange) -> Scheme {
    match exchange.connection().tls {
        Some(_) => Scheme::Https,
        None => Scheme::Http,
    }
}

impl Door {
    pub fn new(proxy: Arc<Proxy>, worker: usize, listener: ListenerName) -> Self {
        Self { proxy, worker, listener }
    }

    /// The same for another worker.
    pub fn of_worker(&self, worker: usize) -> Self {
        Self { worker, ..self.clone() }
    }

    /// Whether this listener's key API owns the path.
    pub fn serves_keys_at(&self, path: &str) -> bool {
        self.proxy.gate.load().manages(self.listener, path)
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
        let origin = Origin::of(exchange.peer().ip(), scheme_of(exchange), &parts.headers, &gate.trusted_proxies);
        account.client = origin.client;
        // The ops listener is for whoever can reach it, under any name.
        if self.listener == ListenerName::Public {
            gate.check_host(&parts.headers)?;
        }
        let epoch = self.proxy.keyring.epoch();
        let head = Head { parts: &parts, origin, now: account.started };
        if gate.manages(self.listener, parts.uri.path()) {
            account.enter_managed(gate);
            let caller = Box::pin(self.admit_call(gate, head, account)).await?;
            let call = Call { gate, exchange, parts, origin, caller, epoch };
            // In a place of its own: few requests need the room, and all would have it.
            return Box::pin(self.manage(call, body, account)).await;
        }
        // Nothing is proxied from there, also when a reload has just moved the key API away.
        if self.listener == ListenerName::Ops {
            return Err(Refusal::RouteUnknown);
        }
        let mut trail = Trail::default();
        let admitted = self.proxy.admit(gate, head, &mut trail).await;
        account.follow(&trail);
        let mut admitted = admitted?;
        account.slot = admitted.slot.take();
        account.admit(match admitted.permit.key() {
            Some(_) => Outcome::Admitted,
            None => Outcome::AdmittedPublic,
        });
        self.forward(admitted, Passage { gate, exchange, parts, origin, epoch }, body, account).await
    }

    fn refuse(
        &self,
        refusal: Refusal,
        dialect: Dialect,
        gate: &Gate,
        mut account: Box<Account>,
        exchange: &Exchange,
    ) -> Response<Body> {
        self.count(&refusal, gate, &account);
        let closes = refusal.closes_connection() || account.body_unread;
        let request_id = *account.request_id.get_or_insert_with(RequestId::new);
        tracing::debug!(request_id = %request_id, client = %account.client, reason = %refusal, "refused");
        account.status = refusal.status().as_u16();
        // A holder of a key is told in full; whoever loses the connection has to open another.
        let is_cheap = account.key.is_none() && (!closes || exchange.is_stream());
        let mut response = match dialect {
            Dialect::Grpc => refusal.into_grpc_response(),
            Dialect::Problem => refusal.into_response(request_id, &gate.challenge),
        };
        if let Some(outlay) = exchange.outlay().filter(|_| is_cheap) {
            let length = shorten(&mut response, outlay.saturating_mul(AMPLIFICATION_MAX));
            let reset = if account.body_unread { RESET_BYTES } else { 0 };
            exchange.charge((length + reset).div_ceil(AMPLIFICATION_MAX));
        }
        if closes {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let mut response = response.map(Body::local);
        response.body_mut().charge_to(account);
        response
    }

    fn count(&self, refusal: &Refusal, gate: &Gate, account: &Account) {
        let metrics = &self.proxy.metrics;
        if account.admitted {
            metrics.refused_later(refusal.outcome());
        } else {
            metrics.admission(refusal.outcome());
        }
        match refusal {
            Refusal::AddressLimited { .. } => metrics.limited(LimitKind::Address),
            Refusal::KeyConcurrencyLimited { .. } => metrics.limited(LimitKind::KeyConcurrency),
            Refusal::KeyRateLimited { .. } => metrics.limited(LimitKind::KeyRate),
            Refusal::RouteRateLimited { .. } => metrics.limited(LimitKind::RouteRate),
            _ => {}
        }
        // A key that was deleted while its request ran is no guess at one.
        if refusal.is_failed_authentication() && !account.admitted {
            gate.failures.failed(account.client, Instant::now());
        }
    }
}
