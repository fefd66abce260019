//! What is counted: admissions without sockets, or a gate that serves until its input ends.
//!
//! All that a run can do without chance it does so: the keys are the same each time.

use std::net::SocketAddr;

use portcullis::app;
use portcullis::key::KeySecret;

use crate::rig::{self, USUAL_SCOPES, path, record, request};

/// The first argument of a process that is counted.
pub const ROLE: &str = "counted";

/// Few: making them is counted too, and must vary less than the requests between a short run and a long one.
const KEYS: usize = 64;
const ROUTES: usize = 100;

/// Whose key a request carries.
#[derive(Clone, Copy, PartialEq)]
pub enum Class {
    Known,
    MissingScope,
    Unknown,
}

impl Class {
    const ALL: [Self; 3] = [Self::Known, Self::MissingScope, Self::Unknown];

    pub fn name(self) -> &'static str {
        match self {
            Self::Known => "known",
            Self::MissingScope => "missing-scope",
            Self::Unknown => "unknown",
        }
    }
}

pub fn run(arguments: &[String]) {
    match arguments {
        [role, class, requests] if role == "admit" => {
            let class = Class::ALL.into_iter().find(|known| known.name() == class).expect("a class");
            admit(class, requests.parse().expect("a number"));
        }
        [role, upstream] if role == "gate" => serve(upstream.parse().expect("an address")),
        _ => panic!("not a role: {arguments:?}"),
    }
}

fn admit(class: Class, requests: usize) {
    let secrets = keys(KEYS);
    let scopes = match class {
        Class::Known | Class::Unknown => &USUAL_SCOPES[..],
        Class::MissingScope => &["telemetry:write"],
    };
    let held = if class == Class::Unknown { &secrets[..KEYS / 2] } else { &secrets[..] };
    let records = held.iter().enumerate().map(|(index, secret)| record(secret, index, scopes));
    let assembled = rig::assemble(rig::configuration(ROUTES, 2_000_000), records);
    let shown = if class == Class::Unknown { &secrets[KEYS / 2..] } else { &secrets[..KEYS / 2] };
    let path = path(ROUTES / 2);
    let ready: Vec<_> = shown.iter().map(|secret| request(secret, &path)).collect();
    rig::warm(&assembled, shown.iter().map(|secret| request(secret, &path)));
    let gate = assembled.proxy.gate.load();
    for parts in ready.iter().cycle().take(requests) {
        assert_eq!(rig::admit(&assembled, parts, &gate), class == Class::Known);
    }
}

/// Tells where it listens and a key that it admits, and ends when its input does.
fn serve(upstream: SocketAddr) {
    let secrets = keys(KEYS);
    let records = secrets.iter().enumerate().map(|(index, secret)| record(secret, index, &USUAL_SCOPES));
    let text = format!(
        "[listen]\npublic = \"127.0.0.1:0\"\nops = \"127.0.0.1:0\"\nworkers = 1\n\
         [limits]\nkey = {{ rate = \"1000000/s\", burst = 1000000 }}\nfailures = {{ rate = \"1000000/s\", burst = 1000000 }}\n\
         [upstream.u]\nurl = \"http://{upstream}\"\n[upstream.u.routes]\n\
         \"GET /api/v1/query\" = \"monitor:read\"\n\"POST /api/v1/write\" = \"telemetry:write\"\n"
    );
    let running = app::start(rig::parse(text), rig::start(records)).expect("a gate");
    println!("{} {}", running.public(), secrets[0].expose());
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    // Not drained: how long that takes is chance.
    std::process::exit(0);
}

fn keys(count: usize) -> Vec<KeySecret> {
    // A linear congruential generator with Knuth's constants: keys need be different here, not secret.
    let mut state = 1_u64;
    let mut fill = |bytes: &mut [u8]| {
        for byte in bytes {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = state.to_be_bytes()[0];
        }
        Some(())
    };
    (0..count).map(|_| KeySecret::generate_from(&mut fill).expect("bytes")).collect()
}
