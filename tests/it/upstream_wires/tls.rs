//! TLS to upstreams: who is believed, what is negotiated, and what a cut looks like.

use std::net::TcpListener;
use std::time::Instant;

use super::{front, gate_to, tls_gate};
use crate::harness::*;

const FAILURES: &str = r#"portcullis_upstream_failures_total{upstream="main",kind="tls"}"#;

/// A gate whose upstream's certificate is `pair`, and which trusts `trusted`.
fn check_refused(pair: &Pair, trusted: &Authority) {
    let upstream = Upstream::start();
    let front = TlsFront::start(pair, &[("http/1.1", upstream.address())]);
    let gate = tls_gate(&front, trusted, "auto");
    for attempt in 1..=2 {
        check_problem(&gate.root().get("/open/x"), 502, "upstream_unreachable");
        assert_eq!(gate.metric(FAILURES), f64::from(attempt));
    }
    assert!(upstream.requests().is_empty());
    assert_eq!(front.handshakes(), 0);
}

#[test]
fn without_an_authority_of_its_own_an_upstream_is_verified_by_those_of_the_system() {
    let (known, other) = (Authority::new("known"), Authority::new("other"));
    let upstream = Upstream::start();
    let front = front(&known, &[("http/1.1", upstream.address())]);
    let installation = Installation::with(|setup| setup.upstream_url(&format!("https://localhost:{}", front.port())));
    let root = installation.init();
    for (system, status) in [(&known, 200), (&other, 502)] {
        // Where the system keeps them, as OpenSSL and others are told too.
        let served = installation.serve_with("SSL_CERT_FILE", system.file());
        check(&served.caller(&root).get("/open/x"), status);
    }
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn an_upstream_of_an_unknown_authority_is_502() {
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    check_refused(&other.server("upstream", &["localhost"]), &ours);
}

#[test]
fn an_upstream_with_a_certificate_for_another_name_is_502() {
    let authority = Authority::new("ours");
    check_refused(&authority.server("upstream", &["elsewhere.test"]), &authority);
}

#[test]
fn an_upstream_with_an_expired_certificate_is_502() {
    let authority = Authority::new("ours");
    let expired = authority.issue("upstream", &["localhost"], |params| expires_in(params, -3_600));
    check_refused(&expired, &authority);
}

#[test]
fn an_upstream_that_answers_in_clear_text_is_502_and_gets_no_request() {
    let (authority, upstream) = (Authority::new("ours"), Upstream::start());
    let gate = Gate::with(|setup| {
        let setup = setup.upstream_url(&format!("https://localhost:{}", upstream.address().port()));
        setup
            .option("upstream.main.tls", &format!("ca = {:?}", authority.file()))
            .upstream(r#"connect_timeout = "500ms""#)
    });
    // It waits for the end of a head, so that its silence may be what ends the attempt.
    let answer = gate.root().get("/open/x");
    assert!(matches!(answer.status, 502 | 504), "{answer:?}");
    assert!(upstream.requests().is_empty());
    assert!(!String::from_utf8_lossy(&upstream.raw()).contains("/open/x"));

    let plain = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = plain.local_addr().expect("an address").port();
    let answering = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut socket, _) = plain.accept().expect("a connection");
        let _ = socket.read(&mut [0; 1_024]);
        let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        let _ = socket.read_to_end(&mut Vec::new());
    });
    let gate = gate_to(&format!("https://localhost:{port}"), &[]);
    check_problem(&gate.root().get("/open/x"), 502, "upstream_unreachable");
    assert_eq!(gate.metric(FAILURES), 1.0);
    answering.join().expect("no panic");
}

