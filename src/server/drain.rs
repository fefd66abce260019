//! The signal to finish: set once, seen by everyone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Makes a connected pair.
pub fn drain() -> (Drain, Draining) {
    let signal = Arc::new(Signal::default());
    (Drain(Arc::clone(&signal)), Draining(signal))
}

#[derive(Debug, Default)]
struct Signal {
    has_started: AtomicBool,
    notify: Notify,
}

/// The end that starts the drain. Dropping it starts nothing.
#[derive(Debug)]
pub struct Drain(Arc<Signal>);

impl Drain {
    pub fn start(&self) {
        self.0.has_started.store(true, Ordering::Release);
        self.0.notify.notify_waiters();
    }
}

/// The end that sees it. Clones see the same.
#[derive(Clone, Debug)]
pub struct Draining(Arc<Signal>);

impl Draining {
    /// One load: cheap enough for every poll.
    pub fn has_started(&self) -> bool {
        self.0.has_started.load(Ordering::Acquire)
    }

    /// Waits for the start; returns at once after it. Cancel-safe.
    pub async fn started(&self) {
        loop {
            let notified = self.0.notify.notified();
            // After `notified` was made: a start between the two still wakes it.
            if self.has_started() {
                return;
            }
            notified.await;
        }
    }
}
