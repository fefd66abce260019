//! All keys as they were at one moment, read from the store bit by bit while changes go on.
//!
//! Holds nothing up: taking one costs a copy of the ids.
//!
//! Invariant: a change keeps its key's record as it was before the store has the new one, so a record that is read
//! afterwards and is not kept is as it was at that moment.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::known::Known;
use super::reader::read_view;
use crate::clock::Timestamp;
use crate::key::KeyId;
use crate::store::portable::{Content, Header, Ported, WriteError, Writer};
use crate::store::{Expiry, Store, StoreError};

/// The keys of one moment. Bounded by the number of keys that are changed while it lives.
pub struct Snapshot {
    revision: u64,
    /// The oldest change that the log keeps. It stays there while this lives, unless the log doubles.
    oldest: Option<u64>,
    /// In order of creation.
    ids: Vec<KeyId>,
    kept: Arc<Kept>,
    store: Arc<dyn Store>,
    known: Arc<Known>,
}

/// The keys that were changed since, as they were before. No more than there were.
struct Kept {
    /// The snapshot's.
    revision: u64,
    records: Mutex<HashMap<KeyId, Ported>>,
}

impl Kept {
    fn records(&self) -> MutexGuard<'_, HashMap<KeyId, Ported>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Every snapshot that somebody reads.
#[derive(Default)]
pub(super) struct Pictures(Vec<Weak<Kept>>);

impl Pictures {
    pub(super) fn take(
        &mut self,
        revision: u64,
        ids: Vec<KeyId>,
        store: &Arc<dyn Store>,
        known: &Arc<Known>,
    ) -> Result<Snapshot, StoreError> {
        let oldest = oldest_change(&**store)?;
        let kept = Arc::new(Kept { revision, records: Mutex::default() });
        self.0.push(Arc::downgrade(&kept));
        Ok(Snapshot { revision, oldest, ids, kept, store: Arc::clone(store), known: Arc::clone(known) })
    }

    /// For a change of which [`Pictures::keep`] was told.
    pub(super) fn expiry(&self) -> Expiry {
        if self.0.is_empty() { Expiry::Due } else { Expiry::Deferred }
    }

    /// Keeps how a key is before it is changed; only the first change since a snapshot matters to it.
    pub(super) fn keep(&mut self, id: &KeyId, before: impl Fn() -> Option<Ported>) {
        self.0.retain(|kept| match kept.upgrade() {
            None => false,
            Some(kept) => {
                let mut records = kept.records();
                if !records.contains_key(id)
                    && let Some(before) = before().filter(|before| before.record.created_revision <= kept.revision)
                {
                    records.insert(*id, before);
                }
                true
            }
        });
    }
}

impl Snapshot {
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Writes all of it and the log up to it as a backup. Blocking, for as long as that takes; ends early once `stop` says
    /// so.
    ///
    /// # Errors
    /// [`WriteError`]; the output is then to be thrown away.
    pub fn back_up<W: std::io::Write>(
        &self,
        created: Timestamp,
        output: W,
        stop: &dyn Fn() -> bool,
    ) -> Result<W, WriteError> {
        let (revision, keys) = (self.revision, self.ids.len() as u64);
        let mut writer = Writer::begin(output, Header { content: Content::Backup, revision, created, keys })?;
        for id in &self.ids {
            if stop() {
                return Err(WriteError::Stopped);
            }
            writer.key(&self.read(id)?.ok_or(WriteError::Changed)?)?;
        }
        writer.log(&*self.store, stop)?;
        // Lines go in order, the oldest first: as long as it is there, all of them were.
        if oldest_change(&*self.store)? != self.oldest {
            return Err(WriteError::Expired);
        }
        writer.finish()
    }

    fn read(&self, id: &KeyId) -> Result<Option<Ported>, StoreError> {
        let view = read_view(&*self.store, id)?;
        // Only now: what was changed before that look is here.
        if let Some(kept) = self.kept.records().get(id) {
            return Ok(Some(kept.clone()));
        }
        Ok(view.map(|view| Ported { last_used: self.known.last_used(&view), record: view.record }))
    }
}

/// The revision of the oldest change that the log has.
fn oldest_change(store: &dyn Store) -> Result<Option<u64>, StoreError> {
    Ok(store.changes(0, 1)?.first().map(|change| change.revision))
}
