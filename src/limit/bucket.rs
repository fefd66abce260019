//! A rate with a burst, told its quota and the time by its caller: governor's GCRA over one atomic word.
//!
//! The quota is no part of a bucket: what was taken under one counts under the next, so that limits can change while
//! requests run, and a change gives nobody a full burst.

use std::cell::Cell;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use governor::clock::Clock;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::state::keyed::KeyedStateStore;
use governor::{Quota as Rule, RateLimiter};

use crate::settings::Rate;

/// How long a full bucket may at most take to fill again. Beyond it, governor's arithmetic on nanoseconds overflows.
const REFILL_MAX: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Where all quotas count time from, so that a bucket means the same to each of them.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// What a bucket gives: `burst` cells at most, which come back at `rate`. Clones share it.
#[derive(Clone)]
pub struct Quota {
    limiter: Arc<RateLimiter<Bucket, InBuckets, CallersClock>>,
    interval: Duration,
    burst: NonZeroU32,
    /// The nanoseconds that a whole burst takes to come back.
    refill: u64,
}

impl Quota {
    /// A burst that would take more than ten years to come back is cut to what ten years give.
    pub fn new(rate: Rate, burst: NonZeroU32) -> Self {
        let interval = interval(rate);
        let burst = burst.min(cells_in(REFILL_MAX, interval));
        // `interval` is at least 1 ns, so there is a rule; if there were none, a cell each nanosecond limits nothing.
        let rule = Rule::with_period(interval).unwrap_or(Rule::per_second(NonZeroU32::MAX)).allow_burst(burst);
        CallersClock::set(*EPOCH);
        let limiter = Arc::new(RateLimiter::new(rule, InBuckets, CallersClock));
        let refill = nanoseconds(interval).saturating_mul(u64::from(burst.get()));
        Self { limiter, interval, burst, refill }
    }
}

impl PartialEq for Quota {
    fn eq(&self, other: &Self) -> bool {
        (self.interval, self.burst) == (other.interval, other.burst)
    }
}

impl fmt::Debug for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quota").field("interval", &self.interval).field("burst", &self.burst).finish()
    }
}

/// Gives one cell to each request. One atomic word: shared freely. A new one is full.
#[derive(Debug, Default)]
pub struct Bucket {
    /// Nanoseconds from the epoch to the moment at which every cell is back: GCRA's theoretical arrival time.
    full_at: AtomicU64,
}

impl Bucket {
    /// Takes one cell.
    ///
    /// # Errors
    /// How long from `now` until there is a cell to take, when there is none; more than zero.
    pub fn take(&self, quota: &Quota, now: Instant) -> Result<(), Duration> {
        // No emptier than empty: a wait that came of an earlier quota is no longer than this one's.
        let empty = nanoseconds(now.saturating_duration_since(*EPOCH)).saturating_add(quota.refill);
        if self.full_at.load(Ordering::Relaxed) > empty {
            self.full_at.fetch_min(empty, Ordering::Relaxed);
        }
        CallersClock::set(now);
        quota.limiter.check_key(self).map_err(|refusal| refusal.wait_time_from(now.max(*EPOCH)))
    }
}

/// A bucket is its own place, so nobody looks it up; governor asks for this of whatever can be one of many.
impl Hash for Bucket {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::ptr::from_ref(self).hash(state);
    }
}

/// Tells governor that what it has to remember of a bucket is kept in the bucket.
struct InBuckets;

impl StateStore for InBuckets {
    type Key = Bucket;

    fn measure_and_replace<T, F, E>(&self, bucket: &Bucket, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut before = bucket.full_at.load(Ordering::Relaxed);
        loop {
            let (measured, after) = measure((before != 0).then(|| Nanos::from(before)))?;
            match bucket.full_at.compare_exchange_weak(before, after.as_u64(), Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(measured),
                Err(present) => before = present,
            }
        }
    }
}

impl KeyedStateStore<Bucket> for InBuckets {}

/// The time that one cell takes to come back, at least 1 ns.
pub(super) fn interval(rate: Rate) -> Duration {
    (rate.per / rate.count.get()).max(Duration::from_nanos(1))
}

fn cells_in(period: Duration, interval: Duration) -> NonZeroU32 {
    let cells = u32::try_from(period.as_nanos() / interval.as_nanos()).unwrap_or(u32::MAX);
    NonZeroU32::new(cells).unwrap_or(NonZeroU32::MIN)
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// governor asks a clock where we have a value; this hands it over without a second thread ever seeing it.
#[derive(Clone)]
struct CallersClock;

thread_local! {
    static NOW: Cell<Option<Instant>> = const { Cell::new(None) };
}

impl CallersClock {
    fn set(now: Instant) {
        NOW.set(Some(now));
    }
}

impl Clock for CallersClock {
    type Instant = Instant;

    fn now(&self) -> Instant {
        NOW.get().unwrap_or_else(Instant::now)
    }
}
