//! A memory store that fails or stalls when a test says so.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use portcullis::clock::Timestamp;
use portcullis::key::{KeyId, KeyRecord};
use portcullis::store::{Change, LoggedChange, MemoryStore, Store, StoreError};

/// Works until it is told otherwise.
#[derive(Default)]
pub struct FaultyStore {
    inner: MemoryStore,
    mood: Mutex<Mood>,
    changed: Condvar,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Mood {
    Failing,
    Stalled,
    #[default]
    Well,
}

impl FaultyStore {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// From now on every call fails.
    pub fn fail(&self) {
        self.turn(Mood::Failing);
    }

    /// From now on every call blocks until [`FaultyStore::recover`].
    pub fn stall(&self) {
        self.turn(Mood::Stalled);
    }

    pub fn recover(&self) {
        self.turn(Mood::Well);
    }

    fn turn(&self, mood: Mood) {
        *self.mood.lock().unwrap_or_else(PoisonError::into_inner) = mood;
        self.changed.notify_all();
    }

    fn check(&self) -> Result<(), StoreError> {
        let mood = self.mood.lock().unwrap_or_else(PoisonError::into_inner);
        let stalled = |mood: &mut Mood| *mood == Mood::Stalled;
        let mood = self.changed.wait_while(mood, stalled).unwrap_or_else(PoisonError::into_inner);
        if *mood == Mood::Failing { Err(StoreError::Failed) } else { Ok(()) }
    }
}

impl Store for FaultyStore {
    fn revision(&self) -> Result<u64, StoreError> {
        self.check()?;
        self.inner.revision()
    }

    fn record(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.check()?;
        self.inner.record(id)
    }

    fn scan(&self, visit: &mut dyn FnMut(KeyRecord)) -> Result<(), StoreError> {
        self.check()?;
        self.inner.scan(visit)
    }

    fn commit(&self, change: &Change) -> Result<(), StoreError> {
        self.check()?;
        self.inner.commit(change)
    }

    fn last_used(&self, id: &KeyId) -> Result<Option<Timestamp>, StoreError> {
        self.check()?;
        self.inner.last_used(id)
    }

    fn touch(&self, uses: &[(KeyId, Timestamp)]) -> Result<(), StoreError> {
        self.check()?;
        self.inner.touch(uses)
    }

    fn changes(&self, after: u64, limit: usize) -> Result<Vec<LoggedChange>, StoreError> {
        self.check()?;
        self.inner.changes(after, limit)
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.check()?;
        self.inner.flush()
    }
}
