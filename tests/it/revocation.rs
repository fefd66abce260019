//! What runs under a key ends when the key does: within a second, wherever the request stands, and nothing else with it.
//!
//! The goal is one second. What is asserted is that the end comes although no byte moves any more, within
//! [`CUT_TIME_MAX`], since the machine may be busy with other tests.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::harness::{
    Authority, Caller, DEADLINE, Gate, H2Client, H2Reply, H2Upstream, Installation, Reply, TlsClient, Wire, check,
    check_problem,
};

const QUERY: &str = "/api/v1/query";
const CUT_TIME_MAX: Duration = Duration::from_secs(2);
/// The beginning of a response that goes on for as long as the upstream likes.
const STREAM: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
const EVENT: &str = "9\r\ndata: a\n\n\r\n";

/// Sends a request with this caller's key on a connection of its own.
fn send(gate: &Gate, caller: &Caller, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Wire {
    let mut wire = gate.raw();
    wire.send(caller.render(method, path, &[headers, &[("Connection", "keep-alive")]].concat(), body));
    wire
}

/// A running event stream of which the first event has arrived. It ends when the upstream is released.
#[track_caller]
fn stream(gate: &Gate, caller: &Caller) -> Wire {
    gate.upstream().reply(Reply::bytes(STREAM).then(EVENT).hold().then("0\r\n\r\n"));
    let mut wire = send(gate, caller, "GET", QUERY, &[], b"");
    check(&wire.read_head(), 200);
    wire.read_until(EVENT.as_bytes());
    wire
}

/// A running wait for the head of a response.
#[track_caller]
fn long_poll(gate: &Gate, caller: &Caller) -> Wire {
    let before = gate.upstream().requests().len();
    gate.upstream().reply(Reply::default().hold().then("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"));
    let wire = send(gate, caller, "GET", QUERY, &[], b"");
    gate.upstream().wait_for_requests(before + 1);
    wire
}

#[track_caller]
fn narrow(gate: &Gate, caller: &Caller, scopes: &[&str]) {
    let body = serde_json::json!({ "scopes": scopes }).to_string();
    check(&gate.root().put(&format!("/api/keys/{}", caller.id()), &body), 200);
}

/// Runs what is to be over soon, and checks that it was.
#[track_caller]
fn in_time<T>(what: &str, end: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let result = end();
    let spent = begun.elapsed();
    println!("{what}: {spent:?}");
    assert!(spent < CUT_TIME_MAX, "{what} took {spent:?}");
    result
}

#[track_caller]
fn check_cut(gate: &Gate, wire: &mut Wire) {
    let rest = in_time("cut", || wire.read_to_end());
    assert_eq!(String::from_utf8_lossy(&rest), "", "nothing follows, no last chunk either");
    in_time("the upstream's side", || gate.upstream().wait_for_closed(1));
}

fn cuts(gate: &Gate, reason: &str) -> f64 {
    gate.metric(&format!("portcullis_requests_cut_total{{reason=\"{reason}\"}}"))
}

#[test]
fn a_wait_for_an_answer_ends_in_401_when_the_key_is_deleted() {
    let gate = Gate::start();
    let reader = gate.key(&["monitor:read"]);
    let mut wire = long_poll(&gate, &reader);
    check(&gate.root().delete(reader.id()), 204);
    let answer = in_time("401", || wire.read_response());
    check_problem(&answer, 401, "unauthenticated");
    assert!(answer.header("www-authenticate").is_some(), "{answer:?}");
    in_time("the upstream's side", || gate.upstream().wait_for_closed(1));
    assert_eq!(cuts(&gate, "key_deleted"), 1.0);
    assert_eq!(gate.metric("portcullis_refusals_after_admission_total{reason=\"key_unknown\"}"), 1.0);
}

#[test]
fn a_wait_for_an_answer_ends_in_403_when_the_key_loses_its_scope() {
    let gate = Gate::start();
    let reader = gate.key(&["monitor:read", "issue:read"]);
    let mut wire = long_poll(&gate, &reader);
    narrow(&gate, &reader, &["issue:read"]);
    let answer = in_time("403", || wire.read_response());
    assert_eq!(check_problem(&answer, 403, "scope_missing").json()["required_scopes"][0], "monitor:read");
    assert_eq!(cuts(&gate, "scope_lost"), 1.0);
    assert_eq!(cuts(&gate, "key_deleted"), 0.0);
}

#[test]
fn an_event_stream_is_cut_when_the_key_is_deleted() {
    let gate = Gate::start();
    let reader = gate.key(&["monitor:read"]);
    let mut wire = stream(&gate, &reader);
    check(&gate.root().delete(reader.id()), 204);
    check_cut(&gate, &mut wire);
    assert_eq!(cuts(&gate, "key_deleted"), 1.0);
}

#[test]
fn an_event_stream_is_cut_when_the_key_loses_its_scope() {
    let gate = Gate::start();
    let reader = gate.key(&["monitor:read", "issue:read"]);
    let mut wire = stream(&gate, &reader);
    narrow(&gate, &reader, &["issue:read"]);
    check_cut(&gate, &mut wire);
    assert_eq!(cuts(&gate, "scope_lost"), 1.0);
}

#[test]
fn a_download_of_known_length_is_cut_short_of_it() {
    let gate = Gate::start();
    let reader = gate.key(&["monitor:read"]);
    gate.upstream().reply(Reply::bytes("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc").hold());
    let mut wire = send(&gate, &reader, "GET", QUERY, &[], b"");
    assert_eq!(wire.read_head().header("content-length"), Some("100"));
    wire.read_exactly(3);
    check(&gate.root().delete(reader.id()), 204);
    check_cut(&gate, &mut wire);
}

#[test]
fn a_cut_reaches_an_http_1_0_client_as_a_reset() {
    let gate = Gate::start();
    let reader = gate.key(&["monitor:read"]);
    gate.upstream().reply(Reply::bytes(STREAM).then(EVENT).hold());
    let mut wire = gate.raw();
    wire.send(format!("GET {QUERY} HTTP/1.0\r\nHost: t\r\nAuthorization: {}\r\n\r\n", reader.authorization()));
    check(&wire.read_head(), 200);
    wire.read_until(b"data: a\n\n");
    check(&gate.root().delete(reader.id()), 204);
    check_cut(&gate, &mut wire);
    assert!(wire.was_reset(), "an orderly end would look complete");
}

#[test]
fn an_event_stream_over_tls_is_cut_without_an_orderly_end() {
    let authority = Authority::new("Test CA");
    let certificate = authority.server("gate", &["gate.test"]);
    let client = TlsClient::trusting(&authority);
    let gate = Gate::with(|setup| setup.tls(&certificate, &client));
    let reader = gate.key(&["monitor:read"]);
    gate.upstream().reply(Reply::bytes(STREAM).then(EVENT).hold());
    let mut wire = client.connect(gate.public(), "gate.test");
    wire.send(reader.render("GET", QUERY, &[], b""));
    wire.read_until(EVENT.as_bytes());
    check(&gate.root().delete(reader.id()), 204);
    check_cut(&gate, &mut wire);
    assert!(wire.was_reset(), "a cut is no orderly end");
}

#[test]
fn a_download_that_its_client_does_not_read_is_cut_too() {
    let gate = Gate::start();
    let reader = gate.key(&["monitor:read"]);
    let piece = vec![b'x'; 1 << 20];
    gate.upstream().reply(Reply::bytes("HTTP/1.1 200 OK\r\nContent-Length: 1099511627776\r\n\r\n").forever(piece));
    let mut wire = send(&gate, &reader, "GET", QUERY, &[], b"");
    check(&wire.read_head(), 200);
    check(&gate.root().delete(reader.id()), 204);
    in_time("the upstream's side", || gate.upstream().wait_for_closed(1));
    in_time("the client's side", || wire.read_to_end());
    assert!(wire.was_reset(), "what was not delivered is taken back");
    assert_eq!(cuts(&gate, "key_deleted"), 1.0);
}

#[test]
fn a_running_upload_is_cut_when_the_key_is_deleted() {
    let gate = Gate::start();
    let writer = gate.telemetry_key();
    let mut wire = send(&gate, &writer, "POST", "/api/v1/write", &[("Content-Length", "100")], b"begun");
    gate.upstream().wait_for_bytes(b"begun");
    check(&gate.root().delete(writer.id()), 204);
    let answer = in_time("401", || wire.read_response());
    check_problem(&answer, 401, "unauthenticated");
    assert!(answer.says_close(), "the rest of the body is no request: {answer:?}");
    in_time("the upstream's side", || gate.upstream().wait_for_closed(1));
    assert!(gate.upstream().requests().is_empty(), "the upload never ended");
}

#[test]
fn a_call_of_the_key_api_that_is_still_being_sent_ends_with_its_key() {
    let gate = Gate::start();
    let manager = gate.key(&["key:read", "key:write"]);
    let headers = [("Content-Type", "application/json"), ("Content-Length", "1000")];
    let mut wire =
        send(&gate, &manager, "POST", "/api/keys", &[&headers[..], &[("Expect", "100-continue")]].concat(), b"");
    // The go-ahead tells that the call was admitted and is being read.
    check(&wire.read_response(), 100);
    check(&gate.root().delete(manager.id()), 204);
    check_problem(&in_time("401", || wire.read_response()), 401, "unauthenticated");
}

#[test]
fn a_key_may_delete_itself_and_hear_of_it() {
    let gate = Gate::start();
    let own = gate.key(&["monitor:read"]);
    let mut wire = stream(&gate, &own);
    check(&own.request("DELETE", "/api/keys/self", &[], b""), 204);
    check_cut(&gate, &mut wire);
}

#[test]
fn requests_of_other_keys_and_of_nobody_go_on() {
    let gate = Gate::start();
    let (reader, other) = (gate.key(&["monitor:read"]), gate.key(&["monitor:read"]));
    let (mut cut, mut kept) = (stream(&gate, &reader), stream(&gate, &other));
    gate.upstream().reply(Reply::bytes(STREAM).then(EVENT).hold().then("0\r\n\r\n"));
    let mut public = send(&gate, &gate.anonymous(), "GET", "/public/x", &[], b"");
    public.read_until(EVENT.as_bytes());
    check(&gate.root().delete(reader.id()), 204);
    check_cut(&gate, &mut cut);
    gate.upstream().release();
    assert_eq!(kept.read_until(b"0\r\n\r\n"), b"0\r\n\r\n");
    assert_eq!(public.read_until(b"0\r\n\r\n"), b"0\r\n\r\n");
    assert_eq!(cuts(&gate, "key_deleted"), 1.0);
}

#[test]
fn a_change_that_leaves_the_route_its_scope_cuts_nothing() {
    let gate = Gate::start();
    let reader = gate.key(&["monitor:read", "issue:read"]);
    let mut kept = stream(&gate, &reader);
    let rename = gate.root().put(&format!("/api/keys/{}", reader.id()), r#"{"name": "another"}"#);
    check(&rename, 200);
    narrow(&gate, &reader, &["monitor:read"]);
    narrow(&gate, &reader, &["monitor:read", "monitor:write"]);
    // A later change that does cut: what came before it was judged by then.
    let last = gate.key(&["monitor:read"]);
    let mut cut = stream(&gate, &last);
    check(&gate.root().delete(last.id()), 204);
    check_cut(&gate, &mut cut);
    gate.upstream().release();
    assert_eq!(kept.read_until(b"0\r\n\r\n"), b"0\r\n\r\n");
}

#[test]
fn a_key_that_was_changed_before_is_cut_all_the_same() {
    let gate = Gate::start();
    let reader = gate.key(&["monitor:read"]);
    let mut wire = stream(&gate, &reader);
    check(&gate.root().put(&format!("/api/keys/{}", reader.id()), r#"{"name": "another"}"#), 200);
    narrow(&gate, &reader, &["monitor:read", "issue:read"]);
    check(&gate.root().delete(reader.id()), 204);
    check_cut(&gate, &mut wire);
}

/// Uses two other keys by turns until one of them has to be read again: what was used before them is gone then.
#[track_caller]
fn push_out_of_memory(gate: &Gate) {
    let misses = || gate.metric("portcullis_key_cache_lookups_total{result=\"miss\"}");
    let others = [gate.key(&["monitor:read"]), gate.key(&["monitor:read"])];
    let (begun, before) = (Instant::now(), misses());
    while misses() < before + 3.0 {
        assert!(begun.elapsed() < DEADLINE, "nothing leaves the memory");
        others.iter().for_each(|other| drop(other.get("/open/x")));
    }
}

#[test]
fn a_key_that_is_no_longer_in_memory_is_judged_by_what_the_store_says() {
    let gate = Gate::with(|setup| setup.option("keys", "keys_cached_max = 1"));
    let (reader, kept) = (gate.key(&["monitor:read", "issue:read"]), gate.key(&["monitor:read", "issue:read"]));
    let (mut cut, mut going_on) = (stream(&gate, &reader), stream(&gate, &kept));
    push_out_of_memory(&gate);
    narrow(&gate, &kept, &["monitor:read"]);
    narrow(&gate, &reader, &["issue:read"]);
    check_cut(&gate, &mut cut);
    gate.upstream().release();
    assert_eq!(going_on.read_until(b"0\r\n\r\n"), b"0\r\n\r\n");
}

/// An upstream that begins an event stream for each connection and then says no more. It takes one thread, and ends
/// with the program.
fn silent_upstream() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for mut connection in listener.incoming().flatten() {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                connection.read_exact(&mut byte).expect("a request");
                head.push(byte[0]);
            }
            connection.write_all(format!("{STREAM}{EVENT}").as_bytes()).expect("a gate that reads");
            kept.push(connection);
        }
    });
    format!("http://{address}")
}

