//! Wall time as a value: whole seconds, UTC.
//!
//! Nothing below this module asks the operating system for the date; it is handed a [`Clock`] or a [`Timestamp`].
//! Deadlines and rates do not live here: they are monotonic (`std::time::Instant`).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

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
            Self::System => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                Timestamp::from_unix(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
            }
        }
    }

    /// Moves a manual clock; a system clock cannot be moved and stays.
    pub fn advance(&self, seconds: i64) {
        if let Self::Manual(now) = self {
            now.fetch_add(seconds, Ordering::Relaxed);
        }
    }
}
