//! A store that is opened anew after a fault, without a restart.
//!
//! Knows nothing of the database: an [`Engine`] opens it. Two threads of its own: one watches for calls that do not come
//! back, the other looks after the store and opens it again.
//!
//! Invariants: a commit is acknowledged by the store that is in use at that moment, so nothing is acknowledged by one
//! that was given up; what is opened anew holds everything that was acknowledged; there are no changes from the first
//! fault until then, while reads go on for as long as the failed store can still be asked.

mod calls;
mod mending;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;
use std::time::Instant;

use self::calls::Calls;
use self::mending::Bell;
use super::{Change, LoggedChange, Store, StoreError};
use crate::clock::Timestamp;
use crate::key::{KeyId, KeyRecord};
use crate::metrics::{StoreFault, StoreHealth};

/// What can open a store again that has failed. All calls block.
pub trait Engine: Send + Sync + 'static {
    /// Whether it is worth trying: cheap, and before the failed store is let go, which can still be read.
    ///
    /// # Errors
    /// Why it is not.
    fn probe(&self) -> Result<(), StoreError>;

    /// Opens the store, for reads and writes. The failed one is closed by then, or will be when the last call in it ends.
    ///
    /// # Errors
    /// When it does not work, or does not hold what `extent` says.
    fn reopen(&self, extent: Extent) -> Result<Box<dyn Store>, StoreError>;
}

/// Where a store must end that this process alone has changed.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// The last revision that was acknowledged: the store has it.
    pub acknowledged: u64,
    /// The last revision that was attempted: the store may have it, and none after it.
    pub attempted: u64,
}

impl Extent {
    pub fn holds(self, revision: u64) -> bool {
        (self.acknowledged..=self.attempted).contains(&revision)
    }
}

pub struct HealingStore {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    present: RwLock<Present>,
    calls: Calls,
    health: Arc<StoreHealth>,
    acknowledged: AtomicU64,
    attempted: AtomicU64,
    engine: Box<dyn Engine>,
    bell: Bell,
}

struct Present {
    /// `None` while it is opened anew.
    store: Option<Arc<dyn Store>>,
    /// Since when there are no changes.
    failed_since: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq)]
enum Access {
    Read,
    Write,
}

impl HealingStore {
    /// Takes over a store that works.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read, or there is no thread to be had.
    pub fn start(store: Box<dyn Store>, engine: impl Engine) -> Result<Self, StoreError> {
        let revision = AtomicU64::new(store.revision()?);
        let shared = Arc::new(Shared {
            present: RwLock::new(Present { store: Some(Arc::from(store)), failed_since: None }),
            calls: Calls::default(),
            health: Arc::default(),
            attempted: AtomicU64::new(revision.load(Ordering::SeqCst)),
            acknowledged: revision,
            engine: Box::new(engine),
            bell: Bell::default(),
        });
        let mut healing = Self { shared: Arc::clone(&shared), threads: Vec::new() };
        let watching = Arc::clone(&shared);
        healing.spawn("store-watch", move || calls::watch(&watching))?;
        healing.spawn("store-mend", move || mending::run(&shared))?;
        Ok(healing)
    }

    fn spawn(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), StoreError> {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run).map_err(StoreError::Thread)?;
        self.threads.push(thread);
        Ok(())
    }
}

impl Drop for HealingStore {
    fn drop(&mut self) {
        self.shared.bell.end();
        self.shared.calls.end();
        let well = self.shared.health.trouble().is_none();
        let store = self.shared.change().store.take();
        drop(store);
        // What hangs is left behind.
        if well {
            for thread in self.threads.drain(..) {
                let _ = thread.join();
            }
        }
    }
}

impl Shared {
    fn present(&self) -> RwLockReadGuard<'_, Present> {
        // Changed in steps that do not panic.
        self.present.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> RwLockWriteGuard<'_, Present> {
        self.present.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn extent(&self) -> Extent {
        let acknowledged = self.acknowledged.load(Ordering::SeqCst);
        Extent { acknowledged, attempted: self.attempted.load(Ordering::SeqCst) }
    }

    /// The one place that calls into the store.
    fn call<T>(
        &self,
        what: &'static str,
        access: Access,
        call: impl FnOnce(&dyn Store) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let store = {
            let present = self.present();
            if access == Access::Write && present.failed_since.is_some() {
                return Err(StoreError::Failed);
            }
            present.store.clone().ok_or(StoreError::Failed)?
        };
        let _running = self.calls.begin(what);
        let result = catch_unwind(AssertUnwindSafe(|| call(&*store))).unwrap_or(Err(StoreError::Panicked));
        if let Err(error) = &result
            && (is_fault(error) || checked(&*store).is_err())
        {
            self.failed(&store, error);
        }
        result
    }

