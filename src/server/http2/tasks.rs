//! The tasks of one connection's streams: all of them ended with the connection, and timed by its one timer.
//!
//! Invariant: a stream that waits has told its connection until when, unless the connection's timer is due before that
//! anyway; so a stream sets no timer of its own.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::task::AbortHandle;
use tracing::error;

use super::ledger::SharedLedger;
use crate::metrics::Metrics;
use crate::server::watch::{Moment, Phase, Watch};

/// Owns the tasks: dropped, it ends them.
#[derive(Default)]
pub(super) struct Tasks(SharedPlaces);

/// Shared within a connection's thread: the lock never contends.
#[derive(Clone, Default)]
struct SharedPlaces(Arc<Mutex<Places>>);

/// As many places as streams ran at one time.
#[derive(Default)]
struct Places {
    entries: Vec<Option<Entry>>,
    free: Vec<usize>,
    /// The first time at which a stream is to be looked after, or an earlier one.
    next: Option<Moment>,
    /// Wakes the connection's task.
    connection: Option<Waker>,
    /// Whether the connection has ended.
    is_closed: bool,
}

struct Entry {
    /// There once it has been started.
    task: Option<AbortHandle>,
    watch: Arc<Watch>,
}

impl Tasks {
    pub(super) fn spawner(&self, ledger: SharedLedger, metrics: Arc<Metrics>) -> Spawner {
        Spawner { places: self.0.clone(), ledger, metrics }
    }

    /// `waker` wakes the connection's task: when no stream is left, and when one waits for less long than any other.
    pub(super) fn set_task(&self, waker: &Waker) {
        self.0.lock().connection = Some(waker.clone());
    }

    pub(super) fn is_any_running(&self) -> bool {
        let places = self.0.lock();
        places.free.len() < places.entries.len()
    }

    /// Wakes what is due by the connection's own watch. Returns when the next stream is.
    pub(super) fn next_deadline(&self, connection: &Watch) -> Option<Moment> {
        let mut places = self.0.lock();
        if places.next.is_some_and(|next| connection.has_expired(next)) {
            let watches = places.entries.iter().flatten().map(|entry| &entry.watch);
            places.next = watches.filter_map(|watch| watch.follow(connection)).min();
        }
        places.next
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        let entries = {
            let mut places = self.0.lock();
            places.is_closed = true;
            places.free.clear();
            std::mem::take(&mut places.entries)
        };
        entries.into_iter().flatten().filter_map(|entry| entry.task).for_each(|task| task.abort());
    }
}

impl SharedPlaces {
    fn lock(&self) -> MutexGuard<'_, Places> {
        // Whole after any panic: every change is one assignment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream waits until `deadline`.
    fn note(&self, deadline: Moment) {
        let mut places = self.lock();
        if places.next.is_none_or(|next| deadline < next) {
            places.next = Some(deadline);
            places.connection.iter().for_each(Waker::wake_by_ref);
        }
    }
}

impl Places {
    /// A place for one stream more; `None` when the connection has ended.
    fn give(&mut self, watch: Arc<Watch>) -> Option<usize> {
        if self.is_closed {
            return None;
        }
        let entry = Some(Entry { task: None, watch });
        if let Some(place) = self.free.pop() {
            self.entries[place] = entry;
            return Some(place);
        }
        self.entries.push(entry);
        Some(self.entries.len() - 1)
    }

    fn take(&mut self, place: usize) -> Option<Entry> {
        let entry = self.entries.get_mut(place)?.take()?;
        self.free.push(place);
        Some(entry)
    }
}

/// What hyper starts a stream's task with. Does not keep the tasks alive.
#[derive(Clone)]
pub(super) struct Spawner {
    places: SharedPlaces,
    ledger: SharedLedger,
    metrics: Arc<Metrics>,
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Spawner {
    fn execute(&self, stream: F) {
        // hyper starts the task of each request right after it has made it.
        let Some(watch) = self.ledger.lock().take_starting() else { return };
        let Some(place) = self.places.lock().give(Arc::clone(&watch)) else { return };
        self.metrics.http2_stream_opened();
        let running = Running { places: self.places.clone(), place, watch, metrics: Arc::clone(&self.metrics) };
        // Room is made for it once, and not at each step on its way.
        let task = tokio::spawn(Task { stream: Box::pin(stream), running });
        // None is there if it has ended already. Nobody else gives its place away meanwhile: hyper starts one at a time.
        if let Some(Some(entry)) = self.places.lock().entries.get_mut(place) {
            entry.task = Some(task.abort_handle());
        }
    }
}

/// Runs a stream to its end: that of its response, of its client's interest, or of the patience with its client.
struct Task<F> {
    stream: Pin<Box<F>>,
    running: Running,
}

impl<F: Future<Output = ()>> Future for Task<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { stream, running } = self.get_mut();
        let watch = &running.watch;
        watch.set_task(cx.waker());
        // Whoever still waits says so again when it is polled.
        watch.clear(Phase::Request);
        // Not even its handler has an answer to a body that stopped arriving; and what is severed ends here while the
        // client takes nothing.
        if stream.as_mut().poll(cx).is_ready() || watch.has_body_expired() || watch.is_severed() {
            return Poll::Ready(());
        }
        if let Some(deadline) = watch.next() {
            running.places.note(deadline);
        }
        Poll::Pending
    }
}

/// A stream's place, and its count as open, while it lives, also when its task panics or is ended.
struct Running {
    places: SharedPlaces,
    place: usize,
    watch: Arc<Watch>,
    metrics: Arc<Metrics>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.metrics.http2_stream_closed();
        if std::thread::panicking() {
            error!("stream task failed");
        }
        let mut places = self.places.lock();
        let entry = places.take(self.place);
        if entry.is_some() && places.free.len() == places.entries.len() {
            places.connection.iter().for_each(Waker::wake_by_ref);
        }
    }
}
