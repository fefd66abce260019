//! The body of a response, from whichever HTTP it comes.
//!
//! Invariant: a body ends without an error only where its framing said that it ends.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use hyper::body::{Body, Frame, SizeHint};

use super::http1::{Http1Body, Http1Cut, Switched};
use super::upload::Uploading;

/// A response's body as it arrives. Dropped before its end, it ends its exchange: an HTTP/1.1 connection closes with its
/// lease, a stream of HTTP/2 is reset.
pub struct ResponseBody(Kind);

enum Kind {
    Empty,
    Http1(Http1Body),
    Http2(StreamBody),
}

struct StreamBody {
    stream: RecvStream,
    /// What is to come, when the head said so.
    left: Option<u64>,
    is_all_data: bool,
    /// What is still sent of the request.
    uploading: Option<Uploading>,
}

/// Why a response's body ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum CutError {
    #[error(transparent)]
    Http1(#[from] Http1Cut),
    #[error(transparent)]
    Http2(#[from] h2::Error),
}

impl ResponseBody {
    pub(super) fn http1(body: Http1Body) -> Self {
        Self(Kind::Http1(body))
    }

    pub(super) fn http1_mut(&mut self) -> Option<&mut Http1Body> {
        match &mut self.0 {
            Kind::Http1(body) => Some(body),
            Kind::Empty | Kind::Http2(_) => None,
        }
    }

    /// The connection of an upstream that has switched protocols with this response, as the request asked it to.
    pub fn take_switched(&mut self) -> Option<Switched> {
        self.http1_mut()?.take_switched()
    }

    pub(super) fn http2(stream: RecvStream, length: Option<u64>, uploading: Option<Uploading>) -> Self {
        Self(Kind::Http2(StreamBody { stream, left: length, is_all_data: false, uploading }))
    }

    /// Of a response that has none, whatever its fields say.
    pub(super) fn empty() -> Self {
        Self(Kind::Empty)
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = CutError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CutError>>> {
        match &mut self.0 {
            Kind::Empty => Poll::Ready(None),
            Kind::Http1(body) => body.poll_frame(cx).map_err(CutError::Http1),
            Kind::Http2(body) => body.poll_frame(cx).map_err(CutError::Http2),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Http1(body) => body.is_end_stream(),
            Kind::Http2(body) => body.stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Http1(body) => body.size_hint(),
            Kind::Http2(body) => body.size_hint(),
        }
    }
}

impl StreamBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.is_all_data {
            // An end by RST_STREAM is an error here, NO_ERROR too: the body lacks its end then.
            match ready!(self.stream.poll_data(cx)).transpose()? {
                Some(piece) => return Poll::Ready(Some(Ok(self.taken(piece)))),
                None => self.is_all_data = true,
            }
        }
        let trailers = ready!(self.stream.poll_trailers(cx))?;
        self.ended();
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn taken(&mut self, piece: Bytes) -> Frame<Bytes> {
        // Fails only for more than was received.
        let _ = self.stream.flow_control().release_capacity(piece.len());
        self.left = self.left.map(|left| left.saturating_sub(piece.len() as u64));
        if self.stream.is_end_stream() {
            self.ended();
        }
        Frame::data(piece)
    }

    /// The response is whole; the request may still go on.
    fn ended(&mut self) {
        if let Some(uploading) = self.uploading.take() {
            uploading.go_on_alone();
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self.left {
            Some(left) => SizeHint::with_exact(left),
            None if self.stream.is_end_stream() => SizeHint::with_exact(0),
            None => SizeHint::default(),
        }
    }
}
