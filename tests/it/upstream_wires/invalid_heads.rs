//! Answers over HTTP/2 that no client may get.

use crate::harness::h2_frames::{DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, fields, frame};
use crate::harness::*;

type Fields<'f> = &'f [(&'f str, &'f [u8])];

const OK: Fields<'static> = &[(":status", b"200")];

fn gate_to(upstream: &H2Frames) -> Gate {
    Gate::with(|setup| setup.upstream_url(&format!("http://{}", upstream.address())).upstream(r#"protocol = "http2""#))
}

fn head(stream: u32, flags: u8, block: Fields<'_>) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | flags, stream, &fields(block))
}

/// Answers the first request with `answer`, for its stream, and all others with an empty 200.
fn once(answer: impl Fn(u32) -> Vec<u8> + Send + Sync + 'static) -> H2Frames {
    let is_first = std::sync::atomic::AtomicBool::new(true);
    H2Frames::start(move |_, stream| {
        if is_first.swap(false, std::sync::atomic::Ordering::SeqCst) {
            return Some(answer(stream));
        }
        Some(head(stream, END_STREAM, OK))
    })
}

/// Nothing at all comes over the first connection, not even an answer to a ping.
fn silent_at_first() -> H2Frames {
    H2Frames::start(|connection, stream| Some(if connection == 0 { Vec::new() } else { head(stream, END_STREAM, OK) }))
}

#[test]
fn a_head_that_is_not_valid_is_502() {
    let long = "x".repeat(80_000).into_bytes();
    let many: Vec<String> = (0..300).map(|number| format!("x-{number}")).collect();
    let many: Vec<(&str, &[u8])> =
        OK.iter().copied().chain(many.iter().map(|name| (name.as_str(), &b"1"[..]))).collect();
    let cases: &[(&str, Fields<'_>)] = &[
        ("no status", &[("x-a", b"1")]),
        ("status 99", &[(":status", b"99")]),
        ("status 600", &[(":status", b"600")]),
        ("status 2OO", &[(":status", b"2OO")]),
        ("two statuses", &[(":status", b"200"), (":status", b"200")]),
        ("a switch of protocols", &[(":status", b"101")]),
        ("an interim response that ends the stream", &[(":status", b"103")]),
        ("a pseudo-header behind a field", &[("x-a", b"1"), (":status", b"200")]),
        ("an upper-case name", &[(":status", b"200"), ("X-A", b"1")]),
        ("an empty name", &[(":status", b"200"), ("", b"1")]),
        ("a name with a blank", &[(":status", b"200"), ("x a", b"1")]),
        ("a line end in a value", &[(":status", b"200"), ("x-a", b"1\r\nx-b: 2")]),
        ("a bare line feed in a value", &[(":status", b"200"), ("x-a", b"1\n2")]),
        ("a NUL in a value", &[(":status", b"200"), ("x-a", b"1\0")]),
        ("connection", &[(":status", b"200"), ("connection", b"close")]),
        ("keep-alive", &[(":status", b"200"), ("keep-alive", b"timeout=5")]),
        ("transfer-encoding", &[(":status", b"200"), ("transfer-encoding", b"chunked")]),
        ("upgrade", &[(":status", b"200"), ("upgrade", b"h2c")]),
        ("two lengths", &[(":status", b"204"), ("content-length", b"1"), ("content-length", b"2")]),
        ("the same length twice", &[(":status", b"204"), ("content-length", b"0"), ("content-length", b"0")]),
        ("a length with a sign", &[(":status", b"204"), ("content-length", b"+0")]),
        ("a length with a leading zero", &[(":status", b"204"), ("content-length", b"00")]),
        ("an empty length", &[(":status", b"204"), ("content-length", b"")]),
        ("a length without a body", &[(":status", b"200"), ("content-length", b"5")]),
        ("80 kB of fields", &[(":status", b"200"), ("x-a", &long)]),
        ("300 fields", &many),
    ];
    for (case, block) in cases {
        let bytes = fields(block);
        let upstream = once(move |stream| {
            // What is longer than a frame goes on in CONTINUATION frames.
            let mut pieces = bytes.chunks(16_384).peekable();
            let mut frames = Vec::new();
            let mut kind = HEADERS;
            while let Some(piece) = pieces.next() {
                let ends_headers = if pieces.peek().is_none() { END_HEADERS } else { 0 };
                let ends_stream = if kind == HEADERS { END_STREAM } else { 0 };
                frames.extend(frame(kind, ends_headers | ends_stream, stream, piece));
                kind = 9;
            }
            frames
        });
        let gate = gate_to(&upstream);
        let answer = gate.root().get("/open/x");
        assert_eq!((answer.status, answer.header("content-type")), (502, Some("application/problem+json")), "{case}");
        assert_eq!(answer.json()["code"], "upstream_invalid", "{case}: {answer:?}");
        let next = gate.root().get("/open/x");
        assert_eq!(next.status, 200, "after {case}");
    }
}

#[test]
fn a_body_that_is_not_as_long_as_its_head_says_is_cut() {
    let cases: [(&str, &[u8]); 2] = [("4", b"12345"), ("6", b"12345")];
    for (length, body) in cases {
        let upstream = once(move |stream| {
            let block: Fields<'_> = &[(":status", b"200"), ("content-length", length.as_bytes())];
            [head(stream, 0, block), frame(DATA, END_STREAM, stream, body)].concat()
        });
        let gate = gate_to(&upstream);
        let mut wire = gate.raw();
        wire.send("GET /public/x HTTP/1.1\r\nHost: t\r\n\r\n");
        let answer = wire.read_response_or_close("GET");
        // Read in one go with its head, it is known to be wrong before anything was passed on.
        assert!(answer.as_ref().is_none_or(|answer| answer.status == 502 || !answer.complete), "{length}: {answer:?}");
        check(&gate.root().get("/open/x"), 200);
    }
}

#[test]
fn a_response_that_ends_in_a_reset_without_an_error_is_cut() {
    let upstream = once(|stream| {
        let rst = frame(RST_STREAM, 0, stream, &[0; 4]);
        [head(stream, 0, OK), frame(DATA, 0, stream, b"as far as it goes"), rst].concat()
    });
    let gate = gate_to(&upstream);
    let mut wire = gate.raw();
    wire.send("GET /public/x HTTP/1.1\r\nHost: t\r\n\r\n");
    let answer = wire.read_response_or_close("GET");
    assert!(answer.as_ref().is_none_or(|answer| answer.status == 502 || !answer.complete), "{answer:?}");
}

#[test]
fn content_where_there_can_be_none_is_kept_from_the_client() {
    let upstream = H2Frames::start(|_, stream| {
        let bare: Fields<'_> = &[(":status", b"204")];
        Some([head(stream, 0, bare), frame(DATA, END_STREAM, stream, b"stray")].concat())
    });
    let gate = gate_to(&upstream);
    let key = gate.root().keep_alive();
    for _ in 0..2 {
        assert!(check(&key.get("/open/x"), 204).body.is_empty());
    }
}

#[test]
fn a_request_that_the_upstream_left_out_when_it_went_away_is_sent_elsewhere() {
    // Last stream 0, no error: nothing of this connection was looked at.
    let upstream = once(|_| frame(GOAWAY, 0, 0, &[0; 8]));
    let gate = gate_to(&upstream);
    let answer = gate.root().post("/public/x", "some body");
    check(&answer, 200);
    assert_eq!(upstream.connections(), 2);
}

#[test]
fn a_request_that_the_upstream_refuses_unseen_is_sent_again_a_few_times() {
    const REFUSED_STREAM: [u8; 4] = 7_u32.to_be_bytes();
    let upstream = once(|stream| frame(RST_STREAM, 0, stream, &REFUSED_STREAM));
    let gate = gate_to(&upstream);
    check(&gate.root().post("/public/x", "some body"), 200);

    let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = std::sync::Arc::clone(&asked);
    let upstream = H2Frames::start(move |_, stream| {
        counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Some(frame(RST_STREAM, 0, stream, &REFUSED_STREAM))
    });
    let gate = gate_to(&upstream);
    check_problem(&gate.root().post("/public/x", "some body"), 502, "upstream_unreachable");
    let asked = asked.load(std::sync::atomic::Ordering::SeqCst);
    assert!((2..=3).contains(&asked), "asked {asked} times");
}

#[test]
fn a_request_that_may_have_been_looked_at_is_not_sent_again() {
    const INTERNAL_ERROR: [u8; 4] = 2_u32.to_be_bytes();
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = std::sync::Arc::clone(&asked);
    let upstream = H2Frames::start(move |connection, stream| {
        counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        // The second connection closes instead.
        (connection == 0).then(|| frame(RST_STREAM, 0, stream, &INTERNAL_ERROR))
    });
    let gate = gate_to(&upstream);
    check_problem(&gate.root().post("/public/x", "some body"), 502, "upstream_unreachable");
    assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[test]
fn an_upstream_of_http1_that_should_speak_http2_is_502_and_gets_no_request() {
    let upstream = Upstream::start();
    let gate = Gate::with(|setup| {
        setup.upstream_url(&format!("http://{}", upstream.address())).upstream(r#"protocol = "http2""#)
    });
    check_problem(&gate.root().get("/open/x"), 502, "upstream_invalid");
    assert!(!String::from_utf8_lossy(&upstream.raw()).contains("/open/x"));
}

#[test]
fn a_connection_without_a_sign_of_life_is_dropped() {
    let upstream = silent_at_first();
    let gate = Gate::with(|setup| {
        setup
            .upstream_url(&format!("http://{}", upstream.address()))
            .upstream(r#"protocol = "http2""#)
            .option("upstream.main.http2", r#"ping_interval = "100ms""#)
            .option("upstream.main.http2", r#"ping_timeout = "100ms""#)
    });
    check_problem(&gate.root().post("/public/x", "some body"), 502, "upstream_unreachable");
    check(&gate.root().get("/open/x"), 200);
}

#[test]
fn a_connection_on_which_a_request_waited_in_vain_is_asked_for_a_sign_of_life() {
    let upstream = silent_at_first();
    let gate = Gate::with(|setup| {
        setup
            .upstream_url(&format!("http://{}", upstream.address()))
            .upstream(r#"protocol = "http2""#)
            .upstream(r#"response_timeout = "300ms""#)
            .option("upstream.main.http2", r#"ping_timeout = "50ms""#)
    });
    check_problem(&gate.root().get("/open/x"), 504, "upstream_timeout");
    let deadline = std::time::Instant::now() + DEADLINE;
    // At most one more request meets the dead connection; then there is a new one.
    while gate.root().get("/open/x").status != 200 {
        assert!(std::time::Instant::now() < deadline, "the dead connection is still in use");
    }
    assert_eq!(upstream.connections(), 2);
}
