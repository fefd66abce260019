//! The database itself: its trees, how it is opened and closed, and whether its own thread lives.
//!
//! Knows nothing of what is in the trees, but for where the state's format is told.

use std::num::NonZeroU64;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use ::sled::{Db, Tree};

use super::StoreError;
use super::folder::{at, known_segment_bytes};
use super::record::{STATE, format_of};

/// The database collects its garbage in the same thread that flushes; seconds are enough, since commits flush themselves.
const FLUSH_EVERY_MS: u64 = 5_000;
/// How late the database's threads may be when they wake by themselves. Seven of them do so each second, to find nothing
/// to do: this late they wait for one another, and on an idle machine for something that wakes it anyway. None is later
/// when it is called.
const THREADS_LATE_MAX: Duration = Duration::from_secs(4);
/// How long a database that was closed in this process may take to let go of its file.
const CLOSING_MAX: Duration = Duration::from_secs(2);
const CLOSING_POLL: Duration = Duration::from_millis(5);
/// What the database calls its own thread.
const FLUSHER: &[u8] = b"log flusher";

#[derive(Clone)]
pub(super) struct Rows {
    pub(super) database: Db,
    pub(super) records: Tree,
    pub(super) last_used: Tree,
    pub(super) changes: Tree,
    pub(super) meta: Tree,
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

/// Closes the database when dropped; one that has failed in the background, since that may take for ever.
pub(super) struct Closing {
    rows: Option<Rows>,
    failed: Arc<AtomicBool>,
}

impl Closing {
    pub(super) fn new(rows: Rows, failed: Arc<AtomicBool>) -> Self {
        Self { rows: Some(rows), failed }
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

/// Looks after the thread that flushes and collects garbage.
#[derive(Default)]
pub(super) struct Flusher {
    /// How often it was to be looked for, and in a row was not there.
    looks: AtomicU32,
    missed: AtomicU32,
}

impl Flusher {
    /// Looks at every second call, and believes the second look: a thread has its name a moment after its start.
    pub(super) fn has_died(&self) -> bool {
        if !self.looks.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
            return false;
        }
        if !flusher_is_missing() {
            self.missed.store(0, Ordering::Relaxed);
            return false;
        }
        self.missed.fetch_add(1, Ordering::Relaxed) > 0
    }
}

/// Whether the thread that flushes and collects garbage is gone, as far as can be told. With several databases in one
/// process it is looked for in vain only when all of theirs are gone.
fn flusher_is_missing() -> bool {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else { return false };
    let mut names = threads.flatten().map(|thread| std::fs::read(thread.path().join("comm")).unwrap_or_default());
    names.all(|name| name.trim_ascii() != FLUSHER)
}