    /// Takes note of a fault, unless the store was given up already.
    fn failed(&self, store: &Arc<dyn Store>, error: &StoreError) {
        let mut present = self.change();
        let is_used = present.store.as_ref().is_some_and(|used| Arc::ptr_eq(used, store));
        if !is_used || present.failed_since.is_some() {
            return;
        }
        present.failed_since = Some(Instant::now());
        let fault = fault(error);
        self.health.failed(fault);
        drop(present);
        tracing::error!(fault = fault.as_str(), ?error, "store failed: no changes of keys until it works again");
        self.bell.ring();
    }

    fn is_used(&self, store: &dyn Store) -> bool {
        let present = self.present();
        let same = |used: &Arc<dyn Store>| std::ptr::addr_eq(Arc::as_ptr(used), std::ptr::from_ref(store));
        present.failed_since.is_none() && present.store.as_ref().is_some_and(same)
    }

    fn commit(&self, change: &Change) -> Result<(), StoreError> {
        let uncertain = |error| StoreError::Uncertain(Box::new(error));
        let committed = self.call("commit", Access::Write, |store| {
            // Before it can happen: whatever opens the store meanwhile must not take the change for another's.
            self.attempted.fetch_max(change.revision, Ordering::SeqCst);
            store.commit(change)?;
            // Given up while the call was in it: what it wrote may not be in what was opened instead.
            if !self.is_used(store) {
                return Err(uncertain(StoreError::Failed));
            }
            self.acknowledged.fetch_max(change.revision, Ordering::SeqCst);
            Ok(())
        });
        committed.map_err(|error| match error {
            StoreError::Panicked => uncertain(StoreError::Panicked),
            error => error,
        })
    }
}

impl Store for HealingStore {
    fn revision(&self) -> Result<u64, StoreError> {
        self.shared.call("revision", Access::Read, |store| store.revision())
    }

    fn record(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.shared.call("record", Access::Read, |store| store.record(id))
    }

    fn scan(&self, visit: &mut dyn FnMut(KeyRecord)) -> Result<(), StoreError> {
        self.shared.call(calls::LONG, Access::Read, |store| store.scan(visit))
    }

    fn commit(&self, change: &Change) -> Result<(), StoreError> {
        self.shared.commit(change)
    }

    fn last_used(&self, id: &KeyId) -> Result<Option<Timestamp>, StoreError> {
        self.shared.call("last_used", Access::Read, |store| store.last_used(id))
    }

    fn touch(&self, uses: &[(KeyId, Timestamp)]) -> Result<(), StoreError> {
        self.shared.call("touch", Access::Write, |store| store.touch(uses))
    }

    fn changes(&self, after: u64, limit: usize) -> Result<Vec<LoggedChange>, StoreError> {
        self.shared.call("changes", Access::Read, |store| store.changes(after, limit))
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.shared.call("flush", Access::Write, |store| store.flush())
    }

    fn check(&self) -> Result<(), StoreError> {
        self.shared.call(calls::CHECK, Access::Write, |store| store.check())
    }

    fn health(&self) -> Option<Arc<StoreHealth>> {
        Some(Arc::clone(&self.shared.health))
    }
}

fn checked(store: &dyn Store) -> Result<(), StoreError> {
    catch_unwind(AssertUnwindSafe(|| store.check())).unwrap_or(Err(StoreError::Panicked))
}

/// Whether an error means that the store must not be used for another change. One that a single row is the cause of, or
/// the change itself, does not.
fn is_fault(error: &StoreError) -> bool {
    matches!(error, StoreError::Failed | StoreError::Gone { .. } | StoreError::Panicked | StoreError::Uncertain(_))
}

fn fault(error: &StoreError) -> StoreFault {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    match error {
        StoreError::Uncertain(error) => fault(error),
        StoreError::Panicked => StoreFault::Panic,
        StoreError::Gone { .. } => StoreFault::Gone,
        StoreError::File { source, .. } | StoreError::Database(::sled::Error::Io(source))
            if matches!(source.kind(), FileTooLarge | QuotaExceeded | StorageFull) =>
        {
            StoreFault::Full
        }
        _ => StoreFault::Error,
    }
}
