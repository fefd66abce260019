//! Bodies, their ends, and what comes behind or in place of them, over every wire.

use crate::harness::{Cell, Says, check, check_problem, on_every_wire};

use super::QUERY;

const WRITE: &str = "/api/v1/write";

/// Bytes of which no two stretches look alike.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(&mut next).take(length).collect()
}

#[test]
fn bodies_pass_unchanged_over_every_wire() {
    on_every_wire(
        |setup| setup,
        |cell| {
            let mut client = cell.client(&cell.gate.telemetry_key());
            for (at, length) in [0, 1, 65_535, 1 << 20].into_iter().enumerate() {
                let body = noise(length);
                let answer = client.request("POST", WRITE, &[], &body);
                assert!(check(&answer, 200).body == body && answer.complete, "{length} bytes of known length");
                let got = cell.last();
                assert!(got.body == body, "{length} bytes of known length");
                let told: Vec<usize> =
                    got.header_values("content-length").iter().flat_map(|text| text.parse()).collect();
                assert_eq!((told, got.has("transfer-encoding")), (vec![length], false), "{length} bytes");

                let mut exchange = client.begin("POST", WRITE, &[]);
                for piece in body.chunks(100_000) {
                    exchange.send(piece);
                }
                check(exchange.finish().head(), 200);
                let rest = exchange.rest();
                assert!(rest.body == body && rest.trailers.is_some(), "{length} bytes of unknown length");
                let got = cell.last();
                assert!(
                    got.body == body && !got.has("content-length"),
                    "{length} bytes of unknown length: {:?}",
                    got.headers
                );
                assert_eq!(cell.requests().len(), 2 * at + 2);
            }
        },
    );
}

#[test]
fn responses_of_known_and_unknown_length_pass_over_every_wire() {
    on_every_wire(
        |setup| setup,
        |cell| {
            let mut client = cell.client(&cell.gate.key(&["monitor:read"]));
            for length in [1, 1 << 20] {
                let body = noise(length);
                cell.says(Says::status(200).body(&body));
                let answer = client.get(QUERY);
                assert_eq!(check(&answer, 200).header("content-length"), Some(length.to_string().as_str()));
                assert!(answer.body == body && answer.complete);
                cell.says(Says::status(200).piece(&body[..length / 2]).piece(&body[length / 2..]));
                let answer = client.get(QUERY);
                assert!(check(&answer, 200).body == body && answer.complete);
                assert_eq!(answer.header("content-length"), None);
            }
        },
    );
}

#[test]
fn responses_without_a_body_pass_over_every_wire() {
    on_every_wire(
        |setup| setup,
        |cell| {
            let mut client = cell.client(&cell.gate.key(&["monitor:read"]));
            cell.says(Says::status(200).header("content-length", "5").header("etag", "\"1\""));
            let answer = client.request("HEAD", QUERY, &[], b"");
            assert_eq!((check(&answer, 200).header("content-length"), answer.body.len()), (Some("5"), 0));
            cell.says(Says::status(204));
            let answer = client.get(QUERY);
            assert_eq!((check(&answer, 204).header("content-length"), answer.body.len()), (None, 0));
            cell.says(Says::status(304).header("etag", "\"1\""));
            let answer = client.request("GET", QUERY, &[("if-none-match", "\"1\"")], b"");
            assert_eq!((check(&answer, 304).header("etag"), answer.body.len()), (Some("\"1\""), 0));
            for status in [200, 201, 299, 400, 404, 418, 499, 500, 599] {
                cell.says(Says::status(status));
                let answer = client.get(QUERY);
                assert!(check(&answer, status).body.is_empty() && answer.complete, "{answer:?}");
            }
            let answer = cell.stranger().request("HEAD", QUERY, &[], b"");
            assert!(check(&answer, 401).body.is_empty(), "{answer:?}");
            assert_eq!(cell.requests().len(), 12);
        },
    );
}

#[test]
fn a_refusal_of_a_large_request_is_heard_over_every_wire() {
    on_every_wire(
        |setup| setup,
        |cell| {
            let mut client = cell.client(&cell.gate.key(&["monitor:read"]));
            check_problem(&client.request("POST", WRITE, &[], &noise(3 << 20)), 403, "scope_missing");
            assert!(cell.requests().is_empty());
            check(&client.get(QUERY), 200);
        },
    );
}

#[test]
fn an_answer_before_the_end_of_the_request_passes_over_every_wire() {
    on_every_wire(
        |setup| setup,
        |cell| {
            let mut client = cell.client(&cell.gate.telemetry_key());
            cell.says(Says::status(409).body("early").early());
            let mut exchange = client.begin("POST", WRITE, &[]);
            check(exchange.send(b"some of it").head(), 409);
            let rest = exchange.rest();
            assert_eq!((rest.body.as_slice(), rest.trailers.is_some()), (&b"early"[..], true));
            drop(exchange);
            check(&client.request("POST", WRITE, &[], b"next"), 200);
            assert_eq!(cell.last().body, b"next");
        },
    );
}

