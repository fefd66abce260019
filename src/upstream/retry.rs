//! Whether a failed request may be sent once more, and how many may.
//!
//! Invariants: a request of which a byte was sent is repeated only when its method is idempotent (RFC 9110 §9.2.2), it
//! has no body and no byte of a response came; once at most; and only within the budget, so that an upstream in trouble
//! is not asked twice for everything.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};

use http::Request;

use super::UpstreamError;
use super::target::Failure;
use crate::settings::{Node, Value, settings};

settings! {
    /// `[upstream.NAME.retry]`
    pub struct Settings {
        /// How often a request is tried, the first time included; 1: never again.
        pub attempts: NonZeroU32 = NonZeroU32::new(3).unwrap_or(NonZeroU32::MIN),
        /// Repeated requests, as a share of all.
        pub budget: Percent = Percent(20),
    }
}

/// A whole number of hundredths, from 1 to 100.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Percent(u32);

impl Value for Percent {
    fn read(node: &Node<'_>) -> Option<Self> {
        let number = node.value().as_integer().and_then(|integer| integer.as_str().parse().ok());
        match number {
            Some(number @ 1..=100) => Some(Self(number)),
            _ => node.problem(format!("{} must be a whole number of percent, from 1 to 100", node.path())),
        }
    }
}

/// Repetitions that may be made after a quiet time, over all workers.
const SAVED_MAX: u32 = 10;
const HUNDREDTHS: u32 = 100;

/// The right to repeat requests: each request earns a share of one. Every worker has a purse of its own.
pub(super) struct Budget {
    share: u32,
    saved_max: u32,
    purses: Box<[Purse]>,
}

/// Hundredths of repetitions.
#[repr(align(128))]
struct Purse(AtomicU32);

impl Budget {
    pub(super) fn new(settings: &Settings, workers: usize) -> Self {
        let workers = workers.max(1);
        let each = SAVED_MAX / u32::try_from(workers).unwrap_or(u32::MAX);
        let saved_max = each.max(1) * HUNDREDTHS;
        let purses = (0..workers).map(|_| Purse(AtomicU32::new(saved_max))).collect();
        Self { share: settings.budget.0, saved_max, purses }
    }

    /// A request came. Writes nothing while the purse is full.
    pub(super) fn earn(&self, worker: usize) {
        let purse = self.purse(worker);
        if purse.load(Ordering::Relaxed) < self.saved_max {
            purse.fetch_add(self.share, Ordering::Relaxed);
        }
    }

    /// Whether a request may be repeated now.
    pub(super) fn spend(&self, worker: usize) -> bool {
        let spend = |saved: u32| saved.checked_sub(HUNDREDTHS);
        self.purse(worker).fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend).is_ok()
    }

    fn purse(&self, worker: usize) -> &AtomicU32 {
        &self.purses[worker % self.purses.len()].0
    }
}

/// What may become of a request whose attempt failed.
pub(super) enum Again<B> {
    /// Any target may get it, the same one too if there is no other. Within the budget.
    Anywhere(Box<Request<B>>),
    /// Another target may get it. Outside the budget: nothing that works is asked for more than before, and of a pair
    /// of which one is dead no request may fail.
    Elsewhere(Box<Request<B>>),
    Never,
}

impl<B> Again<B> {
    /// `is_resent`: it was sent twice already, so that it cannot be again unless nothing of it was.
    pub(super) fn after(failure: Failure<B>, is_resent: &mut bool) -> (UpstreamError, Self) {
        let Failure { error, unsent, spent } = failure;
        let again = match (&error, unsent, spent) {
            (
                UpstreamError::Busy
                | UpstreamError::ConnectTimeout
                | UpstreamError::Tls(_)
                | UpstreamError::Unreachable(_),
                Some(request),
                _,
            ) => Self::Elsewhere(request),
            (_, Some(request), _) => Self::Anywhere(request),
            (UpstreamError::Reset(_), None, Some(request)) if request.method().is_idempotent() && !*is_resent => {
                *is_resent = true;
                Self::Anywhere(request)
            }
            (_, None, _) => Self::Never,
        };
        (error, again)
    }
}
