//! A keyring over a store in memory that can be counted, held and broken, with a root key.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Instant;

use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};

use crate::clock::{Clock, Timestamp};
use crate::key::{KeyId, KeyName, KeyRecord, KeyReference, KeySecret, Kind, Scope, ScopeSet};
use crate::keyring::{ChangeError, Changes, Draft, Holder, KeyView, Keyring, Settings, Unavailable};
use crate::metrics::Metrics;
use crate::store::{Actor, Change, LoggedChange, MemoryStore, Store, StoreError, Who};

pub(super) const NOW: i64 = 1_700_000_000;
/// How many changes the store's log keeps.
pub(super) const CHANGES_MAX: NonZeroU32 = NonZeroU32::new(64).expect("is not zero");

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fault {
    /// Nothing works.
    Everything,
    None,
    /// Changes are made, and said to be uncertain.
    Uncertain,
    /// Nothing can be written.
    Writes,
}

/// A point at which the store stops until it is told to go on.
pub(super) struct Hold {
    pub(super) reached: oneshot::Receiver<()>,
    pub(super) release: mpsc::Sender<()>,
}

struct Gate {
    reached: oneshot::Sender<()>,
    release: mpsc::Receiver<()>,
}

impl Gate {
    fn new() -> (Self, Hold) {
        let (reached, was_reached) = oneshot::channel();
        let (release, released) = mpsc::channel();
        (Self { reached, release: released }, Hold { reached: was_reached, release })
    }

    fn pass(gate: &Mutex<Option<Self>>) {
        let gate = gate.lock().unwrap().take();
        if let Some(Self { reached, release }) = gate {
            reached.send(()).unwrap();
            // Also when the test has gone.
            let _ = release.recv();
        }
    }
}

pub(super) struct TestStore {
    inner: MemoryStore,
    pub(super) reads: AtomicUsize,
    pub(super) fault: Mutex<Fault>,
    read_gate: Mutex<Option<Gate>>,
    commit_gate: Mutex<Option<Gate>>,
    /// Records that come back in place of those that the store has.
    pub(super) stale: Mutex<Vec<KeyRecord>>,
    /// How often times of last use were written.
    pub(super) touches: watch::Sender<usize>,
}

impl TestStore {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: MemoryStore::new(CHANGES_MAX),
            reads: AtomicUsize::new(0),
            fault: Mutex::new(Fault::None),
            read_gate: Mutex::default(),
            commit_gate: Mutex::default(),
            stale: Mutex::default(),
            touches: watch::Sender::new(0),
        })
    }

    /// Stops the next read after it has read, and before it returns.
    pub(super) fn hold_next_read(&self) -> Hold {
        let (gate, hold) = Gate::new();
        *self.read_gate.lock().unwrap() = Some(gate);
        hold
    }

    /// Stops the next commit after the change is made, and before it is durable.
    pub(super) fn hold_next_commit(&self) -> Hold {
        let (gate, hold) = Gate::new();
        *self.commit_gate.lock().unwrap() = Some(gate);
        hold
    }

    pub(super) fn break_with(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    pub(super) fn reads(&self) -> usize {
        self.reads.load(Ordering::SeqCst)
    }

    fn check(&self, unless: &[Fault]) -> Result<(), StoreError> {
        let fault = *self.fault.lock().unwrap();
        if fault == Fault::None || unless.contains(&fault) { Ok(()) } else { Err(StoreError::Failed) }
    }
}

const NOT_READS: &[Fault] = &[Fault::Uncertain, Fault::Writes];

impl Store for TestStore {
    fn revision(&self) -> Result<u64, StoreError> {
        self.check(NOT_READS)?;
        self.inner.revision()
    }

    fn record(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.check(NOT_READS)?;
        let stale = self.stale.lock().unwrap().iter().find(|record| record.id == *id).cloned();
        let record = stale.map_or_else(|| self.inner.record(id), |record| Ok(Some(record)));
        Gate::pass(&self.read_gate);
        record
    }

    fn scan(&self, visit: &mut dyn FnMut(KeyRecord)) -> Result<(), StoreError> {
        self.check(NOT_READS)?;
        self.inner.scan(visit)
    }

    fn commit(&self, change: &Change) -> Result<(), StoreError> {
        self.check(&[Fault::Uncertain])?;
        self.inner.commit(change)?;
        Gate::pass(&self.commit_gate);
        match self.check(&[]) {
            Ok(()) => Ok(()),
            Err(error) => Err(StoreError::Uncertain(Box::new(error))),
        }
    }

    fn last_used(&self, id: &KeyId) -> Result<Option<Timestamp>, StoreError> {
        self.check(NOT_READS)?;
        self.inner.last_used(id)
    }

