//! The client's socket as hyper sees it: only valid requests, and each wait with its deadline.
//!
//! What is invalid never reaches hyper: it gets a stand-in request in its place, so that the handler answers in order
//! behind earlier pipelined requests. Nothing is read after that. What follows a request that asks for a WebSocket is held
//! back until the answer says whether it is the next request or goes elsewhere.
//!
//! Interim responses are put in here, since hyper takes none: between two of its responses and nowhere else.

use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::settings::Client;
use super::watch::{Moment, Phase, Watch};
use crate::http::framing::{Malformed, Requests, Rules, Sieve, Stop};

const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nHost: refused.invalid\r\n\r\n";

/// How long, and how much, to go on reading from a client that should stop sending, so that our last response is not
/// lost to a reset (RFC 9112 §9.6).
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 16 << 20;

/// Enough for most heads; the rest of a longer one waits in the sieve.
const AHEAD_BYTES_MAX: usize = 2 * 1024;

pub(super) struct Guarded<S: AsFd> {
    socket: S,
    sieve: Sieve<Requests>,
    watch: Arc<Watch>,
    header_timeout: Duration,
    body_timeout: Duration,
    write_timeout: Duration,
    /// Of the head or the silence in a body that is being waited for; survives dribbled bytes of a head.
    read_deadline: Option<Moment>,
    write_deadline: Option<Moment>,
    /// What hyper has yet to read of the stand-in, once something was refused.
    stand_in: Option<&'static [u8]>,
    /// The rest of the interim responses that have begun.
    aside: Bytes,
    /// What was read before there was a hyper to read it.
    ahead: Bytes,
    lingering: Option<Lingering>,
}

struct Lingering {
    deadline: Moment,
    bytes_left: usize,
}

impl<S: AsyncRead + AsyncWrite + AsFd + Unpin> Guarded<S> {
    pub(super) fn new(socket: S, client: &Client, watch: Arc<Watch>) -> Self {
        Self {
            socket,
            sieve: Sieve::new(Requests::new(client.request_limits())),
            watch,
            header_timeout: client.header_timeout,
            body_timeout: client.body_timeout,
            write_timeout: client.write_timeout,
            read_deadline: None,
            write_deadline: None,
            stand_in: None,
            aside: Bytes::new(),
            ahead: Bytes::new(),
            lingering: None,
        }
    }

    /// For whoever goes on with the connection in another protocol.
    pub(super) fn socket(&mut self) -> &mut S {
        &mut self.socket
    }

    /// What was read from the socket and hyper has not got.
    pub(super) fn take_held(&mut self) -> BytesMut {
        self.sieve.take_held()
    }

