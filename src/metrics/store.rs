//! What is known of the store's faults: whether it works now, what went wrong how often, how often it was opened anew.
//!
//! Written by the store, read by the page and the health answers. Invariant: the store is up while none of its faults
//! lasts.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::cells::add_one;
use super::labels::StoreFault;

#[derive(Default)]
pub struct StoreHealth {
    has_failed: AtomicBool,
    hangs: AtomicBool,
    faults: [AtomicU64; StoreFault::COUNT],
    reopened: AtomicU64,
    not_reopened: AtomicU64,
}

impl StoreHealth {
    /// The store has failed, and is not used for changes before [`StoreHealth::reopened`].
    pub fn failed(&self, fault: StoreFault) {
        self.has_failed.store(true, Ordering::Release);
        add_one(&self.faults[fault as usize]);
    }

    /// A call does not come back.
    pub fn hangs(&self) {
        self.hangs.store(true, Ordering::Release);
        add_one(&self.faults[StoreFault::Hang as usize]);
    }

    /// All calls come back again.
    pub fn answers(&self) {
        self.hangs.store(false, Ordering::Release);
    }

    pub fn reopened(&self) {
        add_one(&self.reopened);
        self.has_failed.store(false, Ordering::Release);
    }

    /// An attempt to open the store anew came to nothing.
    pub fn not_reopened(&self) {
        add_one(&self.not_reopened);
    }

    /// What is wrong, in words; `None` when nothing is.
    pub fn trouble(&self) -> Option<&'static str> {
        if self.has_failed.load(Ordering::Acquire) {
            return Some("the key store has failed; keys in memory are admitted, changes of keys are refused");
        }
        let hangs = self.hangs.load(Ordering::Acquire);
        hangs.then_some("the key store does not answer; keys in memory are admitted, changes of keys may not be made")
    }

    pub(super) fn faults(&self, fault: StoreFault) -> u64 {
        self.faults[fault as usize].load(Ordering::Relaxed)
    }

    /// How many attempts to open the store anew succeeded, and how many did not.
    pub(super) fn reopenings(&self) -> (u64, u64) {
        (self.reopened.load(Ordering::Relaxed), self.not_reopened.load(Ordering::Relaxed))
    }
}
