//! What a stranger gets back for what it sends.

use crate::harness::raw_h2::{END_HEADERS, END_STREAM, HEADERS, RST_STREAM, frame};
use crate::harness::{Answer, Gate, RawH2, Wire};

/// A message takes at least one packet, and this much of it before its first byte: IPv4, TCP and its timestamps.
const PACKET: usize = 20 + 20 + 12;
const RATIO_MAX: usize = 10;

#[track_caller]
fn check(gate: &Gate, status: u16, request: &str) {
    let mut wire: Wire = gate.raw();
    let answer: Answer = wire.send(request).read_response();
    let (sent, got) = (request.len(), answer.raw.len());
    println!("{status}: {got} bytes for {sent}, {}.{}", got / sent, got * 10 / sent % 10);
    assert_eq!(answer.status, status, "{answer:?}");
    assert!(got + PACKET <= RATIO_MAX * (sent + PACKET), "{got} bytes for {sent}: {answer:?}");
    if sent >= 40 {
        assert!(got <= RATIO_MAX * sent, "{got} bytes for {sent}: {answer:?}");
    }
}

#[test]
fn refusals_of_strangers_are_at_most_ten_times_as_long_as_their_requests() {
    let gate = Gate::with(|setup| {
        let setup = setup.route("POST /public/small", r#"{ require = "public", max_body = "10B" }"#);
        let setup = setup.route("GET /public/rare", r#"{ require = "public", rate = "1/h", burst = 1 }"#);
        setup.option("limits", r#"failures = { rate = "1/h", burst = 3 }"#)
    });
    let long = "x".repeat(40_000);
    check(&gate, 401, "GET /api/v1/query HTTP/1.1\r\nHost: t\r\n\r\n");
    check(&gate, 401, "GET / HTTP/1.1\r\nHost: t\r\n\r\n");
    check(&gate, 401, "GET / HTTP/1.0\r\n\r\n");
    check(&gate, 401, "GET /api/keys HTTP/1.1\r\nHost: t\r\n\r\n");
    check(&gate, 401, "GET /open/x HTTP/1.1\r\nHost: t\r\nAuthorization: Basic eDp5\r\n\r\n");
    check(&gate, 400, "GET //x HTTP/1.1\r\nHost: gate.test\r\nA: b\r\n\r\n");
    check(&gate, 400, "GET /x HTTP/1.1\r\nHost: a b\r\n\r\n");
    check(&gate, 401, "PUT /public/x HTTP/1.1\r\nHost: gate.test\r\n\r\n");
    check(&gate, 413, "POST /public/small HTTP/1.1\r\nHost: gate.test\r\nContent-Length: 11\r\n\r\n");
    check(&gate, 414, &format!("GET /{} HTTP/1.1\r\nHost: gate.test\r\n\r\n", &long[..9_000]));
    check(&gate, 431, &format!("GET /x HTTP/1.1\r\nHost: gate.test\r\nA: {long}\r\n\r\n"));
    check(&gate, 200, "GET /public/rare HTTP/1.1\r\nHost: gate.test\r\n\r\n");
    check(&gate, 429, "GET /public/rare HTTP/1.1\r\nHost: gate.test\r\n\r\n");
    for _ in 0..3 {
        gate.raw().send("GET /open/x HTTP/1.1\r\nHost: t\r\nAuthorization: Basic eDp5\r\n\r\n").read_response();
    }
    check(&gate, 429, "GET /api/v1/query HTTP/1.1\r\nHost: gate.test\r\n\r\n");
}

/// Bytes got for each byte sent, without and with the headers of one packet each way for each request.
fn ratios(sent: usize, got: usize) -> (usize, usize) {
    (got.div_ceil(sent), (got + PACKET).div_ceil(sent + PACKET))
}

/// The smallest requests that are legal. Many of them may share a packet, so the first ratio is the bound for whoever does
/// that: what names the fault takes more room than they do.
#[test]
fn the_smallest_requests_are_refused_with_a_few_hundred_bytes_on_every_wire() {
    const REQUESTS: usize = 20;
    let gate = Gate::start();
    let request = "GET / HTTP/1.1\r\nHost:t\r\n\r\n";
    let mut wire = gate.raw();
    for _ in 0..REQUESTS {
        let answer = wire.send(request).read_response();
        assert_eq!(answer.status, 401, "{answer:?}");
        assert!(!answer.says_close(), "{answer:?}");
        let (bare, packed) = ratios(request.len(), answer.raw.len());
        println!("HTTP/1.1: {} bytes for {}: {bare} times, {packed} with packets", answer.raw.len(), request.len());
        assert!(bare <= 17 && packed <= 6, "{} bytes for {}: {answer:?}", answer.raw.len(), request.len());
    }

    let mut raw = RawH2::connect(gate.public());
    // GET, http, /, and an authority of one character, which the second request names by its place in the table.
    let first = [&[0x82, 0x86, 0x84, 0x41, 1, b't'][..]].concat();
    let others = [0x82, 0x86, 0x84, 0xbe];
    let mut last = (0, 0);
    for number in 0..REQUESTS {
        let stream = u32::try_from(number * 2 + 1).expect("a small number");
        let request = frame(HEADERS, END_HEADERS | END_STREAM, stream, if number == 0 { &first } else { &others });
        raw.send(&request);
        let mut got = 0;
        loop {
            let frame = raw.read().expect("an answer");
            got += 9 + frame.payload.len();
            assert_ne!(frame.kind, RST_STREAM, "refused without a word");
            if frame.stream == stream && frame.flags & END_STREAM != 0 {
                break;
            }
        }
        let (bare, packed) = ratios(request.len(), got);
        println!("HTTP/2: {got} bytes for {}: {bare} times, {packed} with packets", request.len());
        last = (bare, packed);
    }
    assert!(last.0 <= 24 && last.1 <= 6, "{last:?}");
}
