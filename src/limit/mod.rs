//! How much and how often: rates, requests at once, and failed authentications of an address.
//!
//! Knows nothing of keys, routes or statuses. Monotonic time is passed in; nothing here waits, allocates per request or
//! asks for the time.

mod address;
mod bucket;
mod concurrency;
mod failures;
#[cfg(test)]
mod tests;

use std::num::NonZeroU32;

use crate::settings::{Rate, settings};

pub use address::Address;
pub use bucket::{Bucket, Quota};
pub use concurrency::{Concurrency, Slot};
pub use failures::Failures;

settings! {
    /// `[limits]`
    pub struct Settings {
        pub key: KeyLimits = KeyLimits::default(),
        pub failures: FailureLimits = FailureLimits::default(),
    }
}

settings! {
    /// What each key may do, apart from every other key.
    pub struct KeyLimits {
        pub rate: Option<Rate> = None,
        /// How many requests may come at once after a pause; the count of `rate` unless set.
        pub burst: Option<NonZeroU32> = None,
        /// Requests that are being served at one time.
        pub concurrency: Option<NonZeroU32> = None,
    }
}

impl KeyLimits {
    pub fn allowance(&self) -> Allowance {
        let quota = self.rate.map(|rate| Quota::new(rate, self.burst.unwrap_or(rate.count)));
        Allowance { quota, concurrency: self.concurrency }
    }
}

/// What each key is allowed, ready for requests; `None` is without limit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Allowance {
    pub quota: Option<Quota>,
    pub concurrency: Option<NonZeroU32>,
}

settings! {
    /// What one client address may fail at authentication; an IPv6 address counts by its /64.
    pub struct FailureLimits {
        pub rate: Option<Rate> = Rate::per_second(10),
        /// How many failures may come at once after a pause.
        pub burst: NonZeroU32 = const { NonZeroU32::new(100).expect("not zero") },
        /// How many addresses are remembered at one time.
        pub addresses_max: NonZeroU32 = const { NonZeroU32::new(65_536).expect("not zero") },
    }
}
