//! The same admission, the same strictness, over every wire: HTTP/1.1 and HTTP/2, in clear text and over TLS, to
//! upstreams of HTTP/1.1 and HTTP/2. Each test here runs in all eight cells and names the one that it failed in.

mod bodies;
mod interim;
mod programs;

use crate::harness::{Cell, Client, DEADLINE, Got, Says, basic, check, check_problem, on_every_wire};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

const QUERY: &str = "/api/v1/query";

/// (method, target, fields, status, code of the problem)
type Case<'c> = (&'c str, &'c str, &'c [(&'c str, &'c str)], u16, &'c str);

/// Asserts that the wire that the cell is named after is the one that was used.
#[track_caller]
fn check_wire(cell: &Cell) {
    let over_http2 = cell.gate.metric("portcullis_connections_by_protocol_total{protocol=\"http2\"}");
    assert_eq!(over_http2 > 0.0, cell.front.is_http2(), "{over_http2} connections of HTTP/2");
}

#[test]
fn a_request_is_admitted_or_refused_alike_over_every_wire() {
    on_every_wire(
        |setup| {
            setup
                .option("credentials", r#"from = ["basic", "bearer", "header:X-Api-Key"]"#)
                .option("limits", r#"failures = { rate = "1000/s", burst = 1000 }"#)
                .route("GET,POST /ping/{credential}/{monitor}", r#""telemetry:write""#)
        },
        |cell| {
            let gate = &cell.gate;
            let (reader, other, pinger) =
                (gate.key(&["monitor:read"]), gate.key(&["monitor:read"]), gate.telemetry_key());
            let dead = gate.key(&["monitor:read"]);
            check(&gate.root().delete(dead.id()), 204);
            let encoded = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
            let (user, password) = (basic(reader.secret()), encoded(&format!("grafana:{}", reader.secret())));
            let (bearer, writer) = (format!("Bearer {}", reader.secret()), basic(pinger.secret()));
            let unknown = portcullis::key::KeySecret::generate().expect("randomness");
            let (dead, unknown) = (basic(dead.secret()), basic(unknown.expose()));
            let ping = format!("/ping/{}/backup", pinger.secret());
            let [user, password, bearer, writer, dead, unknown] =
                [&user, &password, &bearer, &writer, &dead, &unknown].map(|value| ("authorization", value.as_str()));
            let own = |value| ("authorization", value);
            let cases: &[Case<'_>] = &[
                ("GET", "/public/x", &[], 200, ""),
                ("GET", QUERY, &[user], 200, ""),
                ("GET", QUERY, &[password], 200, ""),
                ("GET", QUERY, &[bearer], 200, ""),
                ("GET", QUERY, &[("x-api-key", reader.secret())], 200, ""),
                ("GET", QUERY, &[user, ("x-api-key", reader.secret())], 200, ""),
                ("GET", QUERY, &[user, ("x-api-key", other.secret())], 400, "credentials_conflicting"),
                ("GET", QUERY, &[], 401, "unauthenticated"),
                ("GET", QUERY, &[own("Basic YWJj")], 401, "unauthenticated"),
                ("GET", QUERY, &[own("Bearer junk")], 401, "unauthenticated"),
                ("GET", QUERY, &[own("Token x")], 401, "unauthenticated"),
                ("GET", QUERY, &[user, user], 401, "unauthenticated"),
                ("GET", QUERY, &[unknown], 401, "unauthenticated"),
                ("GET", QUERY, &[dead], 401, "unauthenticated"),
                ("GET", QUERY, &[("cookie", user.1)], 401, "unauthenticated"),
                ("GET", QUERY, &[writer], 403, "scope_missing"),
                ("GET", "/api/v1/admin/x", &[user], 403, "scope_missing"),
                ("GET", &ping, &[], 200, ""),
                ("GET", &ping, &[user], 200, ""),
                ("GET", "/ping/junk/backup", &[writer], 401, "unauthenticated"),
                ("GET", "/closed/x", &[user], 403, "route_closed"),
                ("GET", "/no/such", &[user], 404, "route_unknown"),
                ("GET", "/no/such", &[], 401, "unauthenticated"),
                ("DELETE", QUERY, &[user], 405, "method_not_allowed"),
                ("DELETE", QUERY, &[], 401, "unauthenticated"),
                ("BREW", QUERY, &[user], 405, "method_not_allowed"),
                ("GET", "/api/keys", &[user], 403, "scope_missing"),
            ];
            let mut client = cell.stranger();
            let mut forwarded = 0;
            for (method, target, headers, status, code) in cases {
                let answer = client.request(method, target, headers, b"");
                println!("{method} {target} {headers:?}");
                match *status {
                    200 => {
                        check(&answer, 200);
                        forwarded += 1;
                    }
                    status => drop(check_problem(&answer, status, code)),
                }
                let has = |name: &str| answer.header(name).is_some();
                assert_eq!(has("www-authenticate"), *status == 401, "{answer:?}");
                assert_eq!(has("allow"), *status == 405, "{answer:?}");
                if has("allow") {
                    assert_eq!(answer.header("allow"), Some("GET, HEAD, POST"), "{answer:?}");
                }
            }
            cell.wait_for_requests(forwarded);
            assert_eq!(cell.requests().len(), forwarded);
            check_wire(cell);
        },
    );
}

#[test]
fn the_upstream_sees_the_same_request_over_every_wire() {
    on_every_wire(
        |setup| setup.route("GET /ping/{credential}/{monitor}", r#""monitor:read""#),
        |cell| {
            let reader = cell.gate.key(&["monitor:read"]);
            let mut client = cell.client(&reader);
            let claims = [
                ("x-portcullis-key-id", "spoof"),
                ("x-portcullis-key-id", "spoof"),
                ("x-portcullis-key-name", "spoof"),
                ("x-portcullis-scopes", "spoof"),
                ("x-portcullis-whatever", "spoof"),
                ("x_portcullis_key_id", "spoof"),
                ("x.portcullis.key.id", "spoof"),
                ("x-forwarded-for", "spoof"),
                ("x-forwarded-host", "spoof"),
                ("x-forwarded-proto", "spoof"),
                ("x_forwarded_for", "spoof"),
                ("x-forwarded-uri", "/spoof"),
                ("x-original-url", "/spoof"),
                ("x-real-ip", "spoof"),
                ("forwarded", "for=spoof"),
                ("proxy-authorization", "Basic spoof"),
                ("te", "trailers"),
                ("x-twice", "a"),
                ("x-twice", "b, c"),
                ("x-beyond", "\u{fc}\u{20ac}"),
                ("x-empty", ""),
                ("cookie", "a=1"),
                ("cookie", "b=2"),
                ("via", "1.0 before"),
            ];
            const TARGET: &str = "/api/v1/query?a=b&&c=%0d%2e%2E+%zz&/../;//\\'{}|[]~";

            check(&client.request("GET", TARGET, &claims, b""), 200);

            let got = cell.last();
            assert_eq!((got.method.as_str(), got.target.as_str()), ("GET", TARGET));
            assert!(!got.mentions("spoof") && !got.mentions(reader.secret()), "{got:?}");
            check_origin(cell, &got);
            assert_eq!(got.header_values("x-portcullis-key-id"), [reader.id()]);
            assert_eq!(got.header_values("x-portcullis-key-name"), ["test key"]);
            assert_eq!(got.header_values("x-portcullis-scopes"), ["monitor:read"]);
            assert_eq!(got.header_values("x-portcullis-kind"), ["custom"]);
            assert_eq!(got.header_values("x-twice"), ["a", "b, c"]);
            assert_eq!(got.header_values("x-beyond"), ["\u{fc}\u{20ac}"]);
            assert_eq!(got.header_values("x-empty"), [""]);
            assert_eq!(got.header_values("cookie").join("; "), "a=1; b=2");
            for dropped in ["authorization", "proxy-authorization", "connection", "content-length", "transfer-encoding"]
            {
                assert!(!got.has(dropped), "{dropped} in {got:?}");
            }

            let ping = format!("/ping/{}/a@b=c:d%20e?x", reader.secret());
            check(&cell.stranger().get(&ping), 200);
            assert_eq!(cell.last().target, format!("/ping/{}/a@b=c:d%20e?x", reader.id()));
            check(&cell.stranger().request("GET", "/public/x", &claims, b""), 200);
            let got = cell.last();
            assert!(!got.mentions("spoof") && !got.mentions("portcullis-"), "{got:?}");
        },
    );
}

/// What a request says of where it comes from.
#[track_caller]
fn check_origin(cell: &Cell, got: &Got) {
    let (scheme, via) = (
        if cell.front.is_tls() { "https" } else { "http" },
        if cell.front.is_http2() { "1.0 before, 2.0 portcullis" } else { "1.0 before, 1.1 portcullis" },
    );
    assert_eq!(got.host.as_deref(), Some("gate.test"));
    assert_eq!(got.header_values("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(got.header_values("x-forwarded-host"), ["gate.test"]);
    assert_eq!(got.header_values("x-forwarded-proto"), [scheme]);
    let forwarded = got.header_values("forwarded").join(", ");
    assert!(forwarded.contains("for=127.0.0.1") && forwarded.contains(&format!("proto={scheme}")), "{forwarded}");
    assert_eq!(got.header_values("via").join(", "), via);
}

#[test]
fn fields_of_one_hop_end_at_the_gate_over_every_wire() {
    on_every_wire(
        |setup| setup,
        |cell| {
            let mut client = cell.client(&cell.gate.key(&["monitor:read"]));
            // Over HTTP/2 they are malformed, on either side: other tests hold that.
            let own: &[(&str, &str)] = if cell.front.is_http2() {
                &[("te", "trailers"), ("trailer", "x-t")]
            } else {
                &[
                    ("connection", "x-named, te, x-portcullis-key-id, host, via"),
                    ("x-named", "1"),
                    ("keep-alive", "timeout=5"),
                    ("proxy-connection", "keep-alive"),
                    ("te", "trailers, gzip"),
                    ("trailer", "x-t"),
                    ("upgrade", "h2c"),
                    ("http2-settings", "AAMAAABkAARAAAAAAAIAAAAA"),
                ]
            };
            let mut says = Says::status(200).header("x-kept", "1").header("x-portcullis-key-id", "echo");
            if cell.back == crate::harness::Back::H1 {
                says = says.header("connection", "x-mine").header("x-mine", "1").header("keep-alive", "timeout=5");
            }
            cell.says(says.body("ok"));

            let answer = client.request("GET", QUERY, own, b"");

            check(&answer, 200);
            assert_eq!((answer.header("x-kept"), answer.text().as_str()), (Some("1"), "ok"));
            for dropped in ["connection", "x-mine", "keep-alive", "x-portcullis-key-id", "transfer-encoding"] {
                assert!(answer.header(dropped).is_none(), "{dropped} in {answer:?}");
            }
            let got = cell.last();
            for dropped in
                ["connection", "x-named", "keep-alive", "proxy-connection", "trailer", "upgrade", "http2-settings"]
            {
                assert!(!got.has(dropped), "{dropped} in {got:?}");
            }
            assert!(got.has("x-portcullis-key-id") && got.has("via") && got.host.as_deref() == Some("gate.test"));
        },
    );
}

#[test]
fn faults_of_the_upstream_are_told_alike_over_every_wire() {
    on_every_wire(
        |setup| {
            setup
                .upstream(r#"response_timeout = "300ms""#)
                .upstream("concurrency = 1")
                .upstream("queue = 1")
                .upstream(r#"queue_timeout = "50ms""#)
                .upstream("retry = { attempts = 1 }")
                .upstream("eject = { failures = 1000 }")
        },
        |cell| {
            let mut client = cell.client(&cell.gate.key(&["monitor:read"]));
            cell.says(Says::status(200).cut());
            let answer = client.request("POST", QUERY, &[], b"x");
            assert_eq!(check(&answer, 502).header("content-type"), Some("application/problem+json"), "{answer:?}");
            cell.says(Says::status(200).hold().body("late"));
            check_problem(&client.get(QUERY), 504, "upstream_timeout");
            check(&client.get(QUERY), 200);

            cell.says(Says::status(200).piece("first").hold().piece("last"));
            let mut running = client.stream(QUERY, &[]);
            check(running.head(), 200);
            let answer = client.get(QUERY);
            check(&answer, 503);
            assert!(answer.header("retry-after").is_some_and(|after| after.parse::<u64>().is_ok()), "{answer:?}");
            cell.release();
            assert_eq!(running.rest().body, b"firstlast");
        },
    );
}

#[test]
fn an_upstream_that_is_not_there_is_502_over_every_wire() {
    let vacant = crate::harness::Vacant::new();
    on_every_wire(
        |setup| setup.upstream_url(&vacant.url()),
        |cell| {
            let answer = cell.client(&cell.gate.root()).get("/open/x");
            check_problem(&answer, 502, "upstream_unreachable");
        },
    );
}

#[test]
fn limits_hold_over_every_wire() {
    on_every_wire(
        |setup| {
            setup
                .option("requests", r#"max_body = "1KiB""#)
                .route("POST /limited", r#"{ require = "authenticated", rate = "1/h" }"#)
        },
        |cell| {
            let pinger = cell.gate.telemetry_key();
            let mut client = cell.client(&pinger);
            check_problem(&client.request("POST", "/api/v1/write", &[], &[b'x'; 1_025]), 413, "body_too_large");
            assert!(cell.requests().is_empty());
            check(&client.request("POST", "/api/v1/write", &[], &[b'x'; 1_024]), 200);
            let mut unknown = client.begin("POST", "/api/v1/write", &[]);
            check(unknown.send(&[b'x'; 600]).send(&[b'x'; 600]).finish().head(), 413);
            assert_eq!(cell.requests().len(), 1, "{:?}", cell.requests());

            check(&client.request("POST", "/limited", &[], b""), 200);
            let answer = client.request("POST", "/limited", &[], b"");
            check(&answer, 429);
            let after: u64 = answer.header("retry-after").and_then(|after| after.parse().ok()).expect("seconds");
            assert!((3_000..=3_600).contains(&after), "{answer:?}");
            assert_eq!(answer.header("cache-control"), Some("no-store"), "{answer:?}");
        },
    );
}

#[test]
fn keys_are_managed_over_every_wire() {
    on_every_wire(
        |setup| setup,
        |cell| {
            let mut client = cell.client(&cell.gate.root());
            let json = [("content-type", "application/json")];
            let body = br#"{"name": "made here", "kind": "custom", "scopes": ["monitor:read"]}"#;
            let made = client.request("POST", "/api/keys", &json, body);
            check(&made, 201);
            let location = made.header("location").expect("a place").to_owned();
            let secret = made.json()["key"].as_str().expect("the key").to_owned();
            let made = cell.gate.caller(&secret);
            assert_eq!(location, format!("/api/keys/{}", made.id()));
            assert_eq!(check(&client.get("/api/keys?page_size=10"), 200).json()["total_count"], 2);

            let one = client.get(&location);
            let tag = check(&one, 200).header("etag").expect("a tag").to_owned();
            let change = br#"{"name": "changed", "scopes": ["issue:read"]}"#;
            let with = |tag: &str| [json[0], ("if-match", tag)].map(|(name, value)| (name, value.to_owned()));
            let put = |client: &mut Client<'_>, tag: &str| {
                let headers = with(tag);
                let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
                client.request("PUT", &location, &headers, change)
            };
            check(&put(&mut client, "\"other\""), 412);
            check(&cell.client(&made).get(QUERY), 200);
            assert_eq!(check(&put(&mut client, &tag), 200).json()["name"], "changed");
            check(&put(&mut client, &tag), 412);
            check_problem(&cell.client(&made).get(QUERY), 403, "scope_missing");
            check(&client.request("DELETE", &location, &[], b""), 204);
            check(&client.request("DELETE", &location, &[], b""), 404);
            check_problem(&cell.client(&made).get(QUERY), 401, "unauthenticated");
            check_problem(&client.request("POST", "/api/keys", &json, &vec![b' '; 70 << 10]), 413, "body_too_large");
            assert_eq!(cell.requests().len(), 1);
        },
    );
}

#[test]
fn a_deleted_key_admits_nothing_more_over_every_wire() {
    on_every_wire(
        |setup| setup,
        |cell| {
            let gate = &cell.gate;
            let (reader, other) = (gate.key(&["monitor:read"]), gate.key(&["monitor:read"]));
            let (mut client, mut unrelated) = (cell.client(&reader), cell.client(&other));
            check(&client.get(QUERY), 200);
            let events = Says::status(200).header("content-type", "text/event-stream").piece("data: a\n\n").hold();
            let mut running = [&mut client, &mut unrelated].map(|client| {
                cell.says(events.clone());
                let mut running = client.stream(QUERY, &[]);
                check(running.head(), 200);
                running.read_piece("data: a\n\n");
                running
            });

            check(&gate.root().delete(reader.id()), 204);
            let begun = std::time::Instant::now();

            check_problem(&client.get(QUERY), 401, "unauthenticated");
            let rest = running[0].rest();
            let spent = begun.elapsed();
            assert!(rest.trailers.is_none() && rest.body.is_empty(), "it looks whole: {rest:?}");
            assert!(spent < DEADLINE / 4, "the cut took {spent:?}");
            cell.release();
            let rest = running[1].rest();
            assert!(rest.trailers.is_some() && rest.body.is_empty(), "{rest:?}");
        },
    );
}
