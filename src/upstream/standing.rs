//! What is thought of one target: whether its checks pass, and whether requests to it fail.
//!
//! A target whose requests fail in a row is left out for a while, longer each time, and then tried with one request
//! (half open). For the only target of an upstream, or the last one, this is a circuit breaker, which opens only when
//! nothing takes connections there: a target that does is never the last one that is left out.
//!
//! Outlives reloads. Reading costs one load while nothing is wrong.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::UpstreamError;
use super::balance::jittered;
use super::statuses::Statuses;
use crate::metrics::TargetMetrics;
use crate::settings::settings;

settings! {
    /// `[upstream.NAME.eject]`
    pub struct Settings {
        /// Failed attempts in a row, after which a target is left out.
        pub failures: Option<NonZeroU32> = NonZeroU32::new(5),
        /// How long the first time. Doubles each time that the target fails again.
        pub time: Duration = Duration::from_secs(1),
        /// The longest, and how long a target must have been back for the doubling to begin anew.
        pub time_max: Duration = Duration::from_secs(10),
        /// Responses that count as failures, though they are passed on.
        pub statuses: Vec<Statuses> = Vec::new(),
    }
}

/// How an attempt failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fault {
    /// It took the connection, and then did not answer well.
    Faulty,
    /// Nothing took the connection.
    Unreachable,
}

impl Fault {
    /// `None` when the target is not to blame.
    pub(super) fn of(error: &UpstreamError) -> Option<Self> {
        match error {
            UpstreamError::ConnectTimeout | UpstreamError::Tls(_) | UpstreamError::Unreachable(_) => {
                Some(Self::Unreachable)
            }
            // The client's body broke off, and the exchange with it.
            UpstreamError::Reset(_) if error.is_of_request() => None,
            UpstreamError::Invalid(_) | UpstreamError::Reset(_) => Some(Self::Faulty),
            UpstreamError::Busy
            | UpstreamError::QueueFull
            | UpstreamError::QueueTimeout
            | UpstreamError::Unavailable { .. } => None,
        }
    }
}

/// Why a request goes to a target.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Role {
    Regular,
    /// It decides whether the target is back.
    Trial,
}

/// A bit of [`Standing::bars`].
const UNHEALTHY: u8 = 1;
const EJECTED: u8 = 2;

pub(super) struct Standing {
    pub(super) metrics: Arc<TargetMetrics>,
    /// Why requests go elsewhere; 0: they do not.
    bars: AtomicU8,
    /// In a row, up to now.
    failures: AtomicU32,
    record: Mutex<Record>,
}

#[derive(Default)]
struct Record {
    ejection: Option<Ejection>,
    /// Ejections that followed soon on one another.
    streak: u32,
    back_since: Option<Instant>,
    checker: Checker,
}

/// Which of the configurations that came one after another has the target checked.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Checker(u64);

struct Ejection {
    fault: Fault,
    until: Instant,
    on_trial: bool,
}

impl Standing {
    pub(super) fn new(metrics: Arc<TargetMetrics>) -> Self {
        Self { metrics, bars: AtomicU8::new(0), failures: AtomicU32::new(0), record: Mutex::default() }
    }

    /// Whether requests go there as ever.
    pub(super) fn is_open(&self) -> bool {
        self.bars.load(Ordering::Relaxed) == 0
    }

    /// Whether it may be asked when there is no other: it takes connections, and no check says more against it.
    pub(super) fn is_last_resort(&self) -> bool {
        let takes_connections = |ejection: &Ejection| ejection.fault == Fault::Faulty;
        self.is_healthy() && self.record().ejection.as_ref().is_none_or(takes_connections)
    }

    /// Whether the caller's request is the one that tries it. To be followed by one [`Standing::answered`],
    /// [`Standing::failed`] or [`Standing::untried`].
    pub(super) fn takes_trial(&self, now: Instant) -> bool {
        if self.bars.load(Ordering::Relaxed) != EJECTED {
            return false;
        }
        match &mut self.record().ejection {
            Some(ejection) if !ejection.on_trial && now >= ejection.until => {
                ejection.on_trial = true;
                true
            }
            _ => false,
        }
    }

