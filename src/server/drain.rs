//! The end of an accept loop and its connections, in two steps that everyone sees: leaving, then draining.
//!
//! While leaving, new connections are still accepted, and every response says that its connection closes: so clients go
//! elsewhere before anything is closed under them. While draining, nothing more is accepted; a connection without a
//! request may still bring one for a while, since one may be on its way already, and closing would lose it.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::Notify;

use super::settings::Shutdown;

/// Makes a connected pair.
pub fn drain() -> (Drain, Draining) {
    let signal = Arc::new(Signal::default());
    (Drain(Arc::clone(&signal)), Draining(signal))
}

const SERVING: u8 = 0;
const LEAVING: u8 = 1;
const DRAINING: u8 = 2;

#[derive(Debug, Default)]
struct Signal {
    stage: AtomicU8,
    left: Notify,
    drained: Notify,
    bounds: OnceLock<Bounds>,
}

#[derive(Clone, Copy, Debug)]
struct Bounds {
    idle_timeout: Duration,
    timeout: Duration,
}

/// The end that starts the drain. Dropping it starts nothing.
#[derive(Debug)]
pub struct Drain(Arc<Signal>);

impl Drain {
    /// Tells clients to go. New ones are still accepted.
    pub fn leave(&self) {
        if self.0.stage.compare_exchange(SERVING, LEAVING, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            self.0.left.notify_waiters();
        }
    }

    /// Accepts no more, and lets what is there end within the bounds of `shutdown`. Only the first call counts.
    pub fn start(&self, shutdown: &Shutdown) {
        self.leave();
        let bounds = Bounds { idle_timeout: shutdown.idle_timeout, timeout: shutdown.timeout };
        if self.0.bounds.set(bounds).is_ok() {
            self.0.stage.store(DRAINING, Ordering::Release);
            self.0.drained.notify_waiters();
        }
    }
}

/// The end that sees it. Clones see the same.
#[derive(Clone, Debug)]
pub struct Draining(Arc<Signal>);

impl Draining {
    /// Whether clients are to go. One load: cheap enough for every poll.
    pub fn has_started(&self) -> bool {
        self.0.stage.load(Ordering::Acquire) != SERVING
    }

    /// Waits until clients are to go; returns at once after that. Cancel-safe.
    pub async fn started(&self) {
        reached(&self.0.left, || self.has_started()).await;
    }

    /// How long a connection may be idle now that nothing more is accepted; `None` before that. One load.
    pub(super) fn idle_timeout(&self) -> Option<Duration> {
        self.bounds().map(|bounds| bounds.idle_timeout)
    }

    /// Waits until nothing more is to be accepted. Cancel-safe.
    pub(super) async fn accepting_ended(&self) {
        reached(&self.0.drained, || self.bounds().is_some()).await;
    }

    /// Waits until a connection that has said nothing yet has had as long as an idle one. Cancel-safe.
    pub(super) async fn patience_ended(&self) {
        self.accepting_ended().await;
        tokio::time::sleep(self.idle_timeout().unwrap_or_default()).await;
    }

    /// How long connections may take to end, once nothing more is accepted.
    pub(super) fn timeout(&self) -> Duration {
        self.bounds().map_or(Duration::ZERO, |bounds| bounds.timeout)
    }

    fn bounds(&self) -> Option<Bounds> {
        if self.0.stage.load(Ordering::Acquire) != DRAINING {
            return None;
        }
        self.0.bounds.get().copied()
    }
}

async fn reached(notify: &Notify, is_reached: impl Fn() -> bool) {
    loop {
        let notified = notify.notified();
        // After `notified` was made: a change between the two still wakes it.
        if is_reached() {
            return;
        }
        notified.await;
    }
}
