//! Which calls are in the store, and for how long: what does not come back is told.
//!
//! Ends nothing: a thread that waits for a disk cannot be ended, and goes on by itself when the disk does.
//!
//! Bounds: as many calls as the callers have threads.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Shared;

/// A call that takes this long is one that hangs.
const HANGS_AFTER: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A call that may take long, since it reads everything.
pub(super) const LONG: &str = "scan";

#[derive(Default)]
pub(super) struct Calls(Mutex<Running>);

#[derive(Default)]
struct Running {
    last: u64,
    begun: BTreeMap<u64, (&'static str, Instant)>,
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
        Call { calls: self, number }
    }

    fn oldest(&self) -> Option<(&'static str, Duration)> {
        let running = self.running();
        let oldest = running.begun.values().find(|(what, _)| *what != LONG);
        oldest.map(|(what, begun)| (*what, begun.elapsed()))
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
    while shared.bell.pause(LOOK_EVERY) {
        let hung = shared.calls.oldest().filter(|(_, age)| *age > HANGS_AFTER);
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
