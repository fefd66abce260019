//! Idle connections of one target: last in, first out, a shelf for each worker.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::target::{OpenSlot, Target, Visit};

struct Idle<B> {
    connection: Connection<B>,
    since: Instant,
}

struct Shelf<B> {
    idle: Vec<Idle<B>>,
    /// Whether a [`sweep`] of this shelf is running.
    swept: bool,
}

/// One shelf a worker. A shelf's lock is taken by its own worker's thread, and by another's only
/// when no connection more may be opened.
pub(super) struct Pools<B>(Vec<Mutex<Shelf<B>>>);

impl<B> Pools<B> {
    pub(super) fn new(workers: usize) -> Self {
        Self((0..workers.max(1)).map(|_| Mutex::new(Shelf { idle: Vec::new(), swept: false })).collect())
    }

    /// The connection that was used last and can take a request now. Closed and stale ones on the way are dropped.
    pub(super) fn take(&self, worker: usize, idle_timeout: Duration) -> Option<Connection<B>> {
        let idle = &mut self.shelf(worker).idle;
        let mut position = idle.len();
        while position > 0 {
            position -= 1;
            let candidate = &idle[position];
            if candidate.connection.is_closed() || candidate.since.elapsed() > idle_timeout {
                idle.remove(position);
            } else if candidate.connection.is_ready() {
                return Some(idle.remove(position).connection);
            }
        }
        None
    }

    /// Drops one worker's oldest unused connection, and gives its place away.
    pub(super) fn evict(&self) -> Option<OpenSlot> {
        (0..self.0.len()).find_map(|worker| {
            let idle = &mut self.shelf(worker).idle;
            (!idle.is_empty()).then(|| idle.remove(0).connection.slot)
        })
    }

    /// Keeps a connection for the next request; the oldest one makes room when there are `max`. Returns whether the
    /// shelf needs somebody to sweep it.
    fn put(&self, worker: usize, connection: Connection<B>, max: usize) -> bool {
        let mut shelf = self.shelf(worker);
        if shelf.idle.len() >= max {
            shelf.idle.remove(0);
        }
        shelf.idle.push(Idle { connection, since: Instant::now() });
        !std::mem::replace(&mut shelf.swept, true)
    }

    /// Drops what has been unused for `idle_timeout`. Returns whether anything is left.
    fn prune(&self, worker: usize, idle_timeout: Duration) -> bool {
        let mut shelf = self.shelf(worker);
        shelf.idle.retain(|idle| !idle.connection.is_closed() && idle.since.elapsed() <= idle_timeout);
        shelf.swept = !shelf.idle.is_empty();
        shelf.swept
    }

    fn shelf(&self, worker: usize) -> MutexGuard<'_, Shelf<B>> {
        // A shelf is whole after any panic: every change to it is one call.
        self.0[worker % self.0.len()].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection whose response body is still being read. Dropped without [`Lease::finish`], the connection closes.
pub struct Lease<B> {
    target: Visit<B>,
    worker: usize,
    connection: Connection<B>,
}

impl<B: Send + 'static> Lease<B> {
    pub(super) fn new(target: Visit<B>, worker: usize, connection: Connection<B>) -> Self {
        Self { target, worker, connection }
    }

    /// Gives the connection back, after the response was read to its end. One that is not clean is closed instead.
    pub fn finish(self) {
        if self.connection.is_closed() || !self.connection.is_clean() {
            return;
        }
        let max = usize::try_from(self.target.settings.idle_max.get()).unwrap_or(usize::MAX);
        if self.target.pools.put(self.worker, self.connection, max) {
            let idle_timeout = self.target.settings.idle_timeout;
            tokio::spawn(sweep(Arc::downgrade(&self.target), self.worker, idle_timeout));
        }
    }
}

/// Drops stale connections of one shelf until it is empty or the target is gone.
async fn sweep<B: Send + 'static>(target: Weak<Target<B>>, worker: usize, idle_timeout: Duration) {
    loop {
        tokio::time::sleep(idle_timeout / 2).await;
        let Some(target) = target.upgrade() else { return };
        if !target.pools.prune(worker, idle_timeout) {
            return;
        }
    }
}
