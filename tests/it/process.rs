//! The real program: how it starts, refuses to start, ends, and what it holds after it was killed.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use crate::harness::{Caller, Gate, Installation, Process, Served, Wire, check};

const QUERY: &str = "/api/v1/query";

fn started() -> (Installation, Served, Caller) {
    let installation = Installation::new();
    let root = installation.init();
    let served = installation.serve();
    let root = served.caller(&root);
    (installation, served, root)
}

#[test]
fn init_prints_the_key_alone_on_stdout() {
    let installation = Installation::new();
    let exit = Process::run(&installation.arguments("init"));
    assert_eq!(exit.code, Some(0), "{exit:?}");
    let secret = exit.stdout.strip_suffix('\n').expect("one line");
    assert!(portcullis::key::KeySecret::parse(secret.as_bytes()).is_ok(), "{exit:?}");
    assert!(!exit.stderr.contains(&secret[17..]), "{exit:?}");
}

#[test]
fn init_makes_no_second_root_key() {
    let installation = Installation::new();
    let secret = installation.init();
    let exit = Process::run(&installation.arguments("init"));
    assert_ne!(exit.code, Some(0), "{exit:?}");
    assert_eq!(exit.stdout, "", "{exit:?}");
    let served = installation.serve();
    check(&served.caller(&secret).get("/api/keys/self"), 200);
    assert_eq!(served.caller(&secret).get("/api/keys").json()["total_count"], 1);
}

#[test]
fn the_root_key_of_init_holds_everything() {
    let (_installation, _served, root) = started();
    let own = root.get("/api/keys/self").json();
    assert_eq!((&own["name"], &own["scopes"]), (&"root".into(), &serde_json::json!(["*"])), "{own}");
    check(&root.get("/api/v1/admin/x"), 200);
}

#[test]
fn an_empty_store_refuses_to_serve_and_says_what_to_do() {
    let installation = Installation::new();
    let exit = Process::run(&installation.arguments("serve"));
    assert!(exit.code.is_some_and(|code| code != 0), "{exit:?}");
    assert!(exit.stderr.contains("portcullis init"), "{exit:?}");
    assert!(exit.stderr.contains("root_key_file"), "{exit:?}");
    let data = installation.folder().join("data");
    let made: Vec<_> = std::fs::read_dir(&data).map(|entries| entries.flatten().collect()).unwrap_or_default();
    assert!(made.is_empty(), "a refused start made {made:?}");
}

#[test]
fn a_store_that_was_emptied_gets_no_new_root_key() {
    let (installation, served, _root) = started();
    drop(served);
    std::fs::remove_dir_all(installation.folder().join("data")).expect("removable");
    let exit = Process::run(&installation.arguments("serve"));
    assert!(exit.code.is_some_and(|code| code != 0), "{exit:?}");
    assert!(exit.stderr.contains("portcullis init"), "{exit:?}");
}

