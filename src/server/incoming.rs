//! The body of a request as it arrives, over whichever protocol.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::http1;

/// A request's body. Dropped before its end, the rest is read by nobody.
pub enum Incoming {
    Empty,
    Http1(http1::Body),
    Http2(hyper::body::Incoming),
}

/// Why there is no more of a request's body.
#[derive(Debug, thiserror::Error)]
pub enum IncomingError {
    #[error("the body was not read to its end")]
    Http1(#[source] io::Error),
    #[error("the stream broke off")]
    Http2(#[source] hyper::Error),
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = IncomingError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, IncomingError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Http1(body) => body.poll_frame(cx).map_err(IncomingError::Http1),
            Self::Http2(body) => Pin::new(body).poll_frame(cx).map_err(IncomingError::Http2),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
        }
    }
}
