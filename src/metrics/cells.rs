//! The numbers themselves: atomics in one padded shard for each worker, so that recording never contends.
//!
//! Invariant: all of a shard's hot numbers are written by one worker thread (shard 0: by the few control threads), and
//! no two shards share a cache line.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::labels::{ConnectionRefusal, Http2Cut, LimitKind, Outcome, Protocol, ProxyHeaderFailure, TlsFailure};

thread_local! {
    static SHARD: Cell<usize> = const { Cell::new(0) };
}

/// Makes the calling thread record into the shard of worker `index`, from 1; 0 is shared by the control threads.
///
/// A thread that never calls this is a control thread. An index beyond the worker count shares another's shard.
pub fn enter_worker(index: usize) {
    SHARD.set(index);
}

/// One `T` for each worker, and one for the control threads.
pub(super) struct Sharded<T>(Box<[Padded<T>]>);

// 128: adjacent cache lines are prefetched in pairs.
#[repr(align(128))]
struct Padded<T>(T);

impl<T: Default> Sharded<T> {
    pub(super) fn new(workers: usize) -> Self {
        Self((0..=workers).map(|_| Padded(T::default())).collect())
    }

    /// The calling thread's own.
    pub(super) fn here(&self) -> &T {
        let index = SHARD.get();
        match self.0.get(index) {
            Some(shard) => &shard.0,
            None => &self.0[index % self.0.len()].0,
        }
    }

    /// The sum over all shards. Wraps, so that what one thread adds another may subtract.
    pub(super) fn sum(&self, number: impl Fn(&T) -> &AtomicU64) -> u64 {
        self.0.iter().fold(0, |sum, shard| sum.wrapping_add(number(&shard.0).load(Ordering::Relaxed)))
    }

    pub(super) fn histogram(&self, histogram: impl Fn(&T) -> &Histogram) -> Observations {
        let mut observations = Observations::default();
        self.0.iter().for_each(|shard| observations.add(histogram(&shard.0)));
        observations
    }
}

pub(super) fn add_one(number: &AtomicU64) {
    number.fetch_add(1, Ordering::Relaxed);
}

pub(super) fn subtract_one(number: &AtomicU64) {
    number.fetch_sub(1, Ordering::Relaxed);
}

/// A number for each outcome. Arrays as long have no `Default` of their own.
pub(super) struct Outcomes([AtomicU64; Outcome::COUNT]);

impl Default for Outcomes {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::default()))
    }
}

impl Outcomes {
    pub(super) fn of(&self, outcome: Outcome) -> &AtomicU64 {
        &self.0[outcome as usize]
    }
}

/// What every request touches.
#[derive(Default)]
pub(super) struct Hot {
    pub(super) admissions: Outcomes,
    pub(super) refusals_later: Outcomes,
    pub(super) cache_hits: AtomicU64,
    pub(super) cache_misses: AtomicU64,
    pub(super) connections_accepted: AtomicU64,
    pub(super) connections_closed: AtomicU64,
    pub(super) connections_queued: AtomicU64,
    pub(super) connections_refused: [AtomicU64; ConnectionRefusal::COUNT],
    pub(super) connections_by_protocol: [AtomicU64; Protocol::COUNT],
    pub(super) gate: Histogram,
    pub(super) http2_cuts: [AtomicU64; Http2Cut::COUNT],
    pub(super) http2_streams_opened: AtomicU64,
    pub(super) http2_streams_closed: AtomicU64,
    pub(super) in_flight: AtomicU64,
    pub(super) limited: [AtomicU64; LimitKind::COUNT],
    pub(super) proxy_header_failures: [AtomicU64; ProxyHeaderFailure::COUNT],
    pub(super) tls_failures: [AtomicU64; TlsFailure::COUNT],
}

/// With the sum, exactly one padded shard.
const BUCKETS: usize = 15;

/// Upper bounds; what is above the last one falls into the bucket `+Inf`.
pub(super) type Bounds = [Duration; BUCKETS - 1];

#[derive(Default)]
pub(super) struct Histogram {
    sum_ns: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

impl Histogram {
    pub(super) fn observe(&self, bounds: &Bounds, spent: Duration) {
        let bucket = bounds.iter().take_while(|bound| spent > **bound).count();
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// A histogram as it was read, over all shards.
#[derive(Default)]
pub(super) struct Observations {
    pub(super) sum: Duration,
    /// Not cumulative; the last one is `+Inf`.
    pub(super) buckets: [u64; BUCKETS],
}

impl Observations {
    pub(super) fn of(histogram: &Histogram) -> Self {
        let mut observations = Self::default();
        observations.add(histogram);
        observations
    }

    fn add(&mut self, histogram: &Histogram) {
        self.sum = self.sum.saturating_add(Duration::from_nanos(histogram.sum_ns.load(Ordering::Relaxed)));
        for (sum, bucket) in self.buckets.iter_mut().zip(&histogram.buckets) {
            *sum += bucket.load(Ordering::Relaxed);
        }
    }
}