    fn touch(&self, uses: &[(KeyId, Timestamp)]) -> Result<(), StoreError> {
        let touched = self.check(&[]).and_then(|()| self.inner.touch(uses));
        self.touches.send_modify(|count| *count += 1);
        touched
    }

    fn changes(&self, after: u64, limit: usize) -> Result<Vec<LoggedChange>, StoreError> {
        self.inner.changes(after, limit)
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.check(&[])
    }
}

/// A keyring and the hands of its clock.
pub(super) struct Ring {
    pub(super) keyring: Arc<Keyring>,
    pub(super) store: Arc<TestStore>,
    pub(super) clock: Clock,
    pub(super) root: KeySecret,
}

impl Ring {
    pub(super) async fn start() -> Self {
        Self::with(Settings::default()).await
    }

    pub(super) async fn with(settings: Settings) -> Self {
        Self::generating(settings, Box::new(KeySecret::generate)).await
    }

    pub(super) async fn generating(settings: Settings, generate: Box<dyn FnMut() -> Option<KeySecret> + Send>) -> Self {
        let store = TestStore::new();
        let clock = Clock::manual(Timestamp::from_unix(NOW));
        let metrics = Metrics::new(1, clock.clone());
        let kept = Arc::clone(&store) as Arc<dyn Store>;
        let keyring = Keyring::open_with(kept, &settings, clock.clone(), metrics, Handle::current(), generate).unwrap();
        let root = KeySecret::generate().unwrap();
        keyring.ensure_root(&root).await.unwrap();
        Self { keyring, store, clock, root }
    }

    pub(super) fn by_root(&self) -> Actor {
        by(self.root.id())
    }

    /// Makes a custom key with these scopes, as root.
    pub(super) async fn key(&self, names: &[&str]) -> KeySecret {
        self.keyring.create(self.by_root(), custom(names)).await.unwrap().0
    }

    pub(super) async fn rescope(&self, key: &KeySecret, names: &[&str]) -> Result<KeyView, ChangeError> {
        self.update(self.by_root(), key, None, Some(names)).await
    }

    pub(super) async fn update(
        &self,
        actor: Actor,
        key: &KeySecret,
        name: Option<&str>,
        names: Option<&[&str]>,
    ) -> Result<KeyView, ChangeError> {
        let changes = Changes { name: name.map(|name| KeyName::parse(name).unwrap()), scopes: names.map(scopes) };
        self.keyring.update(actor, KeyReference::Id(key.id()), changes, None).await
    }

    pub(super) async fn delete(&self, actor: Actor, key: &KeySecret) -> Result<KeyView, ChangeError> {
        self.keyring.delete(actor, KeyReference::Id(key.id()), None).await
    }

    pub(super) async fn view(&self, key: &KeySecret) -> Option<KeyView> {
        self.keyring.get(&KeyReference::Id(key.id())).await.unwrap()
    }

    pub(super) async fn holder(&self, key: &KeySecret) -> Option<Arc<Holder>> {
        self.keyring.holder(key).await.unwrap()
    }

    pub(super) fn note_use(&self, holder: &Arc<Holder>) {
        self.keyring.note_use(holder, Instant::now());
    }

    /// Begins a look-up that goes on by itself.
    pub(super) fn looking(&self, key: &KeySecret) -> tokio::task::JoinHandle<Result<Option<Arc<Holder>>, Unavailable>> {
        let (keyring, key) = (Arc::clone(&self.keyring), copy(key));
        tokio::spawn(async move { keyring.holder(&key).await })
    }
}

pub(super) fn by(id: KeyId) -> Actor {
    Actor { who: Who::Key(id), address: "192.0.2.1".parse().ok() }
}

pub(super) fn copy(key: &KeySecret) -> KeySecret {
    KeySecret::parse(key.expose().as_bytes()).unwrap()
}

/// Another secret under the same id, with a right checksum.
pub(super) fn forged(key: &KeySecret) -> KeySecret {
    let id = *key.id().as_bytes();
    KeySecret::generate_from(&mut |bytes| {
        // The indices that spell the id, then the letter `0`.
        let alphabet = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        let spelt = id.iter().chain(std::iter::repeat(&b'0'));
        for (byte, letter) in bytes.iter_mut().zip(spelt) {
            *byte = alphabet.iter().position(|other| other == letter)? as u8;
        }
        Some(())
    })
    .unwrap()
}

pub(super) fn scopes(names: &[&str]) -> ScopeSet {
    ScopeSet::new(names.iter().map(|name| Scope::parse(name).unwrap()))
}

pub(super) fn custom(names: &[&str]) -> Draft {
    Draft { name: KeyName::parse("a key").unwrap(), kind: Kind::Custom, scopes: Some(scopes(names)) }
}

pub(super) fn of_kind(kind: Kind, names: Option<&[&str]>) -> Draft {
    Draft { name: KeyName::parse("a key").unwrap(), kind, scopes: names.map(scopes) }
}
