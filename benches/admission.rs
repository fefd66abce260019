//! Admission without sockets: parse, digest, cache, route, authorise, limit, note use.
//!
//! `known` grows once in keys and once in routes: both curves should be flat. Requests go round a set of at most 1,000
//! hot keys, spread over all that exist. `spread` goes round 100,000 instead, more than a worker remembers and the
//! processor's caches hold. Requests are made shortly before, outside the measurement: one that has just been received
//! lies in warm memory too.

#[path = "rig/mod.rs"]
mod rig;

use std::cell::LazyCell;
use std::hint::black_box;

use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main};
use portcullis::app::Assembled;
use portcullis::key::KeySecret;
use portcullis::proxy::Trail;

use rig::{USUAL_SCOPES, admit, head, path, record, request};

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
    let records = secrets.iter().enumerate().map(|(index, secret)| record(secret, index, &USUAL_SCOPES));
    let assembled = rig::assemble(rig::configuration(routes, cached), records);
    let step = (keys / hot).max(1);
    Rig { assembled, hot: secrets.into_iter().step_by(step).collect(), path: path(routes / 2) }
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
        rig::warm(&rig.assembled, rig.hot.iter().map(|secret| request(secret, &rig.path)));
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
        bencher.iter_batched_ref(receive, |parts| assert!(admit(&rig.assembled, black_box(parts), &gate)), BATCH);
    });
}

fn unknown(criterion: &mut Criterion) {
    let rig = LazyCell::new(|| rig(10_000, 100, 2_000_000, HOT_KEYS));
    let stranger = request(&KeySecret::generate().expect("random bytes"), &path(50));
    criterion.bench_function("admission/unknown", |bencher| {
        let gate = rig.assembled.proxy.gate.load();
        bencher.iter(|| assert!(!admit(&rig.assembled, black_box(&stranger), &gate)));
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
