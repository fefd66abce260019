//! Handles on the numbers of one route or one upstream: resolved when a configuration is loaded, never on a request.
//!
//! Invariants: the same labels give the same handle for as long as anybody holds it, over reloads too; what nobody holds
//! any more is forgotten, and no longer shown; there are at most [`ROUTES_MAX`] and [`UPSTREAMS_MAX`] of them, and what
//! comes after shares one that is labelled [`OTHER`].

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::cells::{Bounds, Histogram, Observations, Sharded, add_one, subtract_one};
use super::labels::{Retry, UpstreamFailure};

const ROUTES_MAX: usize = 10_000;
const UPSTREAMS_MAX: usize = 1_000;
pub(super) const OTHER: &str = "(other)";

/// `none`: the client left before there was an answer.
pub(super) const STATUS_CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

pub(super) const UPSTREAM_BOUNDS: Bounds = [
    Duration::from_millis(1),
    Duration::from_micros(2_500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_millis(2_500),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(30),
];

/// The numbers of one route pattern and the upstream that it leads to.
pub struct RouteMetrics {
    by_class: Sharded<[AtomicU64; STATUS_CLASSES.len()]>,
}

impl RouteMetrics {
    fn new(workers: usize) -> Self {
        Self { by_class: Sharded::new(workers) }
    }

    /// A request of this route was answered with `status`; 0 for one whose client left before that.
    pub fn finished(&self, status: u16) {
        let class = usize::from(status / 100).min(STATUS_CLASSES.len() - 1);
        add_one(&self.by_class.here()[class]);
    }

    pub(super) fn requests(&self, class: usize) -> u64 {
        self.by_class.sum(|by_class| &by_class[class])
    }
}

/// The numbers of one upstream.
pub struct UpstreamMetrics {
    cells: Sharded<UpstreamCells>,
}

#[derive(Default)]
struct UpstreamCells {
    waited: Histogram,
    failures: [AtomicU64; UpstreamFailure::COUNT],
    retries: [AtomicU64; Retry::COUNT],
    queued: AtomicU64,
}

impl UpstreamMetrics {
    fn new(workers: usize) -> Self {
        Self { cells: Sharded::new(workers) }
    }

    /// The upstream sent the head of a response, `waited` after the request was handed to it.
    pub fn answered(&self, waited: Duration) {
        self.cells.here().waited.observe(&UPSTREAM_BOUNDS, waited);
    }

    pub fn failed(&self, failure: UpstreamFailure) {
        add_one(&self.cells.here().failures[failure as usize]);
    }

    /// A request was sent once more, or should have been.
    pub fn retried(&self, retry: Retry) {
        add_one(&self.cells.here().retries[retry as usize]);
    }

    /// A request waits for its turn. Each is to be followed by one [`UpstreamMetrics::left_queue`], on any thread.
    pub fn entered_queue(&self) {
        add_one(&self.cells.here().queued);
    }

    pub fn left_queue(&self) {
        subtract_one(&self.cells.here().queued);
    }

    pub(super) fn waited(&self) -> Observations {
        self.cells.histogram(|cells| &cells.waited)
    }

    pub(super) fn failures(&self, failure: UpstreamFailure) -> u64 {
        self.cells.sum(|cells| &cells.failures[failure as usize])
    }

    pub(super) fn retries(&self, retry: Retry) -> u64 {
        self.cells.sum(|cells| &cells.retries[retry as usize])
    }

    pub(super) fn queued(&self) -> u64 {
        self.cells.sum(|cells| &cells.queued)
    }
}

pub(super) type RouteLabels = (String, String);

/// Every handle that somebody holds.
pub(super) struct Handles {
    workers: usize,
    routes: Mutex<BTreeMap<RouteLabels, Arc<RouteMetrics>>>,
    upstreams: Mutex<BTreeMap<String, Arc<UpstreamMetrics>>>,
}

impl Handles {
    pub(super) fn new(workers: usize) -> Self {
        Self { workers, routes: Mutex::default(), upstreams: Mutex::default() }
    }

    pub(super) fn route(&self, pattern: &str, upstream: &str) -> Arc<RouteMetrics> {
        let labels = (pattern.to_owned(), upstream.to_owned());
        let other = (OTHER.to_owned(), OTHER.to_owned());
        handle(&self.routes, labels, other, ROUTES_MAX, || RouteMetrics::new(self.workers))
    }

    pub(super) fn upstream(&self, name: &str) -> Arc<UpstreamMetrics> {
        handle(&self.upstreams, name.to_owned(), OTHER.to_owned(), UPSTREAMS_MAX, || UpstreamMetrics::new(self.workers))
    }

    pub(super) fn routes(&self) -> Vec<(RouteLabels, Arc<RouteMetrics>)> {
        all(&self.routes)
    }

    pub(super) fn upstreams(&self) -> Vec<(String, Arc<UpstreamMetrics>)> {
        all(&self.upstreams)
    }
}

fn handle<K: Ord, V>(
    handles: &Mutex<BTreeMap<K, Arc<V>>>,
    labels: K,
    other: K,
    max: usize,
    new: impl FnOnce() -> V,
) -> Arc<V> {
    let mut handles = handles.lock().unwrap_or_else(PoisonError::into_inner);
    if handles.len() >= max {
        forget_unheld(&mut handles);
    }
    let full = handles.len() >= max && !handles.contains_key(&labels);
    let handle = handles.entry(if full { other } else { labels }).or_insert_with(|| Arc::new(new()));
    Arc::clone(handle)
}

/// Drops what is held here alone. Nobody can get hold of it meanwhile: clones are made under the lock, or from others.
fn forget_unheld<K: Ord, V>(handles: &mut BTreeMap<K, Arc<V>>) {
    handles.retain(|_, handle| Arc::strong_count(handle) > 1);
}

fn all<K: Clone + Ord, V>(handles: &Mutex<BTreeMap<K, Arc<V>>>) -> Vec<(K, Arc<V>)> {
    let mut handles = handles.lock().unwrap_or_else(PoisonError::into_inner);
    forget_unheld(&mut handles);
    handles.iter().map(|(labels, handle)| (labels.clone(), Arc::clone(handle))).collect()
}
