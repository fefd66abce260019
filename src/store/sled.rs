//! The store on disk: sled 0.34.7 with its traps covered.
//!
//! Knows how to keep rows and nothing of what they mean.
//!
//! What the traps are: its `flush` does not fsync on Linux, so [`Folder::sync`] follows each; it panics where others
//! return errors, so every call is under a guard; after a failed write it must not be trusted with another, so the
//! first fault makes the store read-only, until it is opened anew; a failed write of its background threads shows in
//! nothing but [`SledStore::check`]; closing one whose thread has died waits for that thread for ever.

use std::fs::File;
use std::num::NonZeroU64;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::sled::transaction::{TransactionError, Transactional};
use ::sled::{Db, Tree};

use super::commit::{Commit, Refused, read_record, touch};
use super::folder::{Folder, Mark, at, known_segment_bytes, write_mark};
use super::load::Load;
use super::portable::Ported;
use super::record::{STATE, decode_change, decode_state, decode_time, encode_state, format_of};
use super::sums::SetSum;
use super::{Change, LoggedChange, Settings, State, Store, StoreError, upgrade};
use crate::clock::Timestamp;
use crate::key::{KeyId, KeyRecord};

/// The database collects its garbage in the same thread that flushes; seconds are enough, since commits flush themselves.
const FLUSH_EVERY_MS: u64 = 5_000;
/// How late the database's threads may be when they wake by themselves. Seven of them do so each second, to find nothing
/// to do: this late they wait for one another, and on an idle machine for something that wakes it anyway. None is later
/// when it is called.
const THREADS_LATE_MAX: Duration = Duration::from_secs(4);
/// A transaction keeps readers out: this many rows take well under a millisecond.
const TOUCHED_AT_ONCE: usize = 64;
/// How many old changes one commit drops at most: catches up when `changes_max` was lowered.
const EXPIRED_AT_ONCE: usize = 64;
/// How long a database that was closed in this process may take to let go of its file.
const CLOSING_MAX: Duration = Duration::from_secs(2);
const CLOSING_POLL: Duration = Duration::from_millis(5);
/// What the database calls its own thread.
const FLUSHER: &[u8] = b"log flusher";
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
    /// How often the database's own thread was to be looked for, and in a row was not there.
    flusher_looks: AtomicU32,
    flusher_missed: AtomicU32,
    changes_max: u64,
}

/// Closes the database when dropped; one that has failed in the background, since that may take for ever.
struct Closing {
    rows: Option<Rows>,
    failed: Arc<AtomicBool>,
}

