//! What of a handler's body is content over HTTP/2: nothing in a response to HEAD. Over HTTP/1 hyper sees to that.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Response};
use http_body::{Body, Frame, SizeHint};

/// A body that is sent, or only described.
pub(super) struct Content<B> {
    body: B,
    is_sent: bool,
}

impl<B> Content<B> {
    pub(super) fn whole(body: B) -> Self {
        Self { body, is_sent: true }
    }
}

/// RFC 9110 §9.3.2: the head that the response to a GET would have, and no content.
pub(super) fn none<B: Body>(mut response: Response<B>) -> Response<Content<B>> {
    let length = response.body().size_hint().exact().filter(|_| !response.body().is_end_stream());
    if let Some(length) = length {
        response.headers_mut().entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
    response.map(|body| Content { body, is_sent: false })
}

impl<B: Body<Data = Bytes> + Unpin> Body for Content<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if self.is_sent { Pin::new(&mut self.body).poll_frame(cx) } else { Poll::Ready(None) }
    }

    fn is_end_stream(&self) -> bool {
        !self.is_sent || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.is_sent { self.body.size_hint() } else { SizeHint::with_exact(0) }
    }
}
