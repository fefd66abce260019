//! Files that are no configuration, or not yet, or never: what the gate says of them, and that nothing changes.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::channel;

use super::Reloaded;
use crate::harness::{
    Authority, DEADLINE, GATE, Installation, Process, ServiceManager, Setup, TlsClient, Upstream, check,
};

#[track_caller]
fn make_pipe(path: &Path) {
    let _ = std::fs::remove_file(path);
    let made = Command::new("mkfifo").arg(path).status().expect("mkfifo");
    assert!(made.success());
}

/// Waits until somebody reads the pipe; it goes on doing so until what is returned is dropped.
#[track_caller]
fn wait_for_reader(path: &Path) -> File {
    let (sender, opened) = channel();
    let path = path.to_owned();
    // Blocks until then.
    std::thread::spawn(move || sender.send(OpenOptions::new().write(true).open(path)));
    opened.recv_timeout(DEADLINE).expect("a reader in time").expect("a pipe")
}

#[test]
fn what_is_no_configuration_is_told_of_and_changes_nothing() {
    let mut gate = Reloaded::start(|setup| setup);
    let path = gate.installation.config();
    let good = std::fs::read(&path).expect("readable");
    let mut check_told = |told: &str| {
        let error = gate.hang_up().expect_err("no configuration");
        assert!(error.contains(told) && error.len() < 10_000, "{} bytes: {error:.2000}", error.len());
        check(&gate.root.get("/open/x"), 200);
        check(&gate.served.ops_get("/-/ready"), 200);
    };

    std::fs::remove_file(&path).expect("it is there");
    check_told("No such file");
    std::fs::create_dir(&path).expect("a folder");
    check_told("Is a directory");
    std::fs::remove_dir(&path).expect("empty");
    std::fs::write(&path, b"[listen]\n\xff\xfe").expect("writable");
    check_told("byte 0xff is not UTF-8");
    File::create(&path).and_then(|file| file.set_len(1 << 30)).expect("a file with nothing in it");
    check_told("larger than 16 MiB");
    std::fs::write(&path, [&good[..], b"[credentials]\nrealm = '${file:/dev/zero}'\n"].concat()).expect("writable");
    check_told("/dev/zero: larger than 16 MiB");
    std::fs::write(&path, [&good[..], b"[keys]\nroot_key_file = '/dev/zero'\n"].concat()).expect("writable");
    check_told("cannot read keys.root_key_file /dev/zero");

    std::fs::write(&path, good).expect("writable");
    gate.hang_up().expect("a good file");
}

#[test]
fn a_gate_ends_although_a_file_that_it_reads_again_never_comes() {
    let pipe = |gate: &Reloaded| gate.installation.folder().join("pipe");
    let waiting: [(&str, &dyn Fn(Setup) -> Setup); 4] = [
        ("credentials", &|setup| setup.option("credentials", "realm = '${file:pipe}'")),
        ("root key", &|setup| setup.option("keys", "root_key_file = 'pipe'")),
        ("listener", &|setup| setup.option("tls.ops", "certificates = [{ cert = 'pipe', key = 'pipe' }]")),
        ("upstream", &|setup| setup.option("upstream.main.tls", "ca = 'pipe'").upstream_url("https://127.0.0.1:1")),
    ];
    for (name, change) in waiting {
        let gate = Reloaded::start(|setup| setup);
        make_pipe(&pipe(&gate));
        gate.installation.rewrite(change);
        gate.served.process.signal("HUP");
        gate.manager.wait_for("RELOADING=1");
        check(&gate.root.get("/open/x"), 200);

        gate.served.process.signal("TERM");
        let exit = gate.served.process.wait();
        assert!(exit.code == Some(0) && exit.stderr.contains("\"stopped\""), "{name}: {exit:?}");
    }
}

#[test]
fn signals_while_the_gate_starts_neither_kill_it_nor_are_lost() {
    let installation = Installation::with(|setup| setup.option("keys", "root_key_file = 'pipe'"));
    installation.init();
    let pipe = installation.folder().join("pipe");
    make_pipe(&pipe);
    let process = Process::start(&installation.arguments("serve"));
    let held = wait_for_reader(&pipe);

    process.signal("HUP");
    process.signal("TERM");

    let exit = process.wait();
    assert!(exit.code == Some(0) && exit.stderr.contains("stopped before it was ready"), "{exit:?}");
    drop(held);
}

