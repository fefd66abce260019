//! The ops listener's handler: metrics and health, and the key API where it is mounted there.

use std::sync::Arc;

use http::{Request, Response};

use crate::http::{Challenge, Refusal, RequestId};
use crate::metrics::Metrics;
use crate::ops::{self, Readiness};
use crate::proxy::{Body, Door};
use crate::server::{Exchange, Handler, Incoming};

/// Serves `/metrics`, `/-/healthy`, `/-/ready`, and keys where the configuration says so.
#[derive(Clone)]
pub(super) struct OpsDoor {
    pub(super) metrics: Arc<Metrics>,
    pub(super) readiness: Arc<Readiness>,
    pub(super) keys: Door,
}

impl Handler for OpsDoor {
    type Body = Body;

    async fn handle(&self, request: Request<Incoming>, exchange: Exchange) -> Response<Body> {
        if let Some(malformed) = exchange.malformed() {
            let refusal = Refusal::Malformed(malformed);
            let response = refusal.into_response(RequestId::new(), &Challenge::basic("portcullis"));
            return response.map(Body::local);
        }
        if self.keys.serves_keys_at(request.uri().path()) {
            return self.keys.handle(request, exchange).await;
        }
        ops::answer(&request, &self.metrics, &self.readiness).map(Body::from)
    }
}
