//! How many at one time.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Lets at most `max` in at one time. A clone is a second handle on the same places.
#[derive(Clone)]
pub struct Concurrency {
    max: NonZeroU32,
    taken: Arc<AtomicU32>,
}

impl Concurrency {
    pub fn new(max: NonZeroU32) -> Self {
        Self { max, taken: Arc::default() }
    }

    /// A place, if one is free. Never waits.
    pub fn try_enter(&self) -> Option<Slot> {
        let enter = |taken| (taken < self.max.get()).then_some(taken + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, enter).ok()?;
        Some(Slot { taken: Arc::clone(&self.taken) })
    }
}

/// A place that is taken until this is dropped.
#[must_use]
pub struct Slot {
    taken: Arc<AtomicU32>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
}
