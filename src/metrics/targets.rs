//! Handles on the numbers of one target of an upstream.
//!
//! Invariants: the same labels give the same handle while anybody holds it, over reloads too; what nobody holds any more
//! is no longer shown; there are at most [`TARGETS_MAX`], and what comes after shares one that is labelled [`OTHER`].

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::cells::{Sharded, add_one, subtract_one};
use super::handles::{OTHER, STATUS_CLASSES};
use super::labels::UpstreamFailure;

const TARGETS_MAX: usize = 4_000;

/// The numbers of one target.
pub struct TargetMetrics {
    cells: Sharded<TargetCells>,
    is_healthy: AtomicBool,
    is_ejected: AtomicBool,
    ejections: AtomicU64,
}

#[derive(Default)]
struct TargetCells {
    requests: AtomicU64,
    in_flight: AtomicU64,
    responses: [AtomicU64; STATUS_CLASSES.len()],
    failures: [AtomicU64; UpstreamFailure::COUNT],
}

impl TargetMetrics {
    fn new(workers: usize) -> Self {
        Self {
            cells: Sharded::new(workers),
            is_healthy: AtomicBool::new(true),
            is_ejected: AtomicBool::new(false),
            ejections: AtomicU64::new(0),
        }
    }

    /// An attempt to send a request begins. Each is to be followed by one [`TargetMetrics::ended`], on any thread.
    pub fn began(&self) {
        let cells = self.cells.here();
        add_one(&cells.requests);
        add_one(&cells.in_flight);
    }

    /// The attempt failed, or its response's body has ended.
    pub fn ended(&self) {
        subtract_one(&self.cells.here().in_flight);
    }

    pub fn answered(&self, status: u16) {
        let class = usize::from(status / 100).min(STATUS_CLASSES.len() - 1);
        add_one(&self.cells.here().responses[class]);
    }

    pub fn failed(&self, failure: UpstreamFailure) {
        add_one(&self.cells.here().failures[failure as usize]);
    }

    /// What the checks say.
    pub fn set_healthy(&self, is_healthy: bool) {
        self.is_healthy.store(is_healthy, Ordering::Relaxed);
    }

    /// Requests leave the target out from now on.
    pub fn ejected(&self) {
        add_one(&self.ejections);
        self.is_ejected.store(true, Ordering::Relaxed);
    }

    /// Requests go to the target again.
    pub fn returned(&self) {
        self.is_ejected.store(false, Ordering::Relaxed);
    }

    pub(super) fn requests(&self) -> u64 {
        self.cells.sum(|cells| &cells.requests)
    }

    pub(super) fn in_flight(&self) -> u64 {
        self.cells.sum(|cells| &cells.in_flight)
    }

    pub(super) fn responses(&self, class: usize) -> u64 {
        self.cells.sum(|cells| &cells.responses[class])
    }

    pub(super) fn failures(&self, failure: UpstreamFailure) -> u64 {
        self.cells.sum(|cells| &cells.failures[failure as usize])
    }

    pub(super) fn ejections(&self) -> u64 {
        self.ejections.load(Ordering::Relaxed)
    }

    pub(super) fn is_healthy(&self) -> bool {
        self.is_healthy.load(Ordering::Relaxed)
    }

    pub(super) fn is_ejected(&self) -> bool {
        self.is_ejected.load(Ordering::Relaxed)
    }
}

/// Upstream and target.
pub(super) type TargetLabels = (String, String);

/// The handles that somebody holds.
pub(super) struct Targets {
    workers: usize,
    handles: Mutex<BTreeMap<TargetLabels, Weak<TargetMetrics>>>,
}

impl Targets {
    pub(super) fn new(workers: usize) -> Self {
        Self { workers, handles: Mutex::default() }
    }

    pub(super) fn target(&self, upstream: &str, target: &str) -> Arc<TargetMetrics> {
        let mut handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        handles.retain(|_, handle| handle.strong_count() > 0);
        let labels = (upstream.to_owned(), target.to_owned());
        let full = handles.len() >= TARGETS_MAX && !handles.contains_key(&labels);
        let labels = if full { (OTHER.to_owned(), OTHER.to_owned()) } else { labels };
        if let Some(handle) = handles.get(&labels).and_then(Weak::upgrade) {
            return handle;
        }
        let handle = Arc::new(TargetMetrics::new(self.workers));
        handles.insert(labels, Arc::downgrade(&handle));
        handle
    }

    pub(super) fn all(&self) -> Vec<(TargetLabels, Arc<TargetMetrics>)> {
        let handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        handles.iter().filter_map(|(labels, handle)| Some((labels.clone(), handle.upgrade()?))).collect()
    }
}
