//! Behind other proxies: whose word on a client's address counts, in header fields and in the PROXY protocol, and that
//! the address that results is the one that upstreams, limits and logs get.

use crate::harness::{Authority, GATE, Gate, Installation, Setup, TlsClient, Wire, basic, check};

/// Believes this machine, and tells the upstream whom it takes for the client.
fn trusting(setup: Setup) -> Setup {
    setup
        .option("forwarding", r#"trusted_proxies = ["127.0.0.0/8", "10.0.0.0/8"]"#)
        .route("GET /who", r#"{ require = "public", set_headers = { "X-Client" = "{client.ip}" } }"#)
}

fn proxied(setup: Setup) -> Setup {
    trusting(setup).option("listen", "proxy_protocol = true")
}

/// Whom the gate takes for the client of a request with these fields.
#[track_caller]
fn client(gate: &Gate, fields: &[(&str, &str)]) -> String {
    gate.upstream().forget();
    check(&gate.anonymous().request("GET", "/who", fields, b""), 200);
    gate.upstream().last().header("x-client").expect("a client").to_owned()
}

const REQUEST: &str = "GET /who HTTP/1.1\r\nHost: gate.test\r\n\r\n";
const TEXT: &[u8] = b"PROXY TCP4 1.2.3.4 10.0.0.1 5678 80\r\n";

/// A version 2 header.
fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).expect("a short header").to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &length, rest].concat()
}

fn binary_of(client: [u8; 4]) -> Vec<u8> {
    binary(0x21, 0x11, &[&client[..], &[10, 0, 0, 1, 0x16, 0x2e, 0, 80]].concat())
}

/// Sends these bytes in front of a request; whom the gate then takes for the client.
#[track_caller]
fn client_behind(gate: &Gate, header: &[u8]) -> String {
    gate.upstream().forget();
    let mut wire = gate.raw();
    wire.send([header, REQUEST.as_bytes()].concat());
    check(&wire.read_response(), 200);
    gate.upstream().last().header("x-client").expect("a client").to_owned()
}

fn refusals(gate: &Gate, reason: &str) -> f64 {
    gate.metric(&format!("portcullis_proxy_protocol_refusals_total{{reason=\"{reason}\"}}"))
}

// Header fields.

#[test]
fn a_trusted_proxy_names_the_client_in_either_field() {
    let gate = Gate::with(trusting);
    assert_eq!(client(&gate, &[]), "127.0.0.1");
    for (fields, expected) in [
        (&[("X-Forwarded-For", "9.9.9.9, 1.2.3.4, 10.1.2.3")][..], "1.2.3.4"),
        (&[("Forwarded", "for=9.9.9.9, for=\"1.2.3.4:80\";proto=https, for=10.1.2.3")], "1.2.3.4"),
        (&[("Forwarded", "for=\"[2001:db8::1]:_x\"")], "2001:db8::1"),
        (&[("Forwarded", "for=9.9.9.9"), ("Forwarded", "for=1.2.3.4"), ("Forwarded", "for=10.1.2.3")], "1.2.3.4"),
        (&[("X-Forwarded-For", "9.9.9.9"), ("x-forwarded-for", "1.2.3.4,10.1.2.3")], "1.2.3.4"),
        (&[("X-Forwarded-For", "1.2.3.4"), ("Forwarded", "for=1.2.3.4")], "1.2.3.4"),
        (&[("X-Forwarded-For", "1.2.3.4"), ("Forwarded", "for=9.9.9.9")], "127.0.0.1"),
        (&[("Forwarded", "for=1.2.3.4, for=unknown")], "127.0.0.1"),
        (&[("Forwarded", "for=1.2.3.4, for=_x, for=10.1.2.3")], "10.1.2.3"),
        (&[("Forwarded", "for=1.2.3.4, for=\"")], "127.0.0.1"),
        (&[("X-Forwarded-For", "1.2.3.4, junk")], "127.0.0.1"),
        (&[("X_Forwarded_For", "1.2.3.4"), ("X-Real-IP", "1.2.3.4")], "127.0.0.1"),
    ] {
        assert_eq!(client(&gate, fields), expected, "{fields:?}");
    }
}

