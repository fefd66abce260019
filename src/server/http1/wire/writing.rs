//! The writing of responses, and the end of a connection.

use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Buf;
use tokio::io::{AsyncRead, AsyncWrite};

use super::Wire;
use crate::http::outgoing::Outgoing;
use crate::http::room;
use crate::server::watch::{Moment, Phase};

/// How long, and how much, to go on reading from a client that should stop sending, so that our last response is not
/// lost to a reset (RFC 9112 §9.6).
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 16 << 20;

pub(super) struct Lingering {
    deadline: Moment,
    bytes_left: usize,
}

impl<S: AsyncRead + AsyncWrite + AsFd + Unpin> Wire<S> {
    fn written<T>(&mut self, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.watch.written(poll, &mut self.write_deadline, self.write_timeout)
    }

    /// Writes some of a response.
    pub(in crate::server::http1) fn poll_write(
        &mut self,
        outgoing: &mut Outgoing,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(socket) = &mut self.socket else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
        let poll = outgoing.poll_write(&mut socket.socket, cx);
        self.written(poll)
    }

    /// Flushes what was written of a response.
    pub(in crate::server::http1) fn poll_flush(
        &mut self,
        outgoing: &mut Outgoing,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(socket) = &mut self.socket else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
        let poll = outgoing.poll_flush(&mut socket.socket, cx);
        self.written(poll)
    }

    /// Sends the interim responses that there are, while there is no final one.
    pub(in crate::server::http1) fn poll_aside(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.aside.is_empty() && !self.watch.has_aside() && !self.is_aside_unflushed {
            return Poll::Ready(Ok(()));
        }
        loop {
            if self.aside.is_empty() {
                self.aside = self.watch.take_aside();
            }
            let Some(socket) = &mut self.socket else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
            if self.aside.is_empty() {
                let poll = Pin::new(&mut socket.socket).poll_flush(cx);
                ready!(self.written(poll))?;
                self.is_aside_unflushed = false;
                return Poll::Ready(Ok(()));
            }
            self.is_aside_unflushed = true;
            let poll = Pin::new(&mut socket.socket).poll_write(cx, &self.aside);
            match ready!(self.written(poll))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.aside.advance(count),
            }
        }
    }

    /// What is left of the interim responses, to be sent before the final one.
    pub(in crate::server::http1) fn take_aside(&mut self) -> Vec<u8> {
        let mut aside = Vec::from(std::mem::take(&mut self.aside));
        if self.watch.has_aside() {
            aside.extend_from_slice(&self.watch.take_aside());
        }
        aside
    }

    /// Ends the connection in order: says so, and reads for a while what was under way.
    pub(in crate::server::http1) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.watch.is_cut() {
            return Poll::Ready(());
        }
        if self.lingering.is_none() {
            let Some(socket) = &mut self.socket else { return Poll::Ready(()) };
            let poll = Pin::new(&mut socket.socket).poll_shutdown(cx);
            if ready!(self.written(poll)).is_err() {
                return Poll::Ready(());
            }
        }
        self.poll_linger(cx)
    }

    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let is_on_its_way = !self.rest.is_empty() || !self.held.is_empty();
        let owes_more = self.is_spoilt || self.rules.is_in_body() || is_on_its_way;
        let Some(socket) = &mut self.socket else { return Poll::Ready(()) };
        let lingering = self.lingering.get_or_insert_with(|| Lingering {
            deadline: self.watch.after(LINGER_TIMEOUT),
            bytes_left: LINGER_BYTES_MAX,
        });
        while lingering.bytes_left > 0 {
            match room::poll_through(&mut socket.socket, cx, <[u8]>::len) {
                Poll::Ready(Ok(count)) if count > 0 => {
                    lingering.bytes_left = lingering.bytes_left.saturating_sub(count);
                }
                Poll::Ready(_) => break,
                // A client that owes nothing may stay silent for long: its side closes when it sees ours closed.
                Poll::Pending if !owes_more || self.watch.has_expired(lingering.deadline) => break,
                Poll::Pending => {
                    self.watch.set(Phase::Read, lingering.deadline);
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(())
    }
}
