//! One HTTP/1.1 connection: one exchange after the other.

use std::pin::pin;

use http::header::{TE, UPGRADE};
use http::{Request, Response};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::task::AbortHandle;

use super::body::ResponseBody;
use super::connection::FIELDS_MAX;
use super::dial::Dialed;
use super::resolve::Origin;
use super::target::{Failure, OpenSlot};
use super::{RequestContent, Settings, UpstreamError};
use crate::http::framing::interim::Interims;
use crate::http::framing::{BadResponse, GuardedUpstream, ResponseLimits, UpstreamState};

pub(super) struct Http1<B> {
    sender: SendRequest<B>,
    state: UpstreamState,
    /// The connection's place among those that are open.
    pub(super) slot: OpenSlot,
    pub(super) origin: Option<Origin>,
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

impl<B> Http1<B> {
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

impl<B: RequestContent> Http1<B> {
    /// Makes a connected socket a connection. Nothing is sent yet.
    pub(super) async fn open(dialed: Dialed, settings: &Settings, slot: OpenSlot) -> Result<Self, UpstreamError> {
        let header_bytes_max = settings.header_bytes_max.as_usize();
        let limits = ResponseLimits { head_bytes_max: header_bytes_max, fields_max: FIELDS_MAX };
        let guarded = GuardedUpstream::new(dialed.socket, limits);
        let state = guarded.state();
        let mut builder = http1::Builder::new();
        builder.max_headers(FIELDS_MAX);
        builder.max_buf_size(header_bytes_max.saturating_add(8_192).max(65_536));
        let (sender, driver) = builder.handshake(TokioIo::new(guarded)).await.map_err(UpstreamError::reset)?;
        let driving = tokio::spawn(async move {
            // Whoever waits for a response on this connection is told the error; there is nobody else to tell.
            let _ = driver.with_upgrades().await;
        });
        Ok(Self { sender, state, slot, origin: dialed.origin, _driver: Driver(driving.abort_handle()) })
    }

    /// Sends a request and waits for the head of its response. Interim ones are told as they come.
    pub(super) async fn send(
        &mut self,
        mut request: Request<B>,
        interims: &Interims,
    ) -> Result<Response<ResponseBody>, Failure<B>> {
        // It is for the next hop alone, and would have to be named in Connection, which some upstreams close for.
        request.headers_mut().remove(TE);
        self.state.announce(request.method());
        if request.headers().contains_key(UPGRADE) {
            self.state.announce_upgrade();
        }
        let mut sending = pin!(self.sender.try_send_request(request));
        let found = self.state.interims();
        let sent = std::future::poll_fn(|cx| {
            let poll = sending.as_mut().poll(cx);
            if poll.is_pending() {
                found.await_next(cx);
            }
            found.take().into_iter().for_each(|interim| interims.push(interim));
            poll
        });
        match sent.await {
            Ok(response) => Ok(response.map(ResponseBody::http1)),
            Err(mut failure) => {
                let unsent = failure.take_message();
                Err(Failure { error: classify(failure.into_error(), &self.state), unsent })
            }
        }
    }
}

/// hyper hands the guard's verdict on, somewhere down the chain of causes.
fn classify(error: hyper::Error, state: &UpstreamState) -> UpstreamError {
    match BadResponse::of(&error) {
        // It had gone before the request was sent, which is no answer at all.
        Some(BadResponse::Closed) => UpstreamError::reset(error),
        Some(_) => UpstreamError::invalid(error),
        None if error.is_parse() => UpstreamError::invalid(error),
        // Half a head is an answer, and no valid one.
        None if state.is_heard() => UpstreamError::invalid(error),
        None => UpstreamError::reset(error),
    }
}
