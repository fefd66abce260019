//! The families of the store: what its operations took, and its faults.

use std::sync::atomic::Ordering;

use prometheus::proto::MetricFamily;

use super::super::cells::Observations;
use super::super::labels::{StoreFault, StoreOperation};
use super::super::samples::{count, counter, gauge, histogram, level, spread};
use super::super::store::StoreHealth;
use super::super::{LOCAL_BOUNDS, Metrics};

pub(super) fn families(metrics: &Metrics) -> [MetricFamily; 7] {
    let durations = StoreOperation::EVERY.iter().map(|operation| {
        let spent = Observations::of(&metrics.cold.store_spent[*operation as usize]);
        spread(&[("operation", operation.as_str())], &LOCAL_BOUNDS, &spent)
    });
    let errors = StoreOperation::EVERY.iter().map(|operation| {
        let errors = metrics.cold.store_errors[*operation as usize].load(Ordering::Relaxed);
        count(&[("operation", operation.as_str())], errors)
    });
    let without_faults = StoreHealth::default();
    let health = metrics.store_health().unwrap_or(&without_faults);
    let faults = StoreFault::EVERY.iter().map(|fault| count(&[("kind", fault.as_str())], health.faults(*fault)));
    let (reopened, not_reopened) = health.reopenings();
    let up = if health.trouble().is_none() { 1.0 } else { 0.0 };
    [
        histogram(
            "portcullis_store_operation_duration_seconds",
            "Time that an operation on the store took, fsync and failures included; when it ends.",
            durations,
        ),
        counter("portcullis_store_operation_errors_total", "Operations on the store that failed.", errors),
        gauge(
            "portcullis_store_up",
            "Whether the store works; 0: keys in memory are admitted, and changes of keys are refused.",
            [level(&[], up)],
        ),
        counter("portcullis_store_faults_total", "Faults of the store, when each begins, by what it was.", faults),
        counter(
            "portcullis_store_reopenings_total",
            "Attempts to open the store anew after a fault, by how each ended.",
            [count(&[("result", "failure")], not_reopened), count(&[("result", "success")], reopened)],
        ),
        gauge(
            "portcullis_store_backup_last_success_timestamp_seconds",
            "When the newest of the backups of [store.backup] was made, those of earlier processes included; 0: none.",
            [level(&[], metrics.cold.backed_up.load(Ordering::Relaxed) as f64)],
        ),
        counter(
            "portcullis_store_backup_failures_total",
            "Backups of [store.backup] that could not be made, when each was tried.",
            [count(&[], metrics.cold.backups_failed.load(Ordering::Relaxed))],
        ),
    ]
}
