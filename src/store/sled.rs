//! The store on disk: sled 0.34.7 with its traps covered.
//!
//! Knows how to keep rows and nothing of what they mean.
//!
//! What the traps are: its `flush` does not fsync on Linux, so [`Folder::sync`] follows each; it panics where others
//! return errors, so every call is under a guard; after a failed write it must not be trusted with another, so the
//! first fault makes the store read-only, until it is opened anew; a failed write of its background threads shows in
//! nothing but [`SledStore::check`]; closing one whose thread has died waits for that thread for ever.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ::sled::transaction::{TransactionError, Transactional};

use super::commit::{Commit, Refused, Transacted, Trees, read_record, touch};
use super::folder::{Folder, Mark, at, write_mark};
use super::load::Load;
use super::portable::Ported;
use super::record::{STATE, decode_change, decode_state, decode_time, encode_state};
use super::recovery::Kept;
use super::rows::{Closing, Flusher, Rows};
use super::sums::SetSum;
use super::{Change, LoggedChange, Settings, State, Store, StoreError, recovery, upgrade};
use crate::clock::Timestamp;
use crate::key::{KeyId, KeyRecord};

/// A transaction keeps readers out: this many rows take well under a millisecond.
const TOUCHED_AT_ONCE: usize = 64;
/// How many old changes one commit drops at most: catches up when `changes_max` was lowered.
const EXPIRED_AT_ONCE: usize = 64;
/// Lines of the log that are looked at together.
const LINES_AT_ONCE: usize = 512;
/// A row that is there for a moment.
const TRIAL: &[u8] = b"trial";

pub struct SledStore {
    // In the order of dropping: the database is closed before the directory is let go.
    rows: Closing,
    file: File,
    mark: File,
    folder: Arc<Folder>,
    /// Held while a change is made, and while all records are read.
    committing: Mutex<()>,
    failed: Arc<AtomicBool>,
    /// Until all that is in the store has passed its checks.
    kept: Kept,
    flusher: Flusher,
    changes_max: u64,
}

impl SledStore {
    /// Opens the store in the directory. Never makes one: a volume that is not mounted must not look like a fresh start.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when there is none, [`StoreError::Locked`] when another process has it,
    /// [`StoreError::Damaged`] and [`StoreError::Lost`] when it is not what was acknowledged.
    pub fn open(settings: &Settings) -> Result<Self, StoreError> {
        let folder = Arc::new(Folder::existing(&settings.path)?);
        let mark = folder.mark()?;
        let store = Self::start(folder, settings)?;
        let path = || settings.path.clone();
        match (store.state()?, mark.revision()) {
            // Something was acknowledged here, and nobody knows what.
            (None, _) if mark == Mark::Damaged && store.folder.was_mark_whole()? => {
                Err(StoreError::Damaged { path: path(), source: None })
            }
            // At revision 0 there is no key yet: a first start that was cut off, which may begin again.
            (None, None | Some(0)) => Err(StoreError::Missing { path: path() }),
            (state, Some(acknowledged)) if state.is_none_or(|state| state.revision < acknowledged) => {
                Err(StoreError::Lost { path: path(), acknowledged, found: state.map_or(0, |state| state.revision) })
            }
            _ => Ok(store),
        }
    }

    /// Makes a store in the directory, and the directory. One without keys in it is taken as it is.
    ///
    /// # Errors
    /// [`StoreError::Initialised`] when there are keys in it, and those of [`SledStore::open`].
    pub fn create(settings: &Settings) -> Result<Self, StoreError> {
        let folder = Arc::new(Folder::created(&settings.path)?);
        let acknowledged = folder.marked()?.unwrap_or(0);
        let store = Self::start(folder, settings)?;
        let state = store.state()?.unwrap_or_default();
        let path = settings.path.clone();
        if state.set.keys > 0 {
            return Err(StoreError::Initialised { path, keys: state.set.keys });
        }
        if state.revision < acknowledged {
            return Err(StoreError::Lost { path, acknowledged, found: state.revision });
        }
        let row = encode_state(state).map_err(StoreError::CorruptState)?;
        store.guarded(|| store.rows.meta.insert(STATE, row))?;
        store.make_durable()?;
        store.mark(state.revision)?;
        store.folder.sync_names()?;
        Ok(store)
    }

    pub(super) fn start(folder: Arc<Folder>, settings: &Settings) -> Result<Self, StoreError> {
        let kept = recovery::prepare(&folder)?;
        let cache = settings.cache.bytes();
        let rows = upgrade::to_present(&folder, Rows::open(folder.path(), cache)?, cache)?;
        let failed = Arc::new(AtomicBool::new(false));
        let rows = Closing::new(rows, Arc::clone(&failed));
        Ok(Self {
            rows,
            file: folder.database_file()?,
            mark: folder.mark_file()?,
            folder,
            committing: Mutex::default(),
            failed,
            kept,
            flusher: Flusher::default(),
            changes_max: u64::from(settings.changes_max.get()),
        })
    }

