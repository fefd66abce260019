//! What a stranger gets back for what it sends.

use crate::harness::{Answer, Gate, Wire};

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
