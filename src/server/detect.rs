//! What a client speaks without TLS: HTTP/2 begins with a text that no HTTP/1 request begins with.
//!
//! Hands on what it has read, which may be more than that text: most clients send all of a request at once, and it costs
//! one read less so.

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout_at;

use super::drain::Draining;
use super::settings::Client;
use crate::http::framing::frames::PREFACE;
use crate::http::room;
use crate::metrics::Protocol;

/// Reads until it is known what the client speaks. `None` when it left or kept silent for too long: as long as any
/// connection may be idle once nothing more is accepted, since a request may be on its way.
pub(super) async fn protocol<S: AsyncRead + Unpin>(
    socket: &mut Begun<S>,
    client: &Client,
    draining: &Draining,
) -> Option<Protocol> {
    let mut accepting_ended = pin!(draining.accepting_ended());
    let mut is_shortened = false;
    let mut until = Instant::now() + client.first_byte_timeout;
    loop {
        let is_first = socket.begin.is_empty();
        tokio::select! {
            biased;
            more = timeout_at(until.into(), socket.read_on()) => if !matches!(more, Ok(true)) { return None },
            () = &mut accepting_ended, if !is_shortened => {
                is_shortened = true;
                until = draining.idle_timeout().map_or(until, |timeout| until.min(Instant::now() + timeout));
                continue;
            }
        }
        let compared = socket.begin.len().min(PREFACE.len());
        if socket.begin[..compared] != PREFACE[..compared] {
            return Some(Protocol::Http1);
        }
        if compared == PREFACE.len() {
            return Some(Protocol::Http2);
        }
        if is_first {
            until = Instant::now() + client.header_timeout;
        }
    }
}

/// A socket whose first bytes have been read already, and are read again.
pub(super) struct Begun<S> {
    socket: S,
    /// What has been read and not read again. No room is kept for it before it comes, and none after.
    begin: Vec<u8>,
    /// So much of it has been read again.
    given: usize,
}

impl<S> Begun<S> {
    pub(super) fn new(socket: S) -> Self {
        Self { socket, begin: Vec::new(), given: 0 }
    }
}

impl<S: AsyncRead + Unpin> Begun<S> {
    /// Reads what is there; `false` when that is nothing any more. Cancel-safe.
    async fn read_on(&mut self) -> bool {
        let Self { socket, begin, .. } = self;
        let read = poll_fn(|cx| {
            room::poll_through(socket, cx, |bytes| {
                begin.extend_from_slice(bytes);
                bytes.len()
            })
        });
        read.await.is_ok_and(|count| count > 0)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Begun<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.begin.is_empty() {
            return Pin::new(&mut this.socket).poll_read(cx, buf);
        }
        let rest = &this.begin[this.given..];
        let count = buf.remaining().min(rest.len());
        buf.put_slice(&rest[..count]);
        this.given += count;
        if this.given == this.begin.len() {
            this.begin = Vec::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Begun<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

impl<S: AsFd> AsFd for Begun<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