    /// The trial came to nothing, for no fault of the target's.
    pub(super) fn untried(&self) {
        if let Some(ejection) = &mut self.record().ejection {
            ejection.on_trial = false;
        }
    }

    /// Returns whether this brought the target back.
    pub(super) fn answered(&self) -> bool {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
        self.bars.load(Ordering::Relaxed) & EJECTED != 0 && self.bring_back(|_| true)
    }

    /// An attempt failed. `is_alone`: no other target is open. Returns for how long the target is left out, when this
    /// brought it to that.
    pub(super) fn failed(&self, fault: Fault, role: Role, is_alone: bool, settings: &Settings) -> Option<Duration> {
        let Some(failures_max) = settings.failures else {
            self.pardon();
            return None;
        };
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let is_enough = failures >= failures_max.get() && (fault == Fault::Unreachable || !is_alone);
        if !is_enough && role == Role::Regular {
            return None;
        }
        let now = Instant::now();
        let mut record = self.record();
        let was = record.ejection.as_ref().map(|ejection| ejection.fault);
        // Others were under way when it was left out. That nothing takes connections any more is news, though.
        if role == Role::Regular && was.is_some() && (was, fault) != (Some(Fault::Faulty), Fault::Unreachable) {
            return None;
        }
        if record.back_since.is_some_and(|back| now.saturating_duration_since(back) > settings.time_max) {
            record.streak = 0;
        }
        let longest = settings.time_max.max(settings.time);
        let time = jittered(settings.time.saturating_mul(1 << record.streak.min(16))).min(longest);
        record.streak = record.streak.saturating_add(1);
        record.ejection = Some(Ejection { fault, until: now + time, on_trial: false });
        self.bars.fetch_or(EJECTED, Ordering::Relaxed);
        drop(record);
        self.metrics.ejected();
        Some(time)
    }

    /// How long it will be left out for failed requests; `None` when it is not.
    pub(super) fn back_in(&self, now: Instant) -> Option<Duration> {
        self.record().ejection.as_ref().map(|ejection| ejection.until.saturating_duration_since(now))
    }

    pub(super) fn is_healthy(&self) -> bool {
        self.bars.load(Ordering::Relaxed) & UNHEALTHY == 0
    }

    /// Whoever has checked the target up to now has no say any more.
    pub(super) fn checked_by_another(&self) -> Checker {
        let checker = &mut self.record().checker;
        checker.0 = checker.0.wrapping_add(1);
        *checker
    }

    /// What the checks of `checker` say from now on.
    pub(super) fn set_healthy(&self, is_healthy: bool, checker: Checker) {
        let record = self.record();
        if record.checker != checker {
            return;
        }
        if is_healthy {
            self.bars.fetch_and(!UNHEALTHY, Ordering::Relaxed);
        } else {
            self.bars.fetch_or(UNHEALTHY, Ordering::Relaxed);
        }
        self.metrics.set_healthy(is_healthy);
    }

    /// A check got its answer: what nobody could connect to, somebody can.
    pub(super) fn was_reached(&self) {
        if self.bars.load(Ordering::Relaxed) & EJECTED != 0 {
            self.bring_back(|ejection| ejection.fault == Fault::Unreachable);
        }
    }

    /// A connection was made: whether requests on it are answered is still to be seen, but they can be sent.
    pub(super) fn was_connected(&self) {
        if self.bars.load(Ordering::Relaxed) & EJECTED != 0
            && let Some(ejection) = &mut self.record().ejection
        {
            ejection.fault = Fault::Faulty;
        }
    }

    /// Nothing counts failures any more.
    pub(super) fn pardon(&self) {
        self.bring_back(|_| true);
    }

    fn bring_back(&self, is_over: impl FnOnce(&Ejection) -> bool) -> bool {
        let mut record = self.record();
        if !record.ejection.as_ref().is_some_and(is_over) {
            return false;
        }
        record.ejection = None;
        record.back_since = Some(Instant::now());
        self.failures.store(0, Ordering::Relaxed);
        self.bars.fetch_and(!EJECTED, Ordering::Relaxed);
        drop(record);
        self.metrics.returned();
        true
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        // Every change to the record leaves it whole.
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
