//! The answers of the ops listener: `/metrics`, `/-/healthy` and `/-/ready`.
//!
//! Knows no sockets and no keys: whoever reaches the listener may ask. Health never depends on an upstream, and a store
//! that fails while it is in use is told of without a change of status.

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;

use crate::metrics::{self, Metrics};

/// What the ops listener keeps for itself, with all below: nothing else can be mounted there.
pub const RESERVED_PATHS: [&str; 2] = ["/metrics", "/-"];

const TEXT: &str = "text/plain; charset=utf-8";

/// What has to be there before requests may be sent here.
#[derive(Default)]
pub struct Readiness {
    draining: AtomicBool,
    listeners_bound: AtomicBool,
    store_open: AtomicBool,
}

impl Readiness {
    pub fn listeners_bound(&self) {
        self.listeners_bound.store(true, Ordering::Release);
    }

    pub fn store_opened(&self) {
        self.store_open.store(true, Ordering::Release);
    }

    /// The shutdown has begun; there is no way back.
    pub fn draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// What is in the way, in words; empty when ready.
    pub fn missing(&self) -> Vec<&'static str> {
        let parts = [
            (self.store_open.load(Ordering::Acquire), "the store is not open"),
            (self.listeners_bound.load(Ordering::Acquire), "the listeners are not bound"),
            (!self.draining.load(Ordering::Acquire), "shutting down"),
        ];
        parts.into_iter().filter(|(there, _)| !there).map(|(_, missing)| missing).collect()
    }
}

/// Answers a request of the ops listener. The body is not read. Blocks for some microseconds: not for a worker thread.
pub fn answer<B>(request: &Request<B>, metrics: &Metrics, readiness: &Readiness) -> Response<Full<Bytes>> {
    let mut response = match (request.uri().path(), request.method()) {
        ("/-/healthy" | "/-/ready" | "/metrics", method) if *method != Method::GET && *method != Method::HEAD => {
            method_not_allowed()
        }
        ("/-/healthy", _) => text(StatusCode::OK, format!("healthy\n{}", troubles(metrics))),
        ("/-/ready", _) => ready(readiness, metrics),
        ("/metrics", _) => page(StatusCode::OK, metrics::CONTENT_TYPE, metrics.encode()),
        _ => text(StatusCode::NOT_FOUND, "not found; there are /metrics, /-/healthy and /-/ready\n"),
    };
    if *request.method() == Method::HEAD {
        *response.body_mut() = Full::default();
    }
    response
}

fn ready(readiness: &Readiness, metrics: &Metrics) -> Response<Full<Bytes>> {
    let missing = readiness.missing();
    if missing.is_empty() {
        return text(StatusCode::OK, format!("ready\n{}", troubles(metrics)));
    }
    text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", missing.join(", ")))
}

/// What does not work, a line each. It changes no status: without its store a gate admits the keys that it knows, and one
/// that gets no traffic, or is restarted, admits none.
fn troubles(metrics: &Metrics) -> String {
    let trouble = metrics.store_health().and_then(|health| health.trouble());
    trouble.map(|trouble| format!("but {trouble}\n")).unwrap_or_default()
}

fn method_not_allowed() -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    response
}

fn text(status: StatusCode, body: impl Into<String>) -> Response<Full<Bytes>> {
    page(status, TEXT, body.into())
}

fn page(status: StatusCode, media_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let length = HeaderValue::from(body.len());
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    // Written out, so that the answer to HEAD has it too.
    headers.insert(CONTENT_LENGTH, length);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
