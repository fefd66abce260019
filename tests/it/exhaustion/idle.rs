//! Connections that wait for their client's next request: what each takes, and a machine that has little to give.
//!
//! `PORTCULLIS_IDLE_CLIENTS=10000` sets how many there are.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::bodies::exchange;
use super::{MIB, Rig};
use crate::harness::raw_h2::{END_HEADERS, HEADERS, block, head};
use crate::harness::{DEADLINE, Installation, Probe, RawH2, Tank, Tongue, Zeros, check, until};

const IDLE: usize = 500;
/// Of one address, which has half of all connections at most.
const OF_ADDRESS: usize = 2_000;
/// Over HTTP/1.1 in clear text, a while after one request.
const EACH_MAX: u64 = 8 * 1_024;
/// Over HTTP/2, the connection to the upstream included, which each has to itself.
const REQUEST_MAX: u64 = 64 * 1_024;
const LIMIT: u64 = 64 * MIB;
const STREAMED: u64 = 128 * MIB;

fn idle_clients() -> usize {
    std::env::var("PORTCULLIS_IDLE_CLIENTS").map_or(IDLE, |count| count.parse().expect("a number"))
}

/// Connections that were served once.
#[track_caller]
fn idle(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let connect = |number: usize| {
        let from = Ipv4Addr::new(127, 0, 1, u8::try_from(number / OF_ADDRESS + 1).expect("a few addresses"));
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from((from, 0)).into()).expect("an address of this machine");
        socket.connect(&address.into()).expect("the gate accepts connections");
        socket.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        let mut stream = TcpStream::from(socket);
        stream.write_all(b"GET /public/x HTTP/1.1\r\nHost: gate.test\r\n\r\n").expect("taken");
        let mut answer = [0; 512];
        let count = stream.read(&mut answer).expect("an answer");
        assert!(answer[..count].starts_with(b"HTTP/1.1 200 "), "{:?}", String::from_utf8_lossy(&answer[..count]));
        stream
    };
    (0..count).map(connect).collect()
}

#[test]
fn idle_connections_take_little_memory_each() {
    let count = idle_clients();
    let rig = Rig::with(|setup| setup.option("client", "connections_max = 20000"));
    let good = rig.served.caller(&rig.root);
    drop(idle(rig.served.public, 100));
    let before = rig.probe.memory();

    let taken = idle(rig.served.public, count);

    let each = || rig.probe.memory().saturating_sub(before) / count as u64;
    println!("{count} idle connections: {} bytes each at once", each());
    until("each has given back what its request needed", || each() < EACH_MAX);
    println!("{count} idle connections: {} bytes each", each());
    check(&good.get("/open/x"), 200);
    drop(taken);
}

/// Catalogue G29.
#[test]
fn idle_requests_over_http2_take_little_memory_each_and_leave_with_their_connections() {
    const CONNECTIONS: usize = 5;
    const STREAMS: usize = 100;
    let tank = Tank::start(Tongue::Http1);
    let rig = Rig::with(|setup| setup.upstream_url(&tank.url()));
    let good = rig.served.caller(&rig.root);
    check(&good.get("/open/x"), 200);
    let authorization = good.authorization();
    let request = block(&[&head("POST", "/api/v1/write")[..], &[("authorization", &authorization)]].concat());
    let (before, begun) = (rig.probe.memory(), tank.requests());

    let open = |_| {
        let mut raw = RawH2::connect(rig.served.public);
        for number in 0..STREAMS {
            raw.frame(HEADERS, END_HEADERS, u32::try_from(number * 2 + 1).expect("a small number"), &request);
        }
        raw
    };
    let taken: Vec<RawH2> = (0..CONNECTIONS).map(open).collect();
    let wanted = CONNECTIONS * STREAMS;
    until("all of them have reached the upstream", || tank.requests() - begun == wanted as u64);

    let each = rig.probe.memory().saturating_sub(before) / wanted as u64;
    println!("{wanted} idle requests: {each} bytes each");
    assert!(each < REQUEST_MAX, "{each} bytes each");
    check(&good.get("/open/x"), 200);
    drop(taken);
    until("they have left", || rig.served.ops_get("/metrics").text().contains("portcullis_http2_streams 0\n"));
}

/// A group of processes that together may have so much memory; `None` where this process may make none.
fn memory_group(bytes: u64) -> Option<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path_of = |controller: &str| {
        let line = groups.lines().find(|line| line.split(':').nth(1) == Some(controller))?;
        line.splitn(3, ':').nth(2).map(|path| path.trim_start_matches('/').to_owned())
    };
    let name = format!("portcullis-test-{}", std::process::id());
    let (root, path, limit) = match path_of("memory") {
        Some(path) => ("/sys/fs/cgroup/memory", path, "memory.limit_in_bytes"),
        None => ("/sys/fs/cgroup", path_of("")?, "memory.max"),
    };
    let group = Path::new(root).join(path).join(name);
    fs::create_dir(&group).ok()?;
    let limited = fs::write(group.join(limit), bytes.to_string());
    if limited.is_err() {
        let _ = fs::remove_dir(&group);
    }
    limited.ok().map(|()| group)
}

/// Catalogue I14.
#[test]
fn gate_with_little_memory_goes_on_beside_idle_connections_and_large_bodies() {
    let Some(group) = memory_group(LIMIT) else { return println!("SKIPPED: no memory cgroup can be made here") };
    let tank = Tank::start(Tongue::Http1);
    let installation =
        Installation::with(|setup| setup.upstream_url(&tank.url()).option("requests", r#"max_body = "off""#));
    let root = installation.init();
    let mut command = Command::new("sh");
    command.args(["-c", r#"echo $$ > "$1/cgroup.procs" && shift && exec "$@""#, "sh"]).arg(&group);
    command.args(installation.program("serve"));
    let mut served = installation.serve_by(command);
    let probe = Probe::of(served.process.pid());
    let caller = served.caller(&root);
    let request = |method: &str, path: String, body: u64| {
        let request = http::Request::builder().method(method).uri(path).header("host", "gate.test");
        request.header("authorization", caller.authorization()).body(Zeros::new(body)).expect("a request")
    };

    let taken = idle(served.public, idle_clients());
    let down = exchange(served.public, Tongue::Http1, request("GET", format!("/open/give/{STREAMED}"), 0));
    exchange(served.public, Tongue::Http1, request("POST", "/api/v1/write".into(), STREAMED));

    assert_eq!((down, tank.taken()), (STREAMED, STREAMED));
    check(&caller.get("/open/x"), 200);
    check(&caller.post("/api/keys", r#"{"name": "x", "kind": "telemetry"}"#), 201);
    println!("{} idle connections and {STREAMED} bytes each way: {} KiB", taken.len(), probe.peak() / 1_024);
    drop(taken);
    served.process.kill();
    fs::remove_dir(&group).expect("an empty group");
}