#[derive(Clone)]
pub(super) struct Rows {
    pub(super) database: Db,
    pub(super) records: Tree,
    pub(super) last_used: Tree,
    pub(super) changes: Tree,
    pub(super) meta: Tree,
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
        folder.clear_half_written()?;
        folder.read_through()?;
        let cache = settings.cache.bytes();
        let rows = upgrade::to_present(&folder, Rows::open(folder.path(), cache)?, cache)?;
        let failed = Arc::new(AtomicBool::new(false));
        let rows = Closing { rows: Some(rows), failed: Arc::clone(&failed) };
        Ok(Self {
            rows,
            file: folder.database_file()?,
            mark: folder.mark_file()?,
            folder,
            committing: Mutex::default(),
            failed,
            flusher_looks: AtomicU32::new(0),
            flusher_missed: AtomicU32::new(0),
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

    /// The keys of the changes that the log no longer has room for once `revision` is in it.
    fn expired(&self, revision: u64) -> Result<Vec<::sled::IVec>, StoreError> {
        let last = revision.saturating_sub(self.changes_max).to_be_bytes();
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
        if found != expected { Err(StoreError::Altered) } else { Ok(()) }
    }

    fn commit(&self, change: &Change) -> Result<(), StoreError> {
        let _only = self.commits();
        self.writable()?;
        let commit = Commit::prepare(change, self.expired(change.revision)?)?;
        let Rows { records, last_used, changes, meta, .. } = &*self.rows;
        let applied = self.guarded(|| {
            let done = (records, last_used, changes, meta).transaction(|trees| commit.apply(trees));
            match done {
                Ok(()) => Ok(Ok(())),
                Err(TransactionError::Abort(refused)) => Ok(Err(refused)),
                Err(TransactionError::Storage(error)) => Err(error),
            }
        });
        self.settle(applied, change.revision)
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
        if self.flusher_has_died() { Err(self.fail(StoreError::Died)) } else { Ok(()) }
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
        let Rows { records, last_used, changes, meta, .. } = &*self.rows;
        let applied = self.guarded(|| {
            let done = (records, last_used, changes, meta).transaction(|trees| load.apply(trees));
            match done {
                Ok(()) => Ok(Ok(())),
                Err(TransactionError::Abort(refused)) => Ok(Err(refused)),
                Err(TransactionError::Storage(error)) => Err(error),
            }
        });
        self.settle(applied, revision)
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

    /// Looks at every second call, and believes the second look: a thread has its name a moment after its start.
    fn flusher_has_died(&self) -> bool {
        if !self.flusher_looks.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
            return false;
        }
        if !flusher_is_missing() {
            self.flusher_missed.store(0, Ordering::Relaxed);
            return false;
        }
        self.flusher_missed.fetch_add(1, Ordering::Relaxed) > 0
    }

    fn unrecognised(&self, found: u64) -> StoreError {
        let expected = self.state().ok().flatten().unwrap_or_default().set.keys;
        StoreError::Miscounted { expected, found }
    }
}

impl Deref for Closing {
    type Target = Rows;

    fn deref(&self) -> &Rows {
        self.rows.as_ref().expect("there until it is dropped")
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        let Some(rows) = self.rows.take() else { return };
        if self.failed.load(Ordering::SeqCst) {
            let close = move || drop(catch_unwind(AssertUnwindSafe(|| drop(rows))));
            // Without a thread it is closed here after all.
            let _ = std::thread::Builder::new().name("store-closing".to_owned()).spawn(close);
        }
    }
}

/// Whether the thread that flushes and collects garbage is gone, as far as can be told. With several databases in one
/// process it is looked for in vain only when all of theirs are gone.
fn flusher_is_missing() -> bool {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else { return false };
    let mut names = threads.flatten().map(|thread| std::fs::read(thread.path().join("comm")).unwrap_or_default());
    names.all(|name| name.trim_ascii() != FLUSHER)
}

impl Rows {
    /// Opens the database in a directory that nobody else uses, or makes one there.
    pub(super) fn open(path: &Path, cache: u64) -> Result<Self, StoreError> {
        let damaged = || StoreError::Damaged { path: path.to_owned(), source: None };
        let segment_bytes = known_segment_bytes(path).ok_or_else(damaged)?;
        let config = ::sled::Config::new()
            .path(path)
            .segment_size(segment_bytes)
            .cache_capacity(cache)
            .flush_every_ms(Some(FLUSH_EVERY_MS));
        // Nothing of ours is touched inside, so nothing of ours can be left half done.
        match at_leisure(|| catch_unwind(AssertUnwindSafe(|| Self::open_unguarded(&config)))) {
            Ok(opened) => opened.map_err(|source| unopened(path, source)),
            Err(_panic) => Err(damaged()),
        }
    }

    /// The format of the state; `None` before there is one.
    pub(super) fn format(&self) -> Result<Option<u8>, StoreError> {
        Ok(guard(|| self.meta.get(STATE))?.as_deref().and_then(format_of))
    }

    fn open_unguarded(config: &::sled::Config) -> Result<Self, ::sled::Error> {
        let database = open_released(config)?;
        Ok(Self {
            records: database.open_tree("keys")?,
            last_used: database.open_tree("last_used")?,
            changes: database.open_tree("changes")?,
            meta: database.open_tree("meta")?,
            database,
        })
    }
}

/// A call into a database that is not behind a [`SledStore`].
pub(super) fn guard<T>(call: impl FnOnce() -> Result<T, ::sled::Error>) -> Result<T, StoreError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(StoreError::Database),
        Err(_panic) => Err(StoreError::Panicked),
    }
}

/// Runs what starts threads so that timers of theirs may be late: a thread has that from the one that starts it.
fn at_leisure<T>(start: impl FnOnce() -> T) -> T {
    let late_max = u64::try_from(THREADS_LATE_MAX.as_nanos()).ok().and_then(NonZeroU64::new);
    let own = rustix::thread::current_timer_slack().ok().and_then(NonZeroU64::new);
    // Where it cannot be had, they wake more often.
    let _ = rustix::thread::set_current_timer_slack(late_max);
    let started = start();
    let _ = rustix::thread::set_current_timer_slack(own);
    started
}

/// Opens the database once the threads of one that this process has just closed have let go of its file.
///
/// Nobody else can have it: the directory's lock is ours.
fn open_released(config: &::sled::Config) -> Result<Db, ::sled::Error> {
    let mut left = CLOSING_MAX;
    loop {
        match config.open() {
            Err(::sled::Error::Io(error))
                if !left.is_zero() && error.to_string().starts_with("could not acquire lock") =>
            {
                std::thread::sleep(CLOSING_POLL);
                left = left.saturating_sub(CLOSING_POLL);
            }
            opened => return opened,
        }
    }
}

fn unopened(path: &Path, error: ::sled::Error) -> StoreError {
    use std::io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem, StorageFull};
    match error {
        ::sled::Error::Io(source) if matches!(source.kind(), PermissionDenied | ReadOnlyFilesystem | StorageFull) => {
            at(path)(source)
        }
        source => StoreError::Damaged { path: path.to_owned(), source: Some(source) },
    }
}
