//! Connections of one target that can take requests: a shelf for each worker.
//!
//! HTTP/1.1 connections lie there while they are idle, last in, first out. Those of HTTP/2 stay there from the first
//! request on, as long as they take more.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::UpstreamError;
use super::body::ResponseBody;
use super::connection::Connection;
use super::http1::Http1;
use super::http2::Http2Connection;
use super::target::{OpenSlot, Target, Via, Visit};

struct Idle {
    connection: Http1,
    since: Instant,
}

struct Shelf {
    idle: Vec<Idle>,
    shared: Vec<Arc<Http2Connection>>,
    /// Tells how the opening of a connection that others wait for went wrong.
    opening: Option<watch::Receiver<Option<UpstreamError>>>,
    /// Whether a [`sweep`] of this shelf is running.
    swept: bool,
    /// That sweep's, to be told when an upstream closes an idle connection or speaks on it.
    sweeper: Waker,
}

impl Shelf {
    fn new() -> Self {
        Self { idle: Vec::new(), shared: Vec::new(), opening: None, swept: false, sweeper: Waker::noop().clone() }
    }
}

/// One shelf a worker. A shelf's lock is taken by its own worker's thread, and by another's only
/// when no connection more may be opened.
pub(super) struct Pools(Vec<Mutex<Shelf>>);

/// Whose turn it is to open a connection that many can use.
pub(super) enum Turn<'p> {
    /// Somebody opens one already; ends with the reason when it cannot be opened.
    Behind(watch::Receiver<Option<UpstreamError>>),
    Ours(Opening<'p>),
}

/// The opening of a connection that others wait for, until it is dropped.
pub(super) struct Opening<'p> {
    pools: &'p Pools,
    worker: usize,
    failure: watch::Sender<Option<UpstreamError>>,
}

impl Opening<'_> {
    /// Whoever waits gets the same error: each one's own attempt would end like this one.
    pub(super) fn failed(&self, error: UpstreamError) {
        self.failure.send_replace(Some(error));
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.pools.shelf(self.worker).opening = None;
    }
}

impl Pools {
    pub(super) fn new(workers: usize) -> Self {
        Self((0..workers.max(1)).map(|_| Mutex::new(Shelf::new())).collect())
    }

    /// A stream of the first connection that has one, or the connection that was used last and can take a request now.
    /// Closed and stale ones on the way are dropped.
    pub(super) fn take(&self, worker: usize, via: Via, idle_timeout: Duration) -> Option<Connection> {
        let mut shelf = self.shelf(worker);
        if !shelf.shared.is_empty() {
            shelf.shared.retain(|connection| connection.is_open());
            // The first that has room: what is opened for a rush falls idle after it.
            if let Some(stream) = shelf.shared.iter().find_map(Http2Connection::stream) {
                return Some(Connection::Http2(stream));
            }
        }
        let idle = &mut shelf.idle;
        let mut position = if via == Via::Pool { idle.len() } else { 0 };
        while position > 0 {
            position -= 1;
            let candidate = idle.remove(position);
            if candidate.since.elapsed() <= idle_timeout {
                return Some(Connection::Http1(candidate.connection));
            }
        }
        None
    }

