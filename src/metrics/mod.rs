//! Everything that is counted, with one typed method for each event, and the page that shows it.
//!
//! Decides nothing, and holds nothing that a client sent: labels are closed enums, or names out of the configuration.
//! Recording is a few relaxed additions in the calling worker's own shard: no lock, no shared cache line.

mod cells;
mod families;
mod handles;
mod labels;
mod process;
mod samples;
mod store;
mod targets;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use prometheus::{Registry, TextEncoder};

use crate::clock::{Clock, Timestamp};
use crate::key::Kind;
use cells::{Bounds, Histogram, Hot, Sharded, add_one, subtract_one};
use handles::Handles;
use targets::Targets;

pub use cells::enter_worker;
pub use handles::{RouteMetrics, UpstreamMetrics};
pub use labels::{
    AuditOperation, ConnectionRefusal, Cut, Http2Cut, LimitKind, Listener, Outcome, Protocol, ProxyHeaderFailure,
    Retry, StoreFault, StoreOperation, TlsFailure, UpstreamFailure,
};
pub use store::StoreHealth;
pub use targets::TargetMetrics;

/// The `route` label of requests that no route matched.
pub const NO_ROUTE: &str = "(none)";
/// The `upstream` label of requests that the gate answers itself.
pub const LOCAL: &str = "(local)";
/// The media type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// For what happens inside the gate: its own work, and the store's.
const LOCAL_BOUNDS: Bounds = [
    Duration::from_micros(10),
    Duration::from_micros(25),
    Duration::from_micros(50),
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2_500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_secs(1),
    Duration::from_secs(10),
];

/// All numbers of one gate.
pub struct Metrics {
    hot: Sharded<Hot>,
    cold: Cold,
    handles: Handles,
    targets: Targets,
    clock: Clock,
    registry: Registry,
}

/// What only control threads touch, and not on a request's way.
#[derive(Default)]
struct Cold {
    /// Unix seconds; 0 before the first.
    backed_up: AtomicI64,
    backups_failed: AtomicU64,
    audited: [AtomicU64; AuditOperation::COUNT],
    /// Unix seconds.
    config_loaded: AtomicI64,
    cuts: [AtomicU64; Cut::COUNT],
    keys: [AtomicU64; Kind::EVERY.len()],
    last_used_backlog: AtomicU64,
    /// Unix seconds.
    last_used_flushed: AtomicI64,
    reload_failed_last: AtomicBool,
    reloads_failed: AtomicU64,
    reloads_succeeded: AtomicU64,
    store_errors: [AtomicU64; StoreOperation::COUNT],
    store_health: OnceLock<Arc<StoreHealth>>,
    store_spent: [Histogram; StoreOperation::COUNT],
    /// By listener; `None` for those that speak no TLS.
    tls: Mutex<[Option<TlsFiles>; Listener::COUNT]>,
    upstream_certificates: Mutex<Vec<UpstreamCertificate>>,
}

/// A certificate that an upstream is shown.
#[derive(Clone, Debug)]
pub struct UpstreamCertificate {
    pub upstream: String,
    pub file: String,
    pub expiry: Timestamp,
}

/// The files that a listener's TLS is made of.
#[derive(Default)]
struct TlsFiles {
    /// Each with its expiry, in Unix seconds.
    certificates: Vec<(String, i64)>,
    has_failed: bool,
    failures: u64,
}

impl Metrics {
    /// `workers` is the number of worker threads, which call [`enter_worker`] with 1 to `workers`.
    pub fn new(workers: usize, clock: Clock) -> Arc<Self> {
        let started = clock.now().unix();
        let cold = Cold { config_loaded: started.into(), last_used_flushed: started.into(), ..Cold::default() };
        let (registry, targets) = (Registry::new(), Targets::new(workers));
        let metrics = Arc::new(Self {
            hot: Sharded::new(workers),
            cold,
            handles: Handles::new(workers),
            targets,
            clock,
            registry,
        });
        let scrape = families::Scrape::new(&metrics, Arc::downgrade(&metrics));
        scrape
            .and_then(|scrape| metrics.registry.register(Box::new(scrape)))
            .expect("names and help are legal and differ: families.rs is constant and tested");
        metrics
    }

