//! How the sending of a request's body goes, for whoever waits for the response, and for what outlasts the response.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::limit::Slot;

use super::running::Run;

/// Lives as long as the request's body.
pub(super) struct Upload {
    begun: Instant,
    /// Milliseconds from `begun` to the last piece.
    progress: AtomicU64,
    state: AtomicU8,
    rest: Mutex<Rest>,
}

/// What is known of the part of the body that the response did not wait for.
#[derive(Default)]
struct Rest {
    /// Of whoever sends the body.
    waker: Option<Waker>,
    /// What the request holds until all of it is over; there once the response is.
    run: Option<Run>,
    slot: Option<Slot>,
}

/// Where an upload stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(super) enum UploadState {
    Broken,
    Done,
    Running,
    TimedOut,
    TooLarge,
}

const STATES: [UploadState; 5] =
    [UploadState::Broken, UploadState::Done, UploadState::Running, UploadState::TimedOut, UploadState::TooLarge];

impl Upload {
    pub(super) fn new(begun: Instant) -> Self {
        let state = AtomicU8::new(UploadState::Running as u8);
        Self { begun, progress: AtomicU64::new(0), state, rest: Mutex::default() }
    }

    pub(super) fn state(&self) -> UploadState {
        STATES[usize::from(self.state.load(Ordering::Relaxed)) % STATES.len()]
    }

    /// When the last piece of the body went by.
    pub(super) fn last_progress(&self) -> Instant {
        self.begun + Duration::from_millis(self.progress.load(Ordering::Relaxed))
    }

    pub(super) fn progress(&self, state: UploadState) {
        let elapsed = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.progress.store(elapsed, Ordering::Relaxed);
        self.state.store(state as u8, Ordering::Relaxed);
    }

    /// The response is over. An upstream may go on to take a body that it has answered already: the key must admit that
    /// as long as it lasts, and it counts among the key's requests.
    pub(super) fn outlive(&self, run: Option<Run>, slot: Option<Slot>) {
        if self.state() != UploadState::Running {
            return;
        }
        let mut rest = self.rest();
        (rest.run, rest.slot) = (run, slot);
        let waker = rest.waker.take();
        drop(rest);
        // So that it asks from now on.
        waker.into_iter().for_each(Waker::wake);
    }

    /// Ready when the rest of the body may not be sent. Before the response is over its own end is the body's too.
    pub(super) fn poll_lost(&self, cx: &Context<'_>) -> Poll<()> {
        let mut rest = self.rest();
        match &rest.run {
            Some(run) => run.poll_lost(cx).map(drop),
            None => {
                match &mut rest.waker {
                    Some(waker) => waker.clone_from(cx.waker()),
                    none => *none = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
        }
    }

    fn rest(&self) -> MutexGuard<'_, Rest> {
        // Whole after any panic: every change is one assignment.
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