    /// Waits until there is something for hyper to read, without hyper and the room that it takes for reading.
    pub(super) fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut room = [0; AHEAD_BYTES_MAX];
        let mut buf = ReadBuf::new(&mut room);
        // The end and an error are there again for hyper, as the end at least.
        if ready!(Pin::new(&mut *self).poll_read(cx, &mut buf)).is_ok() {
            self.ahead = Bytes::copy_from_slice(buf.filled());
        }
        Poll::Ready(())
    }

    fn refuse(&mut self, malformed: Malformed) {
        let ordinal = self.sieve.rules().heads() + 1;
        self.watch.refuse(ordinal, malformed);
        self.watch.clear(Phase::Read);
        self.watch.passed(ordinal, false, false);
        self.stand_in = Some(STAND_IN);
    }

    /// hyper is made to wait for ever once it has the stand-in: the end of the stream would make it drop the response.
    fn give_stand_in(rest: &mut &'static [u8], buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if rest.is_empty() {
            return Poll::Pending;
        }
        let (now, later) = rest.split_at(rest.len().min(buf.remaining()));
        buf.put_slice(now);
        *rest = later;
        Poll::Ready(Ok(()))
    }

    fn passed(&mut self) {
        self.read_deadline = None;
        self.watch.clear(Phase::Read);
        self.tell_position();
        if self.sieve.rules().is_undecided() {
            self.watch.set_undecided(self.sieve.rules().heads());
        }
    }

    fn tell_position(&self) {
        let rules = self.sieve.rules();
        let is_in_body = rules.is_in_body();
        self.watch.passed(rules.heads(), is_in_body, !is_in_body && !self.sieve.is_holding());
    }

    /// The socket has nothing: sets the deadline of what is waited for. Returns what to do when it has expired.
    fn waiting(&mut self) -> Result<(), Malformed> {
        self.tell_position();
        let (timeout, malformed) = if self.sieve.rules().is_in_body() {
            (self.body_timeout, Malformed::BodyTimeout)
        } else if self.sieve.is_holding() && !self.sieve.rules().is_undecided() {
            (self.header_timeout, Malformed::HeadTimeout)
        } else {
            // Silence between requests is the connection's to bound: only it knows whether a response is due.
            self.watch.clear(Phase::Read);
            return Ok(());
        };
        let deadline = *self.read_deadline.get_or_insert_with(|| self.watch.after(timeout));
        if self.watch.has_expired(deadline) {
            return Err(malformed);
        }
        self.watch.set(Phase::Read, deadline);
        Ok(())
    }

    /// Keeps the write deadline: set when the client takes nothing, gone when it takes something.
    fn written<T>(&mut self, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            if self.write_deadline.take().is_some() {
                self.watch.clear(Phase::Write);
            }
            return poll;
        }
        let deadline = *self.write_deadline.get_or_insert_with(|| self.watch.after(self.write_timeout));
        if self.watch.has_expired(deadline) {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "client takes nothing of the response")));
        }
        self.watch.set(Phase::Write, deadline);
        Poll::Pending
    }

    /// Sends what was begun of interim responses, and what waits of them when `may_begin`.
    fn poll_aside(&mut self, cx: &mut Context<'_>, may_begin: bool) -> Poll<io::Result<()>> {
        loop {
            if self.aside.is_empty() {
                if !may_begin || !self.watch.has_aside() {
                    return Poll::Ready(Ok(()));
                }
                self.aside = self.watch.take_aside();
            }
            let poll = Pin::new(&mut self.socket).poll_write(cx, &self.aside);
            match ready!(self.written(poll))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.aside.advance(count),
            }
        }
    }

    /// To be called before hyper writes: what it writes next is a response's own once nothing is left of the one before.
    fn poll_before_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_aside(cx, !self.watch.is_behind()))?;
        self.watch.set_behind(true);
        Poll::Ready(Ok(()))
    }

    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let owes_more = self.stand_in.is_some() || self.sieve.rules().is_in_body() || self.sieve.is_holding();
        let lingering = self.lingering.get_or_insert_with(|| Lingering {
            deadline: self.watch.after(LINGER_TIMEOUT),
            bytes_left: LINGER_BYTES_MAX,
        });
        let mut discarded = [0; 8 * 1024];
        while lingering.bytes_left > 0 {
            let mut buf = ReadBuf::new(&mut discarded);
            match Pin::new(&mut self.socket).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {
                    lingering.bytes_left = lingering.bytes_left.saturating_sub(buf.filled().len());
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
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + AsFd + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.watch.is_switched() {
            return Poll::Pending;
        }
        if !this.ahead.is_empty() {
            let count = this.ahead.len().min(buf.remaining());
            buf.put_slice(&this.ahead.split_to(count));
            return Poll::Ready(Ok(()));
        }
        if this.sieve.rules().is_undecided() && !this.watch.is_undecided() {
            this.sieve.decide();
        }
        loop {
            if let Some(rest) = &mut this.stand_in {
                return Self::give_stand_in(rest, buf);
            }
            let malformed = match this.sieve.poll_read(&mut this.socket, cx, buf) {
                Poll::Ready(Ok(())) => {
                    this.passed();
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Err(Stop::Io(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(Err(Stop::Violation(malformed))) => malformed,
                Poll::Pending => match this.waiting() {
                    Ok(()) => return Poll::Pending,
                    Err(malformed) => malformed,
                },
            };
            if this.sieve.rules().is_in_body() {
                let kind = match malformed {
                    Malformed::BodyTimeout => io::ErrorKind::TimedOut,
                    _ => io::ErrorKind::InvalidData,
                };
                return Poll::Ready(Err(io::Error::new(kind, malformed)));
            }
            this.refuse(malformed);
        }
    }
}

impl<S: AsyncRead + AsyncWrite + AsFd + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_before_write(cx))?;
        let poll = Pin::new(&mut this.socket).poll_write(cx, buf);
        this.written(poll)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_before_write(cx))?;
        let poll = if bufs.iter().map(|piece| piece.len()).sum::<usize>() <= FLAT_BYTES_MAX {
            let mut flat = [0; FLAT_BYTES_MAX];
            Pin::new(&mut this.socket).poll_write(cx, flattened(bufs, &mut flat))
        } else {
            Pin::new(&mut this.socket).poll_write_vectored(cx, bufs)
        };
        this.written(poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // hyper flushes when it has written all that it has.
        this.watch.set_behind(false);
        ready!(this.poll_aside(cx, true))?;
        let poll = Pin::new(&mut this.socket).poll_flush(cx);
        this.written(poll)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // hyper is done with the connection, and somebody else is not.
        if this.watch.is_switched() {
            return Poll::Ready(Ok(()));
        }
        this.watch.set_ending();
        if this.lingering.is_none() {
            ready!(Pin::new(&mut this.socket).poll_shutdown(cx))?;
        }
        this.poll_linger(cx)
    }
}

/// What is as small is copied: that costs less than what the kernel has to do to learn of several pieces.
const FLAT_BYTES_MAX: usize = 1024;

/// The pieces as one.
fn flattened<'f>(pieces: &[io::IoSlice<'_>], flat: &'f mut [u8; FLAT_BYTES_MAX]) -> &'f [u8] {
    let mut end = 0;
    for piece in pieces {
        flat[end..end + piece.len()].copy_from_slice(piece);
        end += piece.len();
    }
    &flat[..end]
}

impl<S: AsFd> Drop for Guarded<S> {
    /// hyper lets go of a connection without shutting it down when a response body fails.
    fn drop(&mut self) {
        // One that was never begun: it may hold what holds the watch.
        drop(self.watch.take_tunnel());
        if self.watch.is_cut() {
            // Closing then sends a reset. When it cannot be asked for there is nothing else to try.
            let _ = SockRef::from(&self.socket).set_linger(Some(Duration::ZERO));
        }
    }
}
