//! A connection to an upstream, read through the strict response rules.
//!
//! Knows nothing of pools or retries; tells them what they need through [`UpstreamState`].

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll};

use http::Method;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::interim::Interims;
use super::response::{BadResponse, ResponseLimits, Responses};
use super::{Sieve, Stop};

/// What an announced request will be answered with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Expected {
    HeadAndBody,
    HeadOnly,
    /// A switch to a WebSocket, or a response like any other.
    SwitchOrBody,
}

/// The pool's view of one upstream connection. Clones share it.
#[derive(Clone, Debug)]
pub struct UpstreamState(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// `Expected` as a number, or 0 between messages.
    expected: AtomicU8,
    is_clean: AtomicBool,
    /// Whether anything was written since the last announcement.
    is_begun: AtomicBool,
    /// Whether any byte of an answer has come since then.
    is_heard: AtomicBool,
    interims: Interims,
}

const NOTHING: u8 = 0;
const HEAD_AND_BODY: u8 = 1;
const HEAD_ONLY: u8 = 2;
const SWITCH_OR_BODY: u8 = 3;

impl UpstreamState {
    pub(super) fn new() -> Self {
        Self(Arc::new(Shared {
            expected: AtomicU8::new(NOTHING),
            is_clean: AtomicBool::new(true),
            is_begun: AtomicBool::new(false),
            is_heard: AtomicBool::new(false),
            interims: Interims::default(),
        }))
    }

    /// Announces a request, before it is handed to hyper: an answer to nothing is a violation.
    pub fn announce(&self, method: &Method) {
        let expected = if method == Method::HEAD { HEAD_ONLY } else { HEAD_AND_BODY };
        self.0.is_clean.store(false, Ordering::Relaxed);
        self.0.is_begun.store(false, Ordering::Relaxed);
        self.0.is_heard.store(false, Ordering::Relaxed);
        drop(self.0.interims.take());
        self.0.expected.store(expected, Ordering::Release);
    }

    /// The announced request asks for a WebSocket.
    pub fn announce_upgrade(&self) {
        self.0.expected.store(SWITCH_OR_BODY, Ordering::Release);
    }

    /// Whether the next request may be sent: the last one was answered to its end, nothing came after that, and the
    /// upstream keeps the connection. A new connection is clean.
    pub fn is_clean(&self) -> bool {
        self.0.is_clean.load(Ordering::Acquire)
    }

    /// Whether no byte of the announced request has been written, so that it cannot have been acted on.
    pub fn is_untouched(&self) -> bool {
        !self.0.is_begun.load(Ordering::Acquire)
    }

    /// Whether any byte of an answer to the announced request has come, be it an interim one.
    pub fn is_heard(&self) -> bool {
        self.0.is_heard.load(Ordering::Acquire)
    }

    /// The interim responses to the announced request that are for its client.
    pub fn interims(&self) -> &Interims {
        &self.0.interims
    }

    pub(super) fn heard(&self) {
        self.0.is_heard.store(true, Ordering::Release);
    }

    pub(super) fn expected(&self) -> Option<Expected> {
        match self.0.expected.load(Ordering::Acquire) {
            HEAD_AND_BODY => Some(Expected::HeadAndBody),
            HEAD_ONLY => Some(Expected::HeadOnly),
            SWITCH_OR_BODY => Some(Expected::SwitchOrBody),
            _ => None,
        }
    }

    pub(super) fn begun(&self) {
        self.0.is_begun.store(true, Ordering::Release);
    }

    pub(super) fn answered(&self, reusable: bool) {
        self.0.expected.store(NOTHING, Ordering::Relaxed);
        self.0.is_clean.store(reusable, Ordering::Release);
    }

    pub(super) fn spoil(&self) {
        self.0.is_clean.store(false, Ordering::Release);
    }
}

/// A stream to an upstream. A violation is an `InvalidData` error that holds a [`BadResponse`], and ends the connection.
pub struct GuardedUpstream<S> {
    socket: S,
    sieve: Sieve<Responses>,
    state: UpstreamState,
}

impl<S: AsyncRead + AsyncWrite + Unpin> GuardedUpstream<S> {
    pub fn new(socket: S, limits: ResponseLimits) -> Self {
        let state = UpstreamState::new();
        Self { socket, sieve: Sieve::new(Responses::new(limits, state.clone())), state }
    }

    pub fn state(&self) -> UpstreamState {
        self.state.clone()
    }

    /// Looks at the socket once more before the first byte of a request: what is there now answers nothing that was
    /// asked, and must not be taken for this request's answer. Sees only what the reactor has seen.
    fn begin(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if !self.state.is_untouched() {
            return Ok(());
        }
        let mut byte = [0];
        let mut probe = ReadBuf::new(&mut byte);
        match Pin::new(&mut self.socket).poll_read(cx, &mut probe) {
            Poll::Pending => {
                self.state.begun();
                Ok(())
            }
            Poll::Ready(Err(error)) => Err(error),
            Poll::Ready(Ok(())) => {
                self.state.spoil();
                let bad = if probe.filled().is_empty() { BadResponse::Closed } else { BadResponse::Stray };
                Err(io::Error::new(io::ErrorKind::InvalidData, bad))
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for GuardedUpstream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let Poll::Ready(result) = this.sieve.poll_read(&mut this.socket, cx, buf) else {
            return Poll::Pending;
        };
        if result.is_err() || buf.filled().len() == before {
            this.state.spoil();
        }
        Poll::Ready(result.map_err(|stop| match stop {
            Stop::Io(error) => error,
            Stop::Violation(bad) => io::Error::new(io::ErrorKind::InvalidData, bad),
        }))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for GuardedUpstream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.begin(cx)?;
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.begin(cx)?;
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
