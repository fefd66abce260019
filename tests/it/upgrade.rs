//! Requests that become a tunnel: who gets one, what passes through it, and how it ends.

use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, Message};

use crate::harness::{
    Authority, Caller, DEADLINE, Gate, Installation, Reply, Setup, TlsClient, Wire, check, check_problem,
};

const LIVE: &str = "/live/tail";
/// Of RFC 6455 §1.3.
const HANDSHAKE: [(&str, &str); 4] = [
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("Sec-WebSocket-Version", "13"),
];
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
const CUT_TIME_MAX: Duration = Duration::from_secs(2);

fn live(setup: Setup) -> Setup {
    setup.route("GET /live/{*rest}", r#"{ require = "monitor:read", upgrade = true }"#)
}

/// A gate whose upstream switches and then echoes.
fn gate() -> Gate {
    let gate = Gate::with(live);
    gate.upstream().reply_on(LIVE, Reply::bytes(SWITCHED).echo_raw());
    gate
}

fn send(gate: &Gate, caller: &Caller, path: &str, headers: &[(&str, &str)]) -> Wire {
    let mut wire = gate.raw();
    wire.send(caller.render("GET", path, headers, b""));
    wire
}

/// An open tunnel through which a word has gone both ways.
#[track_caller]
fn tunnel(gate: &Gate, caller: &Caller) -> Wire {
    let mut wire = send(gate, caller, LIVE, &HANDSHAKE);
    check(&wire.read_head(), 101);
    wire.send("hello");
    assert_eq!(wire.read_exactly(5), b"hello");
    wire
}

#[track_caller]
fn check_cut(gate: &Gate, wire: &mut Wire) {
    let begun = Instant::now();
    wire.wait_for_end();
    gate.upstream().wait_for_closed(1);
    let elapsed = begun.elapsed();
    wire.read_to_end();
    println!("cut: {elapsed:?}");
    assert!(elapsed < CUT_TIME_MAX, "cut after {elapsed:?}");
}

#[track_caller]
fn check_is_echoed(wire: &mut Wire, word: &str) {
    wire.send(word);
    assert_eq!(wire.read_exactly(word.len()), word.as_bytes());
}

// Who gets one.

#[test]
fn a_websocket_handshake_is_admitted_and_then_a_tunnel() {
    let gate = gate();
    let reader = gate.key(&["monitor:read"]);
    let mut wire = send(&gate, &reader, LIVE, &HANDSHAKE);
    let answer = wire.read_head();
    check(&answer, 101);
    assert_eq!(answer.header("upgrade"), Some("websocket"));
    assert_eq!(answer.header("connection"), Some("upgrade"));
    assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    check_is_echoed(&mut wire, "GET / HTTP/1.1\r\n\r\nis nothing that anybody reads here \0\r\n");

    let request = gate.upstream().last();
    assert_eq!(request.header_values("connection"), ["upgrade"]);
    assert_eq!(request.header_values("upgrade"), ["websocket"]);
    assert_eq!(request.header("sec-websocket-key"), Some("dGhlIHNhbXBsZSBub25jZQ=="));
    assert_eq!(request.header("sec-websocket-version"), Some("13"));
    assert_eq!(request.header("x-portcullis-key-id"), Some(reader.id()));
    assert!(!request.has("authorization") && !request.text().contains("upgrad-"), "{request:?}");
}

#[test]
fn a_handshake_without_the_right_key_reaches_nobody() {
    let gate = gate();
    check_problem(&send(&gate, &gate.anonymous(), LIVE, &HANDSHAKE).read_response(), 401, "unauthenticated");
    check_problem(&send(&gate, &gate.telemetry_key(), LIVE, &HANDSHAKE).read_response(), 403, "scope_missing");
    assert!(gate.upstream().raw().is_empty());
}

#[test]
fn a_route_that_allows_no_upgrade_forwards_a_plain_request() {
    let gate = gate();
    let mut wire = send(&gate, &gate.root(), "/api/v1/query", &HANDSHAKE);
    check(&wire.read_response(), 200);
    let request = gate.upstream().last();
    assert!(!request.has("upgrade") && !request.has("connection"), "{request:?}");
}

#[test]
fn an_upgrade_to_anything_else_is_dropped() {
    let gate = gate();
    gate.upstream().reply_on("/live/x", Reply::echo());
    let forms: [&[(&str, &str)]; 9] = [
        &[("Connection", "upgrade"), ("Upgrade", "h2c")],
        &[("Connection", "upgrade"), ("Upgrade", "TLS/1.0")],
        &[("Connection", "upgrade"), ("Upgrade", "websocket, h2c")],
        &[("Connection", "upgrade"), ("Upgrade", "a, websocket")],
        &[("Connection", "upgrade"), ("Upgrade", "websocket/13")],
        &[("Connection", "upgrade"), ("Upgrade", "websocket"), ("Upgrade", "websocket")],
        &[("Connection", "upgrade"), ("Upgrade", "")],
        &[("Connection", "keep-alive"), ("Upgrade", "websocket")],
        &[("Connection", "upgrade")],
    ];
    for form in forms {
        check(&send(&gate, &gate.root(), "/live/x", form).read_response(), 200);
        let request = gate.upstream().last();
        assert!(!request.has("upgrade") && !request.has("connection"), "{form:?}: {request:?}");
    }
}

#[test]
fn an_upgrade_with_a_body_or_in_an_older_version_is_dropped() {
    let gate = gate();
    gate.upstream().reply_on("/live/x", Reply::echo());
    let root = gate.root();
    let mut wire = gate.raw();
    wire.send(root.render("GET", "/live/x", &[&HANDSHAKE[..], &[("Content-Length", "2")]].concat(), b"ok"));
    check(&wire.read_response(), 200);
    assert!(!gate.upstream().last().has("upgrade"));
    let old = String::from_utf8(root.render("GET", "/live/x", &HANDSHAKE, b"")).expect("text");
    let mut wire = gate.raw();
    wire.send(old.replace("HTTP/1.1", "HTTP/1.0"));
    check(&wire.read_response(), 200);
    assert!(!gate.upstream().last().has("upgrade"));
}

#[test]
fn an_upgrade_by_another_method_is_dropped() {
    let gate =
        Gate::with(|setup| setup.route("GET,POST /live/{*rest}", r#"{ require = "authenticated", upgrade = true }"#));
    let mut wire = gate.raw();
    wire.send(gate.root().render("POST", "/live/x", &HANDSHAKE, b""));
    check(&wire.read_response(), 200);
    assert!(!gate.upstream().last().has("upgrade"));
}

#[test]
fn a_public_route_may_have_tunnels_too() {
    let gate = Gate::with(|setup| setup.route("GET /live/{*rest}", r#"{ require = "public", upgrade = true }"#));
    gate.upstream().reply_on(LIVE, Reply::bytes(SWITCHED).echo_raw());
    let mut wire = tunnel(&gate, &gate.anonymous());
    check_is_echoed(&mut wire, "again");
}

// The upstream's answer.

#[test]
fn any_other_answer_than_101_passes_as_it_is_and_keeps_both_connections() {
    let gate = Gate::with(live);
    let reader = gate.key(&["monitor:read"]);
    let mut wire = gate.raw();
    for status in ["200 OK", "403 Forbidden", "426 Upgrade Required"] {
        gate.upstream().answer_with(format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nno"));
        wire.send(reader.render("GET", LIVE, &HANDSHAKE, b""));
        let answer = wire.read_response();
        assert_eq!((answer.status.to_string(), answer.text()), (status[..3].to_owned(), "no".to_owned()));
        assert!(!answer.says_close() && answer.header("upgrade").is_none(), "{answer:?}");
    }
    assert_eq!(gate.upstream().connections(), 1);
}

#[test]
fn a_switch_to_something_else_is_502() {
    let answers = [
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket, h2c\r\nConnection: Upgrade\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nok",
    ];
    let gate = Gate::with(live);
    for answer in answers {
        gate.upstream().answer_with(answer);
        let mut wire = send(&gate, &gate.root(), LIVE, &HANDSHAKE);
        check_problem(&wire.read_response(), 502, "upstream_invalid");
    }
}

#[test]
fn a_switch_that_nobody_asked_for_is_502() {
    let gate = gate();
    check_problem(&gate.root().get(LIVE), 502, "upstream_invalid");
}

#[test]
fn interim_responses_come_before_the_switch() {
    let gate = Gate::with(live);
    gate.upstream().reply(Reply::bytes("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n").then(SWITCHED).echo_raw());
    let mut wire = send(&gate, &gate.root(), LIVE, &HANDSHAKE);
    assert_eq!(check(&wire.read_head(), 103).header("link"), Some("</a>"));
    check(&wire.read_head(), 101);
    check_is_echoed(&mut wire, "hello");
}

#[test]
fn what_the_upstream_sends_right_behind_its_101_arrives() {
    let gate = Gate::with(live);
    gate.upstream().reply(Reply::bytes(format!("{SWITCHED}welcome")).echo_raw());
    let mut wire = send(&gate, &gate.root(), LIVE, &HANDSHAKE);
    check(&wire.read_head(), 101);
    assert_eq!(wire.read_exactly(7), b"welcome");
}

// Bytes behind the request.

#[test]
fn early_bytes_reach_the_upstream_only_after_its_101() {
    let gate = Gate::with(live);
    gate.upstream().reply_on(LIVE, Reply::default().hold().then(SWITCHED).echo_raw());
    let mut wire = send(&gate, &gate.root(), LIVE, &HANDSHAKE);
    wire.send("EARLY\r\n\r\nBYTES");
    gate.upstream().wait_for_requests(1);
    assert!(gate.upstream().raw().ends_with(b"\r\n\r\n"), "nothing behind the request's head");
    assert!(!String::from_utf8_lossy(&gate.upstream().raw()).contains("EARLY"));
    gate.upstream().release();
    check(&wire.read_head(), 101);
    assert_eq!(wire.read_exactly(14), b"EARLY\r\n\r\nBYTES");
}

#[test]
fn early_bytes_are_the_next_request_when_there_is_no_switch() {
    let gate = Gate::with(live);
    let reader = gate.key(&["monitor:read"]);
    for status in ["200 OK", "403 Forbidden"] {
        gate.upstream().answer_with(format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nno"));
        let mut wire = gate.raw();
        let second = reader.render("GET", "/api/v1/query?second", &[("Connection", "close")], b"");
        wire.send([reader.render("GET", LIVE, &HANDSHAKE, b""), second].concat());
        assert_eq!(wire.read_response().text(), "no");
        check(&wire.read_response(), 200);
        assert_eq!(gate.upstream().last().target, "/api/v1/query?second");
    }
}

#[test]
fn early_bytes_that_are_no_request_are_refused_when_there_is_no_switch() {
    let gate = Gate::with(live);
    gate.upstream().answer_with("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno");
    let mut wire = send(&gate, &gate.root(), LIVE, &HANDSHAKE);
    wire.send("RAW BYTES FOR THE TUNNEL\r\n\r\n");
    check(&wire.read_response(), 200);
    check(&wire.read_response(), 400);
    wire.check_closed();
    assert!(!String::from_utf8_lossy(&gate.upstream().raw()).contains("RAW"));
}

#[test]
fn early_bytes_without_end_are_not_read_without_end() {
    let gate = Gate::with(live);
    gate.upstream().reply_on(LIVE, Reply::default().hold().then(SWITCHED).echo_raw());
    let mut wire = send(&gate, &gate.root(), LIVE, &HANDSHAKE);
    let early = vec![b'x'; 300_000];
    wire.send(&early);
    gate.upstream().wait_for_requests(1);
    gate.upstream().release();
    check(&wire.read_head(), 101);
    assert_eq!(wire.read_exactly(early.len()), early);
}

#[test]
fn a_client_that_leaves_before_the_answer_leaves_the_upstream_too() {
    let gate = Gate::with(live);
    gate.upstream().reply_on(LIVE, Reply::default().hold().then(SWITCHED).echo_raw());
    let mut wire = send(&gate, &gate.root(), LIVE, &HANDSHAKE);
    wire.send("early");
    gate.upstream().wait_for_requests(1);
    drop(wire);
    gate.upstream().wait_for_closed(1);
}

// What passes.

#[test]
fn many_bytes_pass_both_ways_at_once_unchanged() {
    let gate = gate();
    let mut wire = tunnel(&gate, &gate.root());
    let bytes: Vec<u8> = (0..4_000_000_u32).map(|at| (at % 251) as u8).collect();
    let mut sender = wire.try_clone();
    let sent = bytes.clone();
    let sending = std::thread::spawn(move || {
        sender.send(&sent);
    });
    assert!(wire.read_exactly(bytes.len()) == bytes, "what came back is what was sent");
    sending.join().expect("all was sent");
}

#[test]
fn each_side_may_end_its_direction_and_still_listen() {
    let gate = gate();
    let mut wire = tunnel(&gate, &gate.root());
    wire.send("last words").finish_sending();
    assert_eq!(wire.read_to_end(), b"last words");
    assert!(!wire.was_reset());
    gate.upstream().wait_for_closed(1);

    gate.upstream().reply(Reply::bytes(format!("{SWITCHED}bye")).close());
    let mut wire = send(&gate, &gate.root(), LIVE, &HANDSHAKE);
    check(&wire.read_head(), 101);
    assert_eq!(wire.read_exactly(3), b"bye");
    wire.finish_sending();
    wire.check_closed();
}

#[test]
fn the_upstreams_connection_is_never_used_again() {
    let gate = gate();
    let mut wire = tunnel(&gate, &gate.root());
    wire.finish_sending().read_to_end();
    check(&gate.root().get("/api/v1/query"), 200);
    assert_eq!(gate.upstream().last().connection, 1);
}

#[test]
fn an_upstream_that_breaks_off_resets_the_client() {
    let gate = Gate::with(live);
    gate.upstream().reply(Reply::bytes(SWITCHED).reset());
    let mut wire = send(&gate, &gate.root(), LIVE, &HANDSHAKE);
    check(&wire.read_head(), 101);
    wire.read_to_end();
    assert!(wire.was_reset());
}

/// A WebSocket server of somebody else's making: sends every message back. Ends with the program.
fn echo_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let Ok(mut socket) = tungstenite::accept(connection) else { return };
                while let Ok(message) = socket.read() {
                    if (message.is_text() || message.is_binary()) && socket.send(message).is_err() {
                        return;
                    }
                }
            });
        }
    });
    format!("http://{address}")
}

#[test]
fn a_real_websocket_client_talks_to_a_real_server_and_is_cut_with_its_key() {
    let url = echo_server();
    let gate = Gate::with(|setup| live(setup).upstream_url(&url));
    let reader = gate.key(&["monitor:read"]);
    let mut request = format!("ws://{}{LIVE}", gate.public()).into_client_request().expect("a URL");
    request.headers_mut().insert("Authorization", reader.authorization().parse().expect("a value"));
    let stream = TcpStream::connect(gate.public()).expect("a connection");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let (mut socket, response) = tungstenite::client(request, stream).expect("a handshake");
    assert_eq!(response.status(), 101);
    for message in [Message::text("hello"), Message::binary(vec![7; 1 << 20]), Message::text("")] {
        socket.send(message.clone()).expect("an open tunnel");
        assert_eq!(socket.read().expect("an echo"), message);
    }
    check(&gate.root().delete(reader.id()), 204);
    let begun = Instant::now();
    assert!(socket.read().is_err(), "no close frame, no message: it is cut");
    println!("cut: {:?}", begun.elapsed());
    assert!(begun.elapsed() < CUT_TIME_MAX, "cut after {:?}", begun.elapsed());
}

#[test]
fn a_tunnel_over_tls_passes_each_word_at_once_and_is_cut_with_its_key() {
    let authority = Authority::new("Test CA");
    let certificate = authority.server("gate", &["gate.test"]);
    let client = TlsClient::trusting(&authority);
    let gate = Gate::with(|setup| live(setup).tls(&certificate, &client));
    gate.upstream().reply_on(LIVE, Reply::bytes(SWITCHED).echo_raw());
    let reader = gate.key(&["monitor:read"]);
    let mut wire = client.connect(gate.public(), "gate.test");
    wire.send(reader.render("GET", LIVE, &HANDSHAKE, b"")).send("early");
    check(&wire.read_head(), 101);
    assert_eq!(wire.read_exactly(5), b"early");
    check_is_echoed(&mut wire, "hello");
    check_is_echoed(&mut wire, &"x".repeat(100_000));
    check(&gate.root().delete(reader.id()), 204);
    check_cut(&gate, &mut wire);
    assert!(wire.was_reset(), "a cut is no orderly end");
}

// How it ends.

#[test]
fn an_idle_tunnel_is_cut_when_its_key_is_deleted() {
    let gate = gate();
    let reader = gate.key(&["monitor:read"]);
    let mut wire = tunnel(&gate, &reader);
    check(&gate.root().delete(reader.id()), 204);
    check_cut(&gate, &mut wire);
    assert!(wire.was_reset());
    assert_eq!(gate.metric("portcullis_requests_cut_total{reason=\"key_deleted\"}"), 1.0);
}

#[test]
fn a_busy_tunnel_is_cut_when_its_key_loses_the_scope_and_others_go_on() {
    let gate = Gate::with(live);
    let (reader, other) = (gate.key(&["monitor:read", "issue:read"]), gate.key(&["monitor:read"]));
    gate.upstream().reply_on(LIVE, Reply::bytes(SWITCHED).echo_raw());
    let mut kept = tunnel(&gate, &other);
    gate.upstream().reply(Reply::bytes(SWITCHED).forever(vec![b'x'; 65_536]));
    let mut busy = send(&gate, &reader, LIVE, &HANDSHAKE);
    check(&busy.read_head(), 101);
    busy.read_exactly(1 << 20);
    check(&gate.root().put(&format!("/api/keys/{}", reader.id()), r#"{"scopes": ["issue:read"]}"#), 200);
    check_cut(&gate, &mut busy);
    check_is_echoed(&mut kept, "still here");
    check(&gate.root().put(&format!("/api/keys/{}", other.id()), r#"{"name": "renamed"}"#), 200);
    check_is_echoed(&mut kept, "still here");
}

#[test]
fn a_tunnel_whose_client_takes_nothing_is_cut_with_its_key() {
    let gate = Gate::with(live);
    let reader = gate.key(&["monitor:read"]);
    gate.upstream().reply(Reply::bytes(SWITCHED).forever(vec![b'x'; 65_536]));
    let mut wire = send(&gate, &reader, LIVE, &HANDSHAKE);
    check(&wire.read_head(), 101);
    check(&gate.root().delete(reader.id()), 204);
    let begun = Instant::now();
    gate.upstream().wait_for_closed(1);
    assert!(begun.elapsed() < CUT_TIME_MAX, "cut after {:?}", begun.elapsed());
}

#[test]
fn a_tunnel_outlives_every_other_deadline_and_ends_by_its_own_silence() {
    let gate = Gate::with(|setup| {
        setup
            .route("GET /live/{*rest}", r#"{ require = "monitor:read", upgrade = true, timeout = "100ms" }"#)
            .option("client", r#"idle_timeout = "100ms""#)
            .option("client", r#"body_timeout = "100ms""#)
            .option("client", r#"header_timeout = "100ms""#)
            .option("client", r#"tunnel_idle_timeout = "1500ms""#)
            .upstream(r#"body_timeout = "100ms""#)
            .upstream(r#"response_timeout = "100ms""#)
    });
    gate.upstream().reply_on(LIVE, Reply::bytes(SWITCHED).echo_raw());
    let mut wire = tunnel(&gate, &gate.root());
    let begun = Instant::now();
    let mut last = begun;
    while begun.elapsed() < Duration::from_millis(800) {
        last = Instant::now();
        check_is_echoed(&mut wire, "on and on");
        assert!(!wire.stirs_within(Duration::from_millis(150)), "ended after {:?}", begun.elapsed());
    }
    wire.check_closed();
    assert!(last.elapsed() >= Duration::from_millis(1_500), "ended after {:?}", last.elapsed());
    gate.upstream().wait_for_closed(1);
}

#[test]
fn a_tunnel_holds_its_place_in_the_keys_limit_and_counts_as_in_flight() {
    let gate = Gate::with(|setup| live(setup).option("limits", "key = { concurrency = 1 }"));
    gate.upstream().reply_on(LIVE, Reply::bytes(SWITCHED).echo_raw());
    let reader = gate.key(&["monitor:read"]);
    let mut wire = tunnel(&gate, &reader);
    check_problem(&reader.get("/api/v1/query"), 429, "concurrency_limited");
    gate.wait_for_metric("portcullis_requests_in_flight", 1.0);
    // The tunnel and the one that asks.
    gate.wait_for_metric("portcullis_connections", 2.0);
    wire.finish_sending().read_to_end();
    gate.wait_for_metric("portcullis_requests_in_flight", 0.0);
    gate.wait_for_metric("portcullis_connections", 1.0);
    check(&reader.get("/api/v1/query"), 200);
}

#[test]
fn a_drain_leaves_tunnels_alone_until_it_times_out() {
    let mut gate = Gate::with(|setup| live(setup).option("shutdown", r#"timeout = "500ms""#));
    gate.upstream().reply_on(LIVE, Reply::bytes(SWITCHED).echo_raw());
    let mut wire = tunnel(&gate, &gate.root());
    let mut second = wire.try_clone();
    let begun = Instant::now();
    let ending = std::thread::spawn(move || {
        second.read_to_end();
        begun.elapsed()
    });
    gate.shutdown();
    assert!(begun.elapsed() >= Duration::from_millis(500), "drained after {:?}", begun.elapsed());
    assert!(ending.join().expect("a clock") >= Duration::from_millis(500));
    wire.check_closed();
}

#[test]
fn the_access_log_counts_what_went_through_a_tunnel() {
    let installation = Installation::with(|setup| live(setup).option("log", "access = true"));
    let root = installation.init();
    let served = installation.serve();
    let root = served.caller(&root);
    installation.upstream().reply(Reply::bytes(format!("{SWITCHED}welcome")).echo_raw());
    let mut wire = Wire::connect(served.public);
    wire.send(root.render("GET", LIVE, &HANDSHAKE, b"")).send("hello");
    check(&wire.read_head(), 101);
    wire.finish_sending();
    assert_eq!(wire.read_to_end(), b"welcomehello");
    served.process.signal("TERM");
    let log = served.process.wait().stderr;
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let line = lines.iter().find(|line| line["status"] == 101).unwrap_or_else(|| panic!("{log}"));
    assert_eq!((&line["bytes"], &line["received"], &line["complete"]), (&12.into(), &5.into(), &true.into()), "{line}");
}
