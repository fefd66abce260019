//! Admission without sockets: parse, digest, cache, route, authorise, limit, note use.
//!
//! `known` grows once in keys and once in routes: both curves should be flat. Requests go round a set of at most 1,000
//! hot keys, spread over all that exist. `spread` goes round 100,000 instead, more than a worker remembers and the
//! processor's caches hold. Requests are made shortly before, outside the measurement: one that has just been received
//! lies in warm memory too.

use std::cell::LazyCell;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use base64::Engine;
use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main};
use http::Request;
use http::request::Parts;
use portcullis::app::{self, Assembled, Start};
use portcullis::clock::{Clock, Timestamp};
use portcullis::config::Config;
use portcullis::http::headers::Origin;
use portcullis::key::{KeyName, KeyRecord, KeySecret, Kind, Scope, ScopeSet};
use portcullis::proxy::{Gate, Head, Trail};
use portcullis::settings::Source;
use portcullis::store::MemoryStore;

const HOT_KEYS: usize = 1_000;
const SPREAD_KEYS: usize = 100_000;
/// How many keys lie between two requests, so that no prefetcher sees the next one coming. Coprime to the numbers above.
const STRIDE: usize = 7_919;
/// Few enough to stay in the nearest cache.
const BATCH: BatchSize = BatchSize::NumIterations(16);

/// A gate with keys and routes, and what its hot keys ask for.
struct Rig {
    assembled: Assembled,
    hot: Vec<KeySecret>,
    path: String,
}

fn rig(keys: usize, routes: usize, cached: usize, hot: usize) -> Rig {
    let secrets: Vec<KeySecret> = (0..keys).map(|_| KeySecret::generate().expect("random bytes")).collect();
    let records = secrets.iter().enumerate().map(|(index, secret)| record(secret, index));
    let store = Arc::new(MemoryStore::with_records(records));
    let text = configuration(routes, cached);
    let config = Config::parse(&Source { path: PathBuf::from("bench.toml"), text }).expect("a valid configuration");
    let start = Start { store: Some(store), clock: Clock::System, root: None };
    let assembled = app::assemble(config, start).expect("a gate");
    let step = (keys / hot).max(1);
    Rig { assembled, hot: secrets.into_iter().step_by(step).collect(), path: path(routes / 2) }
}

fn record(secret: &KeySecret, index: usize) -> KeyRecord {
    let revision = index as u64 + 1;
    let created = Timestamp::from_unix(1_700_000_000);
    let scopes = ["monitor:read", "monitor:write", "telemetry:write", "key:write"];
    KeyRecord {
        id: secret.id(),
        digest: secret.digest(),
        name: KeyName::parse("bench").expect("a name"),
        kind: Kind::Custom,
        scopes: ScopeSet::new(scopes.iter().map(|scope| Scope::parse(scope).expect("a scope"))),
        created,
        updated: created,
        created_revision: revision,
        revision,
    }
}

fn configuration(routes: usize, cached: usize) -> String {
    let lines: String =
        (0..routes).map(|route| format!("\"GET /api/v{route}/items/{{id}}\" = \"monitor:read\"\n")).collect();
    format!(
        "[keys]\nkeys_cached_max = {cached}\n[limits]\nkey = {{ rate = \"1000000000/s\", burst = 1000000000 }}\n\
         [upstream.u]\nurl = \"http://127.0.0.1:9\"\n[upstream.u.routes]\n{lines}"
    )
}

fn path(route: usize) -> String {
    format!("/api/v{route}/items/42?x=1")
}

fn request(secret: &KeySecret, path: &str) -> Parts {
    let pair = base64::engine::general_purpose::STANDARD.encode(format!("{}:", secret.expose()));
    let request = Request::get(path)
        .header("host", "gate.example")
        .header("user-agent", "bench/1")
        .header("accept", "*/*")
        .header("authorization", format!("Basic {pair}"));
    request.body(()).expect("a request").into_parts().0
}

fn head(parts: &Parts) -> Head<'_> {
    let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
    Head { parts, origin: Origin { peer, peer_trusted: false, client: peer }, now: Instant::now() }
}

// Kept whole, so that a profile can be taken of it alone.
#[inline(never)]
fn admit(rig: &Rig, parts: &Parts, gate: &Gate) -> bool {
    let mut trail = Trail::default();
    let mut admitting = pin!(rig.assembled.proxy.admit(gate, head(parts), &mut trail));
    match admitting.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(admitted) => admitted.is_ok(),
        Poll::Pending => false,
    }
}

fn warm(rig: &Rig) {
    let gate = rig.assembled.proxy.gate.load();
    for secret in &rig.hot {
        let parts = request(secret, &rig.path);
        let mut trail = Trail::default();
        let admitted = rig.assembled.block_on(rig.assembled.proxy.admit(&gate, head(&parts), &mut trail));
        assert!(admitted.is_ok(), "every hot key is admitted");
    }
}

fn known(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("admission/known");
    let sizes = [(1, 1), (1, 100), (1, 1_000), (10_000, 1), (1_000_000, 1), (1_000_000, 1_000)];
    for (keys, routes) in sizes {
        bench_known(&mut group, keys, routes, HOT_KEYS);
    }
    group.finish();
}

fn spread(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("admission/spread");
    bench_known(&mut group, 1_000_000, 1_000, SPREAD_KEYS);
    group.finish();
}

fn bench_known(group: &mut BenchmarkGroup<'_, WallTime>, keys: usize, routes: usize, hot: usize) {
    // Made only when the benchmark is wanted: a million keys take their time.
    let rig = LazyCell::new(|| {
        let rig = rig(keys, routes, 2_000_000, hot);
        warm(&rig);
        rig
    });
    let name = BenchmarkId::from_parameter(format!("{keys} keys, {routes} routes"));
    group.bench_function(name, |bencher| {
        let gate = rig.assembled.proxy.gate.load();
        let mut next = 0;
        let receive = || {
            next = (next + STRIDE) % rig.hot.len();
            request(&rig.hot[next], &rig.path)
        };
        bencher.iter_batched_ref(receive, |parts| assert!(admit(&rig, black_box(parts), &gate)), BATCH);
    });
}

fn unknown(criterion: &mut Criterion) {
    let rig = LazyCell::new(|| rig(10_000, 100, 2_000_000, HOT_KEYS));
    let stranger = request(&KeySecret::generate().expect("random bytes"), &path(50));
    criterion.bench_function("admission/unknown", |bencher| {
        let gate = rig.assembled.proxy.gate.load();
        bencher.iter(|| assert!(!admit(&rig, black_box(&stranger), &gate)));
    });
}

fn cold(criterion: &mut Criterion) {
    let rig = LazyCell::new(|| rig(10_000, 100, 1, HOT_KEYS));
    criterion.bench_function("admission/cold", |bencher| {
        let gate = rig.assembled.proxy.gate.load();
        let mut next = rig.hot.iter().cycle();
        bencher.iter(|| {
            let mut trail = Trail::default();
            let parts = request(next.next().expect("an endless cycle"), &rig.path);
            assert!(rig.assembled.block_on(rig.assembled.proxy.admit(&gate, head(&parts), &mut trail)).is_ok());
        });
    });
}

criterion_group!(benches, known, spread, unknown, cold);
criterion_main!(benches);
