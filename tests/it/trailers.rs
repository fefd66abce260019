//! Trailers between HTTP/1.1 and HTTP/1.1: who gets which, and that nobody gets what belongs into a head.

use crate::harness::{Answer, Gate, H2Upstream, Reply, Wire, check};

const QUERY: &str = "/api/v1/query";
const BODY: &str = "4\r\nbody\r\n0\r\n";

/// Asks with these fields; the upstream answers with this head and these trailers. Returns the whole response as text.
#[track_caller]
fn response(gate: &Gate, wire: &mut Wire, fields: &[(&str, &str)], head: &str, trailers: &str) -> (Answer, String) {
    let head = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{head}\r\n");
    gate.upstream().reply(Reply::bytes(head + BODY + trailers + "\r\n"));
    wire.send(gate.root().render("GET", QUERY, &[fields, &[("Connection", "keep-alive")]].concat(), b""));
    let answer = wire.read_response();
    assert_eq!(check(&answer, 200).text(), "body");
    assert!(answer.complete, "{answer:?}");
    let text = String::from_utf8(answer.raw.clone()).expect("text").to_ascii_lowercase();
    (answer, text)
}

#[test]
fn announced_trailers_of_a_response_reach_a_client_that_takes_them() {
    let gate = Gate::start();
    let mut wire = gate.raw();
    let sent = "X-Checksum: 12\r\nServer-Timing: db;dur=53\r\n";
    let announced = "Trailer: X-Checksum, Server-Timing\r\n";
    // More than once: the connection stays in step.
    for _ in 0..2 {
        let (answer, text) = response(&gate, &mut wire, &[("TE", "trailers")], announced, sent);
        assert_eq!(answer.header_values("trailer"), ["x-checksum, server-timing"]);
        assert!(text.ends_with("0\r\nx-checksum: 12\r\nserver-timing: db;dur=53\r\n\r\n"), "{text}");
        assert!(answer.header("x-checksum").is_none(), "a trailer is no header: {answer:?}");
    }
    assert_eq!(gate.upstream().connections(), 1);
}

#[test]
fn a_client_that_does_not_ask_for_trailers_gets_none() {
    let gate = Gate::start();
    let mut wire = gate.raw();
    let cases: [&[(&str, &str)]; 3] = [&[], &[("TE", "gzip")], &[("X-TE", "trailers")]];
    for fields in cases {
        let (answer, text) = response(&gate, &mut wire, fields, "Trailer: X-Checksum\r\n", "X-Checksum: 12\r\n");
        assert!(answer.header("trailer").is_none() && text.ends_with("\r\n0\r\n\r\n"), "{text}");
    }
}

#[test]
fn trailers_that_were_not_announced_or_steer_a_message_end_here() {
    let gate = Gate::start();
    let mut wire = gate.raw();
    let (_, text) = response(&gate, &mut wire, &[("TE", "trailers")], "Trailer: X-A\r\n", "X-A: 1\r\nX-B: 2\r\n");
    assert!(text.ends_with("0\r\nx-a: 1\r\n\r\n"), "{text}");
    let (answer, text) = response(&gate, &mut wire, &[("TE", "trailers")], "", "X-A: 1\r\n");
    assert!(answer.header("trailer").is_none() && text.ends_with("\r\n0\r\n\r\n"), "{text}");

    let steering =
        ["Content-Length", "Set-Cookie", "X-Portcullis-Key-Id", "Connection", "WWW-Authenticate", "Location"];
    let announced = format!("Trailer: {}, X-A\r\n", steering.join(", "));
    let sent: String = steering.iter().map(|name| format!("{name}: 1\r\n")).collect();
    let (answer, text) = response(&gate, &mut wire, &[("TE", "trailers")], &announced, &(sent + "X-A: 1\r\n"));
    assert_eq!(answer.header_values("trailer"), ["x-a"]);
    assert!(text.ends_with("0\r\nx-a: 1\r\n\r\n"), "{text}");
}

#[test]
fn the_status_of_grpc_reaches_a_client_of_http_1_that_takes_trailers() {
    let gate = Gate::start();
    let mut wire = gate.raw();
    let head = "Content-Type: application/grpc+proto\r\n";
    let (_, text) = response(&gate, &mut wire, &[("TE", "trailers")], head, "grpc-status: 5\r\ngrpc-message: no\r\n");
    // To the gate's upstream guard they were not announced, and come all the same.
    assert!(text.ends_with("0\r\ngrpc-status: 5\r\ngrpc-message: no\r\n\r\n"), "{text}");
}

