//! The requests that run under a key, and their end when it admits them no more.
//!
//! Each worker notes its own requests: a lock that nobody else wants, but for a sweep after a change of keys. A sweep
//! judges every noted request anew by its key as it is now and its route as it was when the request came. What lost its
//! leave is told, and ends itself wherever it is. Says nothing of how that looks on the wire.
//!
//! Invariant: a request whose key lost it was told within [`SWEEP_PAUSE`] of the change and the time that a sweep takes,
//! also when the key changed between the request's admission and its note.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::http::Refusal;
use crate::keyring::{Holder, Keyring, Standing};
use crate::metrics::{Cut, Metrics};
use crate::policy::{self, Deny, Permit, Requirement};
use crate::server::Timer;

/// The least time between two sweeps: changes that come faster share one.
const SWEEP_PAUSE: Duration = Duration::from_millis(200);
/// Bounds what sweeps take of the control thread: a long one, over tens of thousands of requests, is followed by a pause
/// that is longer still.
const PAUSES_PER_SWEEP: u32 = 9;
/// How many requests are judged before their worker gets its lock back.
const SWEPT_AT_ONCE: usize = 256;

/// All workers' running requests.
pub struct Running {
    workers: Box<[Arc<Notes>]>,
    any_key: Arc<Requirement>,
    keyring: Arc<Keyring>,
    metrics: Arc<Metrics>,
    /// Asks for a sweep that no change asks for.
    wanted: Notify,
}

/// One worker's. Aligned, so that no two workers write to one cache line.
#[derive(Default)]
#[repr(align(128))]
struct Notes(Mutex<Slots>);

/// As many places as requests ran under keys at one time: connections and streams are bounded, and so is this.
#[derive(Default)]
struct Slots {
    entries: Vec<Option<Entry>>,
    free: Vec<usize>,
}

struct Entry {
    permit: Permit<Arc<Holder>>,
    requirement: Arc<Requirement>,
    lost: Option<Lost>,
    waker: Option<Waker>,
    /// The request's connection or stream, once it is to be cut wherever the client stands with reading.
    severed: Option<Timer>,
}

/// Why a request may not go on.
#[derive(Clone, Debug)]
pub(super) enum Lost {
    KeyDeleted,
    Narrowed(Deny),
}

impl Lost {
    pub(super) fn cut(&self) -> Cut {
        match self {
            Self::KeyDeleted => Cut::KeyDeleted,
            Self::Narrowed(_) => Cut::ScopeLost,
        }
    }
}

/// What a fresh request with that key would be told.
impl From<Lost> for Refusal {
    fn from(lost: Lost) -> Self {
        match lost {
            Lost::KeyDeleted => Self::KeyUnknown,
            Lost::Narrowed(deny) => deny.into(),
        }
    }
}

impl Running {
    pub fn new(workers: usize, keyring: Arc<Keyring>, metrics: Arc<Metrics>) -> Arc<Self> {
        let workers = (0..workers.max(1)).map(|_| Arc::default()).collect();
        Arc::new(Self { workers, any_key: Arc::new(Requirement::AnyKey), keyring, metrics, wanted: Notify::new() })
    }

    /// Notes a request of worker number `worker`, which was admitted by what `requirement` asks. `epoch` is the
    /// keyring's of before the key was looked up.
    pub(super) fn note(
        &self,
        worker: usize,
        permit: Permit<Arc<Holder>>,
        requirement: &Arc<Requirement>,
        epoch: u64,
    ) -> Run {
        let notes = &self.workers[worker % self.workers.len()];
        let entry = Entry { permit, requirement: Arc::clone(requirement), lost: None, waker: None, severed: None };
        let run = Run { notes: Arc::clone(notes), place: notes.slots().put(entry) };
        // After the note is there: a change of before it may have been swept for already.
        if self.keyring.epoch() != epoch {
            self.wanted.notify_one();
        }
        run
    }

    /// What a request needs that any key admits.
    pub(super) fn any_key(&self) -> &Arc<Requirement> {
        &self.any_key
    }

    /// Sweeps after every change of keys, for ever.
    pub async fn watch(self: Arc<Self>) {
        let mut changes = self.keyring.changes();
        let mut readings = JoinSet::new();
        loop {
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = self.wanted.notified() => {}
                // What was read is in memory now; what could not be read is asked for again.
                Some(_) = readings.join_next() => {}
            }
            let begun = Instant::now();
            let unread = self.sweep();
            let spent = begun.elapsed();
            if readings.is_empty() {
                unread.into_iter().for_each(|holder| self.read(holder, &mut readings));
            }
            tokio::time::sleep(SWEEP_PAUSE.max(spent * PAUSES_PER_SWEEP)).await;
        }
    }

    fn read(&self, holder: Arc<Holder>, readings: &mut JoinSet<()>) {
        let keyring = Arc::clone(&self.keyring);
        readings.spawn(async move { drop(keyring.present(&holder).await) });
    }

    /// Judges all running requests. Returns keys that must be read from disk first, each once.
    fn sweep(&self) -> Vec<Arc<Holder>> {
        let mut unread = Vec::new();
        for notes in &self.workers {
            let mut from = 0;
            while let Some(wakers) = self.sweep_some(notes, from, &mut unread) {
                wakers.into_iter().for_each(Waker::wake);
                from += SWEPT_AT_ONCE;
            }
        }
        let mut seen = HashSet::new();
        unread.retain(|holder: &Arc<Holder>| seen.insert(holder.record().id));
        unread
    }

    /// Judges some, from a place on. Returns whom to wake, or `None` at the end.
    fn sweep_some(&self, notes: &Notes, from: usize, unread: &mut Vec<Arc<Holder>>) -> Option<Vec<Waker>> {
        let mut slots = notes.slots();
        let until = slots.entries.len().min(from + SWEPT_AT_ONCE);
        let entries = slots.entries.get_mut(from..until).filter(|entries| !entries.is_empty())?;
        let mut wakers = Vec::new();
        for entry in entries.iter_mut().flatten().filter(|entry| entry.lost.is_none()) {
            let Some(lost) = self.judge(entry, unread) else { continue };
            self.metrics.cut(lost.cut());
            wakers.extend(entry.lose(lost));
        }
        Some(wakers)
    }

    fn judge(&self, entry: &mut Entry, unread: &mut Vec<Arc<Holder>>) -> Option<Lost> {
        let holder = entry.permit.key()?;
        match self.keyring.standing(holder) {
            Standing::Current => None,
            Standing::Gone => Some(Lost::KeyDeleted),
            Standing::Unread => {
                unread.push(Arc::clone(holder));
                None
            }
            Standing::Changed(present) => match policy::authorize(&entry.requirement, Some(present)) {
                Ok(permit) => {
                    entry.permit = permit;
                    None
                }
                Err(deny) => Some(Lost::Narrowed(deny)),
            },
        }
    }
}

