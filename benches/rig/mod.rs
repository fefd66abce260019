//! What the benches of admission share: keys, a gate without sockets, requests, and one admission.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::pin::pin;
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

pub const USUAL_SCOPES: [&str; 4] = ["monitor:read", "monitor:write", "telemetry:write", "key:write"];

/// The record of the key that was made as number `index` of all, from 0.
pub fn record(secret: &KeySecret, index: usize, scopes: &[&str]) -> KeyRecord {
    let revision = index as u64 + 1;
    let created = Timestamp::from_unix(1_700_000_000);
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

pub fn configuration(routes: usize, cached: usize) -> String {
    let lines: String =
        (0..routes).map(|route| format!("\"GET /api/v{route}/items/{{id}}\" = \"monitor:read\"\n")).collect();
    format!(
        "[keys]\nkeys_cached_max = {cached}\n[limits]\nkey = {{ rate = \"1000000000/s\", burst = 1000000000 }}\n\
         [upstream.u]\nurl = \"http://127.0.0.1:9\"\n[upstream.u.routes]\n{lines}"
    )
}

pub fn parse(text: String) -> Config {
    Config::parse(&Source { path: PathBuf::from("bench.toml"), text }).expect("a valid configuration")
}

pub fn start(records: impl IntoIterator<Item = KeyRecord>) -> Start {
    Start { store: Some(Arc::new(MemoryStore::with_records(records))), ..Start::default() }
}

pub fn assemble(text: String, records: impl IntoIterator<Item = KeyRecord>) -> Assembled {
    app::assemble(parse(text), start(records)).expect("a gate")
}

/// What `configuration` has a route for.
pub fn path(route: usize) -> String {
    format!("/api/v{route}/items/42?x=1")
}

pub fn request(secret: &KeySecret, path: &str) -> Parts {
    let pair = base64::engine::general_purpose::STANDARD.encode(format!("{}:", secret.expose()));
    let request = Request::get(path)
        .header("host", "gate.example")
        .header("user-agent", "bench/1")
        .header("accept", "*/*")
        .header("authorization", format!("Basic {pair}"));
    request.body(()).expect("a request").into_parts().0
}

pub fn head(parts: &Parts) -> Head<'_> {
    let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
    Head {
        parts,
        origin: Origin { peer, peer_trusted: false, client: peer, scheme: Scheme::Http },
        now: Instant::now(),
    }
}

// Kept whole, so that a profile can be taken of it alone.
#[inline(never)]
pub fn admit(assembled: &Assembled, parts: &Parts, gate: &Gate) -> bool {
    let mut trail = Trail::default();
    let mut admitting = pin!(assembled.proxy.admit(gate, head(parts), &mut trail));
    match admitting.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(admitted) => admitted.is_ok(),
        Poll::Pending => false,
    }
}

/// Brings the keys of these requests into memory.
pub fn warm(assembled: &Assembled, requests: impl IntoIterator<Item = Parts>) {
    let gate = assembled.proxy.gate.load();
    for parts in requests {
        let mut trail = Trail::default();
        // Who may not do this is known afterwards too.
        let _ = assembled.block_on(assembled.proxy.admit(&gate, head(&parts), &mut trail));
    }
}
