//! Bodies in pieces of one byte towards a receiver that takes nothing: what holding them costs is bounded too.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use super::{MIB, Rig, narrow};
use crate::harness::raw_h2::{RawH2, SETTINGS, Seen, WINDOW_UPDATE, frame};
use crate::harness::{Flood, Gate, H2Flood, Reply, Tank, Tongue, Wire, check};

const INITIAL_WINDOW_SIZE: u16 = 4;
const STREAMS: u32 = 20;

#[test]
fn responses_in_pieces_of_a_byte_that_nobody_takes_cost_little_memory() {
    let rig = Rig::with(|setup| setup.option("client", r#"write_timeout = "2s""#));
    let caller = rig.served.caller(&rig.root);
    let pieces = "1\r\nx\r\n".repeat(10_000);
    let endless = Reply::bytes("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").forever(pieces);
    rig.installation.upstream().reply_on("/open/drops", endless);
    let mut raw = RawH2::on(narrow(rig.served.public), &[(INITIAL_WINDOW_SIZE, 1 << 30)]);
    raw.window_update(0, 1 << 30);
    let before = rig.probe.memory();
    rig.probe.forget_peak();

    for stream in 0..STREAMS {
        raw.get(stream * 2 + 1, &caller, "/open/drops");
    }
    rig.installation.upstream().wait_for_closed(STREAMS as usize);

    let grown = rig.probe.peak() - before;
    println!("{} KiB a stream", grown / 1_024 / u64::from(STREAMS));
    assert!(grown < 16 * MIB, "{grown} bytes for {STREAMS} streams");
}

#[test]
fn requests_in_pieces_of_a_byte_that_their_upstream_does_not_take_cost_little_memory() {
    const WIDE: [u8; 4] = (1_u32 << 30).to_be_bytes();
    let windows = [
        frame(SETTINGS, 0, 0, &[&INITIAL_WINDOW_SIZE.to_be_bytes()[..], &WIDE].concat()),
        frame(WINDOW_UPDATE, 0, 0, &WIDE),
    ];
    // From its first request on it reads nothing.
    let upstream = H2Flood::start(Flood::of([], 0).after(windows.concat()).deaf());
    let rig = Rig::with(|setup| {
        let setup = setup.upstream_url(&format!("http://{}", upstream.address())).upstream(r#"protocol = "http2""#);
        setup.option("requests", r#"timeout = "3s""#)
    });
    let caller = rig.served.caller(&rig.root);
    let request = caller.render("POST", "/api/v1/write", &[("Transfer-Encoding", "chunked")], b"");
    let pieces = "1\r\nx\r\n".repeat(10_000);
    let before = rig.probe.memory();
    rig.probe.forget_peak();

    std::thread::scope(|scope| {
        for _ in 0..STREAMS {
            scope.spawn(|| {
                let mut socket = TcpStream::connect(rig.served.public).expect("a connection");
                socket.write_all(&request).expect("room for a head");
                while socket.write_all(pieces.as_bytes()).is_ok() {}
            });
        }
    });

    let grown = rig.probe.peak() - before;
    println!("{} KiB a stream", grown / 1_024 / u64::from(STREAMS));
    assert!(grown < 16 * MIB, "{grown} bytes for {STREAMS} streams");
}

/// Catalogue: each chunk has a cost of its own, which has to be a small one.
#[test]
fn uploads_in_chunks_of_a_byte_cost_little_processor_time() {
    const CHUNKS: u32 = 100_000;
    const EACH_MAX: Duration = Duration::from_micros(60);
    let tank = Tank::start(Tongue::Http1);
    let rig = Rig::with(|setup| setup.upstream_url(&tank.url()));
    let caller = rig.served.caller(&rig.root);
    let head = [("Transfer-Encoding", "chunked"), ("Connection", "keep-alive")];
    let body = "1\r\nx\r\n".repeat(CHUNKS as usize) + "0\r\n\r\n";
    let mut wire = Wire::connect(rig.served.public);
    let cpu = rig.probe.cpu();

    wire.send(caller.render("POST", "/api/v1/write", &head, b"")).send(body);

    check(&wire.read_response(), 200);
    let cpu = rig.probe.cpu() - cpu;
    assert_eq!(tank.taken(), u64::from(CHUNKS));
    println!("{:?} a chunk", cpu / CHUNKS);
    assert!(cpu / CHUNKS < EACH_MAX, "{cpu:?} for {CHUNKS} chunks");
}

#[test]
fn response_in_small_pieces_arrives_whole_and_in_order() {
    let gate = Gate::start();
    let reader = gate.key(&["monitor:read"]);
    let body: Vec<u8> = (0..10_000_u32).map(|at| (at % 251) as u8).collect();
    let chunks = body.iter().flat_map(|byte| [b'1', b'\r', b'\n', *byte, b'\r', b'\n']);
    let chunks = chunks.chain(*b"0\r\nx-after: all\r\n\r\n").collect::<Vec<_>>();
    let reply = Reply::bytes("HTTP/1.1 200 OK\r\nTrailer: x-after\r\nTransfer-Encoding: chunked\r\n\r\n");
    gate.upstream().reply_on("/api/v1/drops", reply.then(chunks));
    let mut raw = RawH2::on(narrow(gate.public()), &[(INITIAL_WINDOW_SIZE, 1 << 30)]);
    raw.window_update(0, 1 << 30).get(1, &reader, "/api/v1/drops");

    assert_eq!(raw.outcome(1), Seen::Answer { status: 200, body });
}