#[test]
fn a_handshake_that_never_ends_is_given_up_with_the_connection() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("https://{}", silent.local_addr().expect("an address"));
    let gate = gate_to(&url, &[r#"connect_timeout = "200ms""#]);
    let started = Instant::now();
    check_problem(&gate.root().get("/open/x"), 504, "upstream_timeout");
    assert!(started.elapsed() < DEADLINE / 2);
    assert_eq!(gate.metric(r#"portcullis_upstream_failures_total{upstream="main",kind="connect_timeout"}"#), 1.0);
}

#[test]
fn a_certificate_may_be_for_the_configured_name() {
    let (authority, upstream) = (Authority::new("ours"), Upstream::start());
    let pair = authority.server("upstream", &["tsdb.internal"]);
    let front = TlsFront::start(&pair, &[("http/1.1", upstream.address())]);
    let gate = Gate::with(|setup| {
        setup
            .upstream_url(&format!("https://127.0.0.1:{}", front.port()))
            .option("upstream.main.tls", &format!("ca = {:?}", authority.file()))
            .option("upstream.main.tls", r#"server_name = "tsdb.internal""#)
    });
    check(&gate.root().get("/open/x"), 200);
}

#[test]
fn the_gate_shows_its_certificate_to_an_upstream_that_asks() {
    let (authority, upstream) = (Authority::new("ours"), Upstream::start());
    let pair = authority.server("upstream", &["localhost"]);
    let front = TlsFront::for_clients_of(&authority, &pair, &[("http/1.1", upstream.address())]);
    let own = authority.client("gate");
    let with = |own: Option<&Pair>| {
        Gate::with(|setup| {
            let setup = setup
                .upstream_url(&format!("https://localhost:{}", front.port()))
                .option("upstream.main.tls", &format!("ca = {:?}", authority.file()));
            own.into_iter().fold(setup, |setup, own| {
                setup
                    .option("upstream.main.tls", &format!("cert = {:?}", own.cert))
                    .option("upstream.main.tls", &format!("key = {:?}", own.key))
            })
        })
    };
    check(&with(Some(&own)).root().get("/open/x"), 200);
    assert_eq!(front.certificates_of_client(), Some(1));
    // TLS 1.3 refuses a client after its side of the handshake, so that it may look like a connection that broke.
    check_problem(&with(None).root().get("/open/x"), 502, "upstream_unreachable");
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn http2_is_spoken_where_the_upstream_prefers_it() {
    let (authority, http1, http2) = (Authority::new("ours"), Upstream::start(), H2Upstream::start());
    let front = front(&authority, &[("h2", http2.address()), ("http/1.1", http1.address())]);
    check(&tls_gate(&front, &authority, "auto").root().get("/open/x"), 200);
    assert_eq!((http1.requests().len(), http2.requests().len()), (0, 1));
    check(&tls_gate(&front, &authority, "http1").root().get("/open/x"), 200);
    assert_eq!((http1.requests().len(), http2.requests().len()), (1, 1));
}

#[test]
fn an_upstream_that_does_not_choose_http2_where_it_must_is_502() {
    let (authority, upstream) = (Authority::new("ours"), Upstream::start());
    for offered in [&[("http/1.1", upstream.address())][..], &[]] {
        let pair = authority.server("upstream", &["localhost"]);
        let front = TlsFront::start(&pair, offered);
        let gate = tls_gate(&front, &authority, "http2");
        check_problem(&gate.root().get("/open/x"), 502, "upstream_unreachable");
        assert_eq!(gate.metric(FAILURES), 1.0);
    }
    assert!(upstream.requests().is_empty());
}

#[test]
fn a_body_that_ends_with_the_connection_is_whole_only_with_the_upstreams_word() {
    let (authority, upstream) = (Authority::new("ours"), Upstream::start());
    let front = front(&authority, &[("http/1.1", upstream.address())]);
    let gate = tls_gate(&front, &authority, "auto");
    upstream.reply_always(Reply::bytes("HTTP/1.1 200 OK\r\n\r\nas far as it goes").close());
    let whole = gate.root().get("/open/x");
    assert!(check(&whole, 200).complete, "{whole:?}");
    assert_eq!(whole.text(), "as far as it goes");
    front.cut();
    let cut = gate.root().get("/open/x");
    assert!(!check(&cut, 200).complete, "{cut:?}");
}

#[test]
fn an_idle_connection_over_tls_is_used_again() {
    let (authority, upstream) = (Authority::new("ours"), Upstream::start());
    let front = front(&authority, &[("http/1.1", upstream.address())]);
    let gate = tls_gate(&front, &authority, "auto");
    for _ in 0..3 {
        check(&gate.root().get("/open/x"), 200);
    }
    assert_eq!(front.handshakes(), 1);
}

#[test]
fn a_reload_takes_up_files_that_have_changed() {
    let (wrong, right, upstream) = (Authority::new("wrong"), Authority::new("right"), Upstream::start());
    let front = TlsFront::start(&right.server("upstream", &["localhost"]), &[("http/1.1", upstream.address())]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let ca = folder.path().join("ca.pem");
    std::fs::copy(wrong.file(), &ca).expect("writable");
    let mut gate = Gate::with(|setup| {
        setup
            .upstream_url(&format!("https://localhost:{}", front.port()))
            .option("upstream.main.tls", &format!("ca = {ca:?}"))
    });
    check_problem(&gate.root().get("/open/x"), 502, "upstream_unreachable");
    std::fs::copy(right.file(), &ca).expect("writable");
    gate.reload(|setup| setup);
    check(&gate.root().get("/open/x"), 200);
    // What has not changed keeps its connections.
    gate.reload(|setup| setup);
    check(&gate.root().get("/open/x"), 200);
    assert_eq!(front.handshakes(), 1);
}

#[test]
fn a_certificate_for_an_upstream_is_replaced_with_its_watched_files_and_its_expiry_is_told() {
    let (authority, upstream) = (Authority::new("ours"), Upstream::start());
    let server = authority.server("upstream", &["localhost"]);
    let front = TlsFront::for_clients_of(&authority, &server, &[("http/1.1", upstream.address())]);
    let soon = authority.client_with("soon", |params| expires_in(params, 10 * 86_400));
    let installed = Installation::with(|setup| {
        setup
            .upstream_url(&format!("https://localhost:{}", front.port()))
            .option("reload", r#"watch = "20ms""#)
            .option("upstream.main.tls", &format!("ca = {:?}", authority.file()))
            .option("upstream.main.tls", &format!("cert = {:?}", soon.cert))
            .option("upstream.main.tls", &format!("key = {:?}", soon.key))
    });
    let root = installed.init();
    let mut served = installed.serve();
    served.process.wait_for(|line| line.contains("soon.pem") && line.contains("expires within 14 days"));
    let labels = format!("{{upstream=\"main\",certificate=\"{}\"}} ", soon.cert.display());
    let sample = format!("portcullis_upstream_certificate_expiry_timestamp_seconds{labels}");
    let expiry = |served: &Served| {
        let page = served.ops_get("/metrics").text();
        let value = page.lines().find_map(|line| line.strip_prefix(&sample)).unwrap_or_else(|| panic!("{page}"));
        value.parse::<f64>().expect("a number")
    };
    check(&served.caller(&root).get("/open/x"), 200);
    let before = expiry(&served);

    let later = authority.client_with("later", |params| expires_in(params, 40 * 86_400));
    std::fs::copy(&later.cert, &soon.cert).expect("writable");
    std::fs::copy(&later.key, &soon.key).expect("writable");

    until("the new certificate is in use", || expiry(&served) > before);
    assert!((expiry(&served) - before - 30.0 * 86_400.0).abs() <= 60.0);
    check(&served.caller(&root).get("/open/x"), 200);
    assert_eq!(front.handshakes(), 2);
}