    /// The page for Prometheus, text format 0.0.4. Reads `/proc`, so it may block for some microseconds.
    pub fn encode(&self) -> String {
        // Fails only for a family without a name or samples: the registry drops those.
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }

    /// The numbers of a route, by its pattern as configured ([`NO_ROUTE`]) and upstream ([`LOCAL`]), for as long
    /// as somebody holds them. Takes a lock: for the loading of a configuration.
    pub fn route(&self, pattern: &str, upstream: &str) -> Arc<RouteMetrics> {
        self.handles.route(pattern, upstream)
    }

    /// The numbers of the upstream `name`, for as long as somebody holds them. Takes a lock: for the loading of a configuration.
    pub fn upstream(&self, name: &str) -> Arc<UpstreamMetrics> {
        self.handles.upstream(name)
    }

    /// The numbers of a target, by its upstream's name and its URL; shown for as long as somebody holds them. Takes a
    /// lock: for the loading of a configuration.
    pub fn target(&self, upstream: &str, target: &str) -> Arc<TargetMetrics> {
        self.targets.target(upstream, target)
    }

    pub fn admission(&self, outcome: Outcome) {
        add_one(self.hot.here().admissions.of(outcome));
    }

    /// A request that was admitted came to nothing all the same.
    pub fn refused_later(&self, outcome: Outcome) {
        add_one(self.hot.here().refusals_later.of(outcome));
    }

    pub fn limited(&self, limit: LimitKind) {
        add_one(&self.hot.here().limited[limit as usize]);
    }

    /// A request's head was read. Each is to be followed by one [`Metrics::request_finished`], on any thread.
    pub fn request_started(&self) {
        add_one(&self.hot.here().in_flight);
    }

    /// A request's response ended; `in_gate` is the time it spent here, without the wait for client and upstream.
    pub fn request_finished(&self, in_gate: Duration) {
        let hot = self.hot.here();
        subtract_one(&hot.in_flight);
        hot.gate.observe(&LOCAL_BOUNDS, in_gate);
    }

    pub fn connection_opened(&self) {
        add_one(&self.hot.here().connections_accepted);
    }

    /// On any thread; each opened connection is to be closed once.
    pub fn connection_closed(&self) {
        add_one(&self.hot.here().connections_closed);
    }

    /// Has to wait for room; it counts as opened once it has some.
    pub fn connection_queued(&self) {
        add_one(&self.hot.here().connections_queued);
    }

    /// A connection is closed at once; it counts as opened and closed too.
    pub fn connection_refused(&self, refusal: ConnectionRefusal) {
        add_one(&self.hot.here().connections_refused[refusal as usize]);
    }

    /// A connection was refused for want of a PROXY header that can be believed.
    pub fn proxy_header_failed(&self, failure: ProxyHeaderFailure) {
        add_one(&self.hot.here().proxy_header_failures[failure as usize]);
    }

    /// It is known what a connection speaks.
    pub fn connection_speaks(&self, protocol: Protocol) {
        add_one(&self.hot.here().connections_by_protocol[protocol as usize]);
    }

    /// A client's own doing ended its HTTP/2 connection.
    pub fn http2_cut(&self, cut: Http2Cut) {
        add_one(&self.hot.here().http2_cuts[cut as usize]);
    }

    pub fn http2_stream_opened(&self) {
        add_one(&self.hot.here().http2_streams_opened);
    }

    /// On any thread; each opened stream is to be closed once.
    pub fn http2_stream_closed(&self) {
        add_one(&self.hot.here().http2_streams_closed);
    }

    pub fn cache_hit(&self) {
        add_one(&self.hot.here().cache_hits);
    }

    pub fn cache_miss(&self) {
        add_one(&self.hot.here().cache_misses);
    }

