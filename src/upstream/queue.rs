//! How many requests an upstream gets at a time, and who waits for a place.
//!
//! Invariants: places are given in the order in which they were asked for, over all workers; whoever stops waiting, or
//! is dropped, leaves no trace.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Blame, Settings, UpstreamError};
use crate::metrics::UpstreamMetrics;

pub(super) struct Queue {
    max: NonZeroU32,
    /// Gives freed places to those who wait, in their order, before anybody else can take one.
    places: Arc<Semaphore>,
    waiting: AtomicU32,
    waiting_max: Option<NonZeroU32>,
    timeout: Duration,
    metrics: Arc<UpstreamMetrics>,
}

/// One of the requests that run at a time, until this is dropped.
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
}

impl Queue {
    /// `None` when nothing bounds the requests at a time. Places that `old` has given stay taken if it has as many.
    pub(super) fn new(settings: &Settings, metrics: &Arc<UpstreamMetrics>, old: Option<&Self>) -> Option<Self> {
        let max = settings.concurrency?;
        let places = || {
            let places = usize::try_from(max.get()).unwrap_or(usize::MAX);
            Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS)))
        };
        Some(Self {
            max,
            places: old.filter(|old| old.max == max).map_or_else(places, |old| Arc::clone(&old.places)),
            waiting: AtomicU32::new(0),
            waiting_max: settings.queue,
            timeout: settings.queue_timeout,
            metrics: Arc::clone(metrics),
        })
    }

    /// A place, at once or after a wait, which `blame` is told of. Cancel-safe.
    ///
    /// # Errors
    /// When too many wait already, or the wait took too long.
    pub(super) async fn enter(&self, blame: &Blame) -> Result<Place, UpstreamError> {
        if let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() {
            return Ok(Place { _permit: permit });
        }
        // In a place of its own: few requests need the room, and all would have it.
        Box::pin(self.enter_late(blame)).await
    }

    async fn enter_late(&self, blame: &Blame) -> Result<Place, UpstreamError> {
        let _waiting = self.wait().ok_or(UpstreamError::QueueFull)?;
        blame.wait_for_turn();
        let place = tokio::time::timeout(self.timeout, Arc::clone(&self.places).acquire_owned()).await;
        // The inner error is that of a closed semaphore, which this one never is.
        let permit = place.ok().and_then(Result::ok).ok_or(UpstreamError::QueueTimeout)?;
        blame.take_turn();
        Ok(Place { _permit: permit })
    }

    fn wait(&self) -> Option<Waiting<'_>> {
        let max = self.waiting_max?.get();
        let enter = |waiting| (waiting < max).then_some(waiting + 1);
        self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, enter).ok()?;
        self.metrics.entered_queue();
        Some(Waiting(self))
    }
}

/// Counts a request as waiting while it lives.
struct Waiting<'q>(&'q Queue);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
        self.0.metrics.left_queue();
    }
}