#[test]
fn a_thousand_streams_of_one_key_are_cut_at_once() {
    let upstream = silent_upstream();
    let gate = Gate::with(|setup| setup.option("listen", "workers = 2").upstream_url(&upstream));
    let (reader, other) = (gate.key(&["monitor:read"]), gate.key(&["monitor:read"]));
    let open = |caller: &Caller| {
        let mut wire = send(&gate, caller, "GET", QUERY, &[], b"");
        wire.read_until(EVENT.as_bytes());
        wire
    };
    let mut kept = open(&other);
    let mut wires: Vec<Wire> = (0..1_000).map(|_| open(&reader)).collect();
    check(&gate.root().delete(reader.id()), 204);
    in_time("a thousand cuts", || {
        for wire in &mut wires {
            assert!(wire.read_to_end().is_empty());
        }
    });
    assert_eq!(cuts(&gate, "key_deleted"), 1_000.0);
    assert!(!kept.stirs_within(Duration::from_millis(20)), "another key's stream goes on");
}

#[test]
fn a_key_deleted_while_its_requests_come_in_leaves_none_running() {
    let gate = Gate::start();
    gate.upstream().reply_always(Reply::bytes(STREAM).then(EVENT).hold());
    for _ in 0..30 {
        let reader = gate.key(&["monitor:read"]);
        let mut wires: Vec<Wire> = (0..4).map(|_| send(&gate, &reader, "GET", QUERY, &[], b"")).collect();
        check(&gate.root().delete(reader.id()), 204);
        // Refused, or begun and cut: what does not end would wait for its deadline here.
        for wire in &mut wires {
            wire.read_response_or_close("GET");
        }
    }
    gate.wait_for_metric("portcullis_requests_in_flight", 0.0);
}