#[test]
fn an_http_1_0_client_gets_no_trailers() {
    let gate = Gate::start();
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-A\r\n\r\n";
    gate.upstream().reply(Reply::bytes(format!("{head}{BODY}X-A: 1\r\n\r\n")));
    let mut wire = gate.raw();
    let authorization = gate.root().authorization();
    wire.send(format!("GET {QUERY} HTTP/1.0\r\nTE: trailers\r\nAuthorization: {authorization}\r\n\r\n"));
    let text = String::from_utf8(wire.read_to_end()).expect("text").to_ascii_lowercase();
    assert!(text.ends_with("\r\n\r\nbody") && !text.contains("x-a"), "{text}");
}

#[test]
fn trailers_of_a_request_that_were_not_announced_end_here() {
    let gate = Gate::start();
    let mut wire = gate.raw();
    wire.send(gate.root().render("POST", "/api/v1/write", &[("Transfer-Encoding", "chunked")], b""));
    wire.send(format!("{BODY}X-A: 1\r\n\r\n"));
    check(&wire.read_response(), 200);
    let request = gate.upstream().last();
    assert_eq!(request.body, b"body");
    assert!(!request.text().contains("X-A") && !request.text().contains("x-a"), "{request:?}");
}

#[test]
fn trailers_without_end_are_refused_in_both_directions() {
    let gate = Gate::start();
    let mut wire = gate.raw();
    let fields = [("Transfer-Encoding", "chunked"), ("Trailer", "a")];
    wire.send(gate.root().render("POST", "/api/v1/write", &fields, b""));
    wire.send(format!("{BODY}{}\r\n", "a: b\r\n".repeat(10_000)));
    check(&wire.read_response(), 400);
    assert!(gate.upstream().requests().is_empty(), "the body never ended");

    let gate = Gate::start();
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: a\r\n\r\n";
    gate.upstream().reply(Reply::bytes(format!("{head}{BODY}{}\r\n", "a: b\r\n".repeat(10_000))));
    let mut wire = gate.raw();
    wire.send(gate.root().render("GET", QUERY, &[("TE", "trailers")], b""));
    let answer = wire.read_response();
    // What is wrong may be seen before the head has been passed on.
    assert!(answer.status == 502 || !answer.complete, "its end never came: {answer:?}");
}

#[test]
fn what_a_line_says_of_a_field_of_the_request_is_true_behind_its_body_too() {
    let upstream = H2Upstream::start();
    let line = r#"{ require = "public", set_headers = { "X-Scope-OrgID" = "a" }, remove_headers = ["X-Internal"] }"#;
    let gate = Gate::with(|setup| {
        let setup = setup.upstream_url(&format!("http://{}", upstream.address())).upstream(r#"protocol = "http2""#);
        setup.no_routes().route("POST /x", line)
    });
    let mut wire = gate.raw();
    wire.send("POST /x HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n");
    wire.send("X-Scope-OrgID: b\r\nX_Scope_OrgID: b\r\nX-Internal: 1\r\nX-Checksum: 12\r\n\r\n");
    check(&wire.read_response(), 200);
    let seen = upstream.last();
    assert_eq!(seen.header("x-scope-orgid"), Some("a"));
    assert_eq!(seen.trailers, [("x-checksum".to_owned(), "12".to_owned())]);
}

#[test]
fn what_a_line_says_of_a_field_of_the_response_is_true_behind_its_body_too() {
    let line = r#"{ require = "authenticated", set_response_headers = { "X-Set" = "a" },
        remove_response_headers = ["X-Internal"] }"#
        .replace('\n', " ");
    let gate = Gate::with(|setup| setup.no_routes().route(&format!("GET {QUERY}"), &line));
    let announced = "Trailer: X-Set, X-Internal, X-A\r\n";
    let sent = "X-Set: b\r\nX_Set: b\r\nX-Internal: 1\r\nX-A: 1\r\n";
    let (answer, text) = response(&gate, &mut gate.raw(), &[("TE", "trailers")], announced, sent);
    assert_eq!((answer.header("x-set"), answer.header_values("trailer")), (Some("a"), vec!["x-a"]));
    assert!(text.ends_with("0\r\nx-a: 1\r\n\r\n"), "{text}");
}
