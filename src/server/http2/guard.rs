//! The client's socket as hyper sees it over HTTP/2: every frame counted, every wait with its deadline.
//!
//! Passes frames on as they are; their meaning is hyper's business. Puts in frames of its own, between two others and
//! never within a header block, where the ledger orders it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::ledger::SharedLedger;
use super::rules::ClientFrames;
use super::sieve::{Sieve, Stop};
use crate::http::framing::frames::{Event, Frames, RESET_BYTES};
use crate::server::settings::Client;
use crate::server::watch::{Moment, Phase, Watch};

/// How long, and how much, to go on reading from a client that should stop sending, so that our last frame is not lost
/// to a reset.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 16 << 20;

pub(super) struct Guarded<S> {
    socket: S,
    ledger: SharedLedger,
    watch: Arc<Watch>,
    sieve: Sieve<ClientFrames>,
    header_timeout: Duration,
    body_timeout: Duration,
    write_timeout: Duration,
    /// Of the frame or header block that has begun, by its number.
    read_deadline: Option<(u64, Moment)>,
    write_deadline: Option<Moment>,
    /// hyper's frames.
    sent: Frames,
    /// Whether one of hyper's header blocks has begun and not ended.
    is_in_sent_block: bool,
    /// The rest of a frame of ours.
    own: Bytes,
    lingering: Option<(Moment, usize)>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Guarded<S> {
    pub(super) fn new(socket: S, client: &Client, watch: Arc<Watch>, ledger: SharedLedger) -> Self {
        let rules = ClientFrames::new(ledger.clone());
        Self {
            socket,
            ledger,
            watch,
            sieve: Sieve::new(rules),
            header_timeout: client.header_timeout,
            body_timeout: client.body_timeout,
            write_timeout: client.write_timeout,
            read_deadline: None,
            write_deadline: None,
            sent: Frames::default(),
            is_in_sent_block: false,
            own: Bytes::new(),
            lingering: None,
        }
    }

    /// The socket has nothing: sets the deadline of what has begun to arrive.
    fn waiting(&mut self) -> io::Result<()> {
        let rules = self.sieve.rules();
        if !rules.has_greeted() || (rules.is_between() && !self.sieve.is_holding()) {
            // Silence is the connection's to bound: only it knows whether anything is due.
            self.read_deadline = None;
            self.watch.clear(Phase::Read);
            return Ok(());
        }
        let timeout = if rules.is_in_body() { self.body_timeout } else { self.header_timeout };
        let unit = rules.units();
        let deadline = match self.read_deadline {
            Some((of, deadline)) if of == unit => deadline,
            _ => self.watch.after(timeout),
        };
        self.read_deadline = Some((unit, deadline));
        if self.watch.has_expired(deadline) {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "a frame did not arrive in time"));
        }
        self.watch.set(Phase::Read, deadline);
        Ok(())
    }

    fn passed(&mut self) {
        let rules = self.sieve.rules();
        // Each piece of a body is progress; a head has to arrive as a whole.
        if rules.is_between() || rules.is_in_body() {
            self.read_deadline = None;
        }
        self.watch.clear(Phase::Read);
    }

    fn written<T>(&mut self, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.watch.written(poll, &mut self.write_deadline, self.write_timeout)
    }

    fn is_between_sent(&self) -> bool {
        self.sent.is_between() && !self.is_in_sent_block
    }

    /// Sends frames of our own, if this is a place for them.
    fn poll_own(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.own.is_empty() {
                if !self.is_between_sent() || !self.ledger.lock().has_frames() {
                    return Poll::Ready(Ok(()));
                }
                self.own = self.ledger.lock().take_frames().into();
                if self.own.is_empty() {
                    continue;
                }
            }
            let poll = Pin::new(&mut self.socket).poll_write(cx, &self.own);
            let count = ready!(self.written(poll))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.own.advance(count);
        }
    }

    /// How much of hyper's may be sent at once: no more than one frame where ours is to follow.
    fn write_max(&self) -> usize {
        if !self.ledger.lock().has_frames() {
            return usize::MAX;
        }
        match self.sent.left() {
            0 => 1,
            left => left,
        }
    }

    /// Takes note of what of hyper's was sent.
    fn note_sent(&mut self, mut bytes: &[u8]) {
        let mut ledger = self.ledger.lock();
        ledger.begin();
        while self.sent.can_step(bytes) {
            let (taken, event) = self.sent.step(bytes);
            bytes = &bytes[taken..];
            match event {
                Some(Event::Begins(frame)) => self.is_in_sent_block |= frame.begins_block(),
                Some(Event::Ends(frame)) if frame.ends_block() => self.is_in_sent_block = false,
                _ => {}
            }
            if let Some(event) = event {
                ledger.wrote(event);
            }
        }
    }

    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (deadline, mut left) =
            self.lingering.unwrap_or_else(|| (self.watch.after(LINGER_TIMEOUT), LINGER_BYTES_MAX));
        let mut discarded = [0; 8 * 1024];
        while left > 0 {
            let mut buf = ReadBuf::new(&mut discarded);
            match Pin::new(&mut self.socket).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => left = left.saturating_sub(buf.filled().len()),
                Poll::Ready(_) => break,
                Poll::Pending if self.watch.has_expired(deadline) => break,
                Poll::Pending => {
                    self.lingering = Some((deadline, left));
                    self.watch.set(Phase::Read, deadline);
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        {
            let mut ledger = this.ledger.lock();
            if ledger.is_ending() {
                return Poll::Ready(Ok(()));
            }
            // A pause begins when hyper has all of the header block, and has looked for more.
            if !this.sieve.owes() && ledger.pauses() {
                return Poll::Pending;
            }
            // hyper always makes room for as much.
            let is_between = this.sieve.rules().is_between() && !this.sieve.owes();
            if is_between
                && buf.remaining() >= RESET_BYTES
                && let Some(reset) = ledger.take_reset()
            {
                buf.put_slice(&reset);
                return Poll::Ready(Ok(()));
            }
        }
        match this.sieve.poll_read(&mut this.socket, cx, buf) {
            Poll::Ready(Ok(())) => {
                this.passed();
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(Stop::Io(error))) => Poll::Ready(Err(error)),
            // To hyper this is the end of the stream.
            Poll::Ready(Err(Stop::Violation(cut))) => {
                this.ledger.lock().end(cut);
                Poll::Ready(Ok(()))
            }
            Poll::Pending => match this.waiting() {
                Ok(()) => Poll::Pending,
                Err(error) => Poll::Ready(Err(error)),
            },
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_own(cx))?;
        let buf = &buf[..buf.len().min(this.write_max())];
        let poll = Pin::new(&mut this.socket).poll_write(cx, buf);
        if let Poll::Ready(Ok(count)) = poll {
            this.note_sent(&buf[..count]);
        }
        this.written(poll)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.ledger.lock().has_frames() {
            let first = bufs.iter().find(|buf| !buf.is_empty());
            return self.poll_write(cx, first.map_or(&[], |buf| buf));
        }
        let this = self.get_mut();
        ready!(this.poll_own(cx))?;
        let poll = Pin::new(&mut this.socket).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(mut count)) = poll {
            for buf in bufs {
                let sent = count.min(buf.len());
                this.note_sent(&buf[..sent]);
                count -= sent;
            }
        }
        this.written(poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_own(cx))?;
        let poll = Pin::new(&mut this.socket).poll_flush(cx);
        this.written(poll)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.lingering.is_none() {
            ready!(this.poll_own(cx))?;
            ready!(Pin::new(&mut this.socket).poll_shutdown(cx))?;
        }
        this.poll_linger(cx)
    }
}