    pub(super) fn state(&self) -> Result<Option<State>, StoreError> {
        let row = self.guarded(|| self.rows.meta.get(STATE))?;
        row.map(|row| decode_state(&row).map_err(StoreError::CorruptState)).transpose()
    }

    /// The one place that calls into the database once it is open.
    fn guarded<T>(&self, call: impl FnOnce() -> Result<T, ::sled::Error>) -> Result<T, StoreError> {
        // After a panic nothing is written any more, so a state that it broke is never built upon.
        match catch_unwind(AssertUnwindSafe(call)) {
            Ok(result) => result.map_err(StoreError::Database),
            Err(_panic) => Err(self.fail(StoreError::Panicked)),
        }
    }

    /// Makes the store read-only, for a fault after which the database cannot be trusted with another write.
    fn fail(&self, error: StoreError) -> StoreError {
        if !self.failed.swap(true, Ordering::SeqCst) {
            tracing::debug!(store.path = %self.folder.path().display(), ?error, "store failed and is read-only now");
        }
        error
    }

    fn writable(&self) -> Result<(), StoreError> {
        if self.failed.load(Ordering::SeqCst) {
            return Err(StoreError::Failed);
        }
        // What is written to files that were taken away would be acknowledged and lost.
        self.folder.check_place_of(&self.file).map_err(|gone| self.fail(gone))
    }

    fn make_durable(&self) -> Result<(), StoreError> {
        self.guarded(|| self.rows.database.flush())?;
        self.folder.sync(&self.file)?;
        self.folder.check_place_of(&self.file)
    }

    /// Brings the store to a revision in one transaction, and that to disk.
    fn transact(&self, revision: u64, apply: impl Fn(&Trees) -> Transacted<()>) -> Result<(), StoreError> {
        let Rows { records, last_used, changes, meta, .. } = &*self.rows;
        let applied = self.guarded(|| match (records, last_used, changes, meta).transaction(&apply) {
            Ok(()) => Ok(Ok(())),
            Err(TransactionError::Abort(refused)) => Ok(Err(refused)),
            Err(TransactionError::Storage(error)) => Err(error),
        });
        self.settle(applied, revision)
    }

    /// Brings to disk what a transaction has done, if it has.
    fn settle(&self, applied: Result<Result<(), Refused>, StoreError>, revision: u64) -> Result<(), StoreError> {
        match applied {
            Ok(Ok(())) => {}
            Ok(Err(refused)) => return Err(refused.into()),
            Err(fault) => return Err(self.fail(StoreError::Uncertain(Box::new(fault)))),
        }
        self.make_durable().map_err(|fault| self.fail(StoreError::Uncertain(Box::new(fault))))?;
        if let Err(error) = write_mark(&self.mark, revision) {
            // It only lags behind then: less is noticed at the next start, and nothing is lost.
            tracing::warn!(%error, "the store's mark was not written");
        }
        Ok(())
    }

    fn commits(&self) -> MutexGuard<'_, ()> {
        self.committing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The keys of the changes that the log no longer has room for once this one is in it.
    fn expired(&self, change: &Change) -> Result<Vec<::sled::IVec>, StoreError> {
        let last = change.revision.saturating_sub(change.expiry.room(self.changes_max)).to_be_bytes();
        self.guarded(|| self.rows.changes.range(..=last).keys().take(EXPIRED_AT_ONCE).collect())
    }
}

impl Store for SledStore {
    fn revision(&self) -> Result<u64, StoreError> {
        Ok(self.state()?.map_or(0, |state| state.revision))
    }

    fn record(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        let row = self.guarded(|| self.rows.records.get(id.as_bytes()))?;
        row.map(|row| read_record(id, &row)).transpose()
    }

    fn scan(&self, visit: &mut dyn FnMut(KeyRecord)) -> Result<(), StoreError> {
        let _none = self.commits();
        let mut found = SetSum::default();
        let mut rows = self.rows.records.iter();
        while let Some((key, row)) = self.guarded(|| rows.next().transpose())? {
            let id = KeyId::from_bytes(&key).map_err(|_| self.unrecognised(found.keys))?;
            visit(read_record(&id, &row)?);
            found.insert(&key, &row);
        }
        let expected = self.state()?.unwrap_or_default().set;
        if found.keys != expected.keys {
            return Err(StoreError::Miscounted { expected: expected.keys, found: found.keys });
        }
        if found != expected {
            return Err(StoreError::Altered);
        }
        if self.kept.is_there() {
            self.kept.settle(self.is_log_whole());
        }
        Ok(())
    }

