//! Memory stores that fail or stall when a test says so.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use portcullis::clock::Timestamp;
use portcullis::key::{KeyId, KeyRecord};
use portcullis::store::{Change, Engine, Extent, HealingStore, LoggedChange, MemoryStore, Store, StoreError};

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

/// How the store fails at a chosen call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// The call fails, and the store is of no use from then on.
    Error,
    /// The same, and there is no room on the disk.
    Full,
    /// The call comes back when the fault has ended.
    Hang,
    /// The call panics, and the store is of no use from then on.
    Panic,
}

/// Whether a change that meets the fault is made all the same: its caller is never told that it was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Struck {
    Lost,
    Made,
}

/// A disk with a store on it, which fails at the k-th call and can be opened again when the fault has ended.
#[derive(Default)]
pub struct FaultyDisk {
    content: MemoryStore,
    plan: Mutex<Plan>,
    ended: Condvar,
    calls: AtomicUsize,
}

#[derive(Default)]
struct Plan {
    fault: Option<(usize, Fault, Struck)>,
    is_faulty: bool,
    has_struck: bool,
}

/// The store as it was opened once.
struct Opened {
    disk: Arc<FaultyDisk>,
    is_broken: AtomicBool,
}

struct Opener(Arc<FaultyDisk>);

impl FaultyDisk {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// A store on the disk that is opened again whenever it fails.
    pub fn open(self: &Arc<Self>) -> Arc<HealingStore> {
        let engine = Opener(Arc::clone(self));
        Arc::new(HealingStore::start(self.opened(), engine).expect("the store is well"))
    }

    /// From now on counts the calls, and fails at the one with this number, from 0.
    pub fn fail_at(&self, call: usize, fault: Fault, change: Struck) {
        let mut plan = self.plan();
        *plan = Plan { fault: Some((call, fault, change)), ..Plan::default() };
        self.calls.store(0, Ordering::SeqCst);
    }

    /// Ends the fault; `false`: no call has met it.
    pub fn mend(&self) -> bool {
        let mut plan = self.plan();
        let had_struck = plan.has_struck;
        *plan = Plan::default();
        self.ended.notify_all();
        had_struck
    }

    fn opened(self: &Arc<Self>) -> Box<dyn Store> {
        Box::new(Opened { disk: Arc::clone(self), is_broken: AtomicBool::new(false) })
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine for Opener {
    fn probe(&self) -> Result<(), StoreError> {
        if self.0.plan().is_faulty { Err(StoreError::Failed) } else { Ok(()) }
    }

    fn reopen(&self, extent: Extent) -> Result<Box<dyn Store>, StoreError> {
        assert!(extent.holds(self.0.content.revision()?), "the extent is wrong: {extent:?}");
        Ok(self.0.opened())
    }
}

impl Opened {
    /// What becomes of the call that begins now: `Some` when it meets the fault.
    fn begin(&self) -> Result<Option<(Fault, Struck)>, StoreError> {
        if self.is_broken.load(Ordering::SeqCst) {
            return Err(StoreError::Failed);
        }
        let call = self.disk.calls.fetch_add(1, Ordering::SeqCst);
        let mut plan = self.disk.plan();
        let Some((at, fault, change)) = plan.fault else { return Ok(None) };
        if call != at {
            return Ok(None);
        }
        (plan.is_faulty, plan.has_struck) = (true, true);
        if fault == Fault::Hang {
            let hanging = self.disk.ended.wait_while(plan, |plan| plan.is_faulty);
            drop(hanging.unwrap_or_else(PoisonError::into_inner));
            return Ok(None);
        }
        self.is_broken.store(true, Ordering::SeqCst);
        Ok(Some((fault, change)))
    }

    fn strike(fault: Fault) -> StoreError {
        match fault {
            Fault::Panic => panic!("the test's store panics as it was told to"),
            Fault::Full => StoreError::File { path: "db".into(), source: io::ErrorKind::StorageFull.into() },
            Fault::Error | Fault::Hang => {
                StoreError::File { path: "db".into(), source: io::Error::other("told to fail") }
            }
        }
    }

    fn call<T>(&self, call: impl FnOnce(&MemoryStore) -> Result<T, StoreError>) -> Result<T, StoreError> {
        match self.begin()? {
            Some((fault, _)) => Err(Self::strike(fault)),
            None => call(&self.disk.content),
        }
    }
}

impl Store for Opened {
    fn revision(&self) -> Result<u64, StoreError> {
        self.call(|content| content.revision())
    }

    fn record(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.call(|content| content.record(id))
    }

    fn scan(&self, visit: &mut dyn FnMut(KeyRecord)) -> Result<(), StoreError> {
        self.call(|content| content.scan(visit))
    }

    fn commit(&self, change: &Change) -> Result<(), StoreError> {
        let Some((fault, made)) = self.begin()? else { return self.disk.content.commit(change) };
        if made == Struck::Made {
            self.disk.content.commit(change)?;
        }
        Err(StoreError::Uncertain(Box::new(Self::strike(fault))))
    }

    fn last_used(&self, id: &KeyId) -> Result<Option<Timestamp>, StoreError> {
        self.call(|content| content.last_used(id))
    }

    fn touch(&self, uses: &[(KeyId, Timestamp)]) -> Result<(), StoreError> {
        self.call(|content| content.touch(uses))
    }

    fn changes(&self, after: u64, limit: usize) -> Result<Vec<LoggedChange>, StoreError> {
        self.call(|content| content.changes(after, limit))
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.call(|content| content.flush())
    }

    fn check(&self) -> Result<(), StoreError> {
        if self.is_broken.load(Ordering::SeqCst) { Err(StoreError::Failed) } else { Ok(()) }
    }
}
