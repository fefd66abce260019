//! A connection that has switched protocols: the client's socket without the rules of requests, and its idle bound.
//!
//! Knows not where the bytes go. The connection's own task moves them, so a tunnel counts and ends as its connection.

use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::http1::Socket;
use super::watch::{Moment, Watch};

/// What goes on over a client's connection once it has switched protocols.
pub trait Tunnel: Send {
    /// Moves bytes between `client` and wherever the tunnel leads. Ready when it is over; the connection then closes.
    fn poll(&mut self, client: &mut dyn ClientSocket, cx: &mut Context<'_>) -> Poll<()>;
}

/// The client's side of a tunnel.
pub trait ClientSocket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> ClientSocket for S {}

/// A client's socket whose bytes are nobody's to judge, and how long it has been silent.
pub(super) struct Switched<S: AsFd> {
    socket: Socket<S>,
    /// What came behind the request that asked for the switch, before it was answered.
    early: Bytes,
    idle_timeout: Duration,
    /// When the present silence in both directions has lasted too long.
    idle_deadline: Option<Moment>,
}

impl<S: AsyncRead + AsyncWrite + AsFd + Unpin> Switched<S> {
    pub(super) fn new(socket: Socket<S>, early: Bytes, idle_timeout: Duration) -> Self {
        Self { socket, early, idle_timeout, idle_deadline: None }
    }

    /// To be asked when nothing more moves at this time.
    pub(super) fn idle_deadline(&mut self, watch: &Watch) -> Moment {
        *self.idle_deadline.get_or_insert_with(|| watch.after(self.idle_timeout))
    }

    fn moved<T>(&mut self, poll: Poll<T>) -> Poll<T> {
        if poll.is_ready() {
            self.idle_deadline = None;
        }
        poll
    }
}

impl<S: AsyncRead + AsyncWrite + AsFd + Unpin> AsyncRead for Switched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.early.is_empty() {
            let count = self.early.len().min(buf.remaining());
            buf.put_slice(&self.early.split_to(count));
            return Poll::Ready(Ok(()));
        }
        let poll = Pin::new(&mut self.socket).poll_read(cx, buf);
        self.moved(poll)
    }
}

impl<S: AsyncRead + AsyncWrite + AsFd + Unpin> AsyncWrite for Switched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.moved(poll)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
