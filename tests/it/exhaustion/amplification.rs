//! What a stranger gets back for what it sends.

use crate::harness::raw_h2::{DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, frame};
use crate::harness::{Answer, Gate, H2Client, RawH2, Wire, check_problem};

/// A message takes at least one packet, and this much of it before its first byte: IPv4, TCP and its timestamps.
const PACKET: usize = 20 + 20 + 12;
const RATIO_MAX: usize = 10;
const REQUESTS: usize = 20;

#[track_caller]
fn check(gate: &Gate, status: u16, request: &str) {
    let mut wire: Wire = gate.raw();
    let answer: Answer = wire.send(request).read_response();
    let (sent, got) = (request.len(), answer.raw.len());
    println!("{status}: {got} bytes for {sent}, {}.{}", got / sent, got * 10 / sent % 10);
    assert_eq!(answer.status, status, "{answer:?}");
    // Whoever loses the connection has to send packets for another one.
    let packet = if answer.says_close() { PACKET } else { 0 };
    assert!(got + packet <= RATIO_MAX * (sent + packet), "{got} bytes for {sent}: {answer:?}");
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
    check(&gate, 401, "GET / HTTP/1.0\r\nConnection:keep-alive\r\n\r\n");
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

/// Many of them may share a packet, and what names the fault takes more room than they do.
#[test]
fn the_smallest_requests_are_refused_with_at_most_ten_times_their_bytes_on_every_wire() {
    let gate = Gate::start();
    let request = "GET / HTTP/1.1\r\nHost:t\r\n\r\n";
    let mut wire = gate.raw();
    for _ in 0..REQUESTS {
        let answer = wire.send(request).read_response();
        assert_eq!(answer.status, 401, "{answer:?}");
        assert!(!answer.says_close(), "{answer:?}");
        println!("HTTP/1.1: {} bytes for {}", answer.raw.len(), request.len());
        assert!(answer.raw.len() <= RATIO_MAX * request.len(), "for {}: {answer:?}", request.len());
        // What it needs to go on is there all the same.
        assert!(answer.header("www-authenticate").is_some(), "{answer:?}");
    }

    // GET, http, /, and an authority of one character, which the second request names by its place in the table.
    check_streams(&gate, &[&[0x82, 0x86, 0x84, 0x41, 1, b't'][..]].concat(), &[0x82, 0x86, 0x84, 0xbe]);
}

/// The preface and the frames of settings that [`RawH2`] has sent once it was answered.
const GREETING: usize = 24 + 9 + 6 + 9;

fn request(number: usize, flags: u8, first: &[u8], others: &[u8]) -> Vec<u8> {
    let stream = u32::try_from(number * 2 + 1).expect("a small number");
    frame(HEADERS, END_HEADERS | flags, stream, if number == 0 { first } else { others })
}

/// Reads so many answers to their ends. Returns the bytes of them all, and those of the last one's body.
#[track_caller]
fn answers(raw: &mut RawH2, count: usize) -> (usize, usize) {
    let (mut ended, mut got, mut body) = (0, 0, 0);
    while ended < count {
        let frame = raw.read().expect("an answer");
        got += if frame.stream > 0 { 9 + frame.payload.len() } else { 0 };
        match frame.kind {
            HEADERS => body = 0,
            DATA => body += frame.payload.len(),
            _ => {}
        }
        // On stream 0 the flag is another one's.
        ended += usize::from(frame.stream > 0 && frame.kind != RST_STREAM && frame.flags & END_STREAM != 0);
    }
    (got, body)
}

/// Sends so many requests that whatever the connection's begin has paid for is used up, one after the other and at once.
#[track_caller]
fn check_streams(gate: &Gate, first: &[u8], others: &[u8]) {
    let mut raw = RawH2::connect(gate.public());
    let (mut sent, mut got) = (GREETING, 0);
    for number in 0..REQUESTS {
        let request = request(number, END_STREAM, first, others);
        raw.send(&request);
        sent += request.len();
        got += answers(&mut raw, 1).0;
        assert!(got <= RATIO_MAX * sent, "{got} bytes for {sent} after {} requests", number + 1);
    }
    println!("HTTP/2: {got} bytes for {sent}");

    // The second time, with a frame that is announced and never comes.
    for behind in [&[][..], &[0, 0x40, 0, 0xfa, 0, 0, 0, 0, 0]] {
        let mut raw = RawH2::connect(gate.public());
        let burst: Vec<u8> = (0..REQUESTS).flat_map(|number| request(number, END_STREAM, first, others)).collect();
        let burst = [&burst, behind].concat();
        raw.send(&burst);
        let (got, sent) = (answers(&mut raw, REQUESTS).0, GREETING + burst.len());
        println!("HTTP/2 at once: {got} bytes for {sent}");
        assert!(got <= RATIO_MAX * sent, "{got} bytes for {sent} at once");
    }
}

/// A refusal that closes a connection over HTTP/1 ends nothing but its stream here.
#[test]
fn streams_that_are_malformed_are_refused_with_at_most_ten_times_their_bytes() {
    let gate = Gate::start();
    // GET, http, //, and an authority of one character; then both by their places in the table.
    check_streams(&gate, &[&[0x82, 0x86, 0x44, 2, b'/', b'/', 0x41, 1, b't'][..]].concat(), &[0x82, 0x86, 0xbf, 0xbe]);
}

/// Over HTTP/2 a field that is sent again takes one byte, credentials too where the client wants that.
#[test]
fn a_key_holder_is_told_in_full_what_is_missing_however_short_its_requests() {
    let gate = Gate::with(|setup| setup.route("GET /a", r#"{ any = ["monitor:write"] }"#));
    let authorization = gate.root().create(&["monitor:read"]).authorization();
    let length = u8::try_from(authorization.len()).ok().filter(|length| *length < 127).expect("a short text");
    // GET, http, /a, an authority of one character, the key; then all of them by their places in the table.
    let first = [&[0x82, 0x86, 0x44, 2, b'/', b'a', 0x41, 1, b't', 0x57, length], authorization.as_bytes()].concat();
    let mut raw = RawH2::connect(gate.public());
    for number in 0..REQUESTS {
        raw.send(request(number, END_STREAM, &first, &[0x82, 0x86, 0xc0, 0xbf, 0xbe]));
        let (_, body) = answers(&mut raw, 1);
        assert!(body > 100, "{body} bytes of body for request {number}");
    }
}

#[test]
fn a_grpc_refusal_keeps_its_media_type_and_status_however_short_its_request() {
    let gate = Gate::start();
    let client = H2Client::connect(gate.public());
    let mut has_message = true;
    for _ in 0..3 * REQUESTS {
        let answer = client.request("POST", "/", &[("content-type", "application/grpc")], b"");
        assert_eq!(answer.header("content-type"), Some("application/grpc"), "{answer:?}");
        assert_eq!(answer.header("grpc-status"), Some("16"), "{answer:?}");
        has_message = answer.header("grpc-message").is_some();
    }
    assert!(!has_message, "it was never short of room");
}

#[test]
fn a_stranger_over_http2_is_told_in_full_until_it_was_told() {
    let gate = Gate::start();
    let client = H2Client::connect(gate.public());
    let answers: Vec<Answer> = (0..REQUESTS).map(|_| client.request("GET", "/a", &[], b"")).collect();
    check_problem(&answers[0], 401, "unauthenticated");
    let last = &answers[REQUESTS - 1];
    assert_eq!((last.status, last.body.len()), (401, 0), "{last:?}");
    assert!(last.header("www-authenticate").is_some(), "{last:?}");
    check_problem(&H2Client::connect(gate.public()).request("GET", "/a", &[], b""), 401, "unauthenticated");
}
