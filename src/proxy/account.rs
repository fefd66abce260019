//! What is recorded of one request, whatever becomes of it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, Request, Version};
use hyper::body::Body as _;

use crate::http::RequestId;
use crate::key::KeyId;
use crate::limit::Slot;
use crate::log;
use crate::metrics::{Metrics, NO_ROUTE, Outcome, RouteMetrics};
use crate::server::{Exchange, Incoming, TlsPeer};

use super::admit::Trail;
use super::gate::Gate;
use super::running::Run;
use super::upload::Upload;

/// The running account of one request. Dropped with the response's body, it records the request as ended.
///
/// In a place of its own, since it goes from hand to hand with the response.
pub(super) struct Account {
    metrics: Arc<Metrics>,
    counts: Arc<RouteMetrics>,
    pub(super) started: Instant,
    /// When the request was handed to the upstream.
    pub(super) sent: Option<Instant>,
    /// The wait for the upstream's response head, once it is over.
    pub(super) upstream_time: Option<Duration>,
    /// The time until the answer that was not spent here: waits for the upstream or for the client's body.
    pub(super) elsewhere: Duration,
    /// Whether the request was counted as admitted: what becomes of it later is no matter of admission.
    pub(super) admitted: bool,
    /// When the response was handed to the connection.
    pub(super) answered: Option<Instant>,
    pub(super) status: u16,
    pub(super) client: IpAddr,
    pub(super) key: Option<KeyId>,
    pub(super) bytes: u64,
    /// What a tunnel's client sent; `None`: the request became none.
    pub(super) received: Option<u64>,
    /// Whether the response is to be its head alone, whatever body it was made with.
    pub(super) is_head: bool,
    /// Whether the response's body reached its end.
    pub(super) complete: bool,
    /// Whether bytes of the request's body may still arrive: the connection cannot be reused after a refusal.
    pub(super) body_unread: bool,
    /// The place that the request takes in its key's concurrency limit.
    pub(super) slot: Option<Slot>,
    /// The request's note among those that run under keys.
    pub(super) run: Option<Run>,
    /// The request's body, once it is on its way.
    pub(super) upload: Option<Arc<Upload>>,
    pub(super) request_id: Option<RequestId>,
    /// What the access log says; `None` while it is off.
    line: Option<AccessLine>,
}

struct AccessLine {
    method: Option<Method>,
    protocol: Version,
    route: Option<Arc<str>>,
    tls: Option<Arc<TlsPeer>>,
}

impl Account {
    pub(super) fn open(
        metrics: &Arc<Metrics>,
        gate: &Gate,
        request: &Request<Incoming>,
        exchange: &Exchange,
    ) -> Box<Self> {
        metrics.request_started();
        // A stand-in for what was no request has no method of its own.
        let method = exchange.malformed().is_none().then(|| request.method().clone());
        let (protocol, tls) = (request.version(), &exchange.connection().tls);
        let line = gate.access_log.then(|| AccessLine { method, protocol, route: None, tls: tls.clone() });
        Box::new(Self {
            metrics: Arc::clone(metrics),
            counts: Arc::clone(&gate.unmatched),
            started: Instant::now(),
            sent: None,
            upstream_time: None,
            elsewhere: Duration::ZERO,
            admitted: false,
            answered: None,
            status: 0,
            client: exchange.peer().ip().to_canonical(),
            key: None,
            bytes: 0,
            received: None,
            is_head: request.method() == Method::HEAD,
            complete: false,
            body_unread: !request.body().is_end_stream(),
            slot: None,
            run: None,
            upload: None,
            request_id: None,
            line,
        })
    }

    /// Takes over what admission found out: the request counts at its route from now on.
    pub(super) fn follow(&mut self, trail: &Trail<'_>) {
        self.key = trail.key;
        let Some(route) = trail.route else { return };
        self.counts = Arc::clone(&route.metrics);
        if let Some(line) = &mut self.line {
            line.route = Some(Arc::clone(&route.name));
        }
    }

    /// The request is let in: once, and whatever becomes of it.
    pub(super) fn admit(&mut self, outcome: Outcome) {
        self.admitted = true;
        self.metrics.admission(outcome);
    }

    /// The request is a call of the key API.
    pub(super) fn enter_managed(&mut self, gate: &Gate) {
        self.counts = Arc::clone(&gate.managed);
        if let Some(line) = &mut self.line {
            line.route = Some(Arc::clone(&gate.mount));
        }
    }

    fn in_gate(&self) -> Duration {
        // A client that left while the upstream was at work: what came before is all that was spent here.
        let until = self.answered.or(self.sent).unwrap_or_else(Instant::now);
        until.saturating_duration_since(self.started).saturating_sub(self.elsewhere)
    }

    fn write_line(&mut self, in_gate: Duration) {
        let Some(line) = self.line.take() else { return };
        log::Access {
            request_id: &self.request_id.unwrap_or_default(),
            client: self.client,
            method: line.method.as_ref().map_or("-", Method::as_str),
            protocol: line.protocol,
            route: line.route.as_deref().unwrap_or(NO_ROUTE),
            status: self.status,
            key: self.key,
            tls_subject: line.tls.as_ref().and_then(|tls| tls.subject.as_deref()),
            bytes: self.bytes,
            received: self.received,
            complete: self.complete,
            cut: self.run.as_ref().and_then(Run::lost).map(|lost| lost.cut()),
            in_gate,
            at_upstream: self.upstream_time,
        }
        .log();
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let in_gate = self.in_gate();
        self.metrics.request_finished(in_gate);
        self.counts.finished(self.status);
        self.write_line(in_gate);
        if let Some(upload) = self.upload.take() {
            upload.outlive(self.run.take(), self.slot.take());
        }
    }
}
