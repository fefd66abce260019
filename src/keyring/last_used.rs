//! When keys were used last: noted by requests, written once a key and window.
//!
//! A request never waits for any of it. Late is harmless, so what does not fit is noted again with a later use.
//!
//! Bounds: the queue by its capacity, the backlog by the number of keys.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Mutex, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::holder::Holder;
use super::known::Known;
use super::measured;
use crate::clock::{Clock, Timestamp};
use crate::key::KeyId;
use crate::metrics::{Metrics, StoreOperation};
use crate::store::Store;

const QUEUED_MAX: usize = 1 << 20;

pub(super) struct LastUsed {
    queue: SyncSender<Arc<Holder>>,
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
        let capacity = usize::try_from(cached_max.get()).unwrap_or(QUEUED_MAX).min(QUEUED_MAX);
        let (queue, queued) = sync_channel(capacity);
        let backlog = Mutex::new(Backlog { queued, unwritten: HashMap::new() });
        Self { queue, backlog, store, known, clock, metrics, control }
    }

    /// Notes that the key is used at `moment`, which is about now. Never waits.
    pub(super) fn note(&self, holder: &Arc<Holder>, moment: std::time::Instant) {
        if !holder.used(self.clock.now_at(moment)) {
            return;
        }
        match self.queue.try_send(Arc::clone(holder)) {
            Ok(()) => self.metrics.last_used_queued(),
            Err(_) => holder.unqueue(),
        }
    }

    /// Flushes once a window, until `stop` is sent or dropped.
    pub(super) async fn run(self: Arc<Self>, window: Duration, mut stop: oneshot::Receiver<()>) {
        let mut windows = interval_at(Instant::now() + window, window);
        windows.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = &mut stop => return,
                _ = windows.tick() => self.flush().await,
            }
        }
    }

    /// Hands everything noted so far to the store. What it refuses stays for the next flush.
    pub(super) async fn flush(&self) {
        let mut backlog = self.backlog.lock().await;
        backlog.collect(&self.known);
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
    fn collect(&mut self, known: &Known) {
        for holder in self.queued.try_iter() {
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
