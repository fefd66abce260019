//! How a gate comes and goes: under a service manager, on sockets that it was passed, and without losing a request.

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use crate::harness::{
    Authority, Backend, Caller, DEADLINE, GATE, H2Load, H2Pace, Installation, Load, Pace, Process, Reply, Served,
    ServiceManager, TlsClient, Upstream, Wire, check, passing, until,
};

/// How often the gate is restarted under load, and under how many requests a second; `PORTCULLIS_RESTARTS=100@2000` sets
/// others.
const RESTARTS: (usize, u32) = (4, 400);

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

#[track_caller]
fn check_goes(wire: &mut Wire, status: u16) {
    let answer = wire.read_response();
    assert!(check(&answer, status).says_close(), "{answer:?}");
    wire.check_closed();
}

#[test]
fn a_leaving_gate_is_not_ready_and_serves_until_a_second_signal_ends_the_delay() {
    let installation = Installation::with(|setup| setup.option("shutdown", r#"delay = "5m""#));
    let root = installation.init();
    let mut served = installation.serve();
    let caller = served.caller(&root);
    let mut old = Wire::connect(served.public);
    old.send(caller.keep_alive().render("GET", "/open/x", &[], b""));
    assert!(!check(&old.read_response(), 200).says_close());

    served.process.signal("TERM");
    served.process.wait_for(|line| line.contains("still accepting"));
    check(&served.ops_get("/-/ready"), 503);
    check(&served.ops_get("/-/healthy"), 200);
    let mut new = Wire::connect(served.public);
    for wire in [&mut old, &mut new] {
        wire.send(caller.keep_alive().render("GET", "/open/x", &[], b""));
        check_goes(wire, 200);
    }

    served.process.signal("TERM");
    let exit = served.process.wait();
    assert_eq!(exit.code, Some(0), "{exit:?}");
    assert!(exit.stderr.contains("stopped"), "{exit:?}");
}

#[test]
fn a_request_on_its_way_over_an_idle_connection_is_served_after_the_drain_began() {
    let installation = Installation::with(|setup| setup.option("shutdown", r#"idle_timeout = "1m""#));
    let root = installation.init();
    let mut served = installation.serve();
    let request = served.caller(&root).keep_alive().render("GET", "/open/x", &[], b"");
    let (mut fresh, mut idle) = (Wire::connect(served.public), Wire::connect(served.public));
    idle.send(&request);
    check(&idle.read_response(), 200);

    served.process.signal("TERM");
    served.process.wait_for(|line| line.contains("draining"));

    for wire in [&mut idle, &mut fresh] {
        wire.send(&request);
        check_goes(wire, 200);
    }
    assert_eq!(served.process.wait().code, Some(0));
}

#[test]
fn a_tls_handshake_on_its_way_is_finished_after_the_drain_began() {
    let authority = Authority::new("Test CA");
    let certificate = authority.server("gate", &[GATE]);
    let client = TlsClient::trusting(&authority);
    let installation = Installation::with(|setup| {
        setup
            .option("tls.public", &format!("certificates = [{}]", certificate.toml()))
            .option("shutdown", r#"idle_timeout = "1m""#)
    });
    let root = installation.init();
    let mut served = installation.serve();
    let request = served.caller(&root).keep_alive().render("GET", "/open/x", &[], b"");
    let silent = TcpStream::connect(served.public).expect("it listens");
    // Accepted in order, so the silent one is too.
    let mut idle = client.connect(served.public, GATE);
    idle.send(&request);
    check(&idle.read_response(), 200);

    served.process.signal("TERM");
    served.process.wait_for(|line| line.contains("draining"));

    let mut late = Wire::over_tls(client.shake_on(silent, GATE).expect("a handshake"));
    for wire in [&mut idle, &mut late] {
        wire.send(&request);
        check_goes(wire, 200);
    }
    assert_eq!(served.process.wait().code, Some(0));
}

/// Begins a request over a connection of its own.
fn begin(served: &Served, request: Vec<u8>) -> Wire {
    let mut wire = Wire::connect(served.public);
    wire.send(request);
    wire
}

#[test]
fn a_drain_waits_for_whoever_waits_for_its_turn_at_an_upstream() {
    let installation =
        Installation::with(|setup| setup.upstream("concurrency = 1").upstream(r#"queue_timeout = "1m""#));
    let root = installation.init();
    let mut served = installation.serve();
    let request = served.caller(&root).render("GET", "/open/x", &[], b"");
    installation.upstream().hold();
    let mut first = begin(&served, request.clone());
    installation.upstream().wait_for_requests(1);
    let mut second = begin(&served, request);
    let queued = "portcullis_upstream_queue_length{upstream=\"main\"} 1\n";
    until("it waits", || served.ops_get("/metrics").text().contains(queued));

    served.process.signal("TERM");
    served.process.wait_for(|line| line.contains("draining"));
    installation.upstream().release();

    check_goes(&mut first, 200);
    check_goes(&mut second, 200);
    assert_eq!(served.process.wait().code, Some(0));
}

#[test]
fn a_drain_waits_for_uploads_and_for_requests_that_are_sent_again() {
    let (retried, other) = (Upstream::start(), Upstream::start());
    let installation =
        Installation::with(|setup| setup.targets([&retried, &other]).upstream(r#"balance = "first_available""#));
    let root = installation.init();
    let mut served = installation.serve();
    let caller = served.caller(&root);
    // The connection that its request is sent over ends under it, while the gate leaves.
    retried.reply_on("/open/retried", Reply::default().hold().close());
    let mut again = begin(&served, caller.render("GET", "/open/retried", &[], b""));
    retried.wait_for_requests(1);
    let length = [("Content-Length", "11")];
    let mut upload = begin(&served, caller.render("POST", "/api/v1/write", &length, b""));
    upload.send("half ");
    retried.wait_for_bytes(b"half ");

    served.process.signal("TERM");
    served.process.wait_for(|line| line.contains("draining"));
    retried.release();
    upload.send("a body");

    check_goes(&mut upload, 200);
    check_goes(&mut again, 200);
    assert_eq!(other.last().target, "/open/retried");
    assert_eq!(served.process.wait().code, Some(0));
}

#[test]
fn a_drain_waits_for_calls_of_the_key_api() {
    let installation = Installation::new();
    let root = installation.init();
    let mut served = installation.serve();
    let caller = served.caller(&root);
    let body = r#"{"name": "made while it leaves", "kind": "telemetry"}"#;
    let length = body.len().to_string();
    let fields = [("Content-Length", length.as_str()), ("Content-Type", "application/json")];
    let (first, rest) = body.split_at(9);
    let mut call = begin(&served, caller.render("POST", "/api/keys", &fields, b""));
    call.send(first);
    let running = "portcullis_requests_in_flight 1\n";
    until("the call runs", || served.ops_get("/metrics").text().contains(running));

    served.process.signal("TERM");
    served.process.wait_for(|line| line.contains("draining"));
    call.send(rest);

    check_goes(&mut call, 201);
    assert_eq!(served.process.wait().code, Some(0));
    let again = installation.serve();
    assert!(check(&again.caller(&root).get("/api/keys"), 200).text().contains("made while it leaves"));
}

#[test]
fn a_drain_that_a_second_signal_cuts_short_says_so_and_exits_with_1() {
    let installation = Installation::new();
    let root = installation.init();
    let mut served = installation.serve();
    installation.upstream().hold();
    let mut wire = Wire::connect(served.public);
    wire.send(served.caller(&root).render("GET", "/open/slow", &[], b""));
    installation.upstream().wait_for_requests(1);
    served.process.signal("TERM");
    served.process.wait_for(|line| line.contains("draining"));

    served.process.signal("TERM");

    let exit = served.process.wait();
    assert_eq!(exit.code, Some(1), "{exit:?}");
    assert!(exit.stderr.lines().last().is_some_and(|line| line.contains("a second signal: stopping")), "{exit:?}");
    let again = installation.serve();
    installation.upstream().release();
    check(&again.caller(&root).get("/open/x"), 200);
}

#[test]
fn the_service_manager_is_told_when_the_gate_serves_and_when_it_stops() {
    let installation = Installation::with(|setup| setup.option("shutdown", r#"delay = "40ms""#));
    let root = installation.init();
    let manager = ServiceManager::start();
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.args(installation.arguments("serve")).env("NOTIFY_SOCKET", manager.path());
    let process = Process::spawn(command);

    let ready = manager.next();
    assert!(ready.starts_with("READY=1\n"), "{ready}");
    let address = ready.lines().find_map(|line| line.strip_prefix("STATUS=serving on ")).expect("where it serves");
    let address = address.parse().expect("an address");
    check(&Caller::new(address, Some(&root)).get("/open/x"), 200);

    process.signal("TERM");
    let stopping = manager.next();
    assert!(stopping.starts_with("STOPPING=1\nEXTEND_TIMEOUT_USEC=50040000\n"), "{stopping}");
    assert_eq!(process.wait().code, Some(0));
}

#[test]
fn a_watchdog_is_fed() {
    let installation = Installation::new();
    installation.init();
    let manager = ServiceManager::start();
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.args(installation.arguments("serve")).env("NOTIFY_SOCKET", manager.path()).env("WATCHDOG_USEC", "100000");
    let process = Process::spawn(command);
    for _ in 0..3 {
        manager.wait_for("WATCHDOG=1");
    }
    process.signal("TERM");
    assert_eq!(process.wait().code, Some(0));
}

#[test]
fn sockets_that_were_passed_are_used_and_what_waits_in_them_is_served_by_the_next_process() {
    let installation = Installation::with(|setup| setup.option("listen", "workers = 3"));
    let root = installation.init();
    let ((public, address), (ops, ops_address)) = (listener(), listener());
    let mut early = Wire::connect(address);
    early.send(Caller::new(address, Some(&root)).render("GET", "/open/x", &[], b""));

    for _ in 0..2 {
        // In the other order: names count, not places.
        let served = installation.serve_passing(&[("ops", &ops), ("public", &public)]);
        assert_eq!((served.public, served.ops), (address, ops_address));
        check_goes(&mut early, 200);
        check(&served.ops_get("/-/ready"), 200);
        for _ in 0..20 {
            check(&served.caller(&root).get("/open/x"), 200);
        }
        served.process.signal("TERM");
        assert_eq!(served.process.wait().code, Some(0));
        // Nobody accepts now, and the connection is not refused.
        early = Wire::connect(address);
        early.send(Caller::new(address, Some(&root)).render("GET", "/open/x", &[], b""));
    }
}

#[test]
fn a_socket_that_is_of_no_use_is_refused_with_what_to_do() {
    let installation = Installation::new();
    installation.init();
    let (socket, address) = listener();
    let connected = TcpStream::connect(address).expect("it listens");
    let datagrams = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    #[track_caller]
    fn check_refused(installation: &Installation, sockets: &[(&str, &dyn AsFd)], told: &str) {
        let exit = Process::spawn_as_set_up(installation.command_passing(sockets)).wait();
        assert!(exit.code == Some(1) && exit.stderr.contains(told), "{exit:?}");
    }
    check_refused(&installation, &[("portcullis.socket", &socket)], "name it public or ops (FileDescriptorName=)");
    check_refused(&installation, &[("public", &socket), ("public", &socket)], "two sockets named public");
    check_refused(&installation, &[("public", &connected)], "does not listen");
    check_refused(&installation, &[("ops", &datagrams)], "the ops socket");
}

#[test]
fn sockets_that_were_passed_to_another_process_are_left_alone() {
    let installation = Installation::new();
    let root = installation.init();
    let (socket, address) = listener();
    let mut program = vec!["env".to_owned(), "LISTEN_PID=1".to_owned(), env!("CARGO_BIN_EXE_portcullis").to_owned()];
    program.extend(installation.arguments("serve"));
    let mut process = Process::spawn_as_set_up(passing(&program, &[("public", &socket)]));
    let line = process.wait_for(|line| line.contains("listening"));
    let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    let public: SocketAddr = line["public"].as_str().and_then(|public| public.parse().ok()).expect("an address");
    assert_ne!(public, address);
    check(&Caller::new(public, Some(&root)).get("/open/x"), 200);
}

#[test]
fn restarts_under_load_fail_no_request() {
    let (restarts, per_second) = wanted_restarts();
    let backend = Backend::start();
    let installation = Installation::with(|setup| setup.upstream_url(&backend.url()).option("listen", "workers = 2"));
    let root = installation.init();
    let (socket, address) = listener();
    socket2::SockRef::from(&socket).listen(4_096).expect("a longer backlog");
    let mut served = installation.serve_passing(&[("public", &socket)]);
    let reader = served.caller(&root).create(&["monitor:read"]);
    let pace = Pace { kept: 16, fresh: 4, pausing: 4, per_second };
    let load = Load::start(address, "/open/x", &reader.authorization(), pace);
    for _ in 0..restarts {
        served = restart(&installation, served, &socket, per_second);
    }
    let tally = load.stop();
    println!("{restarts} restarts, {tally:?}");
    assert_eq!(tally.failed, 0, "{tally:?}");
    assert!(tally.connections > (restarts * pace.kept) as u64, "{tally:?}");
}

#[test]
fn restarts_under_load_over_http2_and_tls_fail_no_request() {
    let (restarts, per_second) = wanted_restarts();
    let authority = Authority::new("Test CA");
    let certificate = authority.server("gate", &[GATE]);
    let backend = Backend::start();
    let installation = Installation::with(|setup| {
        setup
            .upstream_url(&backend.url())
            .option("listen", "workers = 2")
            .option("tls.public", &format!("certificates = [{}]", certificate.toml()))
    });
    // A key for the load without a call of the API: callers here do without TLS.
    let root = installation.init();
    let (socket, address) = listener();
    let mut served = installation.serve_passing(&[("public", &socket)]);
    let pace = H2Pace { connections: 8, streams: 5, per_second };
    let authorization = Caller::new(address, Some(&root)).authorization();
    let load = H2Load::start(address, &TlsClient::trusting(&authority), "/open/x", &authorization, pace);
    for _ in 0..restarts {
        served = restart(&installation, served, &socket, per_second);
    }
    let tally = load.stop();
    println!("{restarts} restarts, {tally:?}");
    assert_eq!(tally.failed, 0, "{tally:?}");
    assert!(tally.connections > restarts as u64 * u64::from(pace.connections), "{tally:?}");
}

/// How many restarts, under how many requests a second.
fn wanted_restarts() -> (usize, u32) {
    let Ok(text) = std::env::var("PORTCULLIS_RESTARTS") else { return RESTARTS };
    let numbers = text.split_once('@');
    numbers
        .and_then(|(restarts, per_second)| Some((restarts.parse().ok()?, per_second.parse().ok()?)))
        .expect("RESTARTS@REQUESTS_PER_SECOND")
}

/// Ends a gate once it has served for about a second, and starts the next on the same socket.
#[track_caller]
fn restart(installation: &Installation, served: Served, socket: &TcpListener, per_second: u32) -> Served {
    wait_for_requests(served.ops, u64::from(per_second));
    served.process.signal("TERM");
    let exit = served.process.wait();
    assert_eq!(exit.code, Some(0), "{exit:?}");
    installation.serve_passing(&[("public", socket)])
}

/// Waits until a gate that has just started has answered so many.
#[track_caller]
fn wait_for_requests(ops: SocketAddr, count: u64) {
    let deadline = Instant::now() + DEADLINE;
    let operator = Caller::new(ops, None).keep_alive();
    loop {
        let page = operator.get("/metrics").text();
        let sample = "portcullis_admissions_total{outcome=\"admitted\"} ";
        let admitted = page.lines().find_map(|line| line.strip_prefix(sample)?.parse::<u64>().ok());
        if admitted.expect("the family is always there") >= count {
            return;
        }
        assert!(Instant::now() < deadline, "{admitted:?} requests of {count}");
    }
}

/// The settings of a unit file: section, name and value, in order.
fn unit(name: &str) -> Vec<(String, String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut section = String::new();
    let mut settings = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match (line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')), line.split_once('=')) {
            (Some(name), _) => section = name.to_owned(),
            (None, Some((name, value))) => settings.push((section.clone(), name.to_owned(), value.to_owned())),
            (None, None) => panic!("{}: {line}", path.display()),
        }
    }
    settings
}

#[test]
fn the_shipped_units_start_the_gate_on_their_socket() {
    let (service, socket) = (unit("portcullis.service"), unit("portcullis.socket"));
    let values = |unit: &[(String, String, String)], section: &str, name: &str| -> Vec<String> {
        let of_name = |(in_section, of, _): &&(String, String, String)| in_section == section && of == name;
        unit.iter().filter(of_name).map(|(_, _, value)| value.clone()).collect()
    };
    let serve = "/usr/bin/portcullis serve --config /etc/portcullis/portcullis.toml";
    assert_eq!(values(&service, "Service", "Type"), ["notify"]);
    assert_eq!(values(&service, "Service", "ExecStart"), [serve]);
    assert_eq!(values(&service, "Service", "ExecReload").len(), 2);
    assert_eq!(values(&service, "Unit", "Requires"), ["portcullis.socket"]);
    assert_eq!(values(&socket, "Socket", "FileDescriptorName"), ["public"]);
    assert_eq!(values(&socket, "Socket", "ListenStream"), ["0.0.0.0:8080"]);
}

#[test]
fn systemd_finds_nothing_wrong_with_the_shipped_units() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        println!("SKIPPED: systemd-analyze is not installed");
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut command = Command::new("systemd-analyze");
    command.args(["verify", "--man=no", "--recursive-errors=no"]);
    for name in ["portcullis.service", "portcullis.socket"] {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name));
        // It looks for the program too.
        let text = text.expect("readable").replace("/usr/bin/portcullis", env!("CARGO_BIN_EXE_portcullis"));
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("writable");
        command.arg(path);
    }
    let exit = Process::spawn(command).wait();
    assert_eq!((exit.code, exit.stderr.as_str()), (Some(0), ""), "{exit:?}");
}
