//! Reloads of a gate that does all it can: TLS, HTTP/2, several targets, checks, limits, tunnels, streams.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Holding, Reloaded};
use crate::harness::{
    Authority, Backend, Caller, GATE, H2Load, H2Pace, Reply, Setup, Tally, TlsClient, Upstream, check,
};

/// How often; `PORTCULLIS_RELOADS` sets another number.
const RELOADS: usize = 60;
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
const STREAM: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

/// What all configurations have in common.
struct Scene {
    backends: [Backend; 3],
    tunnel: Upstream,
    events: Upstream,
    certificates: [String; 2],
    /// Made for another key.
    mixed: String,
}

impl Scene {
    fn new(authority: &Authority) -> Self {
        let (one, other) = (authority.server("one", &[GATE]), authority.server("other", &[GATE]));
        Self {
            backends: [Backend::start(), Backend::start(), Backend::start()],
            tunnel: Upstream::start(),
            events: Upstream::start(),
            certificates: [one.toml(), other.toml()],
            mixed: format!("{{ cert = {:?}, key = {:?} }}", one.cert, other.key),
        }
    }

    /// Configuration number `number`: others of everything that can change, and every fifth one not to be taken.
    fn variant(&self, setup: Setup, number: usize) -> Setup {
        let urls = self.backends.iter().map(Backend::url).cycle().skip(number % 3).take(2 + number % 2);
        let certificate = &self.certificates[number / 3 % 2];
        let setup = setup
            .option("listen", "workers = 2")
            .option("tls.public", &format!("certificates = [{certificate}]"))
            .option("client", &format!("connections_max = {}", 100 + number % 7))
            .option("http2", &format!("streams_max = {}", 50 + number % 3))
            .option("limits", &format!("key = {{ rate = \"1000000/s\", concurrency = {} }}", 1_000 + number % 5))
            .upstream_urls(urls)
            .upstream(&format!("balance = {:?}", ["least_requests", "first_available"][number % 2]))
            .upstream(&format!("concurrency = {}", 200 + number / 2 % 3))
            .upstream("queue = 100")
            .option("upstream.main.health", r#"path = "/health""#)
            .option("upstream.main.health", &format!("interval = \"{}ms\"", 20 + number % 4))
            .route(&format!("GET /variant-{number}/{{*rest}}"), r#"{ require = "authenticated", rate = "9/s" }"#)
            .option("upstream.tunnel", &format!("url = {:?}", self.tunnel.url()))
            .option("upstream.tunnel.routes", r#""GET /tunnel" = { require = "monitor:read", upgrade = true }"#)
            .option("upstream.events", &format!("url = {:?}", self.events.url()))
            .option(
                "upstream.events.routes",
                r#""GET /events" = { require = "monitor:read", timeout = "off", body_timeout = "off" }"#,
            );
        match number % 20 {
            4 => setup.option("tls.public", &format!("certificates = [{}]", self.mixed)),
            9 => setup.upstream(r#"set_headers = { x-a = "{nosuch}" }"#),
            14 => setup.option("keys", "root_key_file = 'nosuch'"),
            19 => setup
                .option("upstream.events.tls", "ca = 'nosuch'")
                .option("upstream.events", r#"url = "https://127.0.0.1:1""#),
            _ => setup,
        }
    }
}

/// Sends request after request over HTTP/1.1 and TLS until told to stop, and counts them. Panics at any that fails.
fn keep_asking(client: TlsClient, caller: &Caller, address: std::net::SocketAddr, stop: &AtomicBool) -> (u64, u64) {
    let request = caller.render("GET", "/open/h1", &[("Connection", "keep-alive")], b"");
    let (mut answered, mut connections) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        let mut wire = client.connect(address, GATE);
        connections += 1;
        for _ in 0..50 {
            wire.send(&request);
            check(&wire.read_response(), 200);
            answered += 1;
        }
    }
    (answered, connections)
}

#[test]
fn many_reloads_of_a_gate_that_does_everything_fail_no_request_and_leave_nothing_behind() {
    let reloads = std::env::var("PORTCULLIS_RELOADS").map_or(RELOADS, |count| count.parse().expect("a number"));
    let authority = Authority::new("Test CA");
    let client = TlsClient::trusting(&authority);
    let scene = Scene::new(&authority);
    let mut gate = Reloaded::start(|setup| scene.variant(setup, 0));
    let address = gate.served.public;

    scene.tunnel.reply(Reply::bytes(SWITCHED).echo_raw());
    let mut tunnel = client.connect(address, GATE);
    let handshake = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    tunnel.send(gate.root.render("GET", "/tunnel", &handshake, b""));
    assert_eq!(tunnel.read_head().status, 101);
    scene.events.reply(Reply::bytes(STREAM).then("7\r\ndata: 1\r\n").hold().then("7\r\ndata: 2\r\n0\r\n\r\n"));
    let mut events = client.connect(address, GATE);
    events.send(gate.root.render("GET", "/events", &[], b""));
    check(&events.read_head(), 200);
    events.read_until(b"data: 1\r\n");

    let pace = H2Pace { connections: 4, streams: 5, per_second: 300 };
    let load = H2Load::start(address, &client, "/open/h2", &gate.root.authorization(), pace);
    let stop = Arc::new(AtomicBool::new(false));
    let asking = {
        let (client, caller, stop) =
            (client.clone(), Caller::new(address, Some(gate.root.secret())), Arc::clone(&stop));
        std::thread::spawn(move || keep_asking(client, &caller, address, &stop))
    };
    let (mut taken, mut refused, mut before) = (0, 0, None);
    for number in 1..=reloads {
        match gate.reload(|setup| scene.variant(setup, number)) {
            Ok(()) => taken += 1,
            Err(told) => {
                assert_eq!(number % 5, 4, "{told}");
                refused += 1;
            }
        }
        tunnel.send("word\n");
        assert_eq!(tunnel.read_until(b"\n"), b"word\n");
        // Once everything has been allocated for the first time.
        if number == reloads / 4 {
            before = Some((Holding::of(&gate.served), gate.served.ops_get("/metrics").text().lines().count()));
        }
    }
    let ((before, lines_before), after) = (before.expect("enough reloads"), Holding::of(&gate.served));
    stop.store(true, Ordering::Relaxed);
    let (answered, connections) = asking.join().expect("no request fails");
    let tally: Tally = load.stop();
    let page = gate.served.ops_get("/metrics").text();
    let lines = page.lines().count();
    println!("{taken} reloads taken, {refused} refused; HTTP/1.1: {answered} over {connections}; HTTP/2: {tally:?}");
    println!("{before:?} {lines_before} lines of metrics, {after:?} {lines} lines");

    assert_eq!((tally.failed, refused), (0, reloads / 5), "{tally:?}");
    assert!(tally.answered > 100 && answered > 100, "{tally:?}");
    scene.events.release();
    events.read_until(b"data: 2\r\n");
    assert!(after.descriptors <= before.descriptors + 60, "{before:?} {after:?}");
    assert!(after.threads <= before.threads + 4, "{before:?} {after:?}");
    assert!(after.resident_kib <= before.resident_kib + 16 * 1_024, "{before:?} {after:?}");
    // Two or three targets, and statuses that were not seen before.
    assert!(lines <= lines_before + 40, "{lines_before} {page}");
    gate.served.process.signal("TERM");
    drop((tunnel, events));
    assert_eq!(gate.served.process.wait().code, Some(0));
}
