//! Whether the time of a refusal tells an unknown key from a wrong secret for a known id.
//!
//! As dudect does it (Reparaz, Balasch, Verbauwhede 2017): two classes of requests, each request made fresh and its class
//! drawn at random, admission timed without sockets, Welch's t over the two, on all times and with the slowest cropped.
//! |t| below 4.5 in every crop: no difference was found. A pair that does differ is measured in the same way, and must be
//! found to, so that the instrument is known to see.
//!
//! `PORTCULLIS_TIMING` is the number of requests of each comparison (default 1,000,000).

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use base64::Engine;
use http::Request;
use http::request::Parts;
use portcullis::app::{self, Assembled, Start};
use portcullis::clock::Timestamp;
use portcullis::config::Config;
use portcullis::http::headers::{Origin, Scheme};
use portcullis::key::{KeyName, KeyRecord, KeySecret, Kind, Scope, ScopeSet};
use portcullis::proxy::{Gate, Head, Trail};
use portcullis::settings::Source;
use portcullis::store::MemoryStore;

const KEYS: usize = 1_000;
/// What tells two classes apart.
const T_MAX: f64 = 4.5;
/// Shares of the fastest times that are looked at.
const CROPS: [f64; 5] = [0.5, 0.75, 0.9, 0.99, 1.0];
/// Requests made ahead of their measurement. Few enough to stay in the nearest caches.
const BATCH: usize = 64;

/// Whose key a request pretends to carry. Each class is made in the same way out of as many keys, fresh each time: what
/// comes again, or out of other memory, would be told by the processor's caches.
#[derive(Clone, Copy, Debug)]
enum Class {
    /// A known id that the cache does not hold, another secret.
    Cold,
    /// A known id whose own key has just been admitted, another secret.
    Hot,
    /// As `Hot`, and all but one character of the secret is right.
    HotButOne,
    /// What is no key at all: its checksum is wrong.
    Malformed,
    /// The id of nobody's key.
    Unknown,
    /// As `Unknown`, made as `HotButOne`.
    UnknownButOne,
}

/// How a request carries its key.
#[derive(Clone, Copy, Debug)]
enum Form {
    Basic,
    BasicAsPassword,
    Bearer,
}

struct Rig {
    assembled: Assembled,
    hot: Vec<KeySecret>,
    cold: Vec<KeySecret>,
    /// Not in the store.
    strangers: Vec<KeySecret>,
}

