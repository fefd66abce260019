//! HTTP/2 from clients: the same admission and the same strictness as over HTTP/1, stream by stream.

use std::process::Command;
use std::time::Duration;

use crate::harness::raw_h2::{self, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PREFACE, block, head};
use crate::harness::{
    Authority, GATE, Gate, H2Client, H2Reply, H2Upstream, Installation, Process, RawH2, Reply, Seen, TlsClient, check,
    check_problem, until,
};

#[test]
fn client_with_prior_knowledge_is_served_like_any_other() {
    let gate = Gate::start();
    let (reader, writer) = (gate.key(&["monitor:read"]), gate.telemetry_key());
    let client = H2Client::connect(gate.public());
    let body = vec![b'x'; 3 << 20];

    let answer = client.request("POST", "/api/v1/write", &[("authorization", &writer.authorization())], &body);

    assert_eq!(check(&answer, 200).body.len(), body.len());
    gate.upstream().answer_with("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Own: 1\r\nConnection: x-own\r\n\r\nhello");
    let answer = client.get(&reader, "/api/v1/query?a=b&c=%0d");
    assert_eq!(check(&answer, 200).text(), "hello");
    assert_eq!((answer.header("x-own"), answer.header("connection")), (None, None));
    gate.upstream().answer_with("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n");
    let answer = client.request("HEAD", "/api/v1/query", &[("authorization", &reader.authorization())], b"");
    assert_eq!((check(&answer, 200).header("content-length"), answer.body.len()), (Some("5"), 0));
    gate.upstream().answer_with("HTTP/1.1 204 No Content\r\n\r\n");
    check(&client.get(&reader, "/api/v1/query"), 204);
    let requests = gate.upstream().requests();
    assert_eq!((requests.len(), requests[1].target.as_str()), (4, "/api/v1/query?a=b&c=%0d"));
    assert_eq!(gate.metric("portcullis_connections_by_protocol_total{protocol=\"http2\"}"), 1.0);
    gate.wait_for_metric("portcullis_http2_streams", 0.0);
}

