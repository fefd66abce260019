//! The body of a request that may have to be sent once more.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::body::{Body, Frame, SizeHint};

use super::{RequestContent, Unread};

/// A body as it was given, or none: what a repeated request carries.
pub enum Outgoing<B> {
    /// In a place of its own: a connection of HTTP/1 has room for 32 requests, of which it is given one.
    Given(Box<B>),
    Nothing,
}

impl<B: RequestContent> RequestContent for Outgoing<B> {
    fn unread(&mut self, unread: Unread) {
        if let Self::Given(body) = self {
            body.unread(unread);
        }
    }
}

/// What checks send.
impl RequestContent for Empty<Bytes> {
    fn unread(&mut self, _: Unread) {}
}

impl<B: Body + Unpin> Body for Outgoing<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        match self.get_mut() {
            Self::Given(body) => Pin::new(&mut **body).poll_frame(cx),
            Self::Nothing => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Given(body) => body.is_end_stream(),
            Self::Nothing => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Given(body) => body.size_hint(),
            Self::Nothing => SizeHint::with_exact(0),
        }
    }
}
