//! Upstreams: their addresses, their pooled connections, and one exchange with them.
//!
//! Knows nothing of keys or routes, and repeats no request of which a byte may have been sent.
//!
//! Invariants: a connection is reused only when its last message ended exactly where its framing said; the number of
//! connections and of idle ones has a bound; each worker thread has idle connections of its own, so that nothing is
//! shared while requests run.

mod pool;
mod url;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use http::{HeaderValue, Request, Response};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::http::framing::{BadResponse, GuardedUpstream, ResponseLimits};
use crate::metrics::{Metrics, UpstreamFailure, UpstreamMetrics};
use crate::settings::{ByteSize, settings};

pub use pool::Lease;
pub use url::Url;

use pool::{Connection, Driver, Pools};

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

/// Fields in the head of a response.
const FIELDS_MAX: usize = 256;

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
    pools: Pools<B>,
    open: Arc<AtomicU32>,
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
        Self { name, url, settings, metrics, host, pools: Pools::new(workers), open: Arc::default() }
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
        mut request: Request<B>,
        worker: usize,
    ) -> Result<(Response<Incoming>, Lease<B>), UpstreamError> {
        loop {
            let (mut connection, reused) = match self.pools.take(worker, self.settings.idle_timeout) {
                Some(connection) => (connection, true),
                None => (self.connect().await?, false),
            };
            connection.state.announce(request.method());
            match connection.sender.try_send_request(request).await {
                Ok(response) => return Ok((response, Lease::new(Arc::clone(self), worker, connection))),
                Err(mut failure) => match failure.take_message() {
                    // The pooled connection had died before a byte was written: another one may do.
                    Some(unsent) if reused => request = unsent,
                    _ => return Err(classify(failure.into_error())),
                },
            }
        }
    }

    async fn connect(&self) -> Result<Connection<B>, UpstreamError> {
        // An unused connection of another worker's makes room: what is bounded is there to be used.
        let slot = OpenSlot::enter(&self.open, self.settings.connections_max).or_else(|| self.pools.evict());
        let slot = slot.ok_or(UpstreamError::Busy)?;
        let connecting = tokio::time::timeout(self.settings.connect_timeout, TcpStream::connect(self.url.target()));
        let stream = connecting.await.map_err(|_| UpstreamError::ConnectTimeout)?.map_err(unconnected)?;
        stream.set_nodelay(true).map_err(UpstreamError::Unreachable)?;
        let header_bytes_max = self.settings.header_bytes_max.as_usize();
        let guarded =
            GuardedUpstream::new(stream, ResponseLimits { head_bytes_max: header_bytes_max, fields_max: FIELDS_MAX });
        let state = guarded.state();
        let mut builder = http1::Builder::new();
        builder.max_headers(FIELDS_MAX);
        builder.max_buf_size(header_bytes_max.saturating_add(8_192).max(65_536));
        let (sender, driver) = builder.handshake(TokioIo::new(guarded)).await.map_err(UpstreamError::Reset)?;
        let driving = tokio::spawn(async move {
            // Whoever waits for a response on this connection is told the error; there is nobody else to tell.
            let _ = driver.await;
        });
        Ok(Connection { sender, state, slot, _driver: Driver(driving.abort_handle()) })
    }
}

/// Without a descriptor or a port left, the fault is on this side.
fn unconnected(error: std::io::Error) -> UpstreamError {
    use rustix::io::Errno;
    let ours = [Errno::ADDRNOTAVAIL, Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    if ours.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error())) {
        return UpstreamError::Busy;
    }
    UpstreamError::Unreachable(error)
}

/// hyper hands the guard's verdict on, somewhere down the chain of causes.
fn classify(error: hyper::Error) -> UpstreamError {
    match BadResponse::of(&error) {
        // It had gone before the request was sent, which is no answer at all.
        Some(BadResponse::Closed) => UpstreamError::Reset(error),
        Some(_) => UpstreamError::Invalid(error),
        None if error.is_parse() => UpstreamError::Invalid(error),
        None => UpstreamError::Reset(error),
    }
}

/// A place among the open connections, given back on drop.
pub(crate) struct OpenSlot(Arc<AtomicU32>);

impl OpenSlot {
    fn enter(open: &Arc<AtomicU32>, max: NonZeroU32) -> Option<Self> {
        if open.fetch_add(1, Ordering::Relaxed) >= max.get() {
            open.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Self(Arc::clone(open)))
    }
}

impl Drop for OpenSlot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
