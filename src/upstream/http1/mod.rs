//! One HTTP/1.1 connection: one exchange after the other.
//!
//! No task stands behind it: whoever waits for the response moves its bytes, so that a request costs no hand-over and an
//! idle connection nothing but its socket. Only the rest of a body that the upstream answers before its end is sent by a
//! task of its own, since its client may read nothing before it has sent everything.
//!
//! Invariants: a request is written only to a connection on which nothing waits to be read; dropped at any time, an
//! exchange closes its connection; one is reused only when its response ended exactly where its framing said.

mod body;
mod head;
mod sending;
mod wire;

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::UPGRADE;
use http::{Request, Response};
use tokio::io::WriteHalf;

use super::body::ResponseBody;
use super::connection::FIELDS_MAX;
use super::dial::{Dialed, Socket};
use super::resolve::Origin;
use super::target::{Failure, OpenSlot};
use super::upload::{Progress, Uploading};
use super::{RequestContent, Settings, UpstreamError};
use crate::http::framing::interim::Interims;
use crate::http::framing::{BadResponse, ResponseLimits, Responses};

pub(super) use body::Http1Body;
pub use body::{Http1Cut, Switched};
use sending::{SendError, Sending};
use wire::{Fault, Side, Wire};

pub(super) struct Http1 {
    /// `None` while an exchange has it.
    wire: Option<Box<Wire>>,
    /// The connection's place among those that are open.
    slot: Arc<OpenSlot>,
    pub(super) origin: Option<Origin>,
    /// Between two pieces of a body.
    stall_max: Duration,
}

impl Http1 {
    /// Makes a connected socket a connection. Nothing is sent yet.
    pub(super) fn open(dialed: Dialed, settings: &Settings, slot: OpenSlot) -> Self {
        let limits = ResponseLimits { head_bytes_max: settings.header_bytes_max.as_usize(), fields_max: FIELDS_MAX };
        let wire = Some(Box::new(Wire::new(dialed.socket, Responses::new(limits))));
        Self { wire, slot: Arc::new(slot), origin: dialed.origin, stall_max: settings.body_timeout }
    }

    /// Whether it can take a request: idle, and neither closed nor spoken on by the upstream, as far as the reactor has
    /// seen. Whoever polls is woken when that changes, until somebody else asks.
    pub(super) fn is_silent(&mut self, cx: &mut Context<'_>) -> bool {
        self.wire.as_mut().is_some_and(|wire| wire.look(cx).is_ok())
    }

    /// Closes an idle connection, and gives its place away.
    pub(super) fn into_slot(self) -> Option<OpenSlot> {
        drop(self.wire);
        Arc::into_inner(self.slot)
    }

    /// Takes back what the exchange had of the connection. Returns whether another request may follow.
    pub(super) fn take_back(&mut self, body: &mut ResponseBody) -> bool {
        self.wire = body.http1_mut().and_then(Http1Body::take_reusable);
        self.wire.is_some()
    }

    /// Sends a request and waits for the head of its response. Interim ones are told as they come. Dropped, it closes the
    /// connection.
    pub(super) async fn send<B: RequestContent>(
        &mut self,
        request: Box<Request<B>>,
        interims: &Interims,
    ) -> Result<Response<ResponseBody>, Failure<B>> {
        let Some(mut wire) = self.wire.take() else {
            let error = UpstreamError::reset(io::Error::from(io::ErrorKind::NotConnected));
            return Err(Failure::untouched(error, request));
        };
        if let Err(fault) = std::future::poll_fn(|cx| Poll::Ready(wire.look(cx))).await {
            return Err(Failure::untouched(classify(fault, false), request));
        }
        let (parts, body) = request.into_parts();
        wire.rules.announce(&parts.method);
        if parts.headers.contains_key(UPGRADE) {
            wire.rules.announce_upgrade();
        }
        let is_bare = body.is_end_stream();
        let mut exchange = Exchange { sending: Sending::new(&parts, body), wire, write_error: None };
        let error = match std::future::poll_fn(|cx| exchange.poll(interims, cx)).await {
            Ok((response, rest)) => return Ok(self.answer(exchange, response, rest)),
            Err(error) => error,
        };
        let is_of_request = error.is_of_request();
        if exchange.sending.is_untouched() && !is_of_request {
            let request = Request::from_parts(parts, exchange.sending.into_body());
            return Err(Failure::untouched(error, Box::new(request)));
        }
        let spent = is_bare.then(|| Box::new(Request::from_parts(parts, exchange.sending.into_body())));
        Err(Failure { error, unsent: None, spent })
    }

    fn answer<B: RequestContent>(
        &self,
        exchange: Exchange<B>,
        response: Response<()>,
        rest: bytes::Bytes,
    ) -> Response<ResponseBody> {
        let Exchange { sending, mut wire, write_error } = exchange;
        let mut uploading = None;
        if !sending.is_over() {
            wire = match wire.split() {
                (wire, Some(writer)) if write_error.is_none() => {
                    uploading = Some(self.upload(sending, writer));
                    wire
                }
                (wire, _) => wire,
            };
        }
        response.map(|()| ResponseBody::http1(Http1Body::new(wire, rest, uploading)))
    }

    /// Sends the rest of a body beside its response.
    fn upload<B: RequestContent>(&self, mut sending: Sending<B>, mut writer: WriteHalf<Socket>) -> Uploading {
        let slot = Arc::clone(&self.slot);
        Uploading::spawn(self.stall_max, move |progress: Arc<Progress>| async move {
            // Whoever reads the response is told of a connection that broke, and the client's side of its own body.
            let _ = std::future::poll_fn(|cx| {
                let written = sending.written();
                let polled = sending.poll(&mut writer, cx);
                if sending.written() > written {
                    progress.moved();
                }
                polled
            })
            .await;
            drop(slot);
        })
    }
}

/// A request on its way, without a response yet.
struct Exchange<B> {
    sending: Sending<B>,
    wire: Box<Wire>,
    /// Why no more of the request is written: the upstream may have answered all the same.
    write_error: Option<io::Error>,
}

impl<B: RequestContent> Exchange<B> {
    fn poll(
        &mut self,
        interims: &Interims,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(Response<()>, bytes::Bytes), UpstreamError>> {
        if self.write_error.is_none()
            && let Side::Whole(socket) = &mut self.wire.side
        {
            match self.sending.poll(socket, cx) {
                Poll::Ready(Err(SendError::Broken(broken))) => return Poll::Ready(Err(UpstreamError::reset(broken))),
                Poll::Ready(Err(SendError::Io(error))) => self.write_error = Some(error),
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
        }
        let Poll::Ready(head) = self.wire.poll_head(interims, cx) else { return Poll::Pending };
        // An answer to what was not asked.
        if head.is_ok() && self.sending.is_untouched() {
            return Poll::Ready(Err(classify(Fault::Bad(BadResponse::Stray), false)));
        }
        Poll::Ready(head.map_err(|fault| {
            let is_heard = self.wire.rules.is_heard();
            match self.write_error.take() {
                Some(error) if !is_heard => UpstreamError::reset(error),
                _ => classify(fault, is_heard),
            }
        }))
    }
}

/// Half a head is an answer, and no valid one.
fn classify(fault: Fault, is_heard: bool) -> UpstreamError {
    match fault {
        // It had gone before the request was sent, which is no answer at all.
        Fault::Bad(BadResponse::Closed) => UpstreamError::reset(BadResponse::Closed),
        Fault::Bad(bad) => UpstreamError::invalid(bad),
        fault if is_heard => UpstreamError::invalid(fault),
        fault => UpstreamError::reset(fault),
    }
}