#[test]
fn a_body_of_known_length_that_is_cut_never_looks_whole_over_any_wire() {
    on_every_wire(|setup| setup, |cell| check_cut(cell, Says::status(200).header("content-length", "100")));
}

#[test]
fn a_body_of_unknown_length_that_is_cut_never_looks_whole_over_any_wire() {
    on_every_wire(|setup| setup, |cell| check_cut(cell, Says::status(200)));
}

#[track_caller]
fn check_cut(cell: &Cell, says: Says) {
    let mut client = cell.client(&cell.gate.key(&["monitor:read"]));
    // Held in between, so that the head is on its way before the end.
    cell.says(says.piece("some of it").hold().cut());
    let mut exchange = client.stream(QUERY, &[]);
    check(exchange.head(), 200);
    cell.release();
    let rest = exchange.rest();
    assert!(rest.trailers.is_none(), "it looks whole: {rest:?}");
    assert!(b"some of it".starts_with(&rest.body), "{rest:?}");
    check(&client.get(QUERY), 200);
}

#[test]
fn a_request_that_breaks_off_never_looks_whole_to_any_upstream() {
    on_every_wire(
        |setup| setup.option("client", r#"body_timeout = "300ms""#),
        |cell| {
            let mut client = cell.client(&cell.gate.telemetry_key());
            let mut exchange = client.begin("POST", WRITE, &[]);
            check(exchange.send(b"some of it").head(), 408);
            check(&client.request("POST", WRITE, &[], b"next"), 200);
            assert_eq!(cell.requests().len(), 1, "{:?}", cell.requests());
        },
    );
}

#[test]
fn trailers_of_a_response_reach_clients_that_take_them_over_every_wire() {
    on_every_wire(
        |setup| setup,
        |cell| {
            let mut client = cell.client(&cell.gate.key(&["monitor:read"]));
            let says = Says::status(200).header("trailer", "x-checksum, x-portcullis-key-id").piece("body");
            cell.says(says.trailers(&[
                ("x-checksum", "12"),
                ("x-portcullis-key-id", "spoof"),
                ("content-length", "9"),
            ]));
            let mut exchange = client.stream(QUERY, &[("te", "trailers")]);
            assert!(check(exchange.head(), 200).header("x-checksum").is_none(), "a trailer is no header");
            let rest = exchange.rest();
            assert_eq!(rest.body, b"body");
            assert_eq!(rest.trailers, Some(vec![("x-checksum".to_owned(), "12".to_owned())]));
        },
    );
}

#[test]
fn trailers_of_a_request_reach_the_upstream_without_what_steers_over_every_wire() {
    on_every_wire(
        |setup| setup,
        |cell| {
            let mut client = cell.client(&cell.gate.telemetry_key());
            let named = [("te", "trailers"), ("trailer", "x-checksum, authorization, x-portcullis-key-id")];
            let mut exchange = client.begin("POST", WRITE, &named);
            let trailers = [
                ("x-checksum", "12"),
                ("authorization", "Basic spoof"),
                ("x-portcullis-key-id", "spoof"),
                ("x-forwarded-for", "spoof"),
            ];
            check(exchange.send(b"body").finish_with(&trailers).head(), 200);
            assert_eq!(exchange.rest().body, b"body");
            let got = cell.last();
            assert_eq!(got.body, b"body");
            assert!(!got.mentions("spoof"), "{got:?}");
            assert_eq!(got.trailers, [("x-checksum".to_owned(), "12".to_owned())]);
        },
    );
}

#[test]
fn the_go_ahead_comes_after_admission_over_both_wires_of_http1() {
    on_every_wire(
        |setup| setup,
        |cell| {
            if cell.front.is_http2() {
                return;
            }
            let pinger = cell.gate.telemetry_key().keep_alive();
            let expecting = [("Expect", "100-continue"), ("Content-Length", "4")];
            let mut wire = cell.wire();
            wire.send(pinger.render("POST", WRITE, &expecting, b""));
            check(&wire.read_response(), 100);
            let answer = wire.send("body").read_response();
            assert_eq!(check(&answer, 200).text(), "body");
            let got = cell.last();
            assert_eq!((got.body.as_slice(), got.has("expect")), (&b"body"[..], false));
            let stranger = cell.gate.anonymous().keep_alive();
            let mut wire = cell.wire();
            wire.send(stranger.render("POST", WRITE, &expecting, b""));
            check_problem(&wire.read_response(), 401, "unauthenticated");
            assert_eq!(cell.requests().len(), 1);
        },
    );
}

#[test]
fn an_expectation_over_http2_holds_nothing_up() {
    on_every_wire(
        |setup| setup,
        |cell| {
            let mut client = cell.client(&cell.gate.telemetry_key());
            if cell.front.is_http2() {
                let answer = client.request("POST", WRITE, &[("expect", "100-continue")], b"body");
                assert_eq!(check(&answer, 200).text(), "body");
                assert!(!cell.last().has("expect"));
                check(&client.request("POST", WRITE, &[("expect", "something")], b"body"), 417);
            }
        },
    );
}