#[test]
fn deleting_a_key_with_running_requests_counts_no_failed_authentications() {
    let gate = Gate::with(|setup| setup.option("limits", r#"failures = { rate = "1/h", burst = 2 }"#));
    let (reader, other) = (gate.key(&["monitor:read"]), gate.key(&["monitor:read"]));
    let mut wires: Vec<Wire> = (0..8).map(|_| long_poll(&gate, &reader)).collect();
    check(&gate.root().delete(reader.id()), 204);
    for wire in &mut wires {
        check(&wire.read_response(), 401);
    }
    check(&other.get(QUERY), 200);
}

#[test]
fn the_access_log_tells_what_was_cut() {
    let installation = Installation::with(|setup| setup.option("log", "access = true"));
    let root = installation.init();
    let served = installation.serve();
    let root = served.caller(&root);
    let reader = root.create(&["monitor:read"]);
    installation.upstream().reply(Reply::bytes(STREAM).then(EVENT).hold());
    let mut wire = Wire::connect(served.public);
    wire.send(reader.render("GET", QUERY, &[], b""));
    wire.read_until(EVENT.as_bytes());
    check(&root.delete(reader.id()), 204);
    in_time("cut", || wire.read_to_end());
    served.process.signal("TERM");
    let log = served.process.wait().stderr;
    let cut: Vec<&str> = log.lines().filter(|line| line.contains("key_deleted")).collect();
    assert_eq!(cut.len(), 1, "{log}");
    let line: serde_json::Value = serde_json::from_str(cut[0]).expect("JSON");
    assert_eq!((&line["cut"], &line["complete"], &line["status"]), (&"key_deleted".into(), &false.into(), &200.into()));
}

/// Starts an upload to an upstream that answers it whole at once and goes on to read.
fn answered_upload(gate: &Gate, caller: &Caller) -> Wire {
    let chunked = [("Transfer-Encoding", "chunked")];
    let mut wire = send(gate, caller, "POST", "/api/v1/write", &chunked, b"5\r\nhello\r\n");
    assert_eq!(check(&wire.read_response(), 200).text(), "early");
    wire
}

#[test]
fn an_upload_that_outlasts_its_response_ends_when_the_key_is_deleted() {
    let gate = Gate::start();
    let key = gate.key(&["telemetry:write"]);
    gate.upstream().reply(Reply::bytes("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly").before_body());
    let mut wire = answered_upload(&gate, &key);
    wire.send("5\r\nafter\r\n");
    gate.upstream().wait_for_bytes(b"after");
    check(&gate.root().delete(key.id()), 204);
    in_time("the upstream's side", || gate.upstream().wait_for_closed(1));
}

#[test]
fn an_upload_over_http2_that_outlasts_its_response_ends_when_the_key_is_deleted() {
    let upstream = H2Upstream::start();
    let gate = Gate::with(|setup| {
        setup.upstream_url(&format!("http://{}", upstream.address())).upstream(r#"protocol = "http2""#)
    });
    let reply = || upstream.reply(H2Reply::status(200).data("early").before_body());
    let key = gate.key(&["telemetry:write"]);
    reply();
    let _wire = answered_upload(&gate, &key);
    reply();
    let client = H2Client::connect(gate.public());
    let mut call = client.open("POST", "/api/v1/write", &[("authorization", &key.authorization())], false);
    assert_eq!(call.send(b"hello").answer().expect("an answer").text(), "early");
    check(&gate.root().delete(key.id()), 204);
    in_time("both streams", || upstream.wait_for_resets(2));
    check(&client.get(&gate.root(), "/open/x"), 200);
}

#[test]
fn an_upload_that_outlasts_its_response_counts_among_its_keys_requests() {
    let gate = Gate::with(|setup| setup.option("limits.key", "concurrency = 1"));
    let key = gate.key(&["telemetry:write", "monitor:read"]);
    gate.upstream().reply(Reply::bytes("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly").before_body());
    let mut wire = answered_upload(&gate, &key);
    check_problem(&key.get(QUERY), 429, "concurrency_limited");
    wire.send("0\r\n\r\n");
    let deadline = Instant::now() + DEADLINE;
    while key.get(QUERY).status != 200 {
        assert!(Instant::now() < deadline, "the place is never free again");
    }
}