    /// Lets one request at a time open a connection, where it is likely to be one for all of them.
    pub(super) fn turn(&self, worker: usize) -> Turn<'_> {
        let opening = &mut self.shelf(worker).opening;
        if let Some(other) = opening {
            return Turn::Behind(other.clone());
        }
        let (failure, waiting) = watch::channel(None);
        *opening = Some(waiting);
        Turn::Ours(Opening { pools: self, worker, failure })
    }

    /// Drops one worker's oldest unused connection, and gives its place away.
    pub(super) fn evict(&self) -> Option<OpenSlot> {
        (0..self.0.len()).find_map(|worker| {
            let mut shelf = self.shelf(worker);
            if !shelf.idle.is_empty() {
                return shelf.idle.remove(0).connection.into_slot();
            }
            let unused = shelf.shared.iter().position(|connection| connection.is_unused())?;
            // Whoever has just given its last stream back may hold it for a moment more; it is gone then all the same.
            Arc::into_inner(shelf.shared.remove(unused)).map(|connection| connection.slot)
        })
    }

    /// Keeps a connection for the next request; the oldest one makes room when there are `max`. Returns whether the
    /// shelf needs somebody to sweep it.
    fn put(&self, worker: usize, mut connection: Http1, max: usize) -> bool {
        let mut shelf = self.shelf(worker);
        if !connection.is_silent(&mut Context::from_waker(&shelf.sweeper)) {
            return false;
        }
        if shelf.idle.len() >= max {
            shelf.idle.remove(0);
        }
        shelf.idle.push(Idle { connection, since: Instant::now() });
        !std::mem::replace(&mut shelf.swept, true)
    }

    /// Offers a connection to all requests of a worker. Returns whether the shelf needs somebody to sweep it.
    fn share(&self, worker: usize, connection: Arc<Http2Connection>) -> bool {
        let mut shelf = self.shelf(worker);
        shelf.shared.push(connection);
        !std::mem::replace(&mut shelf.swept, true)
    }

    /// Drops what has been unused for `idle_timeout`, and what an upstream has closed or spoken on; whoever polls is woken
    /// when one does. Returns whether anything is left.
    fn prune(&self, worker: usize, idle_timeout: Duration, cx: &mut Context<'_>) -> bool {
        let mut shelf = self.shelf(worker);
        shelf.sweeper.clone_from(cx.waker());
        shelf.idle.retain_mut(|idle| idle.since.elapsed() <= idle_timeout && idle.connection.is_silent(cx));
        shelf.shared.retain(|connection| connection.is_open() && !connection.is_unused_for(idle_timeout));
        shelf.swept = !shelf.idle.is_empty() || !shelf.shared.is_empty();
        shelf.swept
    }

    fn shelf(&self, worker: usize) -> MutexGuard<'_, Shelf> {
        // A shelf is whole after any panic: every change to it is one call.
        self.0[worker % self.0.len()].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Target {
    /// Offers the connection of a new stream to the requests of a worker.
    pub(super) fn share(self: &Arc<Self>, worker: usize, connection: Arc<Http2Connection>) {
        if self.pools.share(worker, connection) {
            self.sweep(worker);
        }
    }

    fn sweep(self: &Arc<Self>, worker: usize) {
        tokio::spawn(sweep(Arc::downgrade(self), worker, self.settings.idle_timeout));
    }
}

/// A connection whose response body is still being read. Dropped without [`Lease::finish`], the connection closes; one
/// that others use ends this exchange alone.
pub struct Lease {
    target: Visit,
    worker: usize,
    connection: Connection,
    /// Whether the connection serves no other request.
    is_apart: bool,
}

impl Lease {
    pub(super) fn new(target: Visit, worker: usize, connection: Connection, is_apart: bool) -> Self {
        Self { target, worker, connection, is_apart }
    }

    /// Gives the connection back, after the response was read to its end. One that is not clean is closed instead.
    pub fn finish(self, body: &mut ResponseBody) {
        let Connection::Http1(mut connection) = self.connection else { return };
        if !connection.take_back(body) || self.is_apart {
            return;
        }
        let max = usize::try_from(self.target.settings.idle_max.get()).unwrap_or(usize::MAX);
        if self.target.pools.put(self.worker, connection, max) {
            self.target.sweep(self.worker);
        }
    }
}

/// Drops stale connections of one shelf until it is empty or the target is gone.
async fn sweep(target: Weak<Target>, worker: usize, idle_timeout: Duration) {
    let mut due = pin!(tokio::time::sleep(idle_timeout / 2));
    poll_fn(|cx| {
        let Some(target) = target.upgrade() else { return Poll::Ready(()) };
        if !target.pools.prune(worker, idle_timeout, cx) {
            return Poll::Ready(());
        }
        while due.as_mut().poll(cx).is_ready() {
            due.as_mut().reset(tokio::time::Instant::now() + idle_timeout / 2);
        }
        Poll::Pending
    })
    .await;
}
