//! A store that lives as long as the process: for the demonstration, tests and benches.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{CHANGES_MAX, Change, LoggedChange, Store, StoreError};
use crate::clock::Timestamp;
use crate::key::{KeyId, KeyRecord};

pub struct MemoryStore {
    kept: Mutex<Kept>,
    changes_max: u64,
}

#[derive(Default)]
struct Kept {
    revision: u64,
    records: BTreeMap<KeyId, KeyRecord>,
    last_used: HashMap<KeyId, Timestamp>,
    changes: VecDeque<LoggedChange>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new(CHANGES_MAX)
    }
}

impl MemoryStore {
    pub fn new(changes_max: NonZeroU32) -> Self {
        Self { kept: Mutex::default(), changes_max: changes_max.get().into() }
    }

    /// A store that holds these keys from the start, without a log of how they came: the cheap way to have a million.
    pub fn with_records(records: impl IntoIterator<Item = KeyRecord>) -> Self {
        let store = Self::default();
        {
            let mut kept = store.kept();
            kept.records = records.into_iter().map(|record| (record.id, record)).collect();
            kept.revision = kept.records.values().map(|record| record.revision).max().unwrap_or(0);
        }
        store
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Each call checks before it changes anything, so what a panic leaves behind is whole.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn revision(&self) -> Result<u64, StoreError> {
        Ok(self.kept().revision)
    }

    fn record(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        Ok(self.kept().records.get(id).cloned())
    }

    fn scan(&self, visit: &mut dyn FnMut(KeyRecord)) -> Result<(), StoreError> {
        self.kept().records.values().cloned().for_each(visit);
        Ok(())
    }

    fn commit(&self, change: &Change) -> Result<(), StoreError> {
        let mut kept = self.kept();
        let id = change.operation.key();
        let present = kept.records.get(&id).map(|record| record.revision);
        let expected = change.operation.before().map(|record| record.revision);
        if present != expected || change.revision != kept.revision + 1 {
            return Err(StoreError::Conflict);
        }
        match change.operation.after() {
            Some(record) => {
                kept.records.insert(id, record.clone());
            }
            None => {
                kept.records.remove(&id);
                kept.last_used.remove(&id);
            }
        }
        kept.revision = change.revision;
        while kept.changes.len() as u64 >= change.expiry.room(self.changes_max) {
            kept.changes.pop_front();
        }
        kept.changes.push_back(LoggedChange::from(change));
        Ok(())
    }

    fn last_used(&self, id: &KeyId) -> Result<Option<Timestamp>, StoreError> {
        Ok(self.kept().last_used.get(id).copied())
    }

    fn touch(&self, uses: &[(KeyId, Timestamp)]) -> Result<(), StoreError> {
        let mut kept = self.kept();
        for (id, at) in uses {
            if kept.records.contains_key(id) {
                let latest = kept.last_used.entry(*id).or_insert(*at);
                *latest = (*latest).max(*at);
            }
        }
        Ok(())
    }

    fn changes(&self, after: u64, limit: usize) -> Result<Vec<LoggedChange>, StoreError> {
        let kept = self.kept();
        let start = kept.changes.partition_point(|change| change.revision <= after);
        Ok(kept.changes.iter().skip(start).take(limit).cloned().collect())
    }

    fn flush(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