impl Entry {
    fn lose(&mut self, lost: Lost) -> Option<Waker> {
        self.lost = Some(lost);
        if let Some(timer) = &self.severed {
            timer.sever();
        }
        self.waker.take()
    }
}

impl Notes {
    fn slots(&self) -> MutexGuard<'_, Slots> {
        // Whole after any panic: every change is one assignment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slots {
    fn put(&mut self, entry: Entry) -> usize {
        if let Some(place) = self.free.pop() {
            self.entries[place] = Some(entry);
            return place;
        }
        self.entries.push(Some(entry));
        self.entries.len() - 1
    }

    fn take(&mut self, place: usize) -> Option<Entry> {
        let entry = self.entries[place].take();
        self.free.push(place);
        entry
    }
}

/// One running request's note. Dropped when the request has ended.
pub(super) struct Run {
    notes: Arc<Notes>,
    place: usize,
}

impl Run {
    /// Why the request may not go on; `None`: it may.
    pub(super) fn lost(&self) -> Option<Lost> {
        self.notes.slots().entries[self.place].as_ref()?.lost.clone()
    }

    /// Ready when the request may not go on. Wakes only the last task that asked.
    pub(super) fn poll_lost(&self, cx: &Context<'_>) -> Poll<Lost> {
        let mut slots = self.notes.slots();
        let Some(entry) = &mut slots.entries[self.place] else { return Poll::Pending };
        if let Some(lost) = &entry.lost {
            return Poll::Ready(lost.clone());
        }
        match &mut entry.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Waits for `future`, as long as the request may go on.
    ///
    /// # Errors
    /// [`Lost`]; the future is dropped.
    pub(super) async fn unless_lost<F: Future>(&self, future: F) -> Result<F::Output, Lost> {
        let mut future = pin!(future);
        std::future::poll_fn(|cx| match self.poll_lost(cx) {
            Poll::Ready(lost) => Poll::Ready(Err(lost)),
            Poll::Pending => future.as_mut().poll(cx).map(Ok),
        })
        .await
    }

    /// From now on the end of the request cuts its connection or stream, also while the client takes nothing: then
    /// nobody polls what waits to be sent.
    pub(super) fn sever_when_lost(&self, timer: &Timer) {
        let mut slots = self.notes.slots();
        let Some(entry) = &mut slots.entries[self.place] else { return };
        if entry.lost.is_some() {
            timer.sever();
        }
        entry.severed = Some(timer.clone());
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let entry = self.notes.slots().take(self.place);
        // Not under the lock: the key's last holder may go with it.
        drop(entry);
    }
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Handle;

    use super::*;
    use crate::clock::Clock;
    use crate::key::{KeyReference, KeySecret};
    use crate::keyring::Settings;
    use crate::store::{Actor, MemoryStore, Who};

    #[tokio::test]
    async fn a_request_noted_after_its_key_was_deleted_is_told_without_another_change() {
        let metrics = Metrics::new(1, Clock::System);
        let store = Arc::new(MemoryStore::default());
        let (settings, metered) = (Settings::default(), Arc::clone(&metrics));
        let keyring = Keyring::open(store, &settings, Clock::System, metered, Handle::current()).unwrap();
        let [own, other] = std::array::from_fn(|_| KeySecret::generate().unwrap());
        keyring.ensure_root(&own).await.unwrap();
        keyring.ensure_root(&other).await.unwrap();
        let running = Running::new(1, Arc::clone(&keyring), metrics);

        let epoch = keyring.epoch();
        let holder = keyring.holder(&own).await.unwrap();
        let actor = Actor { who: Who::Key(other.id()), address: None };
        keyring.delete(actor, KeyReference::Id(own.id()), None).await.unwrap();
        // Watches from now on: the change itself is no news to it.
        tokio::spawn(Arc::clone(&running).watch());
        tokio::task::yield_now().await;
        let permit = policy::authorize(&Requirement::AnyKey, holder).unwrap();
        let run = running.note(0, permit, running.any_key(), epoch);

        let told = tokio::time::timeout(Duration::from_secs(20), run.unless_lost(std::future::pending::<()>())).await;
        assert!(matches!(told, Ok(Err(Lost::KeyDeleted))), "{told:?}");
    }
}
