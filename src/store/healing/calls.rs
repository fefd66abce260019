//! Which calls are in the store, and for how long: what does not come back is told.
//!
//! Ends nothing: a thread that waits for a disk cannot be ended, and goes on by itself when the disk does.
//!
//! Bounds: as many calls as the callers have threads.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Shared;

/// A call that takes this long is one that hangs.
const HANGS_AFTER: Duration = Duration::from_secs(2);
/// While one hangs.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long to rest at most without a call, for the sake of those that do not end it.
const REST_MAX: Duration = Duration::from_secs(5);
/// A call that may take long, since it reads everything.
pub(super) const LONG: &str = "scan";
/// A call that is made all the time and asks the disk for nothing.
pub(super) const CHECK: &str = "check";

#[derive(Default)]
pub(super) struct Calls {
    running: Mutex<Running>,
    /// By the first call after a rest, and at the end.
    woken: Condvar,
}

#[derive(Default)]
struct Running {
    last: u64,
    begun: BTreeMap<u64, (&'static str, Instant)>,
    /// Whether the watch waits for a call to begin.
    is_resting: bool,
    has_ended: bool,
}

/// A call that runs for as long as this lives.
pub(super) struct Call<'c> {
    calls: &'c Calls,
    number: u64,
}

impl Calls {
    pub(super) fn begin(&self, what: &'static str) -> Call<'_> {
        let mut running = self.running();
        running.last += 1;
        let number = running.last;
        running.begun.insert(number, (what, Instant::now()));
        if running.is_resting && what != LONG && what != CHECK {
            running.is_resting = false;
            self.woken.notify_all();
        }
        Call { calls: self, number }
    }

    pub(super) fn end(&self) {
        self.running().has_ended = true;
        self.woken.notify_all();
    }

    /// Waits until a look is worth it: when the oldest call may be one that hangs, and while one does every now and then.
    /// Longer while there is no call. `false`: the end.
    fn wait(&self, is_hanging: bool) -> bool {
        let mut running = self.running();
        let time = match running.oldest() {
            _ if is_hanging => LOOK_EVERY,
            Some((_, age)) => HANGS_AFTER.saturating_sub(age) + Duration::from_millis(1),
            None => {
                running.is_resting = true;
                let rests = |running: &mut Running| running.is_resting && !running.has_ended;
                let wait = self.woken.wait_timeout_while(running, REST_MAX, rests);
                let (rested, rest) = wait.unwrap_or_else(PoisonError::into_inner);
                running = rested;
                running.is_resting = false;
                if rest.timed_out() { Duration::ZERO } else { HANGS_AFTER }
            }
        };
        let wait = self.woken.wait_timeout_while(running, time, |running| !running.has_ended);
        !wait.unwrap_or_else(PoisonError::into_inner).0.has_ended
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    fn oldest(&self) -> Option<(&'static str, Duration)> {
        let oldest = self.begun.values().find(|(what, _)| *what != LONG);
        oldest.map(|(what, begun)| (*what, begun.elapsed()))
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.calls.running().begun.remove(&self.number);
    }
}

/// Tells when calls hang and when they no longer do, until the store is dropped. Never waits for the store itself.
pub(super) fn watch(shared: &Shared) {
    let mut hanging: Option<Instant> = None;
    while shared.calls.wait(hanging.is_some()) {
        let hung = shared.calls.running().oldest().filter(|(_, age)| *age > HANGS_AFTER);
        match (hung, hanging) {
            (Some((operation, age)), None) => {
                hanging = Some(Instant::now());
                shared.health.hangs();
                tracing::error!(operation, ?age, "store does not answer");
            }
            (None, Some(since)) => {
                hanging = None;
                shared.health.answers();
                tracing::info!(after = ?since.elapsed(), "store answers again");
            }
            _ => {}
        }
    }
}