/// Catalogue D12 to D17.
#[test]
fn nobody_is_believed_where_nobody_is_trusted() {
    for trusted in ["[]", r#"["192.0.2.0/24", "::1"]"#] {
        let gate = Gate::with(|setup| trusting(setup).option("forwarding", &format!("trusted_proxies = {trusted}")));
        let claims = [
            ("X-Forwarded-For", "1.2.3.4"),
            ("Forwarded", "for=\"[::1]\";host=evil.test;proto=https"),
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Host", "evil.test"),
            ("X-Forwarded-Prefix", "/evil"),
            ("X-Forwarded-Uri", "/evil"),
            ("X-Original-Method", "DELETE"),
            ("X-Rewrite-URL", "/evil"),
        ];
        assert_eq!(client(&gate, &claims), "127.0.0.1", "{trusted}");
        let request = gate.upstream().last();
        assert_eq!(request.header_values("x-forwarded-for"), ["127.0.0.1"]);
        assert_eq!(request.header_values("x-forwarded-proto"), ["http"]);
        assert_eq!(request.header_values("x-forwarded-host"), ["gate.test"]);
        assert_eq!(request.header_values("forwarded"), ["for=127.0.0.1;host=\"gate.test\";proto=http"]);
        assert!(!request.text().contains("evil") && !request.text().contains("DELETE"), "{request:?}");
    }
}