    fn commit(&self, change: &Change) -> Result<(), StoreError> {
        let _only = self.commits();
        self.writable()?;
        let commit = Commit::prepare(change, self.expired(change)?)?;
        self.transact(change.revision, |trees| commit.apply(trees))
    }

    fn last_used(&self, id: &KeyId) -> Result<Option<Timestamp>, StoreError> {
        let row = self.guarded(|| self.rows.last_used.get(id.as_bytes()))?;
        // One that cannot be trusted is not known: the next use writes it anew.
        Ok(row.and_then(|row| decode_time(id, &row).ok()))
    }

    fn touch(&self, uses: &[(KeyId, Timestamp)]) -> Result<(), StoreError> {
        self.writable()?;
        for uses in uses.chunks(TOUCHED_AT_ONCE) {
            self.guarded(|| {
                let trees = (&self.rows.records, &self.rows.last_used);
                let touched = trees.transaction(|(records, last_used)| touch(records, last_used, uses));
                touched.map_err(|error: TransactionError<::sled::Error>| match error {
                    TransactionError::Abort(error) | TransactionError::Storage(error) => error,
                })
            })
            .map_err(|fault| self.fail(fault))?;
        }
        Ok(())
    }

    fn changes(&self, after: u64, limit: usize) -> Result<Vec<LoggedChange>, StoreError> {
        let start = after.saturating_add(1).to_be_bytes();
        let rows = self.rows.changes.range(start..).take(limit);
        let rows: Vec<_> = self.guarded(|| rows.collect::<Result<_, _>>())?;
        let read = |(revision, row): &(::sled::IVec, ::sled::IVec)| {
            let revision = revision.as_ref().try_into().map_or(0, u64::from_be_bytes);
            decode_change(revision, row).map_err(|source| StoreError::CorruptChange { revision, source })
        };
        rows.iter().map(read).collect()
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.writable()?;
        self.make_durable().map_err(|fault| self.fail(fault))
    }

    fn check(&self) -> Result<(), StoreError> {
        if let Err(error) = self.rows.database.context.global_error() {
            // The database forgets to wake whoever waits for a write that failed when another thread began it. What is
            // asked for here is refused because of that error, and wakes them. Nothing is made.
            let _ = self.guarded(|| self.rows.database.open_tree("refused").map(drop));
            return Err(self.fail(StoreError::Database(error)));
        }
        self.writable()?;
        if self.flusher.has_died() { Err(self.fail(StoreError::Died)) } else { Ok(()) }
    }
}

impl SledStore {
    /// Takes over keys and lines of the log from elsewhere, in one transaction, and is at `revision` then. On disk when it
    /// returns.
    ///
    /// # Errors
    /// As [`Store::commit`]. A key that is there already is a conflict, and a revision before the present one.
    pub fn load(&self, revision: u64, keys: &[Ported], changes: &[LoggedChange]) -> Result<(), StoreError> {
        let _only = self.commits();
        self.writable()?;
        let load = Load::prepare(revision, keys, changes)?;
        self.transact(revision, |trees| load.apply(trees))
    }

    pub(super) fn folder(&self) -> Arc<Folder> {
        Arc::clone(&self.folder)
    }

    /// Writes something and takes it back, to see whether that can be made durable.
    pub(super) fn try_write(&self) -> Result<(), StoreError> {
        let meta = &self.rows.meta;
        let written = self.guarded(|| meta.insert(TRIAL, TRIAL).and_then(|_| meta.remove(TRIAL)));
        written.and_then(|_| self.make_durable()).map_err(|fault| self.fail(fault))
    }

    /// Says in the mark, durably, that the store is at this revision, which must be on disk.
    pub(super) fn mark(&self, revision: u64) -> Result<(), StoreError> {
        let path = self.folder.path();
        write_mark(&self.mark, revision).and_then(|()| self.mark.sync_all()).map_err(at(path))
    }

    /// Whether every change is in the log from its first line on.
    fn is_log_whole(&self) -> bool {
        let Ok(Some(state)) = self.state() else { return false };
        let mut after = 0;
        loop {
            let Ok(lines) = self.changes(after, LINES_AT_ONCE) else { return false };
            let Some(last) = lines.last() else { return after == state.revision };
            let first = if after == 0 { lines[0].revision } else { after + 1 };
            if !lines.iter().zip(first..).all(|(line, revision)| line.revision == revision) {
                return false;
            }
            after = last.revision;
        }
    }

    fn unrecognised(&self, found: u64) -> StoreError {
        let expected = self.state().ok().flatten().unwrap_or_default().set.keys;
        StoreError::Miscounted { expected, found }
    }
}
