//! Wall time as a value: whole seconds, UTC.
//!
//! Nothing below this module asks the operating system for the date; it is handed a [`Clock`] or a [`Timestamp`].
//! Deadlines and rates do not live here: they are monotonic (`std::time::Instant`).

use std::cell::Cell;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A moment in whole seconds, UTC. Shown as RFC 3339 with `Z` (`2023-12-01T14:30:00Z`).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Seconds since 1970-01-01T00:00:00Z; clamped to the years that RFC 3339 can write (up to 9999).
    pub fn from_unix(seconds: i64) -> Self {
        Self(seconds.clamp(0, 253_402_207_200))
    }

    pub fn unix(self) -> i64 {
        self.0
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_second(self.0) {
            Ok(moment) => write!(f, "{moment:.0}"),
            Err(_) => Err(fmt::Error),
        }
    }
}

/// The text is not an RFC 3339 moment.
#[derive(Debug, thiserror::Error)]
#[error("not an RFC 3339 time such as 2023-12-01T14:30:00Z")]
pub struct NotATime;

impl FromStr for Timestamp {
    type Err = NotATime;

    fn from_str(text: &str) -> Result<Self, NotATime> {
        let moment: jiff::Timestamp = text.parse().map_err(|_| NotATime)?;
        Ok(Self::from_unix(moment.as_second()))
    }
}

/// Where the date comes from. Cloning a manual clock gives a second handle on the same hands.
#[derive(Clone, Debug)]
pub enum Clock {
    Manual(Arc<AtomicI64>),
    System,
}

impl Clock {
    pub fn manual(start: Timestamp) -> Self {
        Self::Manual(Arc::new(AtomicI64::new(start.unix())))
    }

    pub fn now(&self) -> Timestamp {
        match self {
            Self::Manual(seconds) => Timestamp(seconds.load(Ordering::Relaxed)),
            Self::System => whole_seconds(since_epoch()),
        }
    }

    /// The date at `moment`, which is about now: for every request, since it asks the system once a second and thread.
    ///
    /// That the system's clock was set is noticed within a second.
    pub fn now_at(&self, moment: Instant) -> Timestamp {
        match (self, SECOND.get()) {
            (Self::System, Some((ends, second))) if moment < ends && ends - moment <= A_SECOND => second,
            (Self::System, _) => {
                let since = since_epoch();
                let second = whole_seconds(since);
                let left = A_SECOND.saturating_sub(Duration::from_nanos(since.subsec_nanos().into()));
                SECOND.set(moment.checked_add(left).map(|ends| (ends, second)));
                second
            }
            (Self::Manual(_), _) => self.now(),
        }
    }

    /// Moves a manual clock; a system clock cannot be moved and stays.
    pub fn advance(&self, seconds: i64) {
        if let Self::Manual(now) = self {
            now.fetch_add(seconds, Ordering::Relaxed);
        }
    }
}

const A_SECOND: Duration = Duration::from_secs(1);

thread_local! {
    /// When the present second ends, and which it is.
    static SECOND: Cell<Option<(Instant, Timestamp)>> = const { Cell::new(None) };
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn whole_seconds(since_epoch: Duration) -> Timestamp {
    Timestamp::from_unix(i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_clock_says_the_same_with_and_without_a_moment() {
        for _ in 0..1_000 {
            let before = Clock::System.now();
            let at = Clock::System.now_at(Instant::now());
            let after = Clock::System.now();
            // The two clocks of the system may drift apart for the rest of a second.
            assert!(before.unix() - 1 <= at.unix() && at <= after, "{before} {at} {after}");
        }
    }

    #[test]
    fn second_that_has_ended_is_not_told_again() {
        let (start, now) = (Instant::now(), Clock::System.now());
        Clock::System.now_at(start);
        let (ends, _) = SECOND.get().unwrap();
        SECOND.set(Some((ends, Timestamp::from_unix(7))));
        assert_eq!(Clock::System.now_at(start).unix(), 7);
        assert!(Clock::System.now_at(ends) >= now);
        SECOND.set(Some((ends, Timestamp::from_unix(7))));
        assert!(ends.checked_sub(2 * A_SECOND).is_none_or(|long_ago| Clock::System.now_at(long_ago) >= now));
    }

    #[test]
    fn manual_clock_moves_whatever_the_moment() {
        let (clock, moment) = (Clock::manual(Timestamp::from_unix(5)), Instant::now());
        assert_eq!(clock.now_at(moment).unix(), 5);
        clock.advance(3);
        assert_eq!(clock.now_at(moment).unix(), 8);
    }
}
