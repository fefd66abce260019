//! Many requests over one HTTP/2 connection: what they share, and what they do not take from each other.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use ::h2::Reason;

use crate::harness::*;

fn gate_to(upstream: &H2Upstream) -> Gate {
    gate_with(upstream, |setup| setup)
}

fn gate_with(upstream: &H2Upstream, change: impl FnOnce(Setup) -> Setup) -> Gate {
    let url = format!("http://{}", upstream.address());
    Gate::with(|setup| change(setup.upstream_url(&url).upstream(r#"protocol = "http2""#)))
}

/// Sends a public request and does not wait for its answer.
fn ask(gate: &Gate) -> Wire {
    let mut wire = gate.raw();
    wire.send("GET /public/x HTTP/1.1\r\nHost: t\r\n\r\n");
    wire
}

fn chunked(gate: &Gate, fields: &str) -> Wire {
    let mut wire = gate.raw();
    wire.send(format!("POST /public/x HTTP/1.1\r\nHost: t\r\n{fields}Transfer-Encoding: chunked\r\n\r\n"));
    wire
}

#[test]
fn a_hundred_requests_at_once_share_one_connection() {
    let upstream = H2Upstream::start();
    let gate = gate_to(&upstream);
    upstream.reply_always(H2Reply::status(200).hold().data("done"));
    let mut wires: Vec<Wire> = (0..100).map(|_| ask(&gate)).collect();
    upstream.wait_for_begun(100);
    assert_eq!((upstream.connections(), upstream.at_once_max()), (1, 100));
    upstream.release();
    for wire in &mut wires {
        assert_eq!(check(&wire.read_response(), 200).text(), "done");
    }
}

#[test]
fn more_requests_than_a_connection_may_have_take_another() {
    let (many, one) = (
        H2Upstream::start(),
        H2Upstream::with(|server| {
            server.max_concurrent_streams(1);
        }),
    );
    for (upstream, connections) in [(&many, 2), (&one, 4)] {
        let gate = gate_with(upstream, |setup| setup.option("upstream.main.http2", "streams_max = 2"));
        upstream.reply_always(H2Reply::status(200).hold());
        let mut wires: Vec<Wire> = (0..4).map(|_| ask(&gate)).collect();
        upstream.wait_for_begun(4);
        assert_eq!(upstream.connections(), connections);
        upstream.release();
        for wire in &mut wires {
            check(&wire.read_response(), 200);
        }
    }
}

#[test]
fn a_request_beyond_all_connections_is_503() {
    let upstream = H2Upstream::start();
    let gate = gate_with(&upstream, |setup| {
        setup.option("upstream.main.http2", "streams_max = 1").upstream("connections_max = 1")
    });
    upstream.reply(H2Reply::status(200).hold());
    let mut held = ask(&gate);
    upstream.wait_for_begun(1);
    check_problem(&gate.root().get("/open/x"), 503, "upstream_busy");
    upstream.release();
    check(&held.read_response(), 200);
    check(&gate.root().get("/open/x"), 200);
}

#[test]
fn a_client_that_leaves_ends_its_own_request_and_no_other() {
    let upstream = H2Upstream::start();
    let gate = gate_with(&upstream, |setup| {
        setup.option("upstream.main.http2", "streams_max = 3").upstream("connections_max = 1")
    });
    upstream.reply(H2Reply::status(200).hold().data("stays"));
    upstream.reply(H2Reply::status(200).hold());
    upstream.reply(H2Reply::status(200).data("begun").hold());
    let mut stays = ask(&gate);
    upstream.wait_for_begun(1);
    let before_the_head = ask(&gate);
    upstream.wait_for_begun(2);
    let mut within_the_body = ask(&gate);
    within_the_body.read_until(b"begun");
    drop((before_the_head, within_the_body));
    upstream.wait_for_resets(2);
    // Their places are free, and the connection is as good as before.
    check(&gate.root().get("/open/x"), 200);
    upstream.release();
    assert_eq!(check(&stays.read_response(), 200).text(), "stays");
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn a_client_that_breaks_off_its_body_ends_its_own_request() {
    let upstream = H2Upstream::start();
    let gate = gate_to(&upstream);
    let mut wire = chunked(&gate, "");
    wire.send("5\r\nhello\r\n");
    upstream.wait_for_begun(1);
    drop(wire);
    upstream.wait_for_resets(1);
    check(&gate.root().get("/open/x"), 200);
    assert_eq!((upstream.connections(), upstream.requests().len()), (1, 1));
}

#[test]
fn a_stream_that_the_upstream_resets_is_502_or_a_cut() {
    let upstream = H2Upstream::start();
    let gate = gate_to(&upstream);
    upstream.reply(H2Reply::status(200).reset(Reason::INTERNAL_ERROR));
    check_problem(&gate.root().post("/public/x", "some body"), 502, "upstream_unreachable");
    upstream.reply(H2Reply::status(200).data("as far as it goes").hold().reset(Reason::INTERNAL_ERROR));
    let mut wire = ask(&gate);
    wire.read_until(b"as far as it goes");
    upstream.release();
    assert!(!String::from_utf8_lossy(&wire.read_to_end()).contains("0\r\n\r\n"));
    check(&gate.root().get("/open/x"), 200);
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn an_upstream_that_goes_away_again_and_again_loses_no_request() {
    let upstream = H2Upstream::start();
    let gate = gate_to(&upstream);
    let (answered, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let caller = gate.root().keep_alive();
                while !is_over.load(Ordering::SeqCst) {
                    let answer = caller.post("/public/x", "some body");
                    assert_eq!(check(&answer, 200).text(), "some body");
                    answered.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for round in 1..=20 {
            upstream.wait_for_requests(round * 20);
            upstream.go_away();
        }
        is_over.store(true, Ordering::SeqCst);
    });
    assert_eq!(upstream.requests().len(), answered.load(Ordering::SeqCst));
    assert!(upstream.connections() > 1);
}

#[test]
fn a_connection_that_died_while_it_was_idle_costs_no_request() {
    let upstream = H2Upstream::start();
    let gate = gate_to(&upstream);
    for round in 1..=20 {
        check(&gate.root().post("/public/x", "some body"), 200);
        assert_eq!(upstream.connections(), round);
        upstream.drop_connections();
        upstream.wait_for_open(0);
    }
}

#[test]
fn an_idle_connection_is_closed_in_time() {
    let upstream = H2Upstream::start();
    let gate = gate_with(&upstream, |setup| setup.upstream(r#"idle_timeout = "100ms""#));
    check(&gate.root().get("/open/x"), 200);
    upstream.wait_for_open(0);
    check(&gate.root().get("/open/x"), 200);
}

#[test]
fn a_connection_is_not_idle_while_a_request_is_on_it() {
    let upstream = H2Upstream::start();
    let gate = gate_with(&upstream, |setup| setup.upstream(r#"idle_timeout = "50ms""#));
    upstream.reply(H2Reply::status(200).hold());
    let mut held = ask(&gate);
    upstream.wait_for_begun(1);
    assert!(!held.stirs_within(std::time::Duration::from_millis(300)));
    assert_eq!(upstream.open_connections(), 1);
    upstream.release();
    check(&held.read_response(), 200);
}

#[test]
fn a_client_that_takes_nothing_keeps_nothing_from_others() {
    let upstream = H2Upstream::start();
    let gate = gate_with(&upstream, |setup| setup.option("upstream.main.http2", r#"stream_window = "64KiB""#));
    upstream.reply(H2Reply::status(200).data(vec![b'x'; 64 << 20]));
    let mut slow = ask(&gate);
    slow.read_until(b"xxx");
    for _ in 0..20 {
        assert_eq!(check(&gate.root().post("/public/x", "some body"), 200).text(), "some body");
    }
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn an_upstream_that_takes_nothing_of_a_body_is_504_and_its_stream_is_reset() {
    let upstream = H2Upstream::start();
    let gate = gate_with(&upstream, |setup| setup.upstream(r#"response_timeout = "200ms""#));
    // It reads the head alone; the body soon fills the windows.
    upstream.reply(H2Reply::status(200).hold().before_body());
    let body = vec![b'x'; 4 << 20];
    let answer = gate.root().request("POST", "/public/x", &[], &body);
    check_problem(&answer, 504, "upstream_timeout");
    upstream.wait_for_resets(1);
    check(&gate.root().get("/open/x"), 200);
}

#[test]
fn a_large_body_arrives_whole_both_ways() {
    let upstream = H2Upstream::start();
    let gate = gate_to(&upstream);
    let body: Vec<u8> = (0..8_u32 << 20).map(|at| u8::try_from(at % 251).expect("a byte")).collect();
    let mut wire = gate.raw();
    let request = gate.root().render("POST", "/public/x", &[("Connection", "close")], &body);
    std::thread::scope(|scope| {
        let mut sending = std::net::TcpStream::connect(gate.public()).expect("a connection");
        let mut reading = sending.try_clone().expect("a clone");
        scope.spawn(move || std::io::Write::write_all(&mut sending, &request));
        let mut answer = Vec::new();
        std::io::Read::read_to_end(&mut reading, &mut answer).expect("an answer");
        assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
        assert!(answer.len() > body.len());
    });
    assert!(upstream.last().body == body);
    wire.send("GET /public/x HTTP/1.1\r\nHost: t\r\n\r\n");
    check(&wire.read_response(), 200);
}

#[test]
fn a_response_that_begins_before_the_request_ended_streams_both_ways() {
    let upstream = H2Upstream::start();
    let gate = gate_to(&upstream);
    let mut wire = chunked(&gate, "");
    for piece in ["first", "other"] {
        wire.send(format!("5\r\n{piece}\r\n"));
        wire.read_until(piece.as_bytes());
    }
    wire.send("0\r\n\r\n");
    wire.read_until(b"0\r\n\r\n");
    assert_eq!(upstream.last().body, b"firstother");
    check(&gate.root().get("/open/x"), 200);
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn a_body_goes_on_after_a_response_that_is_whole() {
    let upstream = H2Upstream::start();
    let gate = gate_to(&upstream);
    for (count, reply) in [(1, H2Reply::status(202).data("early")), (2, H2Reply::status(202))] {
        upstream.reply(reply.before_body());
        let mut wire = chunked(&gate, "");
        wire.send("5\r\nhello\r\n");
        check(&wire.read_response(), 202);
        wire.send("5\r\nlater\r\n0\r\n\r\n");
        upstream.wait_for_requests(count);
        assert_eq!(upstream.last().body, b"hellolater");
    }
}

#[test]
fn trailers_of_a_request_arrive_but_for_those_that_steer() {
    let upstream = H2Upstream::start();
    let gate = gate_with(&upstream, |setup| setup.option("credentials", r#"from = ["basic", "header:X-Api-Key"]"#));
    let mut wire = chunked(&gate, "TE: trailers\r\nConnection: TE\r\n");
    wire.send(
        "3\r\nabc\r\n0\r\nX-Checksum: 12\r\nAuthorization: Basic eDp5\r\nX-Portcullis-Key-Id: spoof\r\nHost: evil\r\n\
         Content-Length: 9\r\nX-Forwarded-For: 1.2.3.4\r\nX_Forwarded_For: 1.2.3.4\r\nCookie: a=b\r\nSet_Cookie: a=b\r\n\
         X-Api-Key: secret\r\nX_Api_Key: secret\r\nTE: gzip\r\nGrpc-Status: 0\r\n\r\n",
    );
    check(&wire.read_response(), 200);
    let names: Vec<String> = upstream.last().trailers.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["x-checksum", "grpc-status"]);
    assert_eq!(upstream.last().header("te"), Some("trailers"));
}

#[test]
fn trailers_of_a_response_do_not_spoil_it_for_a_client_of_http1() {
    let upstream = H2Upstream::start();
    let gate = gate_to(&upstream);
    upstream.reply_always(H2Reply::status(200).data("some body").trailers(&[("grpc-status", "0")]));
    let key = gate.root().keep_alive();
    for _ in 0..2 {
        let answer = key.get("/open/x");
        assert_eq!(check(&answer, 200).text(), "some body");
        assert!(answer.complete && answer.header("grpc-status").is_none(), "{answer:?}");
    }
}

#[test]
fn announced_trailers_reach_an_upstream_of_http1() {
    let gate = Gate::start();
    let mut wire = chunked(&gate, "Trailer: X-Checksum, Authorization\r\n");
    wire.send("3\r\nabc\r\n0\r\nX-Checksum: 12\r\nX-Other: 1\r\nAuthorization: Basic eDp5\r\n\r\n");
    check(&wire.read_response(), 200);
    let raw = gate.upstream().last().text().to_ascii_lowercase();
    assert!(raw.ends_with("0\r\nx-checksum: 12\r\n\r\n"), "{raw}");
    assert!(!raw.contains("x-other") && !raw.contains("basic"), "{raw}");
}

#[test]
fn interim_responses_are_taken_up_to_a_bound() {
    let upstream = H2Upstream::start();
    let gate = gate_to(&upstream);
    let hints = |count| (0..count).fold(H2Reply::status(200), |reply, _| reply.informational(103, &[])).data("done");
    upstream.reply(hints(16));
    assert_eq!(check(&gate.root().get("/open/x"), 200).text(), "done");
    upstream.reply(hints(5_000));
    check_problem(&gate.root().get("/open/x"), 502, "upstream_invalid");
    check(&gate.root().get("/open/x"), 200);
}

#[test]
fn the_timeout_of_grpc_is_passed_on_untouched() {
    let upstream = H2Upstream::start();
    let gate = gate_to(&upstream);
    let fields = [("grpc-timeout", "250m"), ("Content-Type", "application/grpc"), ("TE", "trailers, gzip")];
    check(&gate.root().request("POST", "/public/x", &fields, b"\0\0\0\0\0"), 200);
    let seen = upstream.last();
    assert_eq!((seen.header("grpc-timeout"), seen.header("te")), (Some("250m"), Some("trailers")));
}

#[test]
fn a_response_without_content_says_so_to_the_client() {
    let upstream = H2Upstream::start();
    let gate = gate_to(&upstream);
    let key = gate.root().keep_alive();
    upstream.reply(H2Reply::status(200).header("content-length", "5"));
    assert_eq!(check(&key.head("/open/x"), 200).header("content-length"), Some("5"));
    upstream.reply(H2Reply::status(304));
    check(&key.get("/open/x"), 304);
    upstream.reply(H2Reply::status(200));
    assert_eq!(check(&key.get("/open/x"), 200).header("content-length"), Some("0"));
    assert_eq!(upstream.connections(), 1);
}
