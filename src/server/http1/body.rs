//! The body of a request, read from its connection by whoever wants it, in whichever task that is.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite};

use super::lock;
use super::wire::Wire;

/// The connection, without the kind of its socket.
trait Source: Send + Sync {
    fn poll_body(&self, ordinal: u64, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>>;
    fn abandon(&self, ordinal: u64);
}

impl<S: AsyncRead + AsyncWrite + AsFd + Send + Unpin> Source for Mutex<Wire<S>> {
    fn poll_body(&self, ordinal: u64, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        lock(self).poll_body(ordinal, cx)
    }

    fn abandon(&self, ordinal: u64) {
        lock(self).abandon(ordinal);
    }
}

/// The body of one request over HTTP/1.
pub struct Body {
    source: Arc<dyn Source>,
    /// The request's number on its connection.
    ordinal: u64,
    /// What is still to come; `None`: only its end will tell.
    left: Option<u64>,
    is_over: bool,
}

impl Body {
    pub(super) fn new<S>(wire: Arc<Mutex<Wire<S>>>, ordinal: u64, left: Option<u64>) -> Self
    where
        S: AsyncRead + AsyncWrite + AsFd + Send + Unpin + 'static,
    {
        Self { source: wire, ordinal, left, is_over: false }
    }

    pub(in crate::server) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let polled = self.source.poll_body(self.ordinal, cx);
        if let Poll::Ready(piece) = &polled {
            match piece.as_ref().and_then(|piece| piece.as_ref().ok()).and_then(Frame::data_ref) {
                Some(data) => {
                    self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                    self.is_over = self.left == Some(0);
                }
                None => self.is_over = true,
            }
        }
        polled
    }

    pub(in crate::server) fn is_end_stream(&self) -> bool {
        self.is_over
    }

    pub(in crate::server) fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if !self.is_over {
            self.source.abandon(self.ordinal);
        }
    }
}
