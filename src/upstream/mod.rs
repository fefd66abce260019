//! Upstreams: their addresses, their pooled connections, and one exchange with them.
//!
//! Knows nothing of keys or routes, and repeats no request of which a byte may have been sent.
//!
//! Invariants: a connection is reused only when its last message ended exactly where its framing said; the number of
//! connections and of idle ones has a bound; each worker thread has idle connections of its own, so that nothing is
//! shared while requests run.

mod connection;
mod pool;
mod target;
mod url;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Request, Response};
use hyper::body::{Body, Incoming};

use crate::metrics::{Metrics, UpstreamFailure, UpstreamMetrics};
use crate::settings::{ByteSize, settings};

pub use pool::Lease;
pub use url::Url;

use target::Target;

settings! {
    /// The options of an `[upstream.NAME]` besides `url` and `routes`.
    pub struct Settings {
        /// Until the TCP connection is there.
        pub connect_timeout: Duration = Duration::from_secs(5),
        /// From the last byte of the request to the head of the response; a route's own `timeout` ends it earlier.
        pub response_timeout: Duration = Duration::from_secs(60),
        /// Between two pieces of a response's body.
        pub body_timeout: Duration = Duration::from_secs(60),
        /// How long an unused connection is kept.
        pub idle_timeout: Duration = Duration::from_secs(55),
        /// Unused connections that each worker keeps.
        pub idle_max: NonZeroU32 = NonZeroU32::new(256).unwrap_or(NonZeroU32::MIN),
        /// Connections at a time, over all workers, unused ones included as long as nobody needs their room. One more
        /// request than that is refused with 503.
        pub connections_max: NonZeroU32 = NonZeroU32::new(4_096).unwrap_or(NonZeroU32::MIN),
        /// The largest head of a response.
        pub header_bytes_max: ByteSize = ByteSize::kib(64),
    }
}

/// Why an exchange ended without a response head.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    #[error("there is no room for another connection")]
    Busy,
    #[error("connecting timed out")]
    ConnectTimeout,
    #[error("the response is not valid")]
    Invalid(#[source] hyper::Error),
    #[error("the connection broke before the response")]
    Reset(#[source] hyper::Error),
    #[error("cannot connect")]
    Unreachable(#[source] std::io::Error),
}

impl UpstreamError {
    pub fn kind(&self) -> UpstreamFailure {
        match self {
            Self::Busy => UpstreamFailure::PoolExhausted,
            Self::ConnectTimeout => UpstreamFailure::ConnectTimeout,
            Self::Invalid(_) => UpstreamFailure::InvalidResponse,
            Self::Reset(_) => UpstreamFailure::Reset,
            Self::Unreachable(_) => UpstreamFailure::Connect,
        }
    }
}

/// One backend. `B` is the type of the request bodies that it is sent.
pub struct Upstream<B> {
    pub name: String,
    pub url: Url,
    pub settings: Settings,
    pub metrics: Arc<UpstreamMetrics>,
    /// Its own name, for requests that name no host.
    pub host: HeaderValue,
    target: Arc<Target<B>>,
}

impl<B> Upstream<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    pub fn new(name: String, url: Url, settings: Settings, workers: usize, metrics: &Metrics) -> Self {
        let metrics = metrics.upstream(&name);
        let authority = url.to_string().trim_start_matches("http://").to_owned();
        let host = HeaderValue::try_from(authority).unwrap_or_else(|_| HeaderValue::from_static("upstream.invalid"));
        let target = Arc::new(Target::new(url.clone(), settings.clone(), workers));
        Self { name, url, settings, metrics, host, target }
    }

    /// Sends one request from worker number `worker` and waits for the head of its response. The body streams on; the
    /// [`Lease`] must be given back with [`Lease::finish`] once it was read to its end.
    ///
    /// Cancel-safe: dropped, it closes the connection that it used.
    ///
    /// # Errors
    /// [`UpstreamError`]. The request was not repeated if any of it may have been sent.
    pub async fn send(
        self: &Arc<Self>,
        request: Request<B>,
        worker: usize,
    ) -> Result<(Response<Incoming>, Lease<B>), UpstreamError> {
        self.target.send(request, worker).await.map_err(|failure| failure.error)
    }
}
