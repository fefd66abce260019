//! Upstreams that misuse HTTP/2: a flood ends in bounded time and memory, costs its own request at most, and the next
//! one is answered.

use crate::harness::h2_flood::answer;
use crate::harness::h2_frames::{DATA, END_HEADERS, GOAWAY, HEADERS, RST_STREAM, SETTINGS, fields, frame};
use crate::harness::*;

const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

/// More than any count that is allowed.
const MANY: usize = 100_000;

fn gate_to(upstream: &H2Flood, change: impl FnOnce(Setup) -> Setup) -> Gate {
    let url = format!("http://{}", upstream.address());
    Gate::with(|setup| change(setup.upstream_url(&url).upstream(r#"protocol = "http2""#)))
}

/// A request that is not sent twice.
fn ask(gate: &Gate) -> Answer {
    gate.anonymous().request("POST", "/public/x", &[], b"")
}

/// The flooded request gets this status, and one after it gets its answer, over so many connections in all.
#[track_caller]
fn check_flood(what: &str, flood: Flood, status: u16, connections: usize) -> H2Flood {
    let upstream = H2Flood::start(flood);
    let gate = gate_to(&upstream, |setup| setup);
    let flooded = ask(&gate);
    assert_eq!(flooded.status, status, "{what}: {flooded:?}");
    let after = gate.anonymous().get("/public/canary");
    assert_eq!(after.status, 200, "{what}: {after:?}");
    upstream.wait_for_end();
    assert_eq!(upstream.connections(), connections, "{what}");
    upstream
}

#[test]
fn a_list_of_headers_over_its_size_is_502() {
    let status = fields(&[(":status", b"200")]);
    let field = |length: usize| fields(&[("x-filler", &vec![b'y'; length])]);
    let block = |flags, bytes: &[u8]| frame(HEADERS, flags, 1, &[&status[..], bytes].concat());
    let honest = Flood::of([], 0).before(block(END_HEADERS | 1, &field(7_000)));
    let (over, spread) = (field(9_000), [field(6_000), field(6_000)].concat());
    // Each byte stands for the whole field, which is in the table after the first time.
    let mut bomb = fields(&[("x", &[b'y'; 4_000])]);
    bomb[0] = 0x40;
    bomb.extend([0xbe; 10_000]);
    for (what, bytes) in [("one field", over), ("two fields", spread), ("compressed", bomb)] {
        let flood = Flood::of([], 0).before(block(END_HEADERS | 1, &bytes));
        let upstream = H2Flood::start(flood);
        let gate = gate_to(&upstream, |setup| setup.upstream(r#"header_bytes_max = "8KiB""#));
        let answer = ask(&gate);
        assert_eq!(check_problem(&answer, 502, "upstream_invalid").status, 502, "{what}");
        check(&gate.anonymous().get("/public/canary"), 200);
    }
    let upstream = H2Flood::start(honest);
    let gate = gate_to(&upstream, |setup| setup.upstream(r#"header_bytes_max = "8KiB""#));
    check(&ask(&gate), 200);
}

#[test]
fn a_header_block_without_end_is_502_and_ends_the_connection() {
    let opening = frame(HEADERS, 0, 1, &fields(&[(":status", b"200")]));
    for (what, piece) in [
        ("empty", frame(CONTINUATION, 0, 1, &[])),
        ("full", frame(CONTINUATION, 0, 1, &fields(&[("x-filler", &[b'y'; 10_000])]))),
        (
            "a field that never ends",
            frame(CONTINUATION, 0, 1, &[&[0, 1, b'x', 127, 255, 255, 127][..], &[b'y'; 9_000]].concat()),
        ),
    ] {
        let upstream = check_flood(what, Flood::of(piece, 10_000).after(opening.clone()), 502, 2);
        assert!(upstream.received(GOAWAY) > 0 || upstream.sent() < 16 << 20, "{what}: {}", upstream.sent());
    }
}

#[test]
fn a_flood_of_frames_that_want_an_answer_is_502_and_ends_the_connection() {
    for (what, kind, piece) in [
        ("pings", PING, frame(PING, 0, 0, &[7; 8])),
        ("settings", SETTINGS, frame(SETTINGS, 0, 0, &[])),
        ("settings that say something", SETTINGS, frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255])),
    ] {
        let upstream = check_flood(what, Flood::of(piece, MANY).before(answer(1)), 502, 2);
        let answers = upstream.received(kind);
        assert!(answers < MANY / 2, "{what}: {answers} answers");
    }
}

#[test]
fn pings_and_settings_within_their_allowance_cost_nothing() {
    for (kind, piece) in [(PING, frame(PING, 0, 0, &[7; 8])), (SETTINGS, frame(SETTINGS, 0, 0, &[]))] {
        let upstream = check_flood("honest", Flood::of(piece, 5_000).before(answer(1)), 200, 1);
        until("all answers", || upstream.received(kind) >= 5_000);
    }
}

#[test]
fn a_low_allowance_of_control_frames_bites() {
    let ping = frame(PING, 0, 0, &[7; 8]);
    // Ten seconds' worth, and one that the request gives.
    for (count, status) in [(8, 200), (40, 502)] {
        let upstream = H2Flood::start(Flood::of(ping.clone(), count).before(answer(1)));
        let gate = gate_to(&upstream, |setup| setup.option("upstream.main.http2", r#"control_frames = "1/s""#));
        assert_eq!(ask(&gate).status, status, "{count} pings");
        check(&gate.anonymous().get("/public/canary"), 200);
    }
}

#[test]
fn an_upstream_that_takes_no_answers_is_read_no_further() {
    let ping = frame(PING, 0, 0, &[7; 8]);
    let upstream = H2Flood::start(Flood::of(ping, 20_000_000).deaf());
    let gate = gate_to(&upstream, |setup| {
        let setup = setup.option("upstream.main.http2", r#"control_frames = "1000000000/s""#);
        setup.option("upstream.main.http2", r#"ping_timeout = "200ms""#).upstream(r#"response_timeout = "1s""#)
    });
    check_problem(&ask(&gate), 504, "upstream_timeout");
    // A request for which nothing at all came has the connection looked at.
    until("another connection", || ask(&gate).status == 200);
    upstream.wait_for_end();
    assert!(upstream.sent() < 64 << 20, "{} bytes were taken, with no answer sent", upstream.sent());
    check(&gate.anonymous().get("/public/canary"), 200);
    assert_eq!(upstream.connections(), 2);
}

#[test]
fn a_flood_of_resets_ends_their_own_stream_alone() {
    let reset = frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]);
    let upstream = check_flood("resets", Flood::of(reset, MANY), 502, 1);
    assert_eq!(upstream.received(GOAWAY), 0);
}

#[test]
fn a_reset_of_a_stream_that_was_never_opened_ends_the_connection() {
    check_flood("idle stream", Flood::of(frame(RST_STREAM, 0, 9, &[0, 0, 0, 8]), 1), 502, 2);
}

#[test]
fn answers_to_requests_that_were_given_up_are_ignored_only_while_they_are_remembered() {
    const PIECES: usize = 1_000;
    const GIVEN_UP: usize = 2;
    // Streams 1 and 3 are given up; what comes for 3 is a flood while 5 waits.
    let late = frame(HEADERS, END_HEADERS, 3, &fields(&[(":status", b"200")]));
    for (resets_max, is_remembered) in [(1_000, true), (1, false)] {
        let upstream = H2Flood::start(Flood::of(late.clone(), PIECES).at(3).before(answer(5)));
        let gate = gate_to(&upstream, |setup| {
            let setup = setup.route("POST /public/short", r#"{ require = "public", response_timeout = "200ms" }"#);
            setup.option("upstream.main.http2", &format!("resets_max = {resets_max}"))
        });
        for _ in 0..GIVEN_UP {
            check(&gate.anonymous().request("POST", "/public/short", &[], b""), 504);
        }
        check(&ask(&gate), 200);
        check(&gate.anonymous().get("/public/canary"), 200);
        assert_eq!(upstream.connections(), 1, "{resets_max}");
        if is_remembered {
            assert_eq!(upstream.received(RST_STREAM), GIVEN_UP);
        } else {
            until("a reset in answer", || upstream.received(RST_STREAM) > GIVEN_UP);
            assert!(upstream.received(RST_STREAM) <= GIVEN_UP + PIECES);
        }
    }
}

#[test]
fn a_window_beyond_its_maximum_is_502() {
    let most = [0x7f, 0xff, 0xff, 0xff];
    check_flood("connection", Flood::of(frame(WINDOW_UPDATE, 0, 0, &most), MANY), 502, 2);
    check_flood("initial", Flood::of(frame(SETTINGS, 0, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff]), MANY), 502, 2);
    check_flood("nothing", Flood::of(frame(WINDOW_UPDATE, 0, 0, &[0; 4]), MANY), 502, 2);
}

#[test]
fn window_updates_of_one_byte_cost_nothing_but_their_reading() {
    let flood = Flood::of(frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]), MANY).before(answer(1));
    let upstream = check_flood("updates", flood, 200, 1);
    assert_eq!(upstream.received(GOAWAY), 0);
}

#[test]
fn empty_pieces_of_a_response_end_it_and_the_connection() {
    let opening = frame(HEADERS, END_HEADERS, 1, &fields(&[(":status", b"200")]));
    let upstream = H2Flood::start(Flood::of(frame(DATA, 0, 1, &[]), MANY).after(opening));
    let gate = gate_to(&upstream, |setup| setup);
    let mut wire = gate.raw();
    wire.send("POST /public/x HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n");
    let answer = wire.read_to_end();
    assert!(!String::from_utf8_lossy(&answer).ends_with("0\r\n\r\n"), "a whole response");
    upstream.wait_for_end();
    check(&gate.anonymous().get("/public/canary"), 200);
    assert_eq!(upstream.connections(), 2);
}
