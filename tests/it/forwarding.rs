//! What reaches the upstream, what comes back, and how it goes when either side misbehaves.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::exhaustion::pass;
use crate::harness::{Caller, Gate, Recorded, Reply, Setup, Wire, check, check_problem};

const QUERY: &str = "/api/v1/query";

/// The one request that the upstream got.
#[track_caller]
fn only_request(gate: &Gate) -> Recorded {
    let requests = gate.upstream().requests();
    assert_eq!(requests.len(), 1, "{requests:?}");
    requests[0].clone()
}

/// Sends the head of a request with this caller's key on a connection of its own.
fn open(gate: &Gate, caller: &Caller, head: &str) -> Wire {
    let (line, fields) = head.split_once("\r\n").unwrap_or((head, ""));
    let mut wire = gate.raw();
    let authorization = caller.authorization();
    wire.send(format!("{line} HTTP/1.1\r\nHost: gate.test\r\nAuthorization: {authorization}\r\n{fields}\r\n"));
    wire
}

// Credentials.

#[test]
fn no_form_of_the_credential_reaches_the_upstream() {
    let gate = Gate::with(|setup| setup.option("credentials", r#"from = ["basic", "bearer", "header:X-Api-Key"]"#));
    let key = gate.key(&["monitor:read"]);
    let secret = key.secret();
    let pair = |text: &str| format!("Basic {}", STANDARD.encode(text));
    let forms = [
        ("Authorization", pair(&format!("{secret}:"))),
        ("Authorization", pair(&format!("user:{secret}"))),
        ("Authorization", format!("Bearer {secret}")),
        ("X-Api-Key", secret.to_owned()),
    ];
    for (name, value) in &forms {
        check(&gate.anonymous().request("GET", "/open/x", &[(name, value)], b""), 200);
    }
    let raw = String::from_utf8_lossy(&gate.upstream().raw()).into_owned();
    assert!(!raw.contains(&secret[17..]), "the secret part in {raw}");
    assert!(!raw.to_ascii_lowercase().contains("authorization"), "{raw}");
    assert!(!raw.to_ascii_lowercase().contains("x-api-key"), "{raw}");
}

#[test]
fn a_proxy_authorization_is_dropped() {
    let gate = Gate::start();
    check(&gate.root().request("GET", "/open/x", &[("Proxy-Authorization", "Basic eDp5")], b""), 200);
    assert!(!only_request(&gate).has("proxy-authorization"));
}

#[test]
fn a_credential_segment_is_forwarded_as_the_keys_id() {
    let gate = Gate::with(|setup| setup.route("GET /p/{credential}/{monitor}", r#""telemetry:write""#));
    let key = gate.telemetry_key();
    check(&gate.anonymous().get(&format!("/p/{}/a%20b?state=run&m=%2F", key.secret())), 200);
    assert_eq!(only_request(&gate).target, format!("/p/{}/a%20b?state=run&m=%2F", key.id()));
}

#[test]
fn a_credential_segment_is_kept_where_the_route_says_so() {
    let gate = Gate::with(|setup| {
        let needs = r#"{ require = "telemetry:write", credential_segment = "keep" }"#;
        setup.route("GET /p/{credential}/{monitor}", needs)
    });
    gate.upstream().sees_credentials();
    let key = gate.telemetry_key();
    check(&gate.anonymous().get(&format!("/p/{}/x", key.secret())), 200);
    assert_eq!(only_request(&gate).target, format!("/p/{}/x", key.secret()));
}

// The request line.

#[test]
fn path_and_query_are_forwarded_byte_for_byte() {
    let gate = Gate::start();
    let reader = gate.key(&["monitor:read"]);
    let targets = [
        "/api/v1/query",
        "/api/v1/query?",
        "/api/v1/query?x=/../admin&y=//&z=%2e%2e%2f",
        "/api/v1/query?x=%0d%0aX:1&%00&+&=&&a[]=1&b={c}|d\\^",
        "/api/v1/query?_method=DELETE",
        "/api/metrics/job@base64/eHg=/a%20b=c:d~e!$&'()*+,",
        "/api/%E4%BD%A0?q=%FF%fe",
        "/api/v1/anything/",
    ];
    for target in targets {
        check(&reader.get(target), 200);
        assert_eq!(gate.upstream().last().target, target);
    }
}

#[test]
fn host_is_forwarded_as_the_client_sent_it() {
    let gate = Gate::start();
    check(&gate.root().request("GET", "/open/x", &[("Host", "Some.Host:8080")], b""), 200);
    assert_eq!(only_request(&gate).header_values("host"), ["Some.Host:8080"]);
}

// Header fields.

#[test]
fn end_to_end_fields_arrive_as_they_were_sent() {
    let gate = Gate::start();
    let fields = [
        ("Accept", "*/*"),
        ("X-Custom", "a\tb  c"),
        ("Cookie", "a=1; b=2"),
        ("User-Agent", "agent/1 (\"quoted\" \\ {})"),
        ("Content-Encoding", "snappy"),
        ("X-Prometheus-Remote-Write-Version", "0.1.0"),
        ("X-Scope-OrgID", "tenant"),
    ];
    check(&gate.root().request("POST", "/public/x", &fields, b"\x00\xff"), 200);
    let request = only_request(&gate);
    for (name, value) in fields {
        assert_eq!(request.header_values(name), [value], "{name}");
    }
}

#[test]
fn repeated_fields_stay_repeated_and_in_order() {
    let gate = Gate::start();
    check(&gate.root().request("GET", "/open/x", &[("X-A", "1"), ("X-B", "2"), ("x-a", "3")], b""), 200);
    assert_eq!(only_request(&gate).header_values("x-a"), ["1", "3"]);
}

#[test]
fn values_beyond_ascii_arrive_unchanged() {
    let gate = Gate::start();
    let mut wire = gate.raw();
    wire.send(b"GET /public/x HTTP/1.1\r\nHost: t\r\nConnection: close\r\nX-A: \x80\xfe\xff\r\n\r\n");
    check(&wire.read_response(), 200);
    let raw = gate.upstream().raw();
    assert!(raw.windows(3).any(|window| window == b"\x80\xfe\xff"));
}

#[test]
fn hop_by_hop_fields_are_dropped_in_both_directions() {
    let gate = Gate::start();
    gate.upstream().answer_with(
        "HTTP/1.1 200 OK\r\nConnection: X-Mine, keep-alive\r\nX-Mine: 1\r\nKeep-Alive: timeout=5\r\n\
         Proxy-Connection: keep-alive\r\nTrailer: X-T\r\nUpgrade: h2c\r\nX-Kept: 1\r\nContent-Length: 2\r\n\r\nok",
    );
    let answer = gate.root().request(
        "GET",
        "/open/x",
        &[
            ("Connection", "close, X-Named, \tx-other"),
            ("X-Named", "1"),
            ("X-Other", "1"),
            ("Keep-Alive", "timeout=5"),
            ("Proxy-Connection", "keep-alive"),
            ("TE", "trailers, gzip"),
            ("Trailer", "X-T"),
            ("Upgrade", "h2c, websocket"),
            ("HTTP2-Settings", "AAMAAABkAARAAAAAAAIAAAAA"),
            ("X-Kept", "1"),
        ],
        b"",
    );
    check(&answer, 200);
    let request = only_request(&gate);
    let dropped =
        ["x-named", "x-other", "keep-alive", "proxy-connection", "te", "trailer", "upgrade", "http2-settings"];
    for name in dropped {
        assert!(!request.has(name), "{name} in {request:?}");
    }
    assert!(request.has("x-kept"));
    for name in ["x-mine", "keep-alive", "proxy-connection", "trailer", "upgrade"] {
        assert!(answer.header(name).is_none(), "{name} in {answer:?}");
    }
    assert_eq!(answer.header("x-kept"), Some("1"));
}

#[test]
fn connection_cannot_name_away_host_or_framing_or_our_own_fields() {
    let gate = Gate::start();
    let reader = gate.key(&["monitor:read"]);
    let named = "host, content-length, x-portcullis-key-id, X-FORWARDED-FOR, forwarded, via";
    check(&reader.request("POST", QUERY, &[("Connection", named)], b"hello"), 200);
    let request = only_request(&gate);
    assert_eq!(request.header("host"), Some("gate.test"));
    assert_eq!(request.body, b"hello");
    assert_eq!(request.header_values("x-portcullis-key-id"), [reader.id()]);
    assert_eq!(request.header_values("x-forwarded-for"), ["127.0.0.1"]);
    assert!(request.has("forwarded") && request.has("via"));
}

#[test]
fn the_upstream_learns_which_key_it_was() {
    let gate = Gate::start();
    let body = serde_json::json!({"name": "CI/CD", "kind": "custom", "scopes": ["issue:read", "monitor:read"]});
    let key = gate.root().create_from(&body);
    check(&key.get(QUERY), 200);
    let request = only_request(&gate);
    assert_eq!(request.header_values("x-portcullis-key-id"), [key.id()]);
    assert_eq!(request.header_values("x-portcullis-key-name"), ["CI/CD"]);
    assert_eq!(request.header_values("x-portcullis-kind"), ["custom"]);
    let scopes = request.header("x-portcullis-scopes").expect("scopes").to_owned();
    assert!(scopes.contains("monitor:read") && scopes.contains("issue:read"), "{scopes}");
}

#[test]
fn a_key_name_beyond_ascii_cannot_break_the_header() {
    let gate = Gate::start();
    let body = serde_json::json!({"name": "日本 \"} x é", "kind": "telemetry"});
    let key = gate.root().create_from(&body);
    check(&key.get("/open/x"), 200);
    let request = only_request(&gate);
    assert_eq!(request.header_values("x-portcullis-key-name").len(), 1);
    assert_eq!(request.header_values("x-portcullis-key-id"), [key.id()]);
}

#[test]
fn a_claimed_identity_never_reaches_the_upstream() {
    let gate = Gate::start();
    let reader = gate.key(&["monitor:read"]);
    let spoofs = [
        ("X-Portcullis-Key-Id", "spoof"),
        ("x-portcullis-key-id", "spoof"),
        ("X-PORTCULLIS-KEY-ID", "spoof"),
        ("X-Portcullis-Key-Name", "spoof"),
        ("X-Portcullis-Scopes", "spoof"),
        ("X-Portcullis-Kind", "spoof"),
        ("X-Portcullis-Whatever", "spoof"),
        ("X_Portcullis_Key_Id", "spoof"),
        ("X.Portcullis.Key.Id", "spoof"),
        ("X-Portcullis_Key.Id", "spoof"),
        ("x_portcullis_scopes", "spoof"),
        ("x_forwarded_for", "spoof"),
        ("X.Real.IP", "spoof"),
    ];
    check(&reader.request("GET", QUERY, &spoofs, b""), 200);
    let request = only_request(&gate);
    assert!(!request.text().contains("spoof"), "{request:?}");
    assert_eq!(request.header_values("x-portcullis-key-id"), [reader.id()]);
}

#[test]
fn a_public_route_drops_a_claimed_identity_though_it_sets_none() {
    let gate = Gate::start();
    let spoofs = [("X-Portcullis-Key-Id", "spoof"), ("X_Portcullis_Scopes", "spoof"), ("X-Portcullis-Kind", "spoof")];
    check(&gate.anonymous().request("GET", "/public/x", &spoofs, b""), 200);
    assert!(!only_request(&gate).text().to_ascii_lowercase().contains("portcullis-"));
}

#[test]
fn identity_fields_of_the_upstream_do_not_reach_the_client() {
    let gate = Gate::start();
    gate.upstream().answer_with("HTTP/1.1 200 OK\r\nX-Portcullis-Key-Id: echo\r\nContent-Length: 0\r\n\r\n");
    assert!(gate.root().get("/open/x").header("x-portcullis-key-id").is_none());
}

#[test]
fn where_a_request_comes_from_is_rebuilt_for_an_untrusted_peer() {
    let gate = Gate::start();
    let claims = [
        ("X-Forwarded-For", "1.2.3.4"),
        ("X-Forwarded-For", "5.6.7.8"),
        ("X-Forwarded-Host", "evil.test"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Prefix", "/evil"),
        ("X-Forwarded-Uri", "/evil"),
        ("X-Original-URL", "/evil"),
        ("X-Rewrite-URL", "/evil"),
        ("X-Real-IP", "1.2.3.4"),
        ("Forwarded", "for=1.2.3.4;host=evil.test;proto=https"),
    ];
    check(&gate.root().request("GET", "/open/x", &claims, b""), 200);
    let request = only_request(&gate);
    assert_eq!(request.header_values("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(request.header_values("x-forwarded-host"), ["gate.test"]);
    assert_eq!(request.header_values("x-forwarded-proto"), ["http"]);
    let forwarded = request.header("forwarded").expect("Forwarded");
    assert!(forwarded.contains("for=127.0.0.1") && forwarded.contains("proto=http"), "{forwarded}");
    assert!(!request.text().contains("evil") && !request.text().contains("1.2.3.4"), "{request:?}");
}

#[test]
fn where_a_request_comes_from_is_extended_for_a_trusted_peer() {
    let gate = Gate::with(|setup| setup.option("forwarding", r#"trusted_proxies = ["127.0.0.0/8"]"#));
    let claims = [
        ("X-Forwarded-For", "1.2.3.4"),
        ("X-Forwarded-Host", "outside.test"),
        ("X-Forwarded-Proto", "https"),
        ("Forwarded", "for=1.2.3.4;proto=https"),
        ("X-Portcullis-Key-Id", "spoof"),
    ];
    check(&gate.root().request("GET", "/open/x", &claims, b""), 200);
    let request = only_request(&gate);
    assert_eq!(request.header_values("x-forwarded-for").join(", "), "1.2.3.4, 127.0.0.1");
    assert_eq!(request.header_values("x-forwarded-host"), ["outside.test"]);
    assert_eq!(request.header_values("x-forwarded-proto"), ["https"]);
    let forwarded = request.header_values("forwarded").join(", ");
    assert!(forwarded.starts_with("for=1.2.3.4;proto=https, for=127.0.0.1"), "{forwarded}");
    assert!(!request.text().contains("spoof"));
}

#[test]
fn via_is_added_and_earlier_ones_are_kept() {
    let gate = Gate::start();
    check(&gate.root().request("GET", "/open/x", &[("Via", "1.0 before")], b""), 200);
    let via = only_request(&gate).header_values("via").join(", ");
    assert!(via.starts_with("1.0 before, 1.1 "), "{via}");
}

#[test]
fn trailers_of_a_request_are_dropped() {
    let gate = Gate::start();
    let key = gate.telemetry_key();
    let mut wire = open(&gate, &key, "POST /api/v1/write\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n");
    wire.send("3\r\nabc\r\n0\r\nAuthorization: Basic eDp5\r\nX-Portcullis-Key-Id: spoof\r\nHost: evil\r\n\r\n");
    check(&wire.read_response(), 200);
    let request = only_request(&gate);
    assert_eq!(request.body, b"abc");
    assert!(!String::from_utf8_lossy(&gate.upstream().raw()).contains("spoof"));
    assert_eq!(request.header_values("host"), ["gate.test"]);
}

// Bodies.

#[test]
fn a_request_body_streams_before_it_is_complete() {
    let gate = Gate::start();
    let key = gate.telemetry_key();
    let mut wire = open(&gate, &key, "POST /api/v1/write\r\nTransfer-Encoding: chunked\r\n");
    wire.send("5\r\nfirst\r\n");
    gate.upstream().wait_for_bytes(b"first");
    wire.send("6\r\nsecond\r\n");
    gate.upstream().wait_for_bytes(b"second");
    wire.send("0\r\n\r\n");
    assert_eq!(check(&wire.read_response(), 200).body, b"firstsecond");
}

#[test]
fn a_sized_request_body_streams_before_it_is_complete() {
    let gate = Gate::start();
    let key = gate.telemetry_key();
    let mut wire = open(&gate, &key, "POST /api/v1/write\r\nContent-Length: 10\r\n");
    wire.send("first");
    gate.upstream().wait_for_bytes(b"first");
    wire.send("again");
    assert_eq!(check(&wire.read_response(), 200).body, b"firstagain");
    assert_eq!(only_request(&gate).header("content-length"), Some("10"));
}

#[test]
fn a_response_body_streams_before_it_is_complete() {
    let gate = Gate::start();
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    gate.upstream().reply(Reply::bytes(head).then("5\r\nfirst\r\n").hold().then("6\r\nsecond\r\n0\r\n\r\n"));
    let reader = gate.key(&["monitor:read"]);
    let mut wire = open(&gate, &reader, "GET /api/v1/query\r\n");
    check(&wire.read_head(), 200);
    wire.read_until(b"first");
    gate.upstream().release();
    wire.read_until(b"second");
    wire.read_until(b"0\r\n\r\n");
}

#[test]
fn an_answer_before_the_end_of_the_request_body_is_passed_on() {
    let gate = Gate::start();
    gate.upstream().reply(Reply::bytes("HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno").before_body());
    let key = gate.telemetry_key();
    let mut wire = open(&gate, &key, "POST /api/v1/write\r\nContent-Length: 1000000\r\n");
    wire.send("some");
    let answer = wire.read_response();
    check(&answer, 413);
    assert_eq!(answer.body, b"no");
}

#[test]
fn large_bodies_pass_unchanged_in_both_directions() {
    let gate = Gate::with(|setup| setup.option("requests", r#"max_body = "64MiB""#));
    let key = gate.telemetry_key();
    let body: Vec<u8> = (0..32_u32 << 20).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect();
    let answer = key.request("POST", "/api/v1/write", &[], &body);
    check(&answer, 200);
    assert!(answer.complete && answer.body == body);
    assert!(only_request(&gate).body == body);
}

#[test]
fn a_get_with_a_body_is_forwarded_with_the_body_framed() {
    let gate = Gate::start();
    let reader = gate.key(&["monitor:read"]);
    check(&reader.request("GET", QUERY, &[], b"hello"), 200);
    check(&reader.request("GET", QUERY, &[("Transfer-Encoding", "chunked")], b"5\r\nhello\r\n0\r\n\r\n"), 200);
    let bodies: Vec<Vec<u8>> = gate.upstream().requests().into_iter().map(|request| request.body).collect();
    assert_eq!(bodies, [b"hello", b"hello"]);
}

#[test]
fn an_empty_post_says_so_to_the_upstream() {
    let gate = Gate::start();
    check(&gate.telemetry_key().request("POST", "/api/v1/write", &[], b""), 200);
    let request = only_request(&gate);
    assert!(request.body.is_empty());
    assert!(request.header("content-length").is_none_or(|length| length == "0"), "{request:?}");
}

#[test]
fn a_body_beyond_the_limit_is_refused_by_its_announced_length() {
    let gate = Gate::with(|setup| setup.option("requests", r#"max_body = "1KiB""#));
    let key = gate.telemetry_key();
    let mut wire = open(&gate, &key, "POST /api/v1/write\r\nContent-Length: 1025\r\n");
    let answer = wire.read_response();
    check_problem(&answer, 413, "body_too_large");
    assert!(answer.says_close());
    wire.check_closed();
    assert!(gate.upstream().raw().is_empty());
    check(&key.request("POST", "/api/v1/write", &[], &[b'x'; 1_024]), 200);
}

#[test]
fn a_chunked_body_beyond_the_limit_never_ends_cleanly_at_the_upstream() {
    let gate = Gate::with(|setup| setup.option("requests", r#"max_body = "1KiB""#));
    let key = gate.telemetry_key();
    let mut wire = open(&gate, &key, "POST /api/v1/write\r\nTransfer-Encoding: chunked\r\n");
    wire.send(format!("400\r\n{}\r\n", "x".repeat(1_024)));
    wire.send("1\r\ny\r\n0\r\n\r\n");
    check_problem(&wire.read_response(), 413, "body_too_large");
    assert!(gate.upstream().requests().is_empty());
    gate.upstream().wait_for_closed(gate.upstream().connections());
}

#[test]
fn a_route_has_a_body_limit_of_its_own() {
    let gate = Gate::with(|setup| setup.route("POST /small", r#"{ require = "telemetry:write", max_body = "4B" }"#));
    let key = gate.telemetry_key();
    check(&key.request("POST", "/small", &[], b"1234"), 200);
    check(&key.request("POST", "/small", &[], b"12345"), 413);
    check(&key.request("POST", "/api/v1/write", &[], b"12345"), 200);
}

#[test]
fn a_client_that_breaks_off_its_body_breaks_off_the_upstreams() {
    let gate = Gate::start();
    let key = gate.telemetry_key();
    for framing in ["Content-Length: 100", "Transfer-Encoding: chunked"] {
        let before = gate.upstream().connections();
        let mut wire = open(&gate, &key, &format!("POST /api/v1/write\r\n{framing}\r\n"));
        wire.send("5\r\nhello\r\n");
        gate.upstream().wait_for_bytes(b"hello");
        drop(wire);
        gate.upstream().wait_for_closed(before + 1);
        gate.upstream().forget();
    }
    assert!(gate.upstream().requests().is_empty());
}

#[test]
fn expect_is_answered_after_admission_and_not_forwarded() {
    let gate = Gate::start();
    let key = gate.telemetry_key();
    let mut wire = open(&gate, &key, "POST /api/v1/write\r\nContent-Length: 5\r\nExpect: 100-continue\r\n");
    check(&wire.read_response(), 100);
    wire.send("hello");
    assert_eq!(check(&wire.read_response(), 200).body, b"hello");
    assert!(!only_request(&gate).has("expect"));
}

#[test]
fn expect_of_a_refused_request_gets_no_go_ahead() {
    let gate = Gate::start();
    let wrong = gate.caller("junk");
    let mut wire = open(&gate, &wrong, "POST /api/v1/write\r\nContent-Length: 5\r\nExpect: 100-continue\r\n");
    let answer = wire.read_response();
    check(&answer, 401);
    assert!(answer.says_close());
    wire.check_closed();
}

#[test]
fn expect_of_a_request_that_goes_nowhere_gets_no_go_ahead() {
    let expecting = "Expect: 100-continue\r\n";
    let gate = Gate::with(|setup| setup.option("requests", r#"max_body = "10B""#));
    let large = format!("POST /api/v1/write\r\nContent-Length: 11\r\n{expecting}");
    check_problem(&open(&gate, &gate.telemetry_key(), &large).read_response(), 413, "body_too_large");

    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let nowhere = format!("http://{}", listener.local_addr().expect("an address"));
    drop(listener);
    let gate = Gate::with(|setup| setup.upstream_url(&nowhere));
    let small = format!("POST /api/v1/write\r\nContent-Length: 5\r\n{expecting}");
    let answer = open(&gate, &gate.telemetry_key(), &small).read_response();
    check_problem(&answer, 502, "upstream_unreachable");
}

#[test]
fn an_answer_in_place_of_the_go_ahead_is_passed_on_and_the_connection_closed() {
    let gate = Gate::start();
    gate.upstream().reply(Reply::bytes("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").before_body());
    let key = gate.telemetry_key();
    let mut wire = open(&gate, &key, "POST /api/v1/write\r\nContent-Length: 5\r\nExpect: 100-continue\r\n");
    let mut answer = wire.read_response();
    if answer.status == 100 {
        answer = wire.read_response();
    }
    assert_eq!(check(&answer, 403).text(), "no");
    assert!(answer.says_close(), "the body that was not sent is no request: {answer:?}");
}

#[test]
fn chunk_extensions_end_here_in_both_directions() {
    let gate = Gate::start();
    let key = gate.telemetry_key();
    let response = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;ext=1\r\nok\r\n0;last\r\n\r\n";
    gate.upstream().answer_with(response);
    let mut wire = open(&gate, &key, "POST /api/v1/write\r\nTransfer-Encoding: chunked\r\n");
    wire.send("5;a=b;c=\"d\"\r\nhello\r\n0;e\r\n\r\n");
    let answer = wire.read_response();
    assert_eq!(check(&answer, 200).text(), "ok");
    assert!(!String::from_utf8_lossy(&answer.raw).contains(';'), "{answer:?}");
    let request = only_request(&gate);
    assert_eq!(request.body, b"hello");
    assert!(!request.text().contains("a=b") && !request.text().contains(";e"), "{request:?}");
}

// Connections.

#[test]
fn an_http_1_0_client_may_keep_its_connection_where_the_length_is_known() {
    let gate = Gate::start();
    let reader = gate.key(&["monitor:read"]);
    let request =
        |keep: &str| format!("GET {QUERY} HTTP/1.0\r\n{keep}Authorization: {}\r\n\r\n", reader.authorization());
    let mut wire = gate.raw();
    for _ in 0..2 {
        gate.upstream().answer_with("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        wire.send(request("Connection: keep-alive\r\n"));
        let answer = wire.read_response();
        assert_eq!(check(&answer, 200).text(), "ok");
        assert!(answer.raw.starts_with(b"HTTP/1.0 "), "{answer:?}");
        assert!(
            answer.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("keep-alive")),
            "{answer:?}"
        );
    }
    gate.upstream().answer_with("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n");
    wire.send(request("Connection: keep-alive\r\n"));
    let raw = String::from_utf8(wire.read_to_end()).expect("UTF-8");
    assert!(raw.ends_with("\r\n\r\nok") && !raw.to_ascii_lowercase().contains("keep-alive"), "{raw}");
    assert!(!wire.was_reset());
    let mut wire = gate.raw();
    wire.send("GET //x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let answer = wire.read_response();
    assert_eq!(check(&answer, 400).header_values("connection"), ["close"]);
    wire.check_closed();
}

#[test]
fn an_http_1_0_client_that_says_nothing_of_its_connection_has_it_closed() {
    let gate = Gate::start();
    let mut wire = gate.raw();
    wire.send("GET /public/x HTTP/1.0\r\n\r\n");
    check(&wire.read_response(), 200);
    wire.check_closed();
}

#[test]
fn an_http_1_0_client_gets_no_interim_response() {
    let gate = Gate::start();
    let key = gate.telemetry_key();
    gate.upstream().answer_with("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let mut wire = gate.raw();
    let head = format!("Authorization: {}\r\nContent-Length: 5\r\nExpect: 100-continue\r\n", key.authorization());
    wire.send(format!("POST /api/v1/write HTTP/1.0\r\n{head}\r\nhello"));
    assert_eq!(check(&wire.read_response(), 200).text(), "ok");
}

#[test]
fn connections_are_kept_alive_on_both_sides() {
    let gate = Gate::start();
    let kept = gate.key(&["monitor:read"]).keep_alive();
    for _ in 0..20 {
        let answer = kept.get(QUERY);
        check(&answer, 200);
        assert!(!answer.says_close());
    }
    assert_eq!(gate.upstream().requests().len(), 20);
    assert_eq!(gate.upstream().connections(), 1);
}

#[test]
fn a_refusal_without_a_body_to_read_keeps_the_connection() {
    let gate = Gate::start();
    let kept = gate.key(&["monitor:read"]).keep_alive();
    for _ in 0..3 {
        assert!(!check(&kept.get("/api/v1/admin/x"), 403).says_close());
        assert!(!check(&kept.get(QUERY), 200).says_close());
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let gate = Gate::start();
    let reader = gate.key(&["monitor:read"]).keep_alive();
    let request = |body: &str| reader.render("POST", QUERY, &[], body.as_bytes());
    let mut wire = gate.raw();
    wire.send([request("one"), request("two"), request("three")].concat());
    for body in ["one", "two", "three"] {
        assert_eq!(check(&wire.read_response(), 200).text(), body);
    }
    let bodies: Vec<String> =
        gate.upstream().requests().iter().map(|request| String::from_utf8_lossy(&request.body).into_owned()).collect();
    assert_eq!(bodies, ["one", "two", "three"]);
}

#[test]
fn an_upstream_that_closes_after_each_answer_is_no_fault() {
    let gate = Gate::start();
    let kept = gate.key(&["monitor:read"]).keep_alive();
    gate.upstream()
        .reply_always(Reply::bytes("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok").close());
    for _ in 0..5 {
        let answer = kept.get(QUERY);
        assert_eq!(check(&answer, 200).body, b"ok");
        assert!(!answer.says_close());
    }
    assert_eq!(gate.upstream().connections(), 5);
}

#[test]
fn a_pooled_connection_that_died_meanwhile_is_no_fault() {
    let gate = Gate::start();
    let reader = gate.key(&["monitor:read"]);
    for round in 1..=3 {
        gate.upstream().reply(Reply::bytes("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").close());
        check(&reader.get(QUERY), 200);
        gate.upstream().wait_for_closed(round);
    }
}

#[test]
fn a_slow_request_holds_up_no_other() {
    let gate = Gate::start();
    let reader = gate.key(&["monitor:read"]);
    gate.upstream().reply(Reply::default().hold().then("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow"));
    let mut slow = open(&gate, &reader, "GET /api/v1/query?slow\r\n");
    gate.upstream().wait_for_requests(1);
    for _ in 0..5 {
        check(&reader.get(QUERY), 200);
    }
    gate.upstream().release();
    assert_eq!(slow.read_response().text(), "slow");
}

#[test]
fn an_http_1_0_client_is_served_and_its_connection_closed() {
    let gate = Gate::start();
    let reader = gate.key(&["monitor:read"]);
    let mut wire = gate.raw();
    gate.upstream().answer_with("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n");
    wire.send(format!("GET {QUERY} HTTP/1.0\r\nAuthorization: {}\r\n\r\n", reader.authorization()));
    let raw = String::from_utf8(wire.read_to_end()).expect("UTF-8");
    assert!(raw.contains(" 200 ") && raw.ends_with("\r\n\r\nok"), "{raw}");
    assert!(!raw.to_ascii_lowercase().contains("transfer-encoding"), "{raw}");
    assert_eq!(only_request(&gate).version, "HTTP/1.1");
}

#[test]
fn an_http_1_0_upstream_is_passed_on_as_http_1_1() {
    let gate = Gate::start();
    let reader = gate.key(&["monitor:read"]);
    gate.upstream().reply(Reply::bytes("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok").close());
    let kept = reader.keep_alive();
    let answer = kept.get(QUERY);
    check(&answer, 200);
    assert!(answer.raw.starts_with(b"HTTP/1.1 ") && !answer.says_close(), "{answer:?}");
    check(&kept.get(QUERY), 200);
}

// Statuses without a body.

#[test]
fn head_204_and_304_pass_without_a_body_and_leave_the_connection_clean() {
    let gate = Gate::start();
    let kept = gate.key(&["monitor:read"]).keep_alive();
    gate.upstream().answer_with("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
    let head = kept.head(QUERY);
    assert_eq!(check(&head, 200).header("content-length"), Some("1000"));
    gate.upstream().answer_with("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    let head = kept.head(QUERY);
    assert_eq!((check(&head, 200).header("content-length"), head.body.len()), (None, 0));
    gate.upstream().answer_with("HTTP/1.1 204 No Content\r\n\r\n");
    check(&kept.get(QUERY), 204);
    gate.upstream().answer_with("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(check(&kept.get(QUERY), 204).header("content-length"), None, "RFC 9110 §8.6");
    gate.upstream().answer_with("HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 7\r\n\r\n");
    let unchanged = kept.get(QUERY);
    assert_eq!(check(&unchanged, 304).header("etag"), Some("\"x\""));
    assert!(matches!(unchanged.header("content-length"), None | Some("7")), "{unchanged:?}");
    check(&kept.get(QUERY), 200);
    assert_eq!(gate.upstream().connections(), 1);
}

#[test]
fn every_status_of_the_upstream_passes() {
    let gate = Gate::start();
    let kept = gate.key(&["monitor:read"]).keep_alive();
    for status in [200, 201, 202, 206, 301, 302, 307, 400, 401, 403, 404, 409, 418, 422, 429, 500, 503, 599] {
        gate.upstream().answer_with(format!("HTTP/1.1 {status} Whatever\r\nContent-Length: 1\r\nX-A: b\r\n\r\nx"));
        let answer = kept.get(QUERY);
        assert_eq!((check(&answer, status).header("x-a"), answer.text().as_str()), (Some("b"), "x"));
    }
}

#[test]
fn a_redirect_is_passed_on_and_never_followed() {
    let gate = Gate::start();
    gate.upstream()
        .answer_with("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/inside\r\nContent-Length: 0\r\n\r\n");
    let answer = gate.key(&["monitor:read"]).get(QUERY);
    assert_eq!(check(&answer, 302).header("location"), Some("http://127.0.0.1:1/inside"));
    assert_eq!(gate.upstream().requests().len(), 1);
}

#[test]
fn interim_responses_of_the_upstream_do_no_harm() {
    let gate = Gate::start();
    gate.upstream().answer_with(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    );
    assert_eq!(check(&gate.key(&["monitor:read"]).get(QUERY), 200).text(), "ok");
}

// Upstreams that fail.

#[test]
fn an_upstream_that_is_not_there_is_502() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    drop(listener);
    let gate = Gate::with(|setup| setup.upstream_url(&url));
    let reader = gate.key(&["monitor:read"]).keep_alive();
    check_problem(&reader.get(QUERY), 502, "upstream_unreachable");
    check_problem(&reader.get(QUERY), 502, "upstream_unreachable");
}

#[test]
fn an_upstream_that_closes_without_an_answer_is_502_and_the_request_is_not_repeated() {
    let gate = Gate::start();
    let key = gate.telemetry_key();
    gate.upstream().reply(Reply::default().close());
    check_problem(&key.request("POST", "/api/v1/write", &[], b"once"), 502, "upstream_unreachable");
    gate.upstream().reply(Reply::default().reset());
    check_problem(&key.request("POST", "/api/v1/write", &[], b"twice"), 502, "upstream_unreachable");
    assert_eq!(gate.upstream().requests().len(), 2);
    check(&key.request("POST", "/api/v1/write", &[], b"third"), 200);
}

#[test]
fn an_upstream_without_a_free_connection_is_503_with_retry_after() {
    let gate = Gate::with(|setup| setup.upstream("connections_max = 1"));
    let reader = gate.key(&["monitor:read"]);
    gate.upstream().hold();
    let mut first = open(&gate, &reader, "GET /api/v1/query\r\n");
    gate.upstream().wait_for_requests(1);
    let answer = reader.get(QUERY);
    check_problem(&answer, 503, "upstream_busy");
    assert!(answer.header("retry-after").is_some());
    gate.upstream().release();
    check(&first.read_response(), 200);
    check(&reader.get(QUERY), 200);
}

#[test]
fn an_upstream_that_does_not_answer_is_504() {
    let gate = Gate::with(|setup| setup.upstream(r#"response_timeout = "100ms""#));
    gate.upstream().hold();
    let reader = gate.key(&["monitor:read"]).keep_alive();
    check_problem(&reader.get(QUERY), 504, "upstream_timeout");
    gate.upstream().wait_for_closed(1);
    gate.upstream().release();
    check(&reader.get(QUERY), 200);
}

#[test]
fn a_request_that_outlives_its_route_is_504() {
    let gate = Gate::with(|setup| setup.route("GET /brief", r#"{ require = "authenticated", timeout = "100ms" }"#));
    gate.upstream().hold();
    check_problem(&gate.root().get("/brief"), 504, "request_timeout");
    gate.upstream().wait_for_closed(1);
}

#[test]
fn a_response_body_that_stalls_is_cut_and_never_ends_cleanly() {
    let gate = Gate::with(|setup| setup.upstream(r#"body_timeout = "100ms""#));
    gate.upstream().reply(Reply::bytes("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").hold());
    let answer = gate.key(&["monitor:read"]).get(QUERY);
    assert!(!check(&answer, 200).complete, "{answer:?}");
    gate.upstream().wait_for_closed(1);
}

#[test]
fn a_response_that_outlives_its_route_is_cut() {
    let gate = Gate::with(|setup| setup.route("GET /brief", r#"{ require = "authenticated", timeout = "200ms" }"#));
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    gate.upstream().reply(Reply::bytes(head).then("2\r\nok\r\n").hold());
    let answer = gate.root().get("/brief");
    assert!(!check(&answer, 200).complete, "{answer:?}");
}

/// Asserts that a client sees a 200 whose body does not end as its framing says, and that the next request is fine.
#[track_caller]
fn check_cut(reply: Reply) {
    let gate = Gate::start();
    let reader = gate.key(&["monitor:read"]).keep_alive();
    gate.upstream().reply(reply);
    let answer = reader.get(QUERY);
    assert!(!check(&answer, 200).complete, "{answer:?}");
    check(&reader.get(QUERY), 200);
    assert_eq!(gate.upstream().requests().len(), 2);
}

#[test]
fn a_body_cut_short_of_its_length_is_delivered_as_cut() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n";
    check_cut(Reply::bytes(head).then("x".repeat(50)).close());
    check_cut(Reply::bytes(head).then("x".repeat(50)).reset());
}

#[test]
fn a_chunked_body_cut_anywhere_is_delivered_as_cut() {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for cut in ["a\r\nhello", "5\r\nhello\r\n", "5\r\nhello\r\n0\r\n", "5\r\nhello\r\n0"] {
        check_cut(Reply::bytes(head).then(cut).close());
    }
    check_cut(Reply::bytes(head).then("5\r\nhello\r\nzz\r\n").hold());
}

#[test]
fn a_close_delimited_body_is_whole_after_fin_and_cut_after_rst() {
    let gate = Gate::start();
    let reader = gate.key(&["monitor:read"]);
    gate.upstream().reply(Reply::bytes("HTTP/1.0 200 OK\r\n\r\nto the end").close());
    let answer = reader.get(QUERY);
    assert!(answer.complete && answer.text() == "to the end", "{answer:?}");
    gate.upstream().reply(Reply::bytes("HTTP/1.0 200 OK\r\n\r\nto the end").reset());
    let answer = reader.get(QUERY);
    assert!(answer.status == 502 || !answer.complete, "{answer:?}");
}

#[test]
fn a_missing_reason_is_no_fault() {
    let gate = Gate::start();
    let reader = gate.key(&["monitor:read"]);
    for line in ["HTTP/1.1 200", "HTTP/1.1 200 "] {
        gate.upstream().answer_with(format!("{line}\r\nContent-Length: 2\r\n\r\nok"));
        assert_eq!(check(&reader.get(QUERY), 200).text(), "ok");
    }
}

#[test]
fn interim_responses_without_end_are_cut_off() {
    let gate = Gate::start();
    gate.upstream().reply(Reply::default().forever("HTTP/1.1 100 Continue\r\n\r\n"));
    check_problem(&gate.key(&["monitor:read"]).get(QUERY), 502, "upstream_invalid");
    gate.upstream().wait_for_closed(1);
}

#[test]
fn a_response_head_without_end_is_cut_off() {
    let gate = Gate::start();
    gate.upstream().reply(Reply::bytes("HTTP/1.1 200 OK\r\n").forever("X-A: aaaaaaaaaaaaaaaaaaaaaaaa\r\n"));
    check_problem(&gate.key(&["monitor:read"]).get(QUERY), 502, "upstream_invalid");
    gate.upstream().wait_for_closed(1);
}

#[test]
fn an_endless_response_streams_until_the_client_leaves() {
    let gate = Gate::start();
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
    gate.upstream().reply(Reply::bytes(head).forever(chunk));
    let mut wire = open(&gate, &gate.key(&["monitor:read"]), "GET /api/v1/query\r\n");
    check(&wire.read_head(), 200);
    wire.read_exactly(4 << 20);
    drop(wire);
    gate.upstream().wait_for_closed(1);
}

// Slow clients.

fn impatient(setup: Setup) -> Setup {
    setup
        .option("client", r#"first_byte_timeout = "150ms""#)
        .option("client", r#"header_timeout = "150ms""#)
        .option("client", r#"idle_timeout = "150ms""#)
        .option("client", r#"body_timeout = "150ms""#)
        .option("client", r#"write_timeout = "300ms""#)
}

#[test]
fn a_client_that_says_nothing_is_let_go() {
    let gate = Gate::with(impatient);
    gate.raw().check_closed();
}

#[test]
fn a_header_section_that_does_not_end_is_let_go() {
    let gate = Gate::with(impatient);
    let mut wire = gate.raw();
    wire.send("GET /public/x HTTP/1.1\r\nHost: t\r\nX-A: ");
    let said = String::from_utf8(wire.read_to_end()).expect("UTF-8");
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 408"), "{said}");
    assert!(gate.upstream().raw().is_empty());
}

#[test]
fn an_empty_line_before_a_head_takes_nothing_of_the_time_for_it() {
    let header_timeout = Duration::from_secs(1);
    let gate = Gate::with(|setup| setup.option("client", r#"header_timeout = "1s""#));
    let mut wire = gate.raw();
    let is_read = || check(&gate.root().get("/open/x"), 200).status;
    wire.send("\r");
    is_read();
    wire.send("\n");
    pass(header_timeout + Duration::from_millis(200));
    wire.send("GET /public/x HTTP/1.1\r\n");
    is_read();
    wire.send("Host: t\r\n\r\n");
    check(&wire.read_response(), 200);
}

#[test]
fn a_connection_that_idles_between_requests_is_let_go() {
    let gate = Gate::with(impatient);
    let mut wire = open(&gate, &gate.root(), "GET /open/x\r\n");
    check(&wire.read_response(), 200);
    wire.check_closed();
}

#[test]
fn a_request_body_that_stalls_is_408_and_never_ends_cleanly() {
    let gate = Gate::with(impatient);
    let key = gate.telemetry_key();
    for framing in ["Content-Length: 100", "Transfer-Encoding: chunked"] {
        let mut wire = open(&gate, &key, &format!("POST /api/v1/write\r\n{framing}\r\n"));
        wire.send("5\r\nhello\r\n");
        let answer = wire.read_response();
        check_problem(&answer, 408, "body_timeout");
        assert!(answer.says_close());
        wire.check_closed();
    }
    gate.upstream().wait_for_closed(gate.upstream().connections());
    assert!(gate.upstream().requests().is_empty());
}

#[test]
fn a_client_that_reads_nothing_is_let_go() {
    let gate = Gate::with(impatient);
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    gate.upstream().reply(Reply::bytes(head).forever(format!("10000\r\n{}\r\n", "x".repeat(0x1_0000))));
    let started = Instant::now();
    let _wire = open(&gate, &gate.key(&["monitor:read"]), "GET /api/v1/query\r\n");
    gate.upstream().wait_for_closed(1);
    assert!(started.elapsed() < Duration::from_secs(15));
}

#[test]
fn connections_beyond_the_limit_wait_and_are_then_served() {
    let gate = Gate::with(|setup| {
        setup.option("client", "connections_max = 2").option("client", r#"connections_per_address_max = "off""#)
    });
    let held: Vec<Wire> = (0..2)
        .map(|_| {
            let mut wire = gate.raw();
            wire.send("GET /public/x HTTP/1.1\r\nHost: t\r\n\r\n");
            check(&wire.read_response(), 200);
            wire
        })
        .collect();
    let mut third = gate.raw();
    third.send("GET /public/x HTTP/1.1\r\nHost: t\r\n\r\n");
    assert!(!third.stirs_within(Duration::from_millis(100)));
    drop(held);
    check(&third.read_response(), 200);
}

#[test]
fn an_upstream_that_stops_taking_the_body_is_504_and_counted_as_its_failure() {
    let gate = Gate::with(|setup| setup.upstream(r#"response_timeout = "200ms""#));
    gate.upstream().reply(Reply::bytes("").before_body().hold());
    let key = gate.key(&["telemetry:write"]);
    let answer = key.request("POST", "/api/v1/write", &[], &vec![b'x'; 32 << 20]);
    check_problem(&answer, 504, "upstream_timeout");
    let failures = r#"portcullis_upstream_failures_total{upstream="main",kind="response_timeout"}"#;
    assert_eq!(gate.metric(failures), 1.0);
}

#[test]
fn other_spellings_of_the_header_that_carries_keys_do_not_reach_the_upstream() {
    let gate = Gate::with(|setup| setup.option("credentials", r#"from = ["basic", "header:X-Api-Key"]"#));
    let key = gate.key(&["monitor:read"]);
    let spellings = [("X_Api_Key", key.secret()), ("X.Api-Key", key.secret())];
    check(&key.request("GET", QUERY, &spellings, b""), 200);
    let request = only_request(&gate);
    assert!(!request.text().contains(key.secret()), "{}", request.text());
}

#[test]
fn a_body_that_is_cut_reaches_an_http_1_0_client_as_a_reset() {
    let gate = Gate::start();
    let key = gate.key(&["monitor:read"]);
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    gate.upstream().reply(Reply::bytes(chunked).close());
    let mut wire = gate.raw();
    wire.send(format!("GET {QUERY} HTTP/1.0\r\nHost: gate.test\r\nAuthorization: {}\r\n\r\n", key.authorization()));
    wire.read_to_end();
    assert!(wire.was_reset());
}

#[test]
fn a_body_that_its_http_1_0_client_does_not_take_ends_in_a_reset_too() {
    let gate = Gate::with(impatient);
    let key = gate.key(&["monitor:read"]);
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    gate.upstream().reply(Reply::bytes(head).forever(format!("10000\r\n{}\r\n", "x".repeat(0x1_0000))));
    let mut wire = gate.raw();
    wire.send(format!("GET {QUERY} HTTP/1.0\r\nHost: gate.test\r\nAuthorization: {}\r\n\r\n", key.authorization()));
    gate.upstream().wait_for_closed(1);
    wire.read_to_end();
    assert!(wire.was_reset());
}

#[test]
fn a_client_that_leaves_after_an_upload_behind_an_early_response_leaves_the_upstream_too() {
    let gate = Gate::start();
    let key = gate.key(&["telemetry:write"]);
    let endless = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nearly\r\n";
    for (number, rest) in ["6", "67890"].into_iter().enumerate() {
        gate.upstream().reply(Reply::bytes(endless).before_body());
        let mut wire = gate.raw();
        let authorization = key.authorization();
        wire.send(format!(
            "POST /api/v1/write HTTP/1.1\r\nHost: t\r\nAuthorization: {authorization}\r\nContent-Length: 10\r\n\r\n12345"
        ));
        wire.read_until(b"early");
        wire.send(rest);
        gate.upstream().wait_for_bytes(format!("12345{rest}").as_bytes());
        drop(wire);
        gate.upstream().wait_for_closed(number + 1);
    }
}

#[test]
fn an_http_1_0_request_without_host_is_forwarded_with_the_upstreams() {
    let gate = Gate::start();
    let key = gate.key(&["monitor:read"]);
    let mut wire = gate.raw();
    wire.send(format!("GET {QUERY} HTTP/1.0\r\nAuthorization: {}\r\n\r\n", key.authorization()));
    check(&wire.read_response(), 200);
    assert_eq!(only_request(&gate).header("host"), Some(gate.upstream().address().to_string().as_str()));
}

#[test]
fn an_endless_response_ends_with_its_routes_timeout() {
    let gate = Gate::with(|setup| setup.route("GET /endless", r#"{ require = "authenticated", timeout = "300ms" }"#));
    let chunk = format!("400\r\n{}\r\n", "x".repeat(1_024));
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    gate.upstream().reply(Reply::bytes(head).forever(chunk));
    let mut wire = open(&gate, &gate.root(), "GET /endless");
    assert!(!wire.read_to_end().ends_with(b"0\r\n\r\n"));
}

#[test]
fn unused_connections_of_one_worker_do_not_keep_another_from_the_upstream() {
    let gate = Gate::with(|setup| setup.upstream("connections_max = 1").option("listen", "workers = 2"));
    let key = gate.key(&["monitor:read"]);
    for _ in 0..30 {
        check(&key.get(QUERY), 200);
    }
}

#[test]
fn fields_that_name_another_method_or_path_do_not_reach_the_upstream() {
    let gate = Gate::start();
    let key = gate.key(&["monitor:read"]);
    let names = ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "X_Method_Override", "Proxy"];
    let fields: Vec<(&str, &str)> = names.iter().map(|name| (*name, "DELETE")).collect();
    check(&key.request("GET", QUERY, &fields, b""), 200);
    assert!(!only_request(&gate).text().contains("DELETE"));
}

#[test]
fn a_key_in_a_header_that_the_route_does_not_read_stays_here_too() {
    let gate = Gate::with(|setup| {
        setup
            .option("credentials", r#"from = ["basic", "header:X-Api-Key"]"#)
            .route("GET /basic-only", r#"{ require = "authenticated", sources = ["basic"] }"#)
    });
    let key = gate.key(&["monitor:read"]);
    check(&key.request("GET", "/basic-only", &[("X-Api-Key", key.secret())], b""), 200);
    assert!(!only_request(&gate).text().contains(key.secret()));
}

#[test]
fn a_client_that_pauses_in_its_body_is_not_timed_by_the_upstreams_deadline() {
    let gate = Gate::with(|setup| setup.upstream(r#"response_timeout = "500ms""#));
    let key = gate.key(&["telemetry:write"]);
    let mut wire = open(&gate, &key, "POST /api/v1/write\r\nContent-Length: 2\r\n");
    wire.send("a");
    gate.upstream().wait_for_bytes(b"a");
    assert!(!wire.stirs_within(Duration::from_millis(700)));
    wire.send("b");
    check(&wire.read_response(), 200);
}
