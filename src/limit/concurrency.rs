//! How many at one time.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Counts who is inside. How many may be is said at each entry, so that it can change while some are. A clone is a
/// second handle on the same places.
#[derive(Clone, Debug, Default)]
pub struct Concurrency {
    taken: Arc<AtomicU32>,
}

impl Concurrency {
    /// A place, if fewer than `max` are taken. Never waits.
    pub fn try_enter(&self, max: NonZeroU32) -> Option<Slot> {
        let enter = |taken| (taken < max.get()).then_some(taken + 1);
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
