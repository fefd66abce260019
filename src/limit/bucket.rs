//! A rate with a burst, told its quota and the time by its caller: GCRA in one atomic word.
//!
//! The quota is no part of a bucket: what was taken under one counts under the next, so that limits can change while
//! requests run, and a change gives nobody a full burst.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::settings::Rate;

/// How long a full bucket may at most take to fill again: ten years, so that no sum of nanoseconds overflows.
const REFILL_MAX: Duration = Duration::from_secs(10 * 365 * 86_400);

/// What a bucket gives: `burst` cells at most, which come back at `rate`. All in nanoseconds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Quota {
    /// The time that one cell takes to come back; at least 1.
    interval: u64,
    /// The time that a whole burst takes to come back; at least `interval`.
    refill: u64,
}

impl Quota {
    /// A burst that would take more than ten years to come back is cut to what ten years give.
    pub fn new(rate: Rate, burst: NonZeroU32) -> Self {
        let interval = nanoseconds(interval(rate));
        let refill = interval.saturating_mul(burst.get().into()).min(nanoseconds(REFILL_MAX)).max(interval);
        Self { interval, refill }
    }
}

/// Gives one cell to each request. One atomic word: shared freely.
#[derive(Debug)]
pub struct Bucket {
    made: Instant,
    /// Nanoseconds from `made` to the moment at which every cell is back.
    full_at: AtomicU64,
}

impl Default for Bucket {
    /// A full one.
    fn default() -> Self {
        Self { made: Instant::now(), full_at: AtomicU64::new(0) }
    }
}

impl Bucket {
    /// Takes one cell.
    ///
    /// # Errors
    /// How long from `now` until there is a cell to take, when there is none; more than zero.
    pub fn take(&self, quota: Quota, now: Instant) -> Result<(), Duration> {
        let now = nanoseconds(now.saturating_duration_since(self.made));
        let empty = now.saturating_add(quota.refill);
        // No emptier than empty: a wait that came of an earlier quota is no longer than this one's.
        if self.full_at.load(Ordering::Relaxed) > empty {
            self.full_at.fetch_min(empty, Ordering::Relaxed);
        }
        let mut wait = 0;
        let take = |full_at: u64| {
            let full_at = full_at.max(now).saturating_add(quota.interval);
            wait = full_at.saturating_sub(empty);
            (wait == 0).then_some(full_at)
        };
        match self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(_) => Ok(()),
            Err(_) => Err(Duration::from_nanos(wait)),
        }
    }
}

/// The time that one cell takes to come back, at least 1 ns.
pub(super) fn interval(rate: Rate) -> Duration {
    (rate.per / rate.count.get()).max(Duration::from_nanos(1))
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
