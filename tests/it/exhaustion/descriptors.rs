//! No descriptor left: nothing spins, what runs goes on, and all is well once there are some again.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::pass;
use crate::harness::{Caller, Installation, Probe, Served, Setup, check, check_problem, until};

const DESCRIPTORS: usize = 64;
const WATCHED: Duration = Duration::from_millis(500);

/// Connects until the process has no descriptor left.
#[track_caller]
fn use_up(address: SocketAddr, probe: &Probe) -> Vec<TcpStream> {
    let taken = (0..DESCRIPTORS).map(|_| TcpStream::connect(address).expect("room in the backlog")).collect();
    until("no descriptor is left", || probe.descriptors() >= DESCRIPTORS);
    taken
}

#[track_caller]
fn check_idle(probe: &Probe) {
    let before = probe.cpu();
    pass(WATCHED);
    let cpu = probe.cpu() - before;
    println!("{cpu:?} of {WATCHED:?}");
    assert!(cpu * 4 < WATCHED, "{cpu:?} in {WATCHED:?} without anything to do");
}

#[test]
fn gate_without_descriptors_waits_and_goes_on() {
    let installation = Installation::new();
    let root = installation.init();
    let served = installation.serve_within(DESCRIPTORS);
    let probe = Probe::of(served.process.pid());
    let stranger = served.anonymous().keep_alive();
    check(&stranger.get("/open/x"), 401);
    let known = served.caller(&root).keep_alive();
    let authorization = known.authorization();
    let with_key = [("Authorization", authorization.as_str())];
    let get = || stranger.request("GET", "/open/x", &with_key, b"");
    let before = probe.descriptors();

    // Without a connection to the upstream there can be none now.
    let taken = use_up(served.public, &probe);
    check_idle(&probe);
    check_problem(&get(), 503, "upstream_busy");
    let made = stranger.request("POST", "/api/keys", &with_key, br#"{"name": "x", "kind": "telemetry"}"#);
    assert!([201, 415, 503].contains(&made.status), "{made:?}");
    check_idle(&probe);
    assert_eq!(installation.upstream().connections(), 0);
    drop(taken);
    until("descriptors are given back", || probe.descriptors() <= before + 2);
    check(&get(), 200);
    check(&known.get("/open/x"), 200);

    // What runs goes on.
    let taken = use_up(served.public, &probe);
    check_idle(&probe);
    for _ in 0..20 {
        check(&get(), 200);
    }
    drop(taken);
    until("descriptors are given back", || probe.descriptors() <= before + 4);
    check(&served.caller(&root).get("/open/x"), 200);
    check(&served.caller(&root).post("/api/keys", r#"{"name": "x", "kind": "telemetry"}"#), 201);
}

fn backing_up(setup: Setup) -> Setup {
    let setup = setup.option("store.backup", r#"directory = "backups""#);
    setup.option("store.backup", r#"every = "1s""#).option("store.backup", "keep = 100")
}

#[test]
fn backup_and_reload_without_descriptors_fail_with_a_word_and_come_once_there_are_some() {
    let installation = Installation::with(backing_up);
    let root = installation.init();
    let Served { mut process, public, ops } = installation.serve_within(DESCRIPTORS);
    let probe = Probe::of(process.pid());
    let known = Caller::new(public, Some(&root)).keep_alive();
    check(&known.get("/open/x"), 200);
    let backups = || {
        let entries = std::fs::read_dir(installation.folder().join("backups")).into_iter().flatten();
        entries.flatten().filter(|entry| entry.path().extension().is_some_and(|end| end == "jsonl")).count()
    };
    until("a backup", || backups() > 0);

    let taken = use_up(public, &probe);
    let told = process.stderr().len();
    installation.rewrite(|setup| backing_up(setup).route("GET /later/{*rest}", r#""authenticated""#));
    // A descriptor that something has just closed is free until the next connection is accepted: a reload may get it.
    let is_refused = |line: &str| line.contains("not reloaded") && line.contains("Too many open files");
    until("a reload that fails", || {
        process.signal("HUP");
        process.stderr()[told..].iter().any(|line| is_refused(line))
    });
    process.wait_for_after(told, |line| line.contains("no backup was made") && line.contains("Too many open files"));
    check(&known.get("/open/x"), 200);
    let made = backups();
    drop(taken);
    until("another backup", || backups() > made);
    process.signal("HUP");
    until("the reload", || known.get("/later/x").status == 200);
    assert!(Caller::new(ops, None).get("/metrics").text().contains("\nportcullis_store_up 1\n"));
    // What could not be opened was not taken for lost.
    check(&known.post("/api/keys", r#"{"name": "x", "kind": "telemetry"}"#), 201);
}
