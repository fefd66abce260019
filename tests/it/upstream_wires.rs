//! The wires to upstreams: clear text, TLS and unix sockets, and HTTP/1.1 or HTTP/2 over each.

mod floods;
mod grpc;
mod http2;
mod invalid_heads;
mod tls;

use std::net::SocketAddr;

use crate::harness::*;

const POST: &str = "/public/write?x=%2e%2E&y=a+b";
const FIELDS: [(&str, &str); 4] =
    [("Host", "some.host:8080"), ("X-Twice", "a"), ("X-Twice", "b"), ("Connection", "close, X-Hop")];

/// What both HTTP versions of the recording upstream have seen, in the words of one.
struct Seen {
    method: String,
    target: String,
    /// Host, or `:authority`.
    host: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Seen {
    fn http1(upstream: &Upstream) -> Self {
        let Recorded { method, target, mut headers, body, .. } = upstream.last();
        headers.iter_mut().for_each(|(name, _)| name.make_ascii_lowercase());
        let host = headers.iter().find(|(name, _)| name == "host").expect("a host").1.clone();
        Self { method, target, host, headers, body }
    }

    fn http2(upstream: &H2Upstream) -> Self {
        let H2Recorded { method, target, authority, headers, body, .. } = upstream.last();
        Self { method, target, host: authority.expect("an authority"), headers, body }
    }

    #[track_caller]
    fn check(&self, key: &Caller) {
        assert_eq!((self.method.as_str(), self.target.as_str()), ("POST", POST));
        assert_eq!(self.host, "some.host:8080");
        assert_eq!(self.body, b"some body");
        let values = |wanted: &str| -> Vec<&str> {
            self.headers.iter().filter(|(name, _)| name == wanted).map(|(_, value)| value.as_str()).collect()
        };
        assert_eq!(values("x-twice"), ["a", "b"]);
        assert_eq!(values("x-portcullis-key-id"), [key.id()]);
        assert_eq!(values("content-length"), ["9"]);
        assert_eq!(values("via"), ["1.1 portcullis"]);
        for dropped in ["authorization", "x-hop", "connection", "te", "transfer-encoding"] {
            assert!(values(dropped).is_empty(), "{dropped} in {:?}", self.headers);
        }
    }
}

fn post(gate: &Gate) -> Caller {
    let key = gate.telemetry_key();
    let answer = key.request("POST", POST, &[FIELDS.as_slice(), &[("X-Hop", "1")]].concat(), b"some body");
    assert_eq!(check(&answer, 200).text(), "some body");
    key
}

fn gate_to(url: &str, lines: &[&str]) -> Gate {
    Gate::with(|setup| {
        // Authenticated, so that the upstream learns which key it was.
        let setup = setup.upstream_url(url).route("GET,POST /public/{*rest}", r#""authenticated""#);
        lines.iter().fold(setup, |setup, line| setup.upstream(line))
    })
}

fn tls_gate(front: &TlsFront, authority: &Authority, protocol: &str) -> Gate {
    Gate::with(|setup| {
        setup
            .upstream_url(&format!("https://localhost:{}", front.port()))
            .upstream(&format!("protocol = {protocol:?}"))
            .option("upstream.main.tls", &format!("ca = {:?}", authority.file()))
            .route("GET,POST /public/{*rest}", r#""authenticated""#)
    })
}

fn front(authority: &Authority, protocols: &[(&str, SocketAddr)]) -> TlsFront {
    TlsFront::start(&authority.server("upstream", &["localhost"]), protocols)
}

#[test]
fn requests_arrive_whole_over_clear_text_http2() {
    let upstream = H2Upstream::start();
    let gate = gate_to(&format!("http://{}", upstream.address()), &[r#"protocol = "http2""#]);
    let key = post(&gate);
    Seen::http2(&upstream).check(&key);
    assert_eq!(upstream.last().scheme, "http");
    assert!(upstream.last().header("host").is_none());
}

#[test]
fn requests_arrive_whole_through_a_unix_socket() {
    let upstream = Upstream::start();
    let unix = UnixFront::start(upstream.address());
    let gate = gate_to(&format!("unix:{}", unix.path().display()), &[]);
    let key = post(&gate);
    Seen::http1(&upstream).check(&key);
}

#[test]
fn requests_arrive_whole_through_a_unix_socket_in_http2() {
    let upstream = H2Upstream::start();
    let unix = UnixFront::start(upstream.address());
    let gate = gate_to(&format!("unix:{}", unix.path().display()), &[r#"protocol = "http2""#]);
    let key = post(&gate);
    Seen::http2(&upstream).check(&key);
}

#[test]
fn requests_arrive_whole_over_tls() {
    let (authority, upstream) = (Authority::new("upstreams"), Upstream::start());
    let front = front(&authority, &[("http/1.1", upstream.address())]);
    let gate = tls_gate(&front, &authority, "auto");
    let key = post(&gate);
    Seen::http1(&upstream).check(&key);
}

#[test]
fn requests_arrive_whole_over_tls_in_http2() {
    for protocol in ["auto", "http2"] {
        let (authority, upstream) = (Authority::new("upstreams"), H2Upstream::start());
        let front = front(&authority, &[("h2", upstream.address())]);
        let gate = tls_gate(&front, &authority, protocol);
        let key = post(&gate);
        Seen::http2(&upstream).check(&key);
        assert_eq!(upstream.last().scheme, "https");
    }
}

#[test]
fn a_unix_socket_without_anybody_behind_it_is_502() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let missing = folder.path().join("missing.sock");
    for path in [dead_socket(folder.path()), missing] {
        let gate = gate_to(&format!("unix:{}", path.display()), &[]);
        check_problem(&gate.root().get("/open/x"), 502, "upstream_unreachable");
        assert_eq!(gate.metric(r#"portcullis_upstream_failures_total{upstream="main",kind="connect"}"#), 1.0);
    }
}

#[test]
fn a_request_without_a_host_is_for_localhost_behind_a_unix_socket() {
    let upstream = Upstream::start();
    let unix = UnixFront::start(upstream.address());
    let gate = Gate::with(|setup| setup.upstream_url(&format!("unix:{}", unix.path().display())));
    let mut wire = gate.raw();
    wire.send("GET /public/x HTTP/1.0\r\n\r\n");
    check(&wire.read_response(), 200);
    assert_eq!(upstream.last().header_values("host"), ["localhost"]);
}

#[test]
fn an_idle_connection_to_a_unix_socket_is_used_again() {
    let upstream = Upstream::start();
    let unix = UnixFront::start(upstream.address());
    let gate = gate_to(&format!("unix:{}", unix.path().display()), &[]);
    for _ in 0..3 {
        check(&gate.root().get("/open/x"), 200);
    }
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn the_targets_of_one_upstream_may_each_have_a_wire_of_their_own() {
    let (authority, plain, secure, local) =
        (Authority::new("upstreams"), Upstream::start(), H2Upstream::start(), Upstream::start());
    let (front, unix) = (front(&authority, &[("h2", secure.address())]), UnixFront::start(local.address()));
    let urls = [
        format!("http://{}", plain.address()),
        format!("https://localhost:{}", front.port()),
        format!("unix:{}", unix.path().display()),
    ];
    let gate = Gate::with(|setup| {
        setup
            .upstream_urls(urls)
            .upstream(r#"health = { path = "/ready", interval = "50ms" }"#)
            .option("upstream.main.tls", &format!("ca = {:?}", authority.file()))
    });
    secure.wait_for_requests(1);
    plain.wait_for_requests(1);
    local.wait_for_requests(1);
    let checks = secure.requests();
    assert_eq!((checks[0].method.as_str(), checks[0].target.as_str()), ("GET", "/ready"));
    let asked = |path: &str| {
        [
            plain.requests().iter().filter(|request| request.target == path).count(),
            secure.requests().iter().filter(|request| request.target == path).count(),
            local.requests().iter().filter(|request| request.target == path).count(),
        ]
    };
    let deadline = std::time::Instant::now() + DEADLINE;
    while asked("/open/x").contains(&0) {
        check(&gate.root().get("/open/x"), 200);
        assert!(std::time::Instant::now() < deadline, "asked {:?}", asked("/open/x"));
    }
}

#[test]
fn a_websocket_gets_a_connection_of_http1_where_everything_else_is_http2() {
    const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    let (authority, http1, http2) = (Authority::new("upstreams"), Upstream::start(), H2Upstream::start());
    let front = front(&authority, &[("h2", http2.address()), ("http/1.1", http1.address())]);
    let gate = Gate::with(|setup| {
        setup
            .upstream_url(&format!("https://localhost:{}", front.port()))
            .option("upstream.main.tls", &format!("ca = {:?}", authority.file()))
            .route("GET /live/{*rest}", r#"{ require = "authenticated", upgrade = true }"#)
    });
    check(&gate.root().get("/open/x"), 200);
    http1.reply_always(Reply::bytes(SWITCHED).echo_raw());
    let handshake = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Version", "13"),
    ];
    for count in 1..=2 {
        let mut wire = gate.raw();
        wire.send(gate.root().render("GET", "/live/tail", &handshake, b""));
        check(&wire.read_head(), 101);
        wire.send("hello");
        assert_eq!(wire.read_exactly(5), b"hello");
        assert_eq!((http1.connections(), http2.connections()), (count, 1));
    }
    check(&gate.root().get("/open/x"), 200);
    assert_eq!((http1.requests().len(), http2.requests().len()), (2, 2));
}
