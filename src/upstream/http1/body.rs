//! The content of a response as it arrives, and what becomes of the connection behind it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use hyper::body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::wire::{Fault, Side, Wire};
use crate::http::framing::{BadResponse, Part};
use crate::upstream::dial::Socket;
use crate::upstream::upload::Uploading;

/// Why a response's content ended before its end.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Http1Cut(#[from] Fault);

pub(in crate::upstream) struct Http1Body {
    /// `None` once the connection was given back.
    wire: Option<Box<Wire>>,
    /// What was read and not handed out.
    rest: Bytes,
    is_over: bool,
    /// Whether bytes came behind the response.
    is_spoilt: bool,
    /// What is still sent of the request.
    uploading: Option<Uploading>,
}

impl Http1Body {
    /// `rest` is what came behind the head.
    pub(super) fn new(wire: Box<Wire>, rest: Bytes, uploading: Option<Uploading>) -> Self {
        let mut body = Self { wire: Some(wire), rest, is_over: false, is_spoilt: false, uploading };
        body.settle();
        body
    }

    pub(in crate::upstream) fn is_end_stream(&self) -> bool {
        self.is_over
    }

    pub(in crate::upstream) fn size_hint(&self) -> SizeHint {
        match self.wire.as_ref().and_then(|wire| wire.rules.content_left()) {
            _ if self.is_over => SizeHint::with_exact(0),
            Some(left) => SizeHint::with_exact(left),
            None => SizeHint::default(),
        }
    }

    pub(in crate::upstream) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Http1Cut>>> {
        let polled = ready!(self.poll_part(cx));
        if polled.is_err() {
            self.is_spoilt = true;
        }
        Poll::Ready(polled.map_err(Http1Cut).transpose())
    }

    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, Fault>> {
        loop {
            let Some(wire) = self.wire.as_mut().filter(|_| !self.is_over) else { return Poll::Ready(Ok(None)) };
            if self.rest.is_empty() {
                self.rest = ready!(wire.poll_content(cx))?;
                if self.rest.is_empty() {
                    let is_whole = wire.rules.end();
                    self.settle();
                    return Poll::Ready(if is_whole { Ok(None) } else { Err(Fault::Ended) });
                }
            }
            match wire.rules.next(&self.rest)? {
                Part::Data(len) => {
                    let piece = self.rest.split_to(len);
                    self.settle();
                    return Poll::Ready(Ok(Some(Frame::data(piece))));
                }
                Part::Framing(len) => self.rest.advance(len),
                Part::Trailers(len, fields) => {
                    self.rest.advance(len);
                    self.settle();
                    return Poll::Ready(Ok((!fields.is_empty()).then(|| Frame::trailers(fields))));
                }
                // No head comes within the content.
                Part::Head(_) | Part::Interim(..) | Part::Partial => {
                    return Poll::Ready(Err(Fault::Bad(BadResponse::Stray)));
                }
            }
        }
    }

    /// Sees whether the response is whole; the request may still go on.
    fn settle(&mut self) {
        if !self.wire.as_ref().is_some_and(|wire| wire.rules.is_over()) {
            return;
        }
        self.is_over = true;
        self.is_spoilt |= !self.rest.is_empty();
        self.rest = Bytes::new();
        if let Some(uploading) = self.uploading.take() {
            uploading.go_on_alone();
        }
    }

    /// The connection, when another request may follow this response.
    pub(super) fn take_reusable(&mut self) -> Option<Box<Wire>> {
        let wire = self.wire.take()?;
        let is_reusable =
            self.is_over && !self.is_spoilt && wire.rules.is_reusable() && matches!(wire.side, Side::Whole(_));
        is_reusable.then_some(wire)
    }

    /// The connection of an upstream that has switched protocols, as the request asked it to.
    pub(in crate::upstream) fn take_switched(&mut self) -> Option<Switched> {
        let wire = self.wire.take_if(|wire| wire.rules.is_switched())?;
        match wire.side {
            Side::Whole(socket) => Some(Switched { socket, rest: std::mem::take(&mut self.rest) }),
            Side::Read(_) => None,
        }
    }
}

/// A connection on which HTTP is no longer spoken.
pub struct Switched {
    socket: Socket,
    /// What came behind the head.
    rest: Bytes,
}

impl AsyncRead for Switched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.rest.is_empty() {
            return Pin::new(&mut this.socket).poll_read(cx, buf);
        }
        let len = this.rest.len().min(buf.remaining());
        buf.put_slice(&this.rest.split_to(len));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Switched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
