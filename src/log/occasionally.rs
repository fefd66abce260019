//! At most one line a second for what can happen a million times a second.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_secs(1);

/// Says when a repeated warning is due. One `static` at each place that warns:
///
/// ```ignore
/// static REFUSED: Occasionally = Occasionally::new();
/// if let Some(suppressed) = REFUSED.due(now) {
///     warn!(suppressed, "connection refused: as many as allowed are open");
/// }
/// ```
pub struct Occasionally {
    last: Mutex<Option<Instant>>,
    suppressed: AtomicU64,
}

impl Occasionally {
    #[expect(clippy::new_without_default, reason = "a static cannot use Default")]
    pub const fn new() -> Self {
        Self { last: Mutex::new(None), suppressed: AtomicU64::new(0) }
    }

    /// `Some` at most once a second, with the number of times that it was not since. Never waits.
    pub fn due(&self, now: Instant) -> Option<u64> {
        // Whoever finds the lock taken comes at the same moment as another, and is suppressed.
        if let Ok(mut last) = self.last.try_lock()
            && last.is_none_or(|last| now.saturating_duration_since(last) >= INTERVAL)
        {
            *last = Some(now);
            return Some(self.suppressed.swap(0, Ordering::Relaxed));
        }
        self.suppressed.fetch_add(1, Ordering::Relaxed);
        None
    }
}