#[test]
fn a_root_key_file_makes_the_first_key_and_does_so_once() {
    let secret = Process::run(&["keygen"]).stdout.trim_end().to_owned();
    let installation = Installation::with(|setup| setup.option("keys", r#"root_key_file = "root.key""#));
    std::fs::write(installation.folder().join("root.key"), format!("{secret}\n")).expect("writable");
    for _ in 0..2 {
        let served = installation.serve();
        let root = served.caller(&secret);
        assert_eq!(check(&root.get("/api/keys"), 200).json()["total_count"], 1);
        served.process.signal("TERM");
        assert_eq!(served.process.wait().code, Some(0));
    }
}

#[test]
fn a_bad_root_key_file_is_refused_without_being_shown() {
    let installation = Installation::with(|setup| setup.option("keys", r#"root_key_file = "root.key""#));
    std::fs::write(installation.folder().join("root.key"), "pcl_not-a-key-but-a-secret").expect("writable");
    let exit = Process::run(&installation.arguments("serve"));
    assert!(exit.code.is_some_and(|code| code != 0), "{exit:?}");
    assert!(exit.stderr.contains("root.key") && !exit.stderr.contains("not-a-key-but-a-secret"), "{exit:?}");
}

#[test]
fn keygen_prints_a_new_key_each_time_and_stores_nothing() {
    let keys: HashSet<String> = (0..3).map(|_| Process::run(&["keygen"]).stdout.trim_end().to_owned()).collect();
    assert_eq!(keys.len(), 3);
    assert!(keys.iter().all(|key| portcullis::key::KeySecret::parse(key.as_bytes()).is_ok()));
}

#[test]
fn a_broken_configuration_is_told_with_its_place() {
    let installation =
        Installation::with(|setup| setup.option("limits", "failure = 1").route("GET x", r#""nonsense:scope""#));
    for command in ["serve", "check"] {
        let exit = Process::run(&installation.arguments(command));
        assert!(exit.code.is_some_and(|code| code != 0), "{command}: {exit:?}");
        let told = format!("{}{}", exit.stdout, exit.stderr);
        assert!(told.contains("portcullis.toml:") && told.contains("did you mean failures?"), "{command}: {told}");
    }
}

#[test]
fn an_address_in_use_is_told() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    let installation = Installation::with(|setup| setup.option("listen", &format!("public = {address:?}")));
    installation.init();
    let exit = Process::run(&installation.arguments("serve"));
    assert!(exit.code.is_some_and(|code| code != 0), "{exit:?}");
    assert!(exit.stderr.contains(&address), "{exit:?}");
}

#[test]
fn a_second_process_on_the_same_store_is_refused_and_the_first_goes_on() {
    let (installation, served, root) = started();
    let exit = Process::run(&installation.arguments("serve"));
    assert!(exit.code.is_some_and(|code| code != 0), "{exit:?}");
    let told = exit.stderr.to_lowercase();
    assert!(told.contains("another process") || told.contains("in use") || told.contains("already"), "{exit:?}");
    assert!(!told.contains("panicked"), "{exit:?}");
    check(&root.get("/open/x"), 200);
    check(&served.ops_get("/-/ready"), 200);
}

#[test]
fn sigterm_finishes_what_is_in_flight_and_exits_with_0() {
    for signal in ["TERM", "INT"] {
        let (installation, served, root) = started();
        installation.upstream().hold();
        let mut wire = Wire::connect(served.public);
        wire.send(root.keep_alive().render("GET", "/open/slow", &[], b""));
        installation.upstream().wait_for_requests(1);
        served.process.signal(signal);
        let mut process = served.process;
        process.wait_for(|line| line.contains("draining"));
        installation.upstream().release();
        let answer = wire.read_response();
        check(&answer, 200);
        wire.check_closed();
        assert_eq!(process.wait().code, Some(0), "{signal}");
    }
}

#[test]
fn a_draining_gate_is_healthy_but_not_ready_and_takes_no_new_connection() {
    let (installation, served, root) = started();
    installation.upstream().hold();
    let mut wire = Wire::connect(served.public);
    wire.send(root.render("GET", "/open/slow", &[], b""));
    installation.upstream().wait_for_requests(1);
    let Served { mut process, public, ops } = served;
    process.signal("TERM");
    process.wait_for(|line| line.contains("draining"));
    let operator = Caller::new(ops, None);
    let deadline = Instant::now() + Duration::from_secs(10);
    while operator.get("/-/ready").status != 503 {
        assert!(Instant::now() < deadline, "a draining gate is ready");
    }
    check(&operator.get("/-/healthy"), 200);
    assert!(is_refused(public), "a connection during the drain was served");
    installation.upstream().release();
    check(&wire.read_response(), 200);
    assert_eq!(process.wait().code, Some(0));
}

/// Whether a connection is refused, or closed without an answer, within the deadline. The listener closes a moment
/// after the drain was announced, so connections before that are tried again.
fn is_refused(address: std::net::SocketAddr) -> bool {
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        let Ok(stream) = std::net::TcpStream::connect(address) else { return true };
        drop(stream);
    }
    false
}

#[test]
fn an_idle_connection_does_not_hold_up_the_end() {
    let (_installation, served, root) = started();
    let kept = root.keep_alive();
    check(&kept.get("/open/x"), 200);
    let _silent = Wire::connect(served.public);
    let begun = Instant::now();
    served.process.signal("TERM");
    assert_eq!(served.process.wait().code, Some(0));
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_request_that_never_ends_is_given_up_after_the_configured_time() {
    let installation = Installation::with(|setup| setup.option("shutdown", r#"timeout = "200ms""#));
    let root = installation.init();
    let served = installation.serve();
    installation.upstream().hold();
    let mut wire = Wire::connect(served.public);
    wire.send(served.caller(&root).render("GET", "/open/slow", &[], b""));
    installation.upstream().wait_for_requests(1);
    served.process.signal("TERM");
    assert_eq!(served.process.wait().code, Some(0));
    wire.read_to_end();
}

#[test]
fn a_signal_at_the_moment_of_listening_ends_the_gate_cleanly() {
    let installation = Installation::new();
    installation.init();
    for _ in 0..10 {
        let served = installation.serve();
        served.process.signal("TERM");
        let exit = served.process.wait();
        assert_eq!(exit.code, Some(0), "{exit:?}");
    }
}

#[test]
fn a_second_signal_ends_the_drain_at_once() {
    let (installation, served, root) = started();
    installation.upstream().hold();
    let mut wire = Wire::connect(served.public);
    wire.send(root.render("GET", "/open/slow", &[], b""));
    installation.upstream().wait_for_requests(1);
    let mut process = served.process;
    process.signal("TERM");
    process.wait_for(|line| line.contains("draining"));
    process.signal("TERM");
    process.wait();
}

#[test]
fn signals_that_mean_nothing_here_do_no_harm() {
    let (_installation, served, root) = started();
    served.process.signal("PIPE");
    check(&root.get("/open/x"), 200);
    check(&served.ops_get("/-/healthy"), 200);
}

#[test]
fn sighup_takes_new_routes_and_keeps_the_old_ones_when_the_file_is_bad() {
    let (installation, served, root) = started();
    let Served { mut process, ops, .. } = served;
    let good = std::fs::read_to_string(installation.config()).expect("readable");
    check(&root.get("/new/x"), 404);
    std::fs::write(installation.config(), format!("{good}\"GET /new/{{*rest}}\" = \"authenticated\"\n"))
        .expect("writable");
    process.signal("HUP");
    wait_for_metric(ops, "portcullis_config_reloads_total{result=\"success\"} 1");
    check(&root.get("/new/x"), 200);
    std::fs::write(installation.config(), format!("{good}nonsense = = 1\n")).expect("writable");
    process.signal("HUP");
    wait_for_metric(ops, "portcullis_config_reloads_total{result=\"failure\"} 1");
    check(&root.get("/new/x"), 200);
    assert!(process.stderr().iter().any(|line| line.contains("portcullis.toml")), "the log says what is wrong");
}

#[test]
fn sighup_tells_why_the_file_cannot_be_read() {
    let (installation, served, _root) = started();
    let Served { mut process, .. } = served;
    std::fs::remove_file(installation.config()).expect("it is there");

    process.signal("HUP");

    let line = process.wait_for(|line| line.contains("not reloaded"));
    assert_eq!(line.matches("No such file").count(), 1, "{line}");
}

/// Reads the metrics until they hold this line.
#[track_caller]
fn wait_for_metric(ops: std::net::SocketAddr, line: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !Caller::new(ops, None).get("/metrics").text().lines().any(|seen| seen == line) {
        assert!(Instant::now() < deadline, "{line} did not come");
    }
}

#[test]
fn last_used_survives_a_restart() {
    let (installation, served, root) = started();
    let key = root.create(&["monitor:read"]);
    let path = format!("/api/keys/{}", key.id());
    assert_eq!(root.get(&path).json()["last_used"], serde_json::Value::Null);
    check(&key.get(QUERY), 200);
    let used = root.get(&path).json();
    assert!(used["last_used"].is_string(), "{used}");
    served.process.signal("TERM");
    assert_eq!(served.process.wait().code, Some(0));
    let again = installation.serve();
    let read = again.caller(root.secret()).get(&path).json();
    assert_eq!((&read["last_used"], &read["updated"]), (&used["last_used"], &used["updated"]));
}

#[test]
fn every_acknowledged_key_is_there_after_a_kill_in_the_middle_of_creations() {
    let installation = Installation::new();
    let root = installation.init();
    let mut acknowledged: Vec<String> = Vec::new();
    let mut deleted: Vec<String> = Vec::new();
    for round in 0..5 {
        let served = installation.serve();
        check_keys(&served, &acknowledged, &deleted);
        let (sender, created) = sync_channel(0);
        let caller = served.caller(&root).keep_alive();
        let creator = std::thread::spawn(move || create_until_killed(&caller, &sender));
        for count in 0..10 + 5 * round {
            let Ok(secret) = created.recv() else { break };
            if count % 4 == 3 {
                assert_eq!(served.caller(&root).delete(&secret).status, 204);
                deleted.push(secret);
            } else {
                acknowledged.push(secret);
            }
        }
        served.process.signal("KILL");
        served.process.wait();
        drop(created);
        creator.join().expect("the creating thread ends");
    }
    let served = installation.serve();
    check_keys(&served, &acknowledged, &deleted);
}

/// Creates keys and hands over each that was acknowledged. The one under way at the kill may or may not exist.
fn create_until_killed(root: &Caller, acknowledged: &std::sync::mpsc::SyncSender<String>) {
    let body = serde_json::json!({"name": "killed", "kind": "custom", "scopes": ["monitor:read"]}).to_string();
    let post = || std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| root.post("/api/keys", &body)));
    while let Ok(answer) = post() {
        let secret = answer.json()["key"].as_str().expect("the key").to_owned();
        if acknowledged.send(secret).is_err() {
            return;
        }
    }
}

#[track_caller]
fn check_keys(served: &Served, acknowledged: &[String], deleted: &[String]) {
    for secret in acknowledged {
        check(&served.caller(secret).get(QUERY), 200);
    }
    for secret in deleted {
        check(&served.caller(secret).get(QUERY), 401);
    }
}

/// Of each of two that delete.
const ROUNDS: usize = 50;

#[test]
fn no_request_that_starts_after_a_deletion_was_answered_is_admitted() {
    let gate = Gate::with(|setup| {
        setup
            .sled()
            .option("listen", "workers = 2")
            .option("limits", r#"failures = { rate = "1000000/s", burst = 1000000 }"#)
    });
    let root = gate.root();
    let tried = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let root = root.keep_alive();
                (0..ROUNDS).for_each(|_| delete_while_used(&root, &tried));
            });
        }
    });
    println!("{} keys deleted under {} requests", 2 * ROUNDS, tried.into_inner());
}

/// Creates a key, lets three clients use it, deletes it under them, and asserts that each request which they began
/// after the answer to the deletion is refused.
fn delete_while_used(root: &Caller, tried: &AtomicUsize) {
    let key = root.create(&["monitor:read"]);
    let deleted = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            let caller = key.keep_alive();
            let deleted = &deleted;
            scope.spawn(move || {
                let mut refused = 0;
                while refused < 5 {
                    let was_deleted = deleted.load(Ordering::SeqCst);
                    let status = caller.get("/public-or-not").status;
                    tried.fetch_add(1, Ordering::Relaxed);
                    assert!(!was_deleted || status == 401, "{status} after the deletion");
                    refused += usize::from(was_deleted);
                }
            });
        }
        let warm = key.keep_alive();
        (0..5).for_each(|_| drop(warm.get("/public-or-not")));
        assert_eq!(root.delete(key.id()).status, 204);
        deleted.store(true, Ordering::SeqCst);
    });
}