fn main() -> ExitCode {
    // Cargo says so in `cargo bench` alone: a test only tries whether everything still runs.
    let measures = std::env::args().any(|argument| argument == "--bench");
    let wanted = std::env::var("PORTCULLIS_TIMING").ok().and_then(|text| text.parse().ok());
    let requests = if measures { wanted.unwrap_or(1_000_000) } else { 256 };
    let rig = Rig::new();
    let mut all_same = true;
    for form in [Form::Basic, Form::BasicAsPassword, Form::Bearer] {
        for classes in
            [[Class::Unknown, Class::Cold], [Class::Unknown, Class::Hot], [Class::UnknownButOne, Class::HotButOne]]
        {
            let found = compare(&rig, form, classes, requests);
            all_same &= found < T_MAX;
        }
    }
    let seen = compare(&rig, Form::Basic, [Class::Unknown, Class::Malformed], requests);
    if !measures {
        return ExitCode::SUCCESS;
    }
    println!("no refusal tells: {all_same}; the instrument sees what differs: {}", seen > T_MAX);
    if all_same && seen > T_MAX { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The largest |t| of all crops.
fn compare(rig: &Rig, form: Form, classes: [Class; 2], requests: usize) -> f64 {
    let mut random = Random::new();
    let mut times = [Vec::with_capacity(requests), Vec::with_capacity(requests)];
    let gate = rig.assembled.proxy.gate.load();
    rig.warm(&gate);
    for _ in 0..requests.div_ceil(BATCH) {
        let batch: Vec<(usize, Parts)> = (0..BATCH)
            .map(|_| {
                let class = random.below(2);
                (class, request(&rig.text(classes[class], &mut random), form))
            })
            .collect();
        for (class, parts) in &batch {
            let started = Instant::now();
            let admitted = rig.admits(&gate, black_box(parts));
            let time = started.elapsed();
            assert!(!admitted, "every request is refused");
            times[*class].push(time.as_nanos() as f64);
        }
    }
    report(form, classes, &mut times)
}

fn report(form: Form, classes: [Class; 2], times: &mut [Vec<f64>; 2]) -> f64 {
    let mut all: Vec<f64> = times.iter().flatten().copied().collect();
    all.sort_by(f64::total_cmp);
    let mut worst = 0.0_f64;
    let mut line = format!("{form:?}: {:?} and {:?}:", classes[0], classes[1]);
    for crop in CROPS {
        let limit = all[((all.len() as f64 * crop) as usize).min(all.len() - 1)];
        let [one, other] = [0, 1].map(|class| Moments::of(times[class].iter().copied().filter(|time| *time <= limit)));
        let t = one.welch_t(&other);
        worst = worst.max(t.abs());
        line += &format!(" t({crop}) = {t:.2} ({:.1} and {:.1} ns)", one.mean, other.mean);
    }
    println!("{line}");
    worst
}

struct Moments {
    count: f64,
    mean: f64,
    variance: f64,
}

impl Moments {
    /// Welford's way, which loses no digits.
    fn of(times: impl Iterator<Item = f64>) -> Self {
        let (mut count, mut mean, mut squares) = (0.0, 0.0, 0.0);
        for time in times {
            count += 1.0;
            let difference = time - mean;
            mean += difference / count;
            squares += difference * (time - mean);
        }
        Self { count, mean, variance: squares / (count - 1.0) }
    }

    fn welch_t(&self, other: &Self) -> f64 {
        (self.mean - other.mean) / (self.variance / self.count + other.variance / other.count).sqrt()
    }
}

impl Rig {
    fn new() -> Self {
        let fresh = |count: usize| (0..count).map(|_| KeySecret::generate().expect("random bytes")).collect();
        let (secrets, strangers): (Vec<KeySecret>, Vec<KeySecret>) = (fresh(KEYS), fresh(KEYS / 2));
        let records = secrets.iter().enumerate().map(|(index, secret)| record(secret, index));
        let store = Arc::new(MemoryStore::with_records(records));
        let text = "[upstream.u]\nurl = \"http://127.0.0.1:9\"\n[upstream.u.routes]\n\"GET /x\" = \"monitor:read\"\n";
        let source = Source { path: PathBuf::from("bench.toml"), text: text.to_owned() };
        let config = Config::parse(&source).expect("a valid configuration");
        let assembled = app::assemble(config, Start { store: Some(store), ..Start::default() }).expect("a gate");
        let mut hot = secrets;
        let cold = hot.split_off(KEYS / 2);
        Self { assembled, hot, cold, strangers }
    }

    fn warm(&self, gate: &Gate) {
        for secret in &self.hot {
            assert!(self.admits(gate, &request(secret.expose(), Form::Basic)), "every key is admitted");
        }
    }

    // As a worker does: polled once, and to its end when there is something to wait for.
    #[inline(never)]
    fn admits(&self, gate: &Gate, parts: &Parts) -> bool {
        let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let origin = Origin { peer, peer_trusted: false, client: peer, scheme: Scheme::Http };
        let head = Head { parts, origin, now: Instant::now() };
        let mut trail = Trail::default();
        let mut admitting = pin!(self.assembled.proxy.admit(gate, head, &mut trail));
        match admitting.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(admitted) => admitted.is_ok(),
            Poll::Pending => self.assembled.block_on(admitting).is_ok(),
        }
    }

    /// The text of a fresh key of this class.
    fn text(&self, class: Class, random: &mut Random) -> String {
        let keys = match class {
            Class::Cold => &self.cold,
            Class::Hot | Class::HotButOne => &self.hot,
            Class::Malformed | Class::Unknown | Class::UnknownButOne => &self.strangers,
        };
        let key = &keys[random.below(keys.len())];
        match class {
            Class::HotButOne | Class::UnknownButOne => almost(key, random),
            Class::Malformed => with_id_of(key)[..54].to_owned() + "!",
            Class::Cold | Class::Hot | Class::Unknown => with_id_of(key),
        }
    }
}

/// Another key with the same id.
fn with_id_of(secret: &KeySecret) -> String {
    let mut random = [0; 64];
    getrandom::fill(&mut random).expect("random bytes");
    random[..12].copy_from_slice(&indexes(&secret.expose()[4..16]));
    built(&random)
}

/// The same key but for one of its random characters.
fn almost(secret: &KeySecret, draws: &mut Random) -> String {
    let mut random = [0; 64];
    random[..12].copy_from_slice(&indexes(&secret.expose()[4..16]));
    random[12..44].copy_from_slice(&indexes(&secret.expose()[17..49]));
    let place = 12 + draws.below(32);
    random[place] = (random[place] + 1 + draws.below(61) as u8) % 62;
    built(&random)
}

fn indexes(text: &str) -> Vec<u8> {
    let index = |byte: u8| match byte {
        b'0'..=b'9' => byte - b'0',
        b'A'..=b'Z' => byte - b'A' + 10,
        _ => byte - b'a' + 36,
    };
    text.bytes().map(index).collect()
}

/// The key that is made of these indexes into base62, and of randomness where they are none.
fn built(indexes: &[u8; 64]) -> String {
    let mut given = false;
    let mut fill = |bytes: &mut [u8]| {
        if std::mem::replace(&mut given, true) {
            return getrandom::fill(bytes).ok();
        }
        bytes.copy_from_slice(indexes);
        Some(())
    };
    KeySecret::generate_from(&mut fill).expect("random bytes").expose().to_owned()
}

fn request(text: &str, form: Form) -> Parts {
    let base64 = |pair: String| base64::engine::general_purpose::STANDARD.encode(pair);
    let authorization = match form {
        Form::Basic => format!("Basic {}", base64(format!("{text}:"))),
        Form::BasicAsPassword => format!("Basic {}", base64(format!("agent:{text}"))),
        Form::Bearer => format!("Bearer {text}"),
    };
    let request = Request::get("/x").header("host", "gate.example").header("authorization", authorization);
    request.body(()).expect("a request").into_parts().0
}

fn record(secret: &KeySecret, index: usize) -> KeyRecord {
    let revision = index as u64 + 1;
    let created = Timestamp::from_unix(1_700_000_000);
    KeyRecord {
        id: secret.id(),
        digest: secret.digest(),
        name: KeyName::parse("bench").expect("a name"),
        kind: Kind::Custom,
        scopes: ScopeSet::new([Scope::parse("monitor:read").expect("a scope")]),
        created,
        updated: created,
        created_revision: revision,
        revision,
    }
}

/// Draws of classes and keys. The operating system's randomness, so that no pattern meets the branch predictor's.
struct Random {
    bytes: [u8; 4_096],
    used: usize,
}

impl Random {
    fn new() -> Self {
        Self { bytes: [0; 4_096], used: 4_096 }
    }

    fn below(&mut self, bound: usize) -> usize {
        if self.used == self.bytes.len() {
            getrandom::fill(&mut self.bytes).expect("random bytes");
            self.used = 0;
        }
        let draw = u32::from_le_bytes(self.bytes[self.used..self.used + 4].try_into().expect("four bytes"));
        self.used += 4;
        draw as usize % bound
    }
}