#[test]
fn failed_authentications_count_for_the_client_that_a_proxy_names() {
    let gate = Gate::with(|setup| trusting(setup).option("limits", r#"failures = { rate = "1/h", burst = 2 }"#));
    let status = |client: &str| {
        let fields = [("Forwarded", client), ("Authorization", "Bearer pcl_nonsense")];
        gate.anonymous().request("GET", "/open/x", &fields, b"").status
    };
    let of_one = [(); 3].map(|()| status("for=1.2.3.4"));
    let of_another = status("for=1.2.3.5");
    assert_eq!((of_one, of_another), ([401, 401, 429], 401));
}

// The PROXY protocol.

#[test]
fn a_proxy_header_names_the_client() {
    let gate = Gate::with(proxied);
    for (header, expected) in [
        (TEXT.to_vec(), "1.2.3.4"),
        (b"PROXY TCP6 2001:db8::1 ::1 5678 80\r\n".to_vec(), "2001:db8::1"),
        (b"PROXY TCP6 ::ffff:1.2.3.4 ::1 5678 80\r\n".to_vec(), "1.2.3.4"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (b"PROXY UNKNOWN 1.2.3.4 what ever\r\n".to_vec(), "127.0.0.1"),
        (binary_of([1, 2, 3, 4]), "1.2.3.4"),
        (binary(0x21, 0x21, &[&[0x20, 1][..], &[0; 34]].concat()), "2001::"),
        (binary(0x21, 0x11, &[&[1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0][..], b"\x04\0\x03abc"].concat()), "1.2.3.4"),
        (binary(0x20, 0x11, &[1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0]), "127.0.0.1"),
        (binary(0x20, 0x00, b""), "127.0.0.1"),
        (binary(0x21, 0x31, &[b'x'; 216]), "127.0.0.1"),
        (binary(0x21, 0x00, b""), "127.0.0.1"),
    ] {
        assert_eq!(client_behind(&gate, &header), expected, "{}", header.escape_ascii());
    }
    assert_eq!(refusals(&gate, "malformed") + refusals(&gate, "untrusted") + refusals(&gate, "timed_out"), 0.0);
}

#[test]
fn a_proxy_header_holds_for_every_request_of_its_connection() {
    let gate = Gate::with(proxied);
    let mut wire = gate.raw();
    wire.send([TEXT, REQUEST.as_bytes(), REQUEST.as_bytes()].concat());
    check(&wire.read_response(), 200);
    check(&wire.read_response(), 200);
    wire.send(REQUEST);
    check(&wire.read_response(), 200);
    for request in gate.upstream().requests() {
        assert_eq!(request.header_values("x-client"), ["1.2.3.4"]);
        assert_eq!(request.header_values("x-forwarded-for"), ["1.2.3.4"]);
        assert!(request.header("forwarded").is_some_and(|value| value.starts_with("for=1.2.3.4;")), "{request:?}");
    }
}

#[test]
fn a_proxy_header_may_come_byte_by_byte_and_takes_nothing_behind_it() {
    let gate = Gate::with(proxied);
    for header in [TEXT.to_vec(), binary_of([1, 2, 3, 4])] {
        gate.upstream().forget();
        let mut wire = gate.raw();
        for byte in &header {
            wire.send([*byte]);
        }
        wire.send(REQUEST);
        check(&wire.read_response(), 200);
        assert_eq!(gate.upstream().last().header("x-client"), Some("1.2.3.4"));
    }
}

#[test]
fn whom_a_proxy_header_names_is_believed_on_others_only_where_it_is_trusted_itself() {
    let gate = Gate::with(proxied);
    let client = |header: &[u8]| {
        gate.upstream().forget();
        let mut wire = gate.raw();
        let fields = "X-Forwarded-For: 9.9.9.9\r\nX-Forwarded-Proto: https\r\n";
        wire.send([header, REQUEST.replace("\r\n\r\n", &format!("\r\n{fields}\r\n")).as_bytes()].concat());
        check(&wire.read_response(), 200);
        let request = gate.upstream().last();
        ["x-client", "x-forwarded-for", "x-forwarded-proto"].map(|name| request.header_values(name).join(", "))
    };
    assert_eq!(client(TEXT), ["1.2.3.4", "1.2.3.4", "http"]);
    assert_eq!(client(&binary_of([10, 0, 0, 9])), ["9.9.9.9", "9.9.9.9, 10.0.0.9", "https"]);
}

#[test]
fn a_connection_without_a_valid_proxy_header_is_closed_unanswered() {
    let gate = Gate::with(proxied);
    let malformed: [Vec<u8>; 9] = [
        REQUEST.as_bytes().to_vec(),
        b"PROXY TCP4 1.2.3.4 10.0.0.1 5678 80\n".to_vec(),
        b"PROXY TCP4 1.2.3 10.0.0.1 5678 80\r\n".to_vec(),
        b"PROXY TCP6 1.2.3.4 10.0.0.1 5678 80\r\n".to_vec(),
        [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 200]].concat(),
        binary(0x21, 0x11, &[1, 2, 3, 4]),
        binary(0x22, 0x11, &[0; 12]),
        binary(0x21, 0x11, &[&[0; 12][..], b"\x03\0\x04abcd"].concat()),
        binary(0x21, 0x11, &[0; 5_000]),
    ];
    for (count, header) in malformed.iter().enumerate() {
        let mut wire = gate.raw();
        wire.send([header, REQUEST.as_bytes()].concat());
        wire.check_closed();
        assert_eq!(refusals(&gate, "malformed"), (count + 1) as f64, "{}", header.escape_ascii());
    }
    assert_eq!(gate.upstream().requests().len(), 0);
}

#[test]
fn a_proxy_header_comes_before_the_tls_handshake() {
    let authority = Authority::new("Test CA");
    let certificate = authority.server("gate", &[GATE]);
    let client = TlsClient::trusting(&authority);
    let gate = Gate::with(|setup| proxied(setup).tls(&certificate, &client));
    for header in [TEXT.to_vec(), binary_of([1, 2, 3, 4])] {
        gate.upstream().forget();
        let stream = client.shake_behind(&header, gate.public(), GATE).expect("a handshake");
        let mut wire = Wire::over_tls(stream);
        wire.send(REQUEST);
        check(&wire.read_response(), 200);
        let request = gate.upstream().last();
        assert_eq!(request.header("x-client"), Some("1.2.3.4"));
        assert_eq!(request.header("x-forwarded-proto"), Some("https"));
    }
    client.shake(gate.public(), GATE).expect_err("a handshake without a header");
    assert_eq!(refusals(&gate, "malformed"), 1.0);
}

#[test]
fn a_second_proxy_header_is_the_clients_and_no_request() {
    let gate = Gate::with(proxied);
    let mut wire = gate.raw();
    wire.send([TEXT, b"PROXY TCP4 9.9.9.9 10.0.0.1 5678 80\r\n", REQUEST.as_bytes()].concat());
    check(&wire.read_response(), 400);
    assert_eq!(gate.upstream().requests().len(), 0);
}

#[test]
fn a_peer_that_is_not_trusted_is_refused_where_proxy_headers_are_taken() {
    let gate = Gate::with(|setup| proxied(setup).option("forwarding", r#"trusted_proxies = ["192.0.2.0/24"]"#));
    for bytes in [[TEXT, REQUEST.as_bytes()].concat(), REQUEST.as_bytes().to_vec()] {
        let mut wire = gate.raw();
        wire.send(bytes);
        wire.check_closed();
    }
    assert_eq!(refusals(&gate, "untrusted"), 2.0);
    assert_eq!(gate.upstream().requests().len(), 0);
}

#[test]
fn a_proxy_header_that_does_not_come_is_not_waited_for_without_end() {
    let gate = Gate::with(|setup| proxied(setup).option("client", r#"first_byte_timeout = "200ms""#));
    for (count, start) in ["", "PROXY TCP4 1.2.3.4", "\r\n\r\n"].into_iter().enumerate() {
        let mut wire = gate.raw();
        wire.send(start);
        wire.check_closed();
        assert_eq!(refusals(&gate, "timed_out"), (count + 1) as f64, "{start:?}");
    }
}

#[test]
fn a_connection_that_only_looks_whether_somebody_listens_is_no_refusal() {
    let gate = Gate::with(proxied);
    for start in ["", "PROXY "] {
        let mut wire = gate.raw();
        wire.send(start).finish_sending();
        wire.check_closed();
    }
    assert_eq!(refusals(&gate, "malformed") + refusals(&gate, "timed_out"), 0.0);
}

#[test]
fn a_proxy_header_is_a_malformed_request_where_none_are_taken() {
    let gate = Gate::with(trusting);
    for header in [TEXT.to_vec(), binary_of([1, 2, 3, 4])] {
        let mut wire = gate.raw();
        wire.send([&header[..], REQUEST.as_bytes()].concat());
        check(&wire.read_response(), 400);
    }
    assert_eq!(gate.upstream().requests().len(), 0);
}

#[test]
fn the_ops_listener_takes_no_proxy_headers() {
    let gate = Gate::with(proxied);
    check(&gate.ops_get("/-/healthy"), 200);
    let mut wire = Wire::connect(gate.ops());
    wire.send([TEXT, b"GET /-/healthy HTTP/1.1\r\nHost: gate.test\r\n\r\n"].concat());
    check(&wire.read_response(), 400);
}

#[test]
fn limits_and_logs_go_by_the_client_that_a_proxy_header_names() {
    let installation = Installation::with(|setup| {
        proxied(setup).option("log", "access = true").option("limits", r#"failures = { rate = "1/h", burst = 2 }"#)
    });
    installation.init();
    let mut served = installation.serve();
    let public = served.public;
    let authorization = basic("pcl_nonsense");
    let status = |client: [u8; 4]| {
        let mut wire = Wire::connect(public);
        let head = format!("GET /open/x HTTP/1.1\r\nHost: gate.test\r\nAuthorization: {authorization}\r\n\r\n");
        wire.send([&binary_of(client)[..], head.as_bytes()].concat());
        wire.read_response().status
    };

    let of_one = [(); 3].map(|()| status([1, 2, 3, 4]));
    let of_another = status([1, 2, 3, 5]);

    assert_eq!((of_one, of_another), ([401, 401, 429], 401));
    let line = served.process.wait_for(|line| line.contains("429") && line.contains("/open/"));
    assert!(line.contains("1.2.3.4") && !line.contains("127.0.0.1"), "{line}");
}
