//! One connection to a target, and one exchange over it, in whichever HTTP is spoken there.

use http::{Request, Response};
use tokio::time::Instant;

use super::body::ResponseBody;
use super::dial::{Dialer, Version};
use super::http1::Http1;
use super::http2::{Http2Connection, Stream};
use super::protocol::Protocol;
use super::target::{Failure, OpenSlot};
use super::{RequestContent, Settings, UpstreamError};
use crate::http::framing::interim::Interims;

/// Fields in the head of a response.
pub(super) const FIELDS_MAX: usize = 256;

/// What one exchange needs of a connection: all of it, or a stream.
pub(super) enum Connection {
    Http1(Http1),
    Http2(Stream),
}

/// Connects to a target, and is done when a request could be sent. A new HTTP/2 connection comes as its first stream.
pub(super) async fn open(
    dialer: &Dialer,
    protocol: Protocol,
    settings: &Settings,
    slot: OpenSlot,
) -> Result<Connection, UpstreamError> {
    // Each step has the deadline, and not all of them another one around: most connections take one step, and one timer.
    let until = Instant::now() + settings.connect_timeout;
    let dialed = dialer.dial(protocol, until).await?;
    match dialed.version {
        Version::Http1 => Ok(Connection::Http1(Http1::open(dialed, settings, slot))),
        Version::Http2 => {
            let opening = Http2Connection::open(dialed, &dialer.scheme, settings, slot);
            Ok(Connection::Http2(within(until, opening).await?))
        }
    }
}

/// A step towards a connection, which may take until then.
pub(super) async fn within<T>(
    until: Instant,
    step: impl Future<Output = Result<T, UpstreamError>>,
) -> Result<T, UpstreamError> {
    tokio::time::timeout_at(until, step).await.map_err(|_| UpstreamError::ConnectTimeout)?
}

impl Connection {
    /// Whether it leads where the target is now. One that does not gets no more requests.
    pub(super) fn still_leads_to(&mut self, dialer: &Dialer) -> bool {
        match self {
            Self::Http1(connection) => dialer.still_leads_to(&mut connection.origin),
            Self::Http2(stream) => stream.connection().still_leads_to(dialer),
        }
    }
}

impl Connection {
    /// Sends a request and waits for the head of its response. Interim ones are told as they come.
    pub(super) async fn send<B: RequestContent>(
        &mut self,
        request: Box<Request<B>>,
        interims: &Interims,
    ) -> Result<Response<ResponseBody>, Failure<B>> {
        match self {
            Self::Http1(connection) => connection.send(request, interims).await,
            // In a place of its own: a request over HTTP/1 would have the room too.
            Self::Http2(stream) => Box::pin(stream.send(*request, interims)).await,
        }
    }
}