#[test]
fn a_watched_configuration_whose_certificate_comes_later_is_taken_when_it_comes() {
    let authority = Authority::new("Test CA");
    let old = authority.server("old", &[GATE]);
    let watched = |setup: Setup, certificate: &str| {
        setup.option("reload", r#"watch = "20ms""#).option("tls.ops", &format!("certificates = [{certificate}]"))
    };
    let installation = Installation::with(|setup| watched(setup, &old.toml()));
    installation.init();
    let manager = ServiceManager::start();
    let served = installation.serve_under(&manager);
    manager.wait_for("READY=1");
    let new = authority.server("new", &[GATE]);
    let (cert, key) = (std::fs::read(&new.cert).expect("readable"), std::fs::read(&new.key).expect("readable"));
    std::fs::remove_file(&new.cert).and_then(|()| std::fs::remove_file(&new.key)).expect("it is there");

    installation.rewrite(|setup| watched(setup, &new.toml()));
    let status = manager.wait_for("READY=1");
    assert!(status.contains("not reloaded"), "{status}");

    std::fs::write(&new.key, key).and_then(|()| std::fs::write(&new.cert, cert)).expect("writable");
    while !manager.wait_for("READY=1").contains("configuration reloaded") {}
    served.process.signal("TERM");
    assert_eq!(served.process.wait().code, Some(0));
}

/// The names and labels of all samples.
fn series(gate: &Reloaded) -> Vec<String> {
    let page = gate.served.ops_get("/metrics").text();
    let samples = page.lines().filter(|line| !line.starts_with('#'));
    samples.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect()
}

#[test]
fn a_file_whose_last_check_fails_changes_nothing_at_all() {
    let authority = Authority::new("Test CA");
    let (one, other) = (authority.server("one", &[GATE]), authority.server("other", &[GATE]));
    let mixed = format!("{{ cert = {:?}, key = {:?} }}", one.cert, other.key);
    let checked = Upstream::start();
    // All that a reload can change, upstreams that are asked for their health included.
    let changed = |setup: Setup, certificate: &str| {
        setup
            .option("tls.public", &format!("certificates = [{certificate}]"))
            .option("log", "access = true")
            .option("log", r#"level = "debug""#)
            .option("credentials", "realm = 'changed'")
            .option("limits", r#"key = { rate = "1/h", burst = 1 }"#)
            .option("client", "connections_max = 1")
            .option("upstream.second", &format!("url = {:?}", checked.url()))
            .option("upstream.second.health", r#"path = "/health""#)
            .option("upstream.second.health", r#"interval = "10ms""#)
            .option("upstream.second.routes", r#""GET /second" = "public""#)
            .route("GET /new", r#""public""#)
    };
    let mut gate = Reloaded::start(|setup| setup.option("tls.public", &format!("certificates = [{}]", one.toml())));
    let client = TlsClient::trusting(&authority);
    let get = |gate: &Reloaded, path: &str| {
        let mut wire = client.connect(gate.served.public, GATE);
        wire.send(gate.root.render("GET", path, &[], b""));
        wire.read_response()
    };
    let shown = |gate: &Reloaded| client.certificate_shown(gate.served.public, GATE);
    check(&get(&gate, "/open/x"), 200);
    let before = series(&gate);
    let lines = gate.served.process.stderr().len();
    let bad: [(&str, &dyn Fn(Setup) -> Setup); 4] = [
        ("is not the one", &|setup| changed(setup, &mixed)),
        ("nosuch.pem", &|setup| {
            let other = other.toml();
            changed(setup, &other).option("upstream.main.tls", "ca = 'nosuch.pem'").upstream_url("https://127.0.0.1:1")
        }),
        ("root_key_file", &|setup| changed(setup, &other.toml()).option("keys", "root_key_file = 'nosuch.key'")),
        ("{nosuch}", &|setup| changed(setup, &other.toml()).upstream(r#"set_headers = { x-a = "{nosuch}" }"#)),
    ];
    for (told, change) in bad {
        let error = gate.reload(change).expect_err("a bad file");
        assert!(error.contains(told), "{told}: {error}");
        for _ in 0..3 {
            check(&get(&gate, "/open/x"), 200);
        }
        check(&get(&gate, "/new"), 404);
        assert_eq!(series(&gate), before, "{told}");
        assert_eq!(shown(&gate), one.certificate(), "{told}");
    }
    let said = &gate.served.process.stderr()[lines..];
    assert_eq!(said.iter().filter(|line| !line.contains("not reloaded")).count(), 0, "{said:#?}");
    assert_eq!(checked.connections(), 0);

    gate.reload(|setup| changed(setup, &other.toml())).expect("a good file");
    checked.wait_for_requests(2);
    assert_eq!(shown(&gate), other.certificate());
    check(&get(&gate, "/new"), 200);
}
