//! A rate with a burst: governor's GCRA, told the time by its caller.

use std::cell::Cell;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use crate::settings::Rate;

/// How long a full bucket may at most take to fill again. Beyond it, governor's arithmetic on nanoseconds overflows.
const REFILL_MAX: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Holds `burst` cells at most, gets them back at `rate`, and gives one to each request. One atomic word: shared freely.
pub struct Bucket(RateLimiter<NotKeyed, InMemoryState, CallersClock, NoOpMiddleware<Instant>>);

impl Bucket {
    /// A full bucket. A burst that would take more than ten years to come back is cut to what ten years give.
    pub fn new(rate: Rate, burst: NonZeroU32) -> Self {
        let interval = interval(rate);
        let burst = burst.min(cells_in(REFILL_MAX, interval));
        // `interval` is at least 1 ns, so there is a quota; if there were none, a cell each nanosecond limits nothing.
        let quota = Quota::with_period(interval).unwrap_or(Quota::per_second(NonZeroU32::MAX)).allow_burst(burst);
        CallersClock::set(Instant::now());
        Self(RateLimiter::direct_with_clock(quota, CallersClock))
    }

    /// Takes one cell.
    ///
    /// # Errors
    /// How long from `now` until there is a cell to take, when there is none; more than zero.
    pub fn take(&self, now: Instant) -> Result<(), Duration> {
        CallersClock::set(now);
        self.0.check().map_err(|refusal| refusal.wait_time_from(now))
    }
}

/// The time that one cell takes to come back, at least 1 ns.
pub(super) fn interval(rate: Rate) -> Duration {
    (rate.per / rate.count.get()).max(Duration::from_nanos(1))
}

fn cells_in(period: Duration, interval: Duration) -> NonZeroU32 {
    let cells = u32::try_from(period.as_nanos() / interval.as_nanos()).unwrap_or(u32::MAX);
    NonZeroU32::new(cells).unwrap_or(NonZeroU32::MIN)
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