    /// An operation on the store ended after `spent`.
    pub fn store_operation<T, E>(&self, operation: StoreOperation, spent: Duration, result: &Result<T, E>) {
        self.cold.store_spent[operation as usize].observe(&LOCAL_BOUNDS, spent);
        if result.is_err() {
            add_one(&self.cold.store_errors[operation as usize]);
        }
    }

    /// The page shows the health of this store from now on. Of the first, when there are several.
    pub fn watch_store(&self, health: Arc<StoreHealth>) {
        self.cold.store_health.get_or_init(|| health);
    }

    /// `None` for a store that has no faults.
    pub fn store_health(&self) -> Option<&StoreHealth> {
        self.cold.store_health.get().map(|health| &**health)
    }

    /// A running request was ended, since its key admits it no more.
    pub fn cut(&self, cut: Cut) {
        add_one(&self.cold.cuts[cut as usize]);
    }

    /// There is a backup of this moment: just made, or found at the start.
    pub fn backed_up(&self, at: Timestamp) {
        self.cold.backed_up.store(at.unix(), Ordering::Relaxed);
    }

    pub fn backup_failed(&self) {
        add_one(&self.cold.backups_failed);
    }

    /// So many keys of this kind are in the store.
    pub fn set_keys(&self, kind: Kind, count: usize) {
        self.cold.keys[kind as usize].store(count as u64, Ordering::Relaxed);
    }

    /// A change of a key became durable.
    pub fn audited(&self, operation: AuditOperation) {
        add_one(&self.cold.audited[operation as usize]);
    }

    /// So many keys have a last use that is not yet written.
    pub fn set_last_used_backlog(&self, count: usize) {
        self.cold.last_used_backlog.store(count as u64, Ordering::Relaxed);
    }

    /// One more key has a last use that is not yet written: at most once a key and flush.
    pub fn last_used_queued(&self) {
        add_one(&self.cold.last_used_backlog);
    }

    /// All last uses up to now are written.
    pub fn last_used_flushed(&self, at: Timestamp) {
        self.cold.last_used_flushed.store(at.unix(), Ordering::Relaxed);
    }

    /// The configuration was read again, and is in use unless the result is an error.
    pub fn reload<T, E>(&self, result: &Result<T, E>) {
        self.cold.reload_failed_last.store(result.is_err(), Ordering::Relaxed);
        match result {
            Ok(_) => {
                add_one(&self.cold.reloads_succeeded);
                self.cold.config_loaded.store(self.clock.now().unix(), Ordering::Relaxed);
            }
            Err(_) => add_one(&self.cold.reloads_failed),
        }
    }

    pub fn tls_handshake_failed(&self, failure: TlsFailure) {
        add_one(&self.hot.here().tls_failures[failure as usize]);
    }

    /// A listener's TLS files were read and are in use: its certificates, each by its file's name and with its expiry.
    pub fn tls_loaded(&self, listener: Listener, certificates: Vec<(String, Timestamp)>) {
        let certificates = certificates.into_iter().map(|(file, expiry)| (file, expiry.unix())).collect();
        let mut tls = self.tls();
        let files = tls[listener as usize].get_or_insert_default();
        (files.certificates, files.has_failed) = (certificates, false);
    }

    /// A listener's TLS files were read again and cannot be used: what was in use stays.
    pub fn tls_load_failed(&self, listener: Listener) {
        let mut tls = self.tls();
        let files = tls[listener as usize].get_or_insert_default();
        files.has_failed = true;
        files.failures += 1;
    }

    /// These are the certificates that upstreams are shown from now on, and no others.
    pub fn upstream_certificates_loaded(&self, certificates: Vec<UpstreamCertificate>) {
        *self.upstream_certificates() = certificates;
    }

    fn upstream_certificates(&self) -> MutexGuard<'_, Vec<UpstreamCertificate>> {
        self.cold.upstream_certificates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tls(&self) -> MutexGuard<'_, [Option<TlsFiles>; Listener::COUNT]> {
        self.cold.tls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
