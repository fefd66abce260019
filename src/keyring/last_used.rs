//! When keys were used last: noted by requests, written once a key and window.
//!
//! A request never waits for any of it. Late is harmless, so what does not fit is noted again with a later use.
//!
//! Bounds: the queue by its capacity, the backlog by the number of keys.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use tokio::runtime::Handle;
use tokio::sync::{Mutex, oneshot, watch};
use tokio::time::sleep;

use super::holder::Holder;
use super::known::Known;
use super::{Settings, measured};
use crate::clock::{Clock, Timestamp};
use crate::key::KeyId;
use crate::metrics::{Metrics, StoreOperation};
use crate::store::Store;

const QUEUED_MAX: usize = 1 << 20;

pub(super) struct LastUsed {
    /// Takes room as it is needed: as a fixed one it would take some MiB before the first request.
    queue: Sender<Arc<Holder>>,
    /// How many wait in it, and may.
    waiting: AtomicUsize,
    waiting_max: usize,
    /// Locked by whoever flushes, to the end of it.
    backlog: Mutex<Backlog>,
    store: Arc<dyn Store>,
    known: Arc<Known>,
    clock: Clock,
    metrics: Arc<Metrics>,
    control: Handle,
}

struct Backlog {
    queued: Receiver<Arc<Holder>>,
    unwritten: HashMap<KeyId, Timestamp>,
}

impl LastUsed {
    pub(super) fn new(
        cached_max: NonZeroU32,
        store: Arc<dyn Store>,
        known: Arc<Known>,
        clock: Clock,
        metrics: Arc<Metrics>,
        control: Handle,
    ) -> Self {
        // A holder is queued once, so there is room for each key in the cache.
        let waiting_max = usize::try_from(cached_max.get()).unwrap_or(QUEUED_MAX).min(QUEUED_MAX);
        let (queue, queued) = channel();
        let backlog = Mutex::new(Backlog { queued, unwritten: HashMap::new() });
        Self { queue, waiting: AtomicUsize::new(0), waiting_max, backlog, store, known, clock, metrics, control }
    }

    /// Notes that the key is used at `moment`, which is about now. Never waits.
    pub(super) fn note(&self, holder: &Arc<Holder>, moment: std::time::Instant) {
        if !holder.used(self.clock.now_at(moment)) {
            return;
        }
        // Taken off after it is received, so that never more wait than this says.
        let has_room = self.waiting.fetch_add(1, Ordering::Relaxed) < self.waiting_max;
        if has_room && self.queue.send(Arc::clone(holder)).is_ok() {
            return self.metrics.last_used_queued();
        }
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        holder.unqueue();
    }

    /// Flushes once a window, until `stop` is sent or dropped.
    pub(super) async fn run(self: Arc<Self>, mut settings: watch::Receiver<Settings>, mut stop: oneshot::Receiver<()>) {
        loop {
            let window = settings.borrow_and_update().last_used_flush;
            tokio::select! {
                _ = &mut stop => return,
                // Another window begins anew; without a sender there is no other.
                Ok(()) = settings.changed() => {}
                () = sleep(window) => self.flush().await,
            }
        }
    }

    /// Hands everything noted so far to the store. What it refuses stays for the next flush.
    pub(super) async fn flush(&self) {
        let mut backlog = self.backlog.lock().await;
        backlog.collect(&self.known, &self.waiting);
        self.metrics.set_last_used_backlog(backlog.unwritten.len());
        if !backlog.unwritten.is_empty() {
            let uses: Vec<(KeyId, Timestamp)> = backlog.unwritten.iter().map(|(id, at)| (*id, *at)).collect();
            let (store, metrics) = (Arc::clone(&self.store), Arc::clone(&self.metrics));
            let write = move || measured(&metrics, StoreOperation::LastUsedFlush, || store.touch(&uses));
            match self.control.spawn_blocking(write).await {
                Ok(Ok(())) => backlog.unwritten.clear(),
                Ok(Err(error)) => {
                    tracing::warn!(?error, backlog = backlog.unwritten.len(), "last_used was not written");
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, backlog = backlog.unwritten.len(), "last_used was not written");
                    return;
                }
            }
        }
        self.metrics.set_last_used_backlog(0);
        self.metrics.last_used_flushed(self.clock.now());
    }
}

impl Backlog {
    fn collect(&mut self, known: &Known, waiting: &AtomicUsize) {
        for holder in self.queued.try_iter() {
            waiting.fetch_sub(1, Ordering::Relaxed);
            holder.unqueue();
            if let Some(at) = holder.last_used() {
                let latest = self.unwritten.entry(holder.id()).or_insert(at);
                *latest = (*latest).max(at);
            }
        }
        let directory = known.directory();
        self.unwritten.retain(|id, _| directory.contains(id));
    }
}
