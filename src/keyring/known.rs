//! What is known without the disk: the directory of all ids, and the cache of the keys in use.
//!
//! Keys are found here by the tag of their digest, never by their id: a wrong secret for a known id is looked for where
//! an unknown key is, and takes as long not to be found.
//!
//! Invariants: under the directory's lock, a cached holder is at the directory's revision of its key; a revision gets in
//! after it is on disk and before it is acknowledged. So a look-up that read a record before it was deleted or changed
//! cannot put it back after. Whatever changes or leaves the cache ends the generation, so no thread goes on with a holder
//! that the cache has let go: there is one for a key, with its limits and its last use.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::sync::watch;

use super::KeyView;
use super::directory::{Directory, Entry};
use super::holder::Holder;
use super::memo::{self, Generation};
use crate::clock::Timestamp;
use crate::key::{KeyId, KeyRecord, Kind, Tag};
use crate::metrics::Metrics;

pub(super) struct Known {
    /// Also held, shared, while the cache is filled, and alone, while a change is made known.
    directory: RwLock<Directory>,
    holders: Cache<Tag, Arc<Holder>>,
    /// Ended after each change of a key in `holders`: before the lock is given back, so before it is acknowledged.
    generation: Arc<Generation>,
    /// How many changes were made known.
    epoch: AtomicU64,
    changed: watch::Sender<()>,
    metrics: Arc<Metrics>,
}

impl Known {
    pub(super) fn new(entries: Vec<Entry>, cached_max: NonZeroU32, metrics: Arc<Metrics>) -> Self {
        let directory = Directory::new(entries);
        let generation = Arc::new(Generation::new());
        let evicting = Arc::clone(&generation);
        let known = Self {
            directory: RwLock::new(directory),
            // Least recently used: the default policy would not let a new key in while old ones are asked for more often,
            // and a key that is not held has fresh limits at every request.
            holders: Cache::builder()
                .max_capacity(u64::from(cached_max.get()))
                .eviction_policy(EvictionPolicy::lru())
                .eviction_listener(move |_tag, _holder, cause| {
                    if cause.was_evicted() {
                        evicting.end();
                    }
                })
                .build(),
            generation,
            epoch: AtomicU64::new(0),
            changed: watch::Sender::new(()),
            metrics,
        };
        known.count(&known.directory());
        known
    }

    /// A key with this tag in the cache: its digest is for the caller to compare. Takes no lock that a change or a look-up
    /// holds.
    pub(super) fn holder(&self, tag: &Tag) -> Option<Arc<Holder>> {
        let generation = self.generation.present();
        memo::recall(generation, tag).or_else(|| {
            let holder = self.holders.get(tag)?;
            memo::remember(generation, &holder);
            Some(holder)
        })
    }

    pub(super) fn directory(&self) -> RwLockReadGuard<'_, Directory> {
        // Changed in steps that do not panic, so what a panic elsewhere leaves behind is whole.
        self.directory.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Grows with every change, before [`Known::changes`] tells of it.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Tells when the directory has changed.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Puts a key that was read from the store into the cache. `None`: it has changed since, or is gone.
    pub(super) fn fill(&self, view: &KeyView) -> Option<Arc<Holder>> {
        let directory = self.directory();
        if directory.revision(&view.record.id) != Some(view.record.revision) {
            return None;
        }
        let fresh = || Arc::new(Holder::new(view.record.clone(), view.last_used));
        let holder = self.holders.entry(view.record.digest.tag()).or_insert_with(fresh).into_value();
        // Another key of the same tag keeps its place; this one is read again each time.
        Some(if holder.id() == view.record.id { holder } else { fresh() })
    }

    /// Makes known what is on disk now: the key's record, or that there is none.
    pub(super) fn publish(&self, id: &KeyId, record: Option<&KeyRecord>) {
        let mut directory = self.directory.write().unwrap_or_else(PoisonError::into_inner);
        match record {
            Some(record) => {
                let tag = record.digest.tag();
                if directory.tag(id) != Some(tag) {
                    self.let_go(&directory, id);
                }
                directory.insert(Entry::from(record));
                if let Some(holder) = self.holders.get(&tag).filter(|holder| holder.id() == *id) {
                    self.holders.insert(tag, Arc::new(holder.succeed(record.clone())));
                }
            }
            None => {
                self.let_go(&directory, id);
                directory.remove(id);
            }
        }
        self.generation.end();
        self.count(&directory);
        drop(directory);
        self.epoch.fetch_add(1, Ordering::Release);
        self.changed.send_replace(());
    }

    /// Drops a key from the cache, for a change of it whose outcome is unknown. `made`: the tag of one that it may have made.
    pub(super) fn distrust(&self, id: &KeyId, made: Option<Tag>) {
        let mut alone = self.directory.write().unwrap_or_else(PoisonError::into_inner);
        self.let_go(&alone, id);
        alone.doubt(made);
        self.generation.end();
    }

    /// The outcome of every change is known.
    pub(super) fn trust(&self) {
        self.directory.write().unwrap_or_else(PoisonError::into_inner).doubt(None);
    }

    /// When the key was used last: as the store knows, or later.
    pub(super) fn last_used(&self, view: &KeyView) -> Option<Timestamp> {
        let holder = self.holders.get(&view.record.digest.tag()).filter(|holder| holder.id() == view.record.id);
        view.last_used.max(holder.and_then(|holder| holder.last_used()))
    }

    /// Takes a key out of the cache. What is not in the directory was never put in.
    fn let_go(&self, directory: &Directory, id: &KeyId) {
        if let Some(tag) = directory.tag(id) {
            self.holders.invalidate(&tag);
        }
    }

    /// Lets go now what the cache has no room for.
    #[cfg(test)]
    pub(super) fn evict(&self) {
        self.holders.run_pending_tasks();
    }

    fn count(&self, directory: &Directory) {
        for kind in Kind::EVERY {
            self.metrics.set_keys(kind, directory.count(kind));
        }
    }
}
