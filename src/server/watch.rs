//! What one connection, or one stream of it, is waiting for and until when, shared by its guard, its handler and its
//! timer.
//!
//! All of them run on the connection's own thread, so the atomics are for `Send` and never contend ([`Watch::sever`]
//! comes from elsewhere, and rarely). Times are whole milliseconds since the connection was accepted; deadlines are
//! rounded up and the present down, so that none is early.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Response;

use super::tunnel::Tunnel;
use crate::http::framing::interim;

/// A moment of one connection.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Moment(u64);

impl Moment {
    const NEVER: Self = Self(u64::MAX);
}

/// What a deadline is for. Each has at most one deadline at a time.
#[derive(Clone, Copy, Debug)]
pub(super) enum Phase {
    Read,
    Request,
    Write,
}

#[derive(Debug)]
pub(super) struct Watch {
    epoch: Instant,
    deadlines: [AtomicU64; 3],
    /// When the timer fired last. What was due then has expired; whoever waits for it is polled, and acts on it.
    fired: AtomicU64,
    /// Whether the connection must end in a reset: its last response was cut.
    is_cut: AtomicBool,
    /// Whether it must end now, whatever is still to be sent.
    is_severed: AtomicBool,
    switch: Switch,
    aside: Aside,
    /// A stream's alone, for what its connection's task finds out.
    stream: Option<StreamState>,
}

/// What goes on once the connection has switched protocols.
#[derive(Default)]
struct Switch {
    is_made: AtomicBool,
    tunnel: Mutex<Option<Box<dyn Tunnel>>>,
}

impl fmt::Debug for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Switch").field("is_made", &self.is_made).finish_non_exhaustive()
    }
}

/// Of interim responses that wait for their turn.
const ASIDE_BYTES_MAX: usize = 64 * 1024;

/// What a handler has to say ahead of its response. A connection's alone.
#[derive(Debug, Default)]
struct Aside {
    is_any: AtomicBool,
    bytes: Mutex<Vec<u8>>,
}

#[derive(Debug, Default)]
struct StreamState {
    /// Of its task: always the same.
    waker: OnceLock<Waker>,
    /// Whether the handler has answered, so that it waits for no body any more.
    is_answered: AtomicBool,
}

impl Watch {
    pub(super) fn new(epoch: Instant) -> Self {
        Self {
            epoch,
            deadlines: std::array::from_fn(|_| AtomicU64::new(Moment::NEVER.0)),
            fired: AtomicU64::new(0),
            is_cut: AtomicBool::new(false),
            is_severed: AtomicBool::new(false),
            switch: Switch::default(),
            aside: Aside::default(),
            stream: None,
        }
    }

    /// For one stream of the connection, by the same clock.
    pub(super) fn for_stream(&self) -> Self {
        Self { stream: Some(StreamState::default()), ..Self::new(self.epoch) }
    }

    pub(super) fn moment(&self, at: Instant) -> Moment {
        let since = at.saturating_duration_since(self.epoch);
        Moment(u64::try_from(since.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX))
    }

    pub(super) fn instant(&self, moment: Moment) -> Instant {
        // A year: beyond any setting, and never an overflow.
        self.epoch + Duration::from_millis(moment.0.min(365 * 86_400_000))
    }

    pub(super) fn after(&self, timeout: Duration) -> Moment {
        self.moment(Instant::now() + timeout)
    }

    pub(super) fn set(&self, phase: Phase, deadline: Moment) {
        self.deadlines[phase as usize].store(deadline.0, Ordering::Relaxed);
    }

    pub(super) fn clear(&self, phase: Phase) {
        self.set(phase, Moment::NEVER);
    }

    pub(super) fn is_set(&self, phase: Phase) -> bool {
        self.deadlines[phase as usize].load(Ordering::Relaxed) != Moment::NEVER.0
    }

    /// Sets the deadline unless an earlier one is set.
    pub(super) fn lower(&self, phase: Phase, deadline: Moment) {
        self.deadlines[phase as usize].fetch_min(deadline.0, Ordering::Relaxed);
    }

    pub(super) fn has_expired(&self, deadline: Moment) -> bool {
        deadline.0 <= self.fired.load(Ordering::Relaxed)
    }

