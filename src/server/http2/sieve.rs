//! Between a socket and hyper: passes on what the rules have judged, in place where it can.
//!
//! Copies only what must wait: what cannot be judged before more of it has come.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

/// What may come over a connection in one direction.
pub(super) trait Rules {
    type Violation;

    /// Judges `bytes`, which start where the last call's progress ended: what did not pass then is there again, with
    /// more behind it. May blunt a field in place; never changes a length.
    ///
    /// # Errors
    /// Only when nothing can pass: valid bytes before a violation pass first.
    fn advance(&mut self, bytes: &mut [u8]) -> Result<Progress, Self::Violation>;
}

/// The first `pass` bytes may go on, the `skip` bytes after them must not, the rest waits for more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Progress {
    pub(super) pass: usize,
    pub(super) skip: usize,
}

/// Why reading cannot go on.
#[derive(Debug)]
pub(super) enum Stop<V> {
    Io(io::Error),
    Violation(V),
}

/// A reader's judge and waiting room.
pub(super) struct Sieve<R> {
    rules: R,
    held: BytesMut,
    /// So many bytes at the front of `held` have passed and wait for room in the reader's buffer.
    passed: usize,
    /// Whether `held` has bytes behind `passed` that could not be judged yet.
    unjudged: bool,
}

/// Room made for the next read while something is incomplete: as much again as there is of it, and this at least. Most
/// that wait are short.
const HELD_STEP: usize = 1024;

impl<R: Rules> Sieve<R> {
    pub(super) fn new(rules: R) -> Self {
        Self { rules, held: BytesMut::new(), passed: 0, unjudged: false }
    }

    pub(super) fn rules(&self) -> &R {
        &self.rules
    }

    /// Whether bytes were read that have not been passed on.
    pub(super) fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// Whether what has passed waits for room in the reader's buffer.
    pub(super) fn owes(&self) -> bool {
        self.passed > 0
    }

    /// Reads from `socket` and fills `buf` with what has passed. Ready with nothing filled means the end of the stream.
    ///
    /// # Errors
    /// [`Stop::Violation`] after all that is valid was passed on; the next call repeats it or goes on arbitrarily.
    pub(super) fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        socket: &mut S,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<Result<(), Stop<R::Violation>>> {
        loop {
            if self.passed > 0 {
                self.give(buf);
                return Poll::Ready(Ok(()));
            }
            if self.unjudged {
                self.judge_held().map_err(Stop::Violation)?;
                continue;
            }
            if self.held.is_empty() {
                let start = buf.filled().len();
                ready!(Pin::new(&mut *socket).poll_read(cx, buf)).map_err(Stop::Io)?;
                let is_end = buf.filled().len() == start;
                if is_end || self.judge_in_place(buf, start).map_err(Stop::Violation)? {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            self.held.reserve(HELD_STEP.max(self.held.len()));
            if ready!(pin!(socket.read_buf(&mut self.held)).poll(cx)).map_err(Stop::Io)? == 0 {
                return Poll::Ready(Ok(()));
            }
            self.unjudged = true;
        }
    }

    /// Judges what was read into `buf` from `start` on, and takes out what must wait. Returns whether anything is left.
    fn judge_in_place(&mut self, buf: &mut ReadBuf<'_>, start: usize) -> Result<bool, R::Violation> {
        let judged = self.rules.advance(&mut buf.filled_mut()[start..]);
        let Progress { pass, skip } = judged.inspect_err(|_| buf.set_filled(start))?;
        let waiting = &buf.filled()[start + pass + skip..];
        self.unjudged = pass + skip > 0 && !waiting.is_empty();
        self.held.extend_from_slice(waiting);
        buf.set_filled(start + pass);
        Ok(pass > 0)
    }

    fn judge_held(&mut self) -> Result<(), R::Violation> {
        let Progress { pass, skip } = self.rules.advance(&mut self.held)?;
        if pass == 0 {
            self.held.advance(skip);
        }
        self.passed = pass;
        self.unjudged = pass == 0 && skip > 0 && !self.held.is_empty();
        Ok(())
    }

    fn give(&mut self, buf: &mut ReadBuf<'_>) {
        let count = self.passed.min(buf.remaining());
        buf.put_slice(&self.held[..count]);
        self.held.advance(count);
        self.passed -= count;
        if self.passed == 0 {
            self.unjudged = !self.held.is_empty();
        }
        if self.held.is_empty() {
            // Heads seldom come in pieces: an idle connection should not keep the room.
            self.held = BytesMut::new();
        }
    }
}
