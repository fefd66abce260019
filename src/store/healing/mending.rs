//! The thread that looks after the store: finds out about faults that no call has met, and opens the store anew.
//!
//! Bounds: one attempt at a time, with growing pauses; a line in the log when the reason changes, else one a minute.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::calls::CHECK;
use super::{Shared, checked};
use crate::store::{Store, StoreError};

const LOOK_EVERY: Duration = Duration::from_secs(1);
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// With the time that opening takes, this is what passes at most between the end of a fault and the end of its effects.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// A store that worked for this long is taken to be well: the next fault is a new one.
const WELL_AFTER: Duration = Duration::from_secs(30);
const REPEAT_EVERY: Duration = Duration::from_secs(60);

/// What wakes the threads.
#[derive(Default)]
pub(super) struct Bell {
    state: Mutex<State>,
    rung: Condvar,
}

#[derive(Default)]
struct State {
    has_rung: bool,
    has_ended: bool,
}

impl Bell {
    /// There is something to mend.
    pub(super) fn ring(&self) {
        self.state().has_rung = true;
        self.rung.notify_all();
    }

    pub(super) fn end(&self) {
        self.state().has_ended = true;
        self.rung.notify_all();
    }

    /// Waits whether or not it rings; `false`: the end.
    pub(super) fn pause(&self, time: Duration) -> bool {
        let wait = self.rung.wait_timeout_while(self.state(), time, |state| !state.has_ended);
        !wait.unwrap_or_else(PoisonError::into_inner).0.has_ended
    }

    /// Waits until it rings, but no longer than this; `false`: the end.
    fn listen(&self, time: Duration) -> bool {
        let wait = self.rung.wait_timeout_while(self.state(), time, |state| !state.has_ended && !state.has_rung);
        let (mut state, _) = wait.unwrap_or_else(PoisonError::into_inner);
        state.has_rung = false;
        !state.has_ended
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Until the store is dropped.
pub(super) fn run(shared: &Shared) {
    let mut mending = Mending { pause: PAUSE_MIN, mended: None, attempts: 0, told: None };
    while shared.bell.listen(LOOK_EVERY) {
        let (failed_since, store) = {
            let present = shared.present();
            (present.failed_since, present.store.clone())
        };
        match (failed_since, store) {
            (None, Some(store)) => look(shared, &store),
            (Some(since), store) => {
                drop(store);
                mending.mend(shared, since);
            }
            (None, None) => {}
        }
    }
}

fn look(shared: &Shared, store: &Arc<dyn Store>) {
    let _running = shared.calls.begin(CHECK);
    if let Err(error) = checked(&**store) {
        shared.failed(store, &error);
    }
}

struct Mending {
    pause: Duration,
    /// When the last fault ended.
    mended: Option<Instant>,
    attempts: u32,
    /// What the log says of the attempts, and since when.
    told: Option<(String, Instant)>,
}

impl Mending {
    /// Tries until the store works or is dropped.
    fn mend(&mut self, shared: &Shared, since: Instant) {
        if self.mended.take().is_none_or(|mended| mended.elapsed() > WELL_AFTER) {
            self.pause = PAUSE_MIN;
        }
        (self.attempts, self.told) = (0, None);
        while shared.bell.pause(self.pause) {
            self.pause = (self.pause * 2).min(PAUSE_MAX);
            self.attempts += 1;
            let begun = Instant::now();
            match attempt(shared) {
                Ok(store) => {
                    // Counted and told first: whoever sees it work must find that said.
                    let (after, attempts) = (since.elapsed(), self.attempts);
                    tracing::info!(?after, attempts, "store works again");
                    let mut present = shared.change();
                    shared.health.reopened();
                    (present.store, present.failed_since) = (Some(Arc::from(store)), None);
                    self.mended = Some(Instant::now());
                    return;
                }
                Err(error) => {
                    // A large store that cannot be opened is not read and written all the time.
                    self.pause = self.pause.max(begun.elapsed());
                    self.tell(shared, &error);
                }
            }
        }
    }

    fn tell(&mut self, shared: &Shared, error: &StoreError) {
        shared.health.not_reopened();
        let text = format!("{error:?}");
        let known = self.told.as_ref().is_some_and(|(told, at)| *told == text && at.elapsed() < REPEAT_EVERY);
        if !known {
            // Some hold in their own words what is to be done.
            tracing::error!(%error, cause = text, attempts = self.attempts, "store does not work yet");
            self.told = Some((text, Instant::now()));
        }
    }
}

fn attempt(shared: &Shared) -> Result<Box<dyn Store>, StoreError> {
    let attempt = || {
        shared.engine.probe()?;
        // What is still in it keeps it until it comes out.
        let given_up = shared.change().store.take();
        drop(given_up);
        let store = shared.engine.reopen(shared.extent())?;
        let revision = store.revision()?;
        shared.acknowledged.store(revision, Ordering::SeqCst);
        shared.attempted.store(revision, Ordering::SeqCst);
        Ok(store)
    };
    catch_unwind(AssertUnwindSafe(attempt)).unwrap_or(Err(StoreError::Panicked))
}