    pub(super) fn fire(&self, now: Instant) {
        let since = now.saturating_duration_since(self.epoch);
        self.fired.store(u64::try_from(since.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// What is due for a connection is due for its stream: the stream's task is woken for it. Returns the stream's first
    /// deadline after that.
    pub(super) fn follow(&self, connection: &Self) -> Option<Moment> {
        let fired = connection.fired.load(Ordering::Relaxed);
        self.fired.store(fired, Ordering::Relaxed);
        let is_due = self.deadlines.iter().any(|deadline| deadline.load(Ordering::Relaxed) <= fired);
        let waker = self.stream.as_ref().and_then(|stream| stream.waker.get());
        if let (true, Some(waker)) = (is_due, waker) {
            waker.wake_by_ref();
        }
        self.next()
    }

    /// The first deadline that has not expired yet.
    pub(super) fn next(&self) -> Option<Moment> {
        let deadlines = self.deadlines.iter().map(|deadline| Moment(deadline.load(Ordering::Relaxed)));
        deadlines.filter(|deadline| *deadline < Moment::NEVER && !self.has_expired(*deadline)).min()
    }

    /// Keeps the deadline of writing: set when the client takes nothing, gone when it takes something. `poll` is what
    /// writing came to.
    pub(super) fn written<T>(
        &self,
        poll: Poll<io::Result<T>>,
        until: &mut Option<Moment>,
        timeout: Duration,
    ) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            if until.take().is_some() {
                self.clear(Phase::Write);
            }
            return poll;
        }
        let deadline = *until.get_or_insert_with(|| self.after(timeout));
        if self.has_expired(deadline) {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "client takes nothing")));
        }
        self.set(Phase::Write, deadline);
        Poll::Pending
    }

    pub(super) fn set_cut(&self) {
        self.is_cut.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Relaxed)
    }

    /// The one call that comes from other tasks.
    pub(super) fn sever(&self) {
        self.set_cut();
        self.is_severed.store(true, Ordering::Release);
    }

    pub(super) fn is_severed(&self) -> bool {
        self.is_severed.load(Ordering::Acquire)
    }

    /// Tells a stream's task that body bytes are due by `deadline`. The task is woken: it may be waiting for longer.
    pub(super) fn await_body(&self, deadline: Moment) {
        let Some(stream) = self.stream.as_ref().filter(|stream| !stream.is_answered.load(Ordering::Relaxed)) else {
            return;
        };
        let was_waiting = self.is_set(Phase::Read);
        self.set(Phase::Read, deadline);
        if let (Some(waker), false) = (stream.waker.get(), was_waiting) {
            waker.wake_by_ref();
        }
    }

    /// Whether a stream's body stopped arriving. Over HTTP/1 the body itself says so.
    pub(super) fn has_body_expired(&self) -> bool {
        self.stream.is_some() && self.has_expired(Moment(self.deadlines[Phase::Read as usize].load(Ordering::Relaxed)))
    }

    /// A stream's handler has answered.
    pub(super) fn set_answered(&self) {
        if let Some(stream) = &self.stream {
            stream.is_answered.store(true, Ordering::Relaxed);
            self.clear(Phase::Read);
        }
    }

    /// `waker` wakes the stream's task; only the first one counts.
    pub(super) fn set_task(&self, waker: &Waker) {
        if let Some(stream) = &self.stream {
            stream.waker.get_or_init(|| waker.clone());
        }
    }

    /// Has an interim response sent when its turn comes.
    pub(super) fn say(&self, interim: &Response<()>) {
        let Some(head) = interim::over_http1(interim).filter(|_| self.stream.is_none()) else { return };
        let mut bytes = self.aside();
        if bytes.len() + head.len() <= ASIDE_BYTES_MAX {
            bytes.extend_from_slice(&head);
            self.aside.is_any.store(true, Ordering::Release);
        }
    }

    /// Has `bytes` sent when their turn comes, ahead of any interim response.
    pub(super) fn say_first(&self, bytes: &[u8]) {
        self.aside().splice(0..0, bytes.iter().copied());
        self.aside.is_any.store(true, Ordering::Release);
    }

    pub(super) fn has_aside(&self) -> bool {
        self.aside.is_any.load(Ordering::Acquire)
    }

    pub(super) fn take_aside(&self) -> Bytes {
        self.aside.is_any.store(false, Ordering::Release);
        std::mem::take(&mut *self.aside()).into()
    }

    fn aside(&self) -> MutexGuard<'_, Vec<u8>> {
        self.aside.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection belongs to `tunnel` once the response is written.
    pub(super) fn switch_to(&self, tunnel: Box<dyn Tunnel>) {
        self.switch.is_made.store(true, Ordering::Relaxed);
        *self.tunnel() = Some(tunnel);
    }

    pub(super) fn is_switched(&self) -> bool {
        self.switch.is_made.load(Ordering::Relaxed)
    }

    pub(super) fn take_tunnel(&self) -> Option<Box<dyn Tunnel>> {
        self.tunnel().take()
    }

    fn tunnel(&self) -> MutexGuard<'_, Option<Box<dyn Tunnel>>> {
        self.switch.tunnel.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
