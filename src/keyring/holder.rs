//! A key in memory: its record, and the use that is made of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use crate::clock::Timestamp;
use crate::key::ScopeSet;
use crate::key::{KeyId, KeyRecord};
use crate::limit::{Bucket, Concurrency};
use crate::policy::ScopeHolder;

use super::identity::Identity;

const NEVER: i64 = -1;

/// A key as it was at one revision. A change makes a new holder, which goes on with the use of the old one.
pub struct Holder {
    record: KeyRecord,
    identity: Identity,
    usage: Arc<Usage>,
}

struct Usage {
    bucket: Bucket,
    concurrency: Concurrency,
    /// Unix seconds, or [`NEVER`].
    last_used: AtomicI64,
    /// Whether the holder waits in the queue of those whose last use is to be written.
    queued: AtomicBool,
}

impl Holder {
    pub(super) fn new(record: KeyRecord, last_used: Option<Timestamp>) -> Self {
        let usage = Usage {
            bucket: Bucket::default(),
            concurrency: Concurrency::default(),
            last_used: AtomicI64::new(last_used.map_or(NEVER, Timestamp::unix)),
            queued: AtomicBool::new(false),
        };
        Self { identity: Identity::of(&record), record, usage: Arc::new(usage) }
    }

    pub(super) fn succeed(&self, record: KeyRecord) -> Self {
        Self { identity: Identity::of(&record), record, usage: Arc::clone(&self.usage) }
    }

    pub fn record(&self) -> &KeyRecord {
        &self.record
    }

    /// What upstreams are told of the key.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What the key has taken of its own rate.
    pub fn bucket(&self) -> &Bucket {
        &self.usage.bucket
    }

    /// The key's requests that are being served, those that began under a limit of them.
    pub fn concurrency(&self) -> &Concurrency {
        &self.usage.concurrency
    }

    pub(super) fn id(&self) -> KeyId {
        self.record.id
    }

    pub(super) fn last_used(&self) -> Option<Timestamp> {
        let seconds = self.usage.last_used.load(Ordering::Relaxed);
        (seconds != NEVER).then(|| Timestamp::from_unix(seconds))
    }

    /// Notes a use. `true`: the caller must queue the holder, since it is not queued yet.
    pub(super) fn used(&self, at: Timestamp) -> bool {
        // Most requests end here: one load, nothing written that other cores hold.
        if self.usage.last_used.load(Ordering::Relaxed) >= at.unix() {
            return false;
        }
        self.usage.last_used.fetch_max(at.unix(), Ordering::Relaxed);
        // Swaps on both sides order the time before the mark: whoever finds it set knows that the time will be read.
        !self.usage.queued.swap(true, Ordering::AcqRel)
    }

    /// Takes the queue's mark off. What [`Holder::last_used`] says from here on includes every use that relied on it.
    pub(super) fn unqueue(&self) {
        self.usage.queued.swap(false, Ordering::AcqRel);
    }
}

impl ScopeHolder for Arc<Holder> {
    fn scopes(&self) -> &ScopeSet {
        &self.record.scopes
    }
}