#[test]
fn upstream_sees_an_ordinary_request() {
    let gate = Gate::start();
    let reader = gate.key(&["monitor:read"]);
    let authorization = reader.authorization();
    let headers = [
        ("authorization", authorization.as_str()),
        ("cookie", "a=1"),
        ("cookie", "b=2"),
        ("cookie", "c=3"),
        ("te", "trailers"),
        ("x-forwarded-for", "1.2.3.4"),
        ("x-portcullis-key-id", "forged"),
        ("x-plain", "\u{fc}"),
    ];

    check(&H2Client::connect(gate.public()).request("GET", "/api/v1/query", &headers, b""), 200);

    let request = gate.upstream().requests().remove(0);
    assert_eq!((request.target.as_str(), request.version.as_str()), ("/api/v1/query", "HTTP/1.1"));
    assert_eq!(request.header_values("host"), ["gate.test"]);
    assert_eq!(request.header_values("cookie"), ["a=1; b=2; c=3"]);
    assert_eq!(request.header_values("via"), ["2.0 portcullis"]);
    assert_eq!(request.header_values("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(request.header_values("x-forwarded-host"), ["gate.test"]);
    assert_eq!(request.header_values("x-portcullis-key-id"), [reader.id()]);
    assert_eq!(request.header_values("x-plain"), ["\u{fc}"]);
    assert!(!request.has("authorization") && !request.has("te"), "{request:?}");
}

#[test]
fn each_stream_is_authenticated_for_itself() {
    let gate = Gate::start();
    let (reader, pinger) = (gate.key(&["monitor:read"]), gate.telemetry_key());
    let client = H2Client::connect(gate.public());

    check(&client.get(&reader, "/api/v1/query"), 200);
    let answer = client.request("GET", "/api/v1/query", &[], b"");
    check_problem(&answer, 401, "unauthenticated");
    assert!(answer.header("www-authenticate").is_some() && answer.header("connection").is_none(), "{answer:?}");
    check_problem(&client.get(&pinger, "/api/v1/query"), 403, "scope_missing");
    check(&client.get(&reader, "/api/v1/query"), 200);

    assert_eq!(gate.upstream().requests().len(), 2);
}

#[test]
fn deleted_key_is_refused_on_the_next_stream_of_an_open_connection() {
    let gate = Gate::start();
    let reader = gate.key(&["monitor:read"]);
    let client = H2Client::connect(gate.public());
    check(&client.get(&reader, "/api/v1/query"), 200);

    check(&gate.root().delete(reader.id()), 204);

    check_problem(&client.get(&reader, "/api/v1/query"), 401, "unauthenticated");
    assert_eq!(gate.upstream().requests().len(), 1);
}

#[test]
fn key_api_works_over_both_listeners() {
    let gate = Gate::with(|setup| setup.option("admin", r#"listeners = ["public", "ops"]"#));
    let root = gate.root();
    for address in [gate.public(), gate.ops()] {
        let client = H2Client::connect(address);
        let headers = [("authorization", root.authorization()), ("content-type", "application/json".to_owned())];
        let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
        let body = br#"{"name": "made over h2", "kind": "telemetry"}"#;
        check(&client.request("POST", "/api/keys", &headers, body), 201);
        assert!(check(&client.get(&root, "/api/keys"), 200).text().contains("made over h2"));
    }
    assert!(check(&H2Client::connect(gate.ops()).request("GET", "/metrics", &[], b""), 200).text().contains("# HELP"));
}

/// A request by hand, with the reader's key, on its own connection.
#[track_caller]
fn sent(gate: &Gate, fields: &[(&str, &str)]) -> Seen {
    let mut raw = RawH2::connect(gate.public());
    raw.request(1, fields, true);
    raw.outcome(1)
}

#[test]
fn host_is_named_once_or_twice_alike() {
    let gate = Gate::start();
    let authorization = gate.key(&["monitor:read"]).authorization();
    let base = [(":method", "GET"), (":scheme", "http"), (":path", "/api/v1/query")];
    let with = |more: &[(&'static str, &'static str)]| {
        let mut fields = base.to_vec();
        fields.extend_from_slice(more);
        fields.push(("authorization", &authorization));
        sent(&gate, &fields)
    };

    assert_eq!(with(&[(":authority", "a"), ("host", "a")]).status(), Some(200));
    assert_eq!(with(&[("host", "b:80")]).status(), Some(200));
    assert_eq!(with(&[(":authority", "c")]).status(), Some(200));
    let hosts: Vec<String> =
        gate.upstream().requests().iter().map(|request| request.header_values("host").join("|")).collect();
    assert_eq!(hosts, ["a", "b:80", "c"]);

    gate.upstream().forget();
    let differing = with(&[(":authority", "a"), ("host", "b")]);
    let Seen::Answer { status: 400, body } = &differing else { panic!("{differing:?}") };
    assert!(String::from_utf8_lossy(body).contains("authority_differs"), "{differing:?}");
    for wrong in [&[][..], &[("host", "a"), ("host", "a")], &[("host", "a b")], &[(":authority", "u@a")]] {
        assert_eq!(with(wrong).status(), Some(400), "{wrong:?}");
    }
    assert_eq!(gate.upstream().raw(), b"");
}

#[test]
fn scheme_is_believed_by_nobody() {
    let gate = Gate::start();
    let authorization = gate.key(&["monitor:read"]).authorization();
    for scheme in ["https", "javascript", "ftp"] {
        let mut fields = head("GET", "/api/v1/query").to_vec();
        fields[1] = (":scheme", scheme);
        fields.push(("authorization", &authorization));
        assert_eq!(sent(&gate, &fields).status(), Some(200), "{scheme}");
        let request = gate.upstream().requests().pop().unwrap();
        assert_eq!((request.target.as_str(), request.header("x-forwarded-proto")), ("/api/v1/query", Some("http")));
    }
}

#[test]
fn heads_over_the_limits_get_the_same_answers_as_over_http_1() {
    let gate = Gate::start();
    let reader = gate.key(&["monitor:read"]);
    let authorization = reader.authorization();
    let status = |path: &str, fields: &[(&str, &str)]| {
        let all = [&head("GET", path)[..], &[("authorization", &authorization)], fields].concat();
        let encoded = block(&all);
        let mut raw = RawH2::connect(gate.public());
        let (first, rest) = encoded.split_at(encoded.len().min(16_384));
        let mut pieces = rest.chunks(16_384).peekable();
        raw.frame(HEADERS, END_STREAM | if pieces.peek().is_some() { 0 } else { END_HEADERS }, 1, first);
        while let Some(piece) = pieces.next() {
            raw.frame(raw_h2::CONTINUATION, if pieces.peek().is_some() { 0 } else { END_HEADERS }, 1, piece);
        }
        raw.outcome(1)
    };
    let (long, longer) = ("x".repeat(33 << 10), "x".repeat(75 << 10));

    assert_eq!(status("/api/v1/query", &[("x-y", "1"); 98]).status(), Some(200));
    assert_eq!(status("/api/v1/query", &[("x-y", "1"); 100]).status(), Some(431));
    assert_eq!(status("/api/v1/query", &[("x-y", &long)]).status(), Some(431));
    assert_eq!(status("/api/v1/query", &[("x-y", &longer)]).status(), Some(431));
    assert_eq!(status(&format!("/{}", "x".repeat(9 << 10)), &[]).status(), Some(414));
    assert_eq!(gate.upstream().requests().len(), 1);
}

#[test]
fn hundred_streams_run_beside_a_stalled_one() {
    let gate = Gate::with(|setup| setup.option("http2", "streams_max = 128"));
    let reader = gate.key(&["monitor:read"]);
    let authorization = reader.authorization();
    let client = H2Client::connect(gate.public());
    gate.upstream()
        .reply_on("/api/v1/slow", Reply::default().hold().then("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow"));
    let headers = [("authorization", authorization.as_str())];
    let mut slow = client.open("GET", "/api/v1/slow", &headers, true);

    let mut calls: Vec<_> = (0..100).map(|_| client.open("GET", "/api/v1/query", &headers, true)).collect();

    calls.iter_mut().for_each(|call| drop(check(&call.answer().unwrap(), 200).clone()));
    gate.upstream().wait_for_requests(101);
    gate.upstream().release();
    assert_eq!(slow.answer().unwrap().text(), "slow");
}

#[test]
fn cancelled_request_is_aborted_at_the_upstream() {
    let gate = Gate::start();
    let (reader, writer) = (gate.key(&["monitor:read"]).authorization(), gate.telemetry_key().authorization());
    let client = H2Client::connect(gate.public());
    gate.upstream().hold();
    let waiting = client.open("GET", "/api/v1/query", &[("authorization", &reader)], true);
    gate.upstream().wait_for_requests(1);

    waiting.cancel();

    gate.upstream().wait_for_closed(1);
    gate.upstream().release();
    let mut upload = client.open("POST", "/api/v1/write", &[("authorization", &writer)], false);
    upload.send(b"some of it");
    gate.upstream().wait_for_bytes(b"some of it");
    upload.cancel();
    gate.upstream().wait_for_closed(2);
    assert_eq!(gate.upstream().requests().len(), 1);
}

#[test]
fn body_that_the_upstream_cut_never_ends_well() {
    let gate = Gate::start();
    let reader = gate.key(&["monitor:read"]);
    let client = H2Client::connect(gate.public());
    gate.upstream().reply(Reply::bytes("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort").close());

    let mut call = client.open("GET", "/api/v1/query", &[("authorization", &reader.authorization())], true);

    let error = call.answer().expect_err("the response was cut");
    assert!(error.is_reset(), "{error}");
    check(&client.get(&reader, "/api/v1/query"), 200);
}

#[test]
fn drain_finishes_streams_in_flight_and_closes_idle_connections() {
    let installation = Installation::new();
    let root = installation.init();
    let served = installation.serve();
    let caller = served.caller(&root);
    let idle = H2Client::connect(served.public);
    check(&idle.get(&caller, "/open/x"), 200);
    let mut busy = RawH2::connect(served.public);
    installation.upstream().hold();
    busy.get(1, &caller, "/open/slow");
    installation.upstream().wait_for_requests(2);

    served.process.signal("TERM");

    assert_eq!(busy.read_kind(GOAWAY).payload[4..], [0, 0, 0, 0]);
    idle.wait_for_end().unwrap();
    installation.upstream().release();
    assert_eq!(busy.outcome(1).status(), Some(200));
    assert!(matches!(busy.farewell(), None | Some(0)));
    drop(busy);
    assert_eq!(served.process.wait().code, Some(0));
}

#[test]
fn grpc_call_passes_whole() {
    let backend = H2Upstream::start();
    backend.reply_always(H2Reply::echo());
    let gate = Gate::with(|setup| {
        let url = format!("http://{}", backend.address());
        setup.upstream_url(&url).upstream("protocol = \"http2\"").route("POST /pkg.Service/Call", r#""monitor:read""#)
    });
    let caller = gate.key(&["monitor:read"]);
    let client = H2Client::connect(gate.public());
    let authorization = caller.authorization();
    let headers = [("authorization", authorization.as_str()), ("content-type", "application/grpc"), ("te", "trailers")];
    let mut call = client.open("POST", "/pkg.Service/Call", &headers, false);

    // Each side says something only after it has heard the other.
    call.send(b"one");
    let (head, mut body) = call.head().unwrap();
    assert_eq!(head.status, 200);
    assert_eq!(call.piece(&mut body).unwrap(), &b"one"[..]);
    call.send(b"two");
    assert_eq!(call.piece(&mut body).unwrap(), &b"two"[..]);
    call.finish_with(&[("grpc-status", "0"), ("authorization", "forged")]);

    assert_eq!(call.piece(&mut body), None);
    assert_eq!(call.trailers(&mut body)["grpc-status"], "0");
    let request = backend.requests().pop().unwrap();
    assert_eq!((request.trailer("grpc-status"), request.trailer("authorization")), (Some("0"), None));
    assert_eq!((request.header("te"), request.header("via")), (Some("trailers"), Some("2.0 portcullis")));
    check_grpc(&gate, "/pkg.Service/Other", Some(&authorization), "12", 404);
}

#[test]
fn http_2_is_chosen_over_tls() {
    let authority = Authority::new("Test CA");
    let (certificate, tls) = (authority.server("gate", &[GATE]), TlsClient::trusting(&authority));
    // What is said of clear text says nothing of TLS.
    let gate = Gate::with(|setup| setup.tls(&certificate, &tls).option("http2", "cleartext = false"));
    let (reader, writer) = (gate.key(&["monitor:read"]), gate.telemetry_key());
    let client = H2Client::over_tls(gate.public(), &tls);
    let body = vec![b'x'; 1 << 20];
    let answer = client.request("POST", "/api/v1/write", &[("authorization", &writer.authorization())], &body);
    assert_eq!(check(&answer, 200).body.len(), body.len());
    check(&client.get(&reader, "/api/v1/query"), 200);
    let request = gate.upstream().requests().pop().unwrap();
    assert_eq!((request.header("via"), request.header("x-forwarded-proto")), (Some("2.0 portcullis"), Some("https")));
    check_problem(&client.get(&writer, "/api/v1/query"), 403, "scope_missing");
    check(&reader.over(Some(&tls)).get("/api/v1/query"), 200);
}

#[test]
fn client_that_chose_http_2_over_tls_and_does_not_speak_it_is_cut() {
    let authority = Authority::new("Test CA");
    let (certificate, tls) = (authority.server("gate", &[GATE]), TlsClient::trusting(&authority));
    let gate = Gate::with(|setup| {
        setup
            .tls(&certificate, &tls)
            .option("client", "first_byte_timeout = \"200ms\"")
            .option("client", "header_timeout = \"200ms\"")
    });
    for bytes in [&b""[..], b"P", PREFACE, b"GET /public/x HTTP/1.1\r\nHost: gate.test\r\n\r\n"] {
        let mut wire = tls.clone().alpn(&[b"h2"]).connect(gate.public(), GATE);
        wire.send(bytes);
        let said = wire.read_to_end();
        assert!(!said.starts_with(b"HTTP/1"), "{:?}", String::from_utf8_lossy(&said));
    }
    assert_eq!(gate.upstream().connections(), 0);
}

#[test]
fn stream_under_a_deleted_key_is_cut_and_the_others_go_on() {
    let gate = Gate::start();
    let (leaver, stayer) = (gate.key(&["monitor:read"]), gate.key(&["monitor:read"]));
    let endless = Reply::bytes("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nevent\r\n").hold();
    gate.upstream().reply_on("/api/v1/events", endless);
    let mut raw = RawH2::connect(gate.public());
    raw.get(1, &leaver, "/api/v1/events").get(3, &stayer, "/api/v1/events");
    assert_eq!(raw.read_kind(raw_h2::DATA).payload, b"event");
    assert_eq!(raw.read_kind(raw_h2::DATA).payload, b"event");
    // Takes nothing of its response.
    let mut stalled = RawH2::with(gate.public(), &[(4, 0)]);
    stalled.get(1, &leaver, "/api/v1/events");
    stalled.read_kind(HEADERS);

    check(&gate.root().delete(leaver.id()), 204);

    assert!(matches!(raw.outcome(1), Seen::Reset(_)));
    assert!(matches!(stalled.outcome(1), Seen::Reset(_)));
    gate.upstream().wait_for_closed(2);
    raw.get(5, &stayer, "/api/v1/query");
    assert_eq!(raw.outcome(5).status(), Some(200));
    gate.wait_for_metric("portcullis_http2_streams", 1.0);
}

#[test]
fn http_2_without_tls_can_be_switched_off() {
    let gate = Gate::with(|setup| setup.option("http2", "cleartext = false"));
    let mut wire = gate.raw();
    wire.send(PREFACE);
    check_problem(&wire.read_response(), 400, "target_form_unsupported");
    wire.check_closed();
}

#[test]
fn limits_of_http_2_are_reloaded_for_new_connections() {
    let mut gate = Gate::start();
    let client = H2Client::connect(gate.public());
    check(&client.request("GET", "/public/x", &[], b""), 200);

    gate.reload(|setup| setup.option("http2", "cleartext = false"));

    check(&client.request("GET", "/public/x", &[], b""), 200);
    let mut wire = gate.raw();
    wire.send(PREFACE);
    check(&wire.read_response(), 400);
}

#[test]
fn requests_that_begin_like_the_preface_are_http_1() {
    let gate = Gate::start();
    let writer = gate.telemetry_key();
    let bytes = writer.render("POST", "/api/v1/write", &[], b"hello");
    let mut wire = gate.raw();
    for piece in bytes.chunks(1) {
        wire.send(piece);
    }
    assert_eq!(check(&wire.read_response(), 200).text(), "hello");
    let mut wire = gate.raw();
    wire.send("PRI * HTTP/1.1\r\nHost: a\r\n\r\n");
    check(&wire.read_response(), 400);
}

#[test]
fn client_that_leaves_within_the_preface_is_let_go_at_once() {
    let gate = Gate::start();
    for begin in ["P", "PRI * HTTP/2.0\r\n"] {
        let mut wire = gate.raw();
        wire.send(begin).finish_sending();
        wire.check_closed();
    }
    let mut wire = gate.raw();
    wire.send("PRI").send(" * HTTP/1.1\r\nHost: a\r\n").finish_sending();
    wire.wait_for_end();
}

#[test]
fn response_with_trailers_or_without_length_is_whole() {
    let gate = Gate::start();
    let reader = gate.key(&["monitor:read"]);
    let client = H2Client::connect(gate.public());
    gate.upstream().answer_with("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
    let answer = client.get(&reader, "/api/v1/query");
    assert_eq!(check(&answer, 200).text(), "hello");
    assert!(answer.header("transfer-encoding").is_none(), "{answer:?}");
}

#[track_caller]
fn check_grpc(gate: &Gate, path: &str, authorization: Option<&str>, code: &str, counted: u16) {
    let client = H2Client::connect(gate.public());
    let mut headers = vec![("content-type", "application/grpc+proto"), ("te", "trailers")];
    headers.extend(authorization.map(|authorization| ("authorization", authorization)));
    let class = |class: u16| {
        let text = gate.ops_get("/metrics").text();
        let samples = text.lines().filter(|line| line.starts_with("portcullis_requests_total"));
        let of_class = samples.filter(|line| line.contains(&format!("\"{class}xx\"")));
        of_class.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum::<f64>()
    };
    let before = class(counted / 100);

    let answer = client.request("POST", path, &headers, b"\0\0\0\0\0");

    check(&answer, 200);
    assert_eq!(answer.header("content-type"), Some("application/grpc"), "{answer:?}");
    assert_eq!(answer.header("grpc-status"), Some(code), "{answer:?}");
    assert!(answer.header("grpc-message").is_some_and(|message| !message.is_empty()), "{answer:?}");
    assert_eq!(answer.body, b"");
    assert_eq!(class(counted / 100), before + 1.0, "{path}");
}

#[test]
fn grpc_clients_are_refused_in_their_own_words() {
    let gate = Gate::with(|setup| {
        setup
            .upstream("response_timeout = \"100ms\"")
            .route("POST /limited", r#"{ require = "monitor:read", rate = "1/h" }"#)
            .route("POST /small", r#"{ require = "monitor:read", max_body = "1B" }"#)
            .route("POST /call", r#""monitor:read""#)
            .route("POST /cut", r#""monitor:read""#)
    });
    let (reader, pinger) = (gate.key(&["monitor:read"]).authorization(), gate.telemetry_key().authorization());
    check_grpc(&gate, "/call", None, "16", 401);
    check_grpc(&gate, "/call", Some(&pinger), "7", 403);
    check_grpc(&gate, "/nowhere", Some(&reader), "12", 404);
    check_grpc(&gate, "/open/x", Some(&reader), "12", 405);
    check_grpc(&gate, "/call//x", Some(&reader), "3", 400);
    check_grpc(&gate, "/small", Some(&reader), "8", 413);
    gate.upstream().reply_on("/cut", Reply::default().close());
    check_grpc(&gate, "/cut", Some(&reader), "14", 502);
    gate.upstream().hold();
    check_grpc(&gate, "/call", Some(&reader), "4", 504);
    gate.upstream().release();

    let client = H2Client::connect(gate.public());
    let headers = [("content-type", "application/grpc"), ("authorization", &reader)];
    check(&client.request("POST", "/limited", &headers, b""), 200);
    let limited = client.request("POST", "/limited", &headers, b"");
    assert_eq!(limited.header("grpc-status"), Some("8"), "{limited:?}");
    let pushback: u64 = limited.header("grpc-retry-pushback-ms").unwrap().parse().unwrap();
    assert!(pushback > 3_000_000, "{pushback}");
    assert_eq!(gate.metric("portcullis_admissions_total{outcome=\"route_rate_limited\"}"), 1.0);
}

#[test]
fn curl_speaks_http_2_with_prior_knowledge() {
    if Command::new("curl").arg("--version").output().is_err() {
        println!("SKIPPED: curl is not installed");
        return;
    }
    let gate = Gate::start();
    let writer = gate.telemetry_key();
    let file = gate.folder().join("body");
    std::fs::write(&file, vec![b'x'; 5 << 20]).unwrap();
    let body = format!("@{}", file.display());
    let url = format!("http://{}/api/v1/write", gate.public());
    let user = format!("{}:", writer.secret());
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--http2-prior-knowledge", "-u", &user, "--data-binary", &body, "-o", "/dev/null"]);
    curl.args(["-w", "%{http_version} %{http_code} %{size_download}", &url]);
    let exit = Process::spawn(curl).wait();
    assert_eq!((exit.code, exit.stdout.trim()), (Some(0), "2 200 5242880"), "{exit:?}");
}

#[test]
fn idle_connection_is_told_to_leave_and_a_busy_one_is_not() {
    let gate = Gate::with(|setup| setup.option("client", "idle_timeout = \"200ms\""));
    let reader = gate.key(&["monitor:read"]);
    gate.upstream()
        .reply_on("/api/v1/slow", Reply::default().hold().then("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"));
    let mut busy = RawH2::connect(gate.public());
    busy.get(1, &reader, "/api/v1/slow");
    gate.upstream().wait_for_requests(1);
    let mut idle = RawH2::connect(gate.public());
    idle.get(1, &reader, "/api/v1/query");
    assert_eq!(idle.outcome(1).status(), Some(200));

    assert_eq!(idle.farewell(), Some(0));

    gate.upstream().release();
    assert_eq!(busy.outcome(1).status(), Some(200));
}

#[test]
fn head_is_answered_without_a_body_by_the_gate_too() {
    let gate = Gate::start();
    let root = gate.root();
    let (key, own) = (root.authorization(), format!("/api/keys/{}", root.id()));
    let cases = [
        ("/api/v1/query", None, 401),
        ("/nowhere", Some(("authorization", key.as_str())), 404),
        ("/public/x", Some(("host", "elsewhere")), 400),
        (&own, Some(("authorization", key.as_str())), 200),
    ];
    for (path, field, status) in cases {
        let mut call = H2Client::connect(gate.public()).open("HEAD", path, field.as_slice(), true);

        let answer = call.answer().unwrap_or_else(|error| panic!("{path}: {error}"));

        assert_eq!((answer.status, answer.text().as_str()), (status, ""), "{path}");
        let length = answer.header("content-length").and_then(|length| length.parse::<usize>().ok());
        assert!(length.is_some_and(|length| length > 0), "{path}: {answer:?}");
    }
}

#[test]
fn upload_that_outlives_its_response_ends_with_its_key() {
    let gate = Gate::start();
    let writer = gate.telemetry_key();
    gate.upstream()
        .reply_on("/api/v1/write", Reply::bytes("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").before_body());
    let mut call = H2Client::connect(gate.public()).open(
        "POST",
        "/api/v1/write",
        &[("authorization", &writer.authorization())],
        false,
    );
    call.send(b"begun");
    assert_eq!(check(&call.answer().unwrap(), 200).text(), "ok");
    call.send(b"meanwhile");
    gate.upstream().wait_for_bytes(b"meanwhile");

    check(&gate.root().delete(writer.id()), 204);

    gate.wait_for_metric("portcullis_requests_cut_total{reason=\"key_deleted\"}", 1.0);
    call.send(b"afterwards");
    gate.upstream().wait_for_closed(1);
    assert!(!String::from_utf8_lossy(&gate.upstream().raw()).contains("afterwards"));
}

/// `:status: 100` and nothing else: its place in the static table, its length, its text.
const CONTINUE: &[u8] = b"\x08\x03100";

/// A request whose body the client holds back until it is asked for it.
fn expecting<'f>(path: &'f str, authorization: &'f str) -> Vec<(&'f str, &'f str)> {
    [&head("POST", path)[..], &[("authorization", authorization), ("expect", "100-continue")]].concat()
}

#[test]
fn client_that_waits_to_be_asked_for_its_body_is_asked() {
    let gate = Gate::start();
    let (writer, root) = (gate.telemetry_key().authorization(), gate.root().authorization());
    let mut raw = RawH2::with_table(gate.public(), &[]);
    let made = r#"{"name": "made after a while", "kind": "telemetry"}"#;
    let mut api = expecting("/api/keys", &root);
    api.push(("content-type", "application/json"));
    let cases = [(1, expecting("/api/v1/write", &writer), "held back", 200), (3, api, made, 201)];
    for (stream, fields, body, status) in cases {
        raw.request(stream, &fields, false);

        let interim = raw.read_kind(HEADERS);

        assert_eq!((interim.stream, interim.flags, &interim.payload[..]), (stream, END_HEADERS, CONTINUE));
        let (first, last) = body.split_at(3);
        raw.frame(raw_h2::DATA, 0, stream, first.as_bytes());
        raw.frame(raw_h2::DATA, END_STREAM, stream, last.as_bytes());
        assert_eq!(raw.status(), status);
        raw.outcome(stream);
    }
    let request = gate.upstream().requests().remove(0);
    assert_eq!((request.body.as_slice(), request.has("expect")), (&b"held back"[..], false));
    assert!(check(&gate.root().get("/api/keys"), 200).text().contains("made after a while"));
}

#[test]
fn client_that_holds_its_body_back_has_its_time_from_when_it_is_asked() {
    let gate = Gate::with(|setup| {
        let setup = setup.option("client", r#"body_timeout = "300ms""#);
        setup.upstream("concurrency = 1").upstream(r#"queue_timeout = "1m""#)
    });
    let (reader, writer) = (gate.key(&["monitor:read"]), gate.telemetry_key().authorization());
    gate.upstream().reply(Reply::bytes("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").hold().then("first"));
    let mut first = gate.raw();
    first.send(reader.render("GET", "/api/v1/query", &[], b""));
    check(&first.read_head(), 200);
    let mut raw = RawH2::with_table(gate.public(), &[]);
    raw.request(1, &expecting("/api/v1/write", &writer), false);
    gate.wait_for_metric("portcullis_upstream_queue_length{upstream=\"main\"}", 1.0);
    assert!(!raw.stirs_within(Duration::from_millis(900)), "asked or given up in the queue");

    gate.upstream().release();

    assert_eq!(raw.read_kind(HEADERS).payload, CONTINUE);
    raw.frame(raw_h2::DATA, END_STREAM, 1, b"held back");
    assert_eq!(raw.status(), 200);
    // Once it is asked it is not waited for without end.
    raw.request(3, &expecting("/api/v1/write", &writer), false);
    assert_eq!(raw.read_kind(HEADERS).payload, CONTINUE);
    assert_eq!(raw.status(), 408);
}

#[test]
fn nobody_is_asked_for_a_body_that_is_refused_or_not_held_back() {
    let gate = Gate::start();
    let writer = gate.telemetry_key().authorization();
    let mut raw = RawH2::with_table(gate.public(), &[]);
    let unexpecting = [&head("POST", "/api/v1/write")[..], &[("authorization", &writer)]].concat();
    let mut whole = expecting("/api/v1/write", &writer);
    whole.push(("content-length", "0"));
    let mut other = unexpecting.clone();
    other.push(("expect", "200-ok"));
    raw.request(1, &expecting("/api/v1/write", "Basic bm9ib2R5Og=="), false);
    assert_eq!(raw.status(), 401);
    raw.request(3, &other, false);
    assert_eq!(raw.status(), 417);
    raw.request(5, &whole, true);
    assert_eq!(raw.status(), 200);
    raw.request(7, &unexpecting, false);
    gate.upstream().wait_for_requests(1);
    gate.upstream().wait_for_bytes(b"chunked");
    raw.frame(raw_h2::DATA, END_STREAM, 7, b"x");
    assert_eq!(raw.status(), 200);
    assert_eq!(gate.upstream().requests().len(), 2);
}

#[test]
fn client_that_does_not_wait_to_be_asked_is_answered() {
    let gate = Gate::start();
    let writer = gate.telemetry_key().authorization();
    for client in [RawH2::with_table, RawH2::with] {
        let mut raw = client(gate.public(), &[]);
        let fields = block(&expecting("/api/v1/write", &writer));
        let request = raw_h2::frame(HEADERS, END_HEADERS, 1, &fields);
        raw.send([request, raw_h2::frame(raw_h2::DATA, END_STREAM, 1, b"at once")].concat());

        assert_eq!(raw.outcome(1), Seen::Answer { status: 200, body: b"at once".to_vec() });
    }
}

#[test]
fn client_whose_header_table_shrank_is_not_asked() {
    let gate = Gate::start();
    let writer = gate.telemetry_key().authorization();
    let mut raw = RawH2::with(gate.public(), &[]);
    raw.request(1, &expecting("/api/v1/write", &writer), false);
    gate.upstream().wait_for_bytes(b"chunked");
    raw.frame(raw_h2::DATA, END_STREAM, 1, b"after a while");

    let answer = raw.read_kind(HEADERS);

    // What a header block has to begin with then.
    assert_eq!(answer.payload[0] >> 5, 1, "{answer:?}");
    assert!(matches!(raw.outcome(1), Seen::Answer { body, .. } if body == b"after a while"));
}

#[test]
fn download_that_the_client_stalled_is_whole_beside_bodies_that_it_is_asked_for() {
    const BYTES: usize = 16 << 20;
    const INITIAL_WINDOW_SIZE: u16 = 4;
    const CALLS: usize = 20;
    let gate = Gate::start();
    let (reader, writer) = (gate.key(&["monitor:read"]), gate.telemetry_key().authorization());
    let large = format!("HTTP/1.1 200 OK\r\nContent-Length: {BYTES}\r\n\r\n{}", "x".repeat(BYTES));
    gate.upstream().reply_on("/api/v1/query", Reply::bytes(large));
    let mut raw = RawH2::with_table(gate.public(), &[(INITIAL_WINDOW_SIZE, 1 << 30)]);
    raw.window_update(0, 1 << 30).get(1, &reader, "/api/v1/query");
    raw.read_kind(HEADERS);
    // Nothing is read meanwhile: one of the download's frames is on its way in part when the bodies are wanted.
    for call in 1..=CALLS {
        raw.request(1 + 2 * call as u32, &expecting("/api/v1/write", &writer), false);
        until("the upstream waits for the body", || {
            String::from_utf8_lossy(&gate.upstream().raw()).matches("chunked").count() == call
        });
    }
    let (mut left, mut asked, mut answered) = (BYTES, 0, 0);

    while left > 0 || answered < CALLS {
        let frame = raw.read().expect("a frame");
        match (frame.kind, frame.stream) {
            (raw_h2::DATA, 1) => {
                assert!(frame.payload.iter().all(|byte| *byte == b'x'));
                left -= frame.payload.len();
            }
            (HEADERS, stream) if frame.payload == CONTINUE => {
                asked += 1;
                raw.frame(raw_h2::DATA, END_STREAM, stream, b"hello");
            }
            (raw_h2::DATA, _) if frame.flags & END_STREAM != 0 => answered += 1,
            (raw_h2::RST_STREAM | GOAWAY, _) => panic!("{frame:?}"),
            _ => {}
        }
    }

    assert_eq!(asked, CALLS);
    assert_eq!(gate.upstream().requests_for("/api/v1/write"), CALLS);
}
