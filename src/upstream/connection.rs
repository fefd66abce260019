//! One connection to a target: how it is made, and one exchange over it.

use http::header::UPGRADE;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::task::AbortHandle;

use super::resolve::{Origin, Resolver};
use super::target::{Failure, OpenSlot};
use super::{Settings, UpstreamError};
use crate::http::framing::{BadResponse, GuardedUpstream, ResponseLimits, UpstreamState};

/// Fields in the head of a response.
const FIELDS_MAX: usize = 256;

pub(super) struct Connection<B> {
    sender: SendRequest<B>,
    state: UpstreamState,
    /// The connection's place among those that are open.
    pub(super) slot: OpenSlot,
    pub(super) origin: Origin,
    _driver: Driver,
}

/// The task that moves a connection's bytes. Ends with whoever holds the connection: hyper's own end waits for an
/// upstream to take what is still to be written, which a stalled one never does, and holds the client's body until then.
struct Driver(AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Connects to where `resolver` leads.
pub(super) async fn open<B>(
    resolver: &Resolver,
    settings: &Settings,
    slot: OpenSlot,
) -> Result<Connection<B>, UpstreamError>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (stream, origin) = resolver.connect(settings.connect_timeout).await?;
    stream.set_nodelay(true).map_err(UpstreamError::Unreachable)?;
    let header_bytes_max = settings.header_bytes_max.as_usize();
    let guarded =
        GuardedUpstream::new(stream, ResponseLimits { head_bytes_max: header_bytes_max, fields_max: FIELDS_MAX });
    let state = guarded.state();
    let mut builder = http1::Builder::new();
    builder.max_headers(FIELDS_MAX);
    builder.max_buf_size(header_bytes_max.saturating_add(8_192).max(65_536));
    let (sender, driver) = builder.handshake(TokioIo::new(guarded)).await.map_err(UpstreamError::Reset)?;
    let driving = tokio::spawn(async move {
        // Whoever waits for a response on this connection is told the error; there is nobody else to tell.
        let _ = driver.with_upgrades().await;
    });
    Ok(Connection { sender, state, slot, origin, _driver: Driver(driving.abort_handle()) })
}

impl<B> Connection<B> {
    /// Whether it can take a request now.
    pub(super) fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Whether the last exchange ended exactly where its framing said.
    pub(super) fn is_clean(&self) -> bool {
        self.state.is_clean()
    }
}

impl<B: Body + 'static> Connection<B> {
    /// Sends a request and waits for the head of its response.
    pub(super) async fn send(&mut self, request: Request<B>) -> Result<Response<Incoming>, Failure<B>> {
        self.state.announce(request.method());
        if request.headers().contains_key(UPGRADE) {
            self.state.announce_upgrade();
        }
        self.sender.try_send_request(request).await.map_err(|mut failure| {
            let unsent = failure.take_message();
            Failure { error: classify(failure.into_error(), &self.state), unsent }
        })
    }
}

/// hyper hands the guard's verdict on, somewhere down the chain of causes.
fn classify(error: hyper::Error, state: &UpstreamState) -> UpstreamError {
    match BadResponse::of(&error) {
        // It had gone before the request was sent, which is no answer at all.
        Some(BadResponse::Closed) => UpstreamError::Reset(error),
        Some(_) => UpstreamError::Invalid(error),
        None if error.is_parse() => UpstreamError::Invalid(error),
        // Half a head is an answer, and no valid one.
        None if state.is_heard() => UpstreamError::Invalid(error),
        None => UpstreamError::Reset(error),
    }
}
