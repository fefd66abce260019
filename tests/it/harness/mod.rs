//! The rig: a gate in this process or as a real program, callers with keys, and an upstream that records raw bytes.
//!
//! Blocking, over `std::net` alone, so that a test is a plain function and says exactly which bytes it sends. Nothing
//! here sleeps: what has to be waited for is waited for with a deadline, and a missed deadline fails the test.
//!
//! ```text
//! let gate = Gate::start();                                   // in-process, memory store, root key, recording upstream
//! let reader = gate.key(&["monitor:read"]);                   // a Caller: a fresh key, made through the admin API
//! check(&reader.get("/api/v1/query"), 200);
//! gate.root().delete(reader.id());
//! check(&reader.get("/api/v1/query"), 401);
//! assert_eq!(gate.upstream().requests().len(), 1);
//! ```

// A capability's file uses the part of the rig that it needs; none of them uses all of it.
#![allow(dead_code, unused_imports)]

mod answer;
mod caller;
mod dice;
mod disk;
mod faulty_store;
mod file_calls;
mod front;
mod gate;
mod h2;
pub mod h2_flood;
pub mod h2_frames;
mod h2_upstream;
mod load;
mod load_h2;
mod probe;
mod process;
mod program;
pub mod raw_h2;
pub mod secrets;
mod service;
mod setup;
mod tank;
mod tls;
mod upstream;
mod wire;
mod wires;

use std::time::{Duration, Instant};

pub use answer::Answer;
pub use caller::{Caller, basic};
pub use dice::Dice;
pub use disk::{Disk, Moment, moments};
pub use faulty_store::{Fault, FaultyDisk, FaultyStore, Struck};
pub use file_calls::{Effect, FileCall, read_trace, traced};
pub use front::{TlsFront, UnixFront, dead_socket};
pub use gate::Gate;
pub use h2::{H2Call, H2Client};
pub use h2_flood::{Flood, H2Flood};
pub use h2_frames::H2Frames;
pub use h2_upstream::{H2Recorded, H2Reply, H2Upstream};
pub use load::{Backend, Load, Pace, Tally};
pub use load_h2::{H2Load, H2Pace};
pub use probe::Probe;
pub use process::{Exit, Installation, Process, Served, signal};
pub use program::{Service, is_installed};
pub use raw_h2::{RawH2, Seen};
pub use service::{ServiceManager, passing};
pub use setup::Setup;
pub use tank::{Tank, Tongue, Zeros};
pub use tls::{Authority, GATE, Pair, TlsClient, expires_in};
pub use upstream::{Recorded, Reply, Upstream, Vacant};
pub use wire::Wire;
pub use wires::{Back, Cell, Client, Exchange, Front, Got, Says, on_every_wire};

/// How long anything may take before a test gives up: far above what a loaded machine needs.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Tries until it holds.
#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        pause();
    }
}

/// Between two looks at something that others are to do: they need the processor for it.
pub fn pause() {
    std::thread::park_timeout(Duration::from_millis(1));
}

/// Asserts the status and hands the answer on.
#[track_caller]
pub fn check(answer: &Answer, status: u16) -> &Answer {
    assert_eq!(answer.status, status, "{answer:?}");
    answer
}

/// Asserts that the answer is a problem of this status and `code`, in the shape that every refusal has.
#[track_caller]
pub fn check_problem<'a>(answer: &'a Answer, status: u16, code: &str) -> &'a Answer {
    check(answer, status);
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer:?}");
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{answer:?}");
    let problem = answer.json();
    assert_eq!(problem["code"], code, "{answer:?}");
    assert_eq!(problem["status"], status, "{answer:?}");
    for field in ["type", "title", "detail", "request_id"] {
        assert!(problem[field].as_str().is_some_and(|text| !text.is_empty()), "no {field}: {answer:?}");
    }
    answer
}
