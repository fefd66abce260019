//! The writing of one request: its head, and its body as that comes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::request::Parts;
use tokio::io::AsyncWrite;

use super::head;
use crate::http::outgoing::{Framing, Misfit, Outgoing, announced};
use crate::upstream::RequestContent;
use crate::upstream::upload::{Broken, Unread};

pub(super) struct Sending<B> {
    body: B,
    outgoing: Outgoing,
    /// The piece that was read before anything was written: that much can be given back.
    first: Option<Bytes>,
}

/// Why a request could not be written to its end.
#[derive(Debug)]
pub(super) enum SendError {
    /// The request's own body broke off, or is not what its head says.
    Broken(Broken),
    Io(io::Error),
}

impl From<Misfit> for SendError {
    fn from(_: Misfit) -> Self {
        Self::Broken(Broken)
    }
}

impl<B: RequestContent> Sending<B> {
    pub(super) fn new(parts: &Parts, body: B) -> Self {
        let is_bare = body.is_end_stream();
        let framing = match body.size_hint().exact() {
            _ if is_bare => Framing::Sized(0),
            Some(length) => Framing::Sized(length),
            None => Framing::Chunked,
        };
        let announced = if framing == Framing::Chunked { announced(&parts.headers) } else { Vec::new() };
        let outgoing = Outgoing::new(head::encode(parts, framing, is_bare), framing, announced, is_bare);
        Self { body, outgoing, first: None }
    }

    /// Whether no byte of the request has been written, so that it cannot have been acted on.
    pub(super) fn is_untouched(&self) -> bool {
        self.written() == 0
    }

    /// Bytes that the socket has taken.
    pub(super) fn written(&self) -> u64 {
        self.outgoing.written()
    }

    /// Whether there is nothing left to write.
    pub(super) fn is_over(&self) -> bool {
        self.outgoing.is_over()
    }

    /// The body as it was, of a request that is untouched.
    pub(super) fn into_body(mut self) -> B {
        if let Some(piece) = self.first.take() {
            self.body.unread(Unread { pieces: vec![piece], trailers: None });
        }
        self.body
    }

    /// Writes what there is. Ready when all of it is written.
    pub(super) fn poll<W: AsyncWrite + Unpin>(
        &mut self,
        socket: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), SendError>> {
        loop {
            let asks = !self.outgoing.is_last() && (self.outgoing.has_room() || self.outgoing.is_undecided());
            let body = if asks { self.poll_body(cx)? } else { Poll::Ready(()) };
            if !self.outgoing.is_written() && !self.outgoing.is_undecided() {
                ready!(self.outgoing.poll_write(socket, cx)).map_err(SendError::Io)?;
                self.first = None;
                continue;
            }
            if self.outgoing.is_last() || body.is_pending() {
                ready!(self.outgoing.poll_flush(socket, cx)).map_err(SendError::Io)?;
            }
            if self.outgoing.is_last() {
                return Poll::Ready(Ok(()));
            }
            // As long as it has more: what waits to be written waits for its end.
            ready!(body);
        }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, SendError> {
        let frame = match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(None) => {
                self.outgoing.end(None)?;
                return Ok(Poll::Ready(()));
            }
            Poll::Ready(Some(Err(_))) => return Err(SendError::Broken(Broken)),
            Poll::Ready(Some(Ok(frame))) => frame,
        };
        match frame.into_data() {
            Ok(piece) => {
                if self.is_untouched() {
                    self.first = Some(piece.clone());
                }
                self.outgoing.put(piece)?;
                if self.body.is_end_stream() {
                    self.outgoing.end(None)?;
                }
            }
            Err(frame) => {
                let trailers = frame.into_trailers().unwrap_or_default();
                self.outgoing.end(Some(&trailers))?;
            }
        }
        Ok(Poll::Ready(()))
    }
}
