//! TLS on the listeners: what is spoken, who is let in, and how certificates are replaced while the gate runs.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rcgen::{DnType, ExtendedKeyUsagePurpose};
use rustls::version::{TLS12, TLS13};

use crate::harness::{
    Authority, Caller, DEADLINE, GATE, Gate, Installation, Pair, Process, Reply, Served, Setup, TlsClient, Wire, check,
    expires_in, until,
};

const QUERY: &str = "/api/v1/query";
const PUBLIC: &[u8] = b"GET /public/x HTTP/1.1\r\nHost: gate.test\r\nConnection: close\r\n\r\n";

/// An authority, and a gate whose certificate it has issued.
struct Rig {
    authority: Authority,
    certificate: Pair,
    gate: Gate,
}

impl Rig {
    fn start() -> Self {
        Self::with(|_, setup| setup)
    }

    fn with(change: impl FnOnce(&Authority, Setup) -> Setup) -> Self {
        let authority = Authority::new("Test CA");
        let certificate = authority.server("gate", &[GATE]);
        let client = TlsClient::trusting(&authority);
        let gate = Gate::with(|setup| change(&authority, setup.tls(&certificate, &client)));
        Self { authority, certificate, gate }
    }

    /// Asks clients for certificates of `clients`; `more` are further lines of `[tls.public]`. Only clients that show
    /// none or a good one get through, so callers show one.
    fn with_client_auth(mode: &str, clients: &Authority, more: &[&str]) -> Self {
        Self::with(|authority, setup| {
            let own = clients.client("caller");
            let mut setup = setup
                .option("tls.public", &format!("client_auth = {mode:?}"))
                .option("tls.public", &format!("client_ca = {:?}", clients.file()));
            for line in more {
                setup = setup.option("tls.public", line);
            }
            setup.callers(&TlsClient::showing(authority, &own))
        })
    }

    fn client(&self) -> TlsClient {
        TlsClient::trusting(&self.authority)
    }

    fn public(&self) -> SocketAddr {
        self.gate.public()
    }

    fn failures(&self, reason: &str) -> f64 {
        self.gate.metric(&format!("portcullis_tls_handshake_failures_total{{reason=\"{reason}\"}}"))
    }

    /// The metric counts what the client may have heard of before.
    #[track_caller]
    fn check_failed(&self, reason: &str) {
        until(&format!("a failure counts as {reason}"), || self.failures(reason) > 0.0);
    }
}

#[test]
fn a_key_admits_over_tls_as_in_clear_text() {
    let rig = Rig::start();
    let reader = rig.gate.key(&["monitor:read"]);
    check(&reader.get(QUERY), 200);
    check(&rig.gate.anonymous().get(QUERY), 401);
    check(&rig.gate.key(&["monitor:write"]).get(QUERY), 403);
    check(&rig.gate.telemetry_key().post("/api/v1/write", &"x".repeat(1 << 20)), 200);
    assert_eq!(rig.gate.upstream().last().body.len(), 1 << 20);
    let kept = reader.keep_alive();
    check(&kept.get(QUERY), 200);
    check(&kept.get(QUERY), 200);
}

#[test]
fn tls_1_2_and_1_3_are_spoken() {
    let rig = Rig::start();
    for version in [&TLS12, &TLS13] {
        let client = TlsClient::speaking(&rig.authority, &[version]);
        let reader = rig.gate.key(&["monitor:read"]).over(Some(&client));
        check(&reader.get(QUERY), 200);
    }
}

#[test]
fn the_order_of_the_clients_suites_decides_nothing() {
    let authority = Authority::new("Order CA");
    let tls = TlsClient::trusting(&authority);
    let gate = Gate::with(|setup| setup.tls(&authority.server("gate", &[GATE]), &tls));
    for version in [&TLS12, &TLS13] {
        let clients = [TlsClient::speaking(&authority, &[version]), TlsClient::backwards(&authority, &[version])];
        let chosen = clients.map(|client| {
            let stream = client.shake(gate.public(), GATE).expect("a handshake");
            stream.conn.negotiated_cipher_suite().expect("a suite").suite()
        });
        assert_eq!(chosen[0], chosen[1]);
    }
}

#[test]
fn min_version_1_3_refuses_1_2() {
    let rig = Rig::with(|_, setup| setup.option("tls.public", r#"min_version = "1.3""#));
    let old = TlsClient::speaking(&rig.authority, &[&TLS12]);
    assert!(old.refusal(rig.public(), GATE).contains("ProtocolVersion"));
    rig.check_failed("version");
    check(&rig.gate.key(&["monitor:read"]).get(QUERY), 200);
}

/// A ClientHello with the version that it says, no list of versions, and one cipher suite of all times.
fn hello_of_version(version: [u8; 2]) -> Vec<u8> {
    let mut body = version.to_vec();
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x00, 0x2f, 1, 0]);
    let mut handshake = vec![1, 0, 0, u8::try_from(body.len()).expect("short")];
    handshake.extend(body);
    let mut record = vec![22, 3, 1, 0, u8::try_from(handshake.len()).expect("short")];
    record.extend(handshake);
    record
}

#[test]
fn older_versions_are_refused_with_an_alert() {
    const ALERT: u8 = 21;
    let rig = Rig::start();
    for minor in [0, 1, 2] {
        let mut wire = rig.gate.raw();
        wire.send(hello_of_version([3, minor]));
        let answer = wire.read_to_end();
        assert_eq!((answer.first(), answer.len()), (Some(&ALERT), 7), "{answer:?}");
        // Fatal: protocol_version, or handshake_failure for want of what came with version 1.2.
        assert!(answer[5] == 2 && matches!(answer[6], 40 | 70), "{answer:?}");
    }
    rig.check_failed("version");
}

#[test]
fn the_name_that_is_asked_for_chooses_the_certificate() {
    let authority = Authority::new("Test CA");
    let client = TlsClient::trusting(&authority);
    let pairs = [
        authority.server("gate", &[GATE]),
        authority.server("a", &["a.example", "www.a.example"]),
        authority.server("wild", &["*.a.example"]),
    ];
    let [gates, a, wild] = pairs.each_ref().map(Pair::certificate);
    let list = pairs.each_ref().map(Pair::toml).join(", ");
    let gate =
        Gate::with(|setup| setup.tls(&pairs[0], &client).option("tls.public", &format!("certificates = [{list}]")));
    let shown = |name: &str| client.certificate_shown(gate.public(), name);
    assert_eq!(shown(GATE), gates);
    assert_eq!(shown("a.example"), a);
    assert_eq!(shown("WWW.a.example"), a);
    assert_eq!(shown("other.a.example"), wild);

    // A wildcard is one label: neither more nor none. The first is shown to everybody else, who then refuses it.
    for name in ["x.y.a.example", "unknown.example", "127.0.0.1"] {
        assert!(client.refusal(gate.public(), name).contains("not valid for name"), "{name}");
    }
}

#[test]
fn a_host_that_another_certificate_is_for_is_served() {
    let rig = Rig::start();
    let reader = rig.gate.key(&["monitor:read"]);
    check(&reader.request("GET", QUERY, &[("Host", "another.example")], b""), 200);
    assert_eq!(rig.gate.upstream().last().header("x-forwarded-host"), Some("another.example"));
}

#[test]
fn upstreams_and_the_access_log_are_told_of_tls_and_the_client() {
    let authority = Authority::new("Test CA");
    let certificate = authority.server("gate", &[GATE]);
    let client = TlsClient::showing(&authority, &authority.client("prometheus"));
    let installed = Installation::with(|setup| {
        setup
            .tls(&certificate, &client)
            .option("tls.public", r#"client_auth = "optional""#)
            .option("tls.public", &format!("client_ca = {:?}", authority.file()))
            .option("log", "access = true")
    });
    let root = installed.init();
    let mut served = installed.serve();
    check(&served.caller(&root).over(Some(&client)).get(QUERY), 200);

    let last = installed.upstream().last();
    assert_eq!(last.header("x-forwarded-proto"), Some("https"));
    assert!(last.header("forwarded").is_some_and(|element| element.ends_with(";proto=https")), "{last:?}");
    served.process.wait_for(|line| line.contains(r#""tls_subject":"CN=prometheus,O=Example""#));
}

#[test]
fn http_in_clear_text_gets_no_http_on_a_tls_port() {
    let rig = Rig::start();
    let mut wire = rig.gate.raw();
    wire.send(PUBLIC);
    let answer = wire.read_to_end();
    assert!(!answer.windows(4).any(|bytes| bytes == b"HTTP"), "{answer:?}");
    assert!(answer.is_empty() || answer[0] == 21, "an alert or nothing: {answer:?}");
    rig.check_failed("not_tls");
}

#[test]
fn tls_on_a_clear_port_is_a_bad_request() {
    let authority = Authority::new("Test CA");
    let gate = Gate::start();
    let mut wire = gate.raw();
    wire.send(TlsClient::trusting(&authority).hello(GATE));
    let answer = wire.read_to_end();
    assert!(answer.starts_with(b"HTTP/1.1 400 "), "{:?}", String::from_utf8_lossy(&answer));
}

#[test]
fn a_hello_in_single_bytes_is_understood() {
    let rig = Rig::start();
    let mut wire = rig.client().connect_dribbling(rig.public(), GATE);
    wire.send(PUBLIC);
    check(&wire.read_response(), 200);
}

#[test]
fn a_silent_client_is_cut_at_the_deadline() {
    let rig = Rig::with(|_, setup| setup.option("client", r#"first_byte_timeout = "100ms""#));
    rig.gate.raw().check_closed();
    rig.check_failed("timeout");
}

#[test]
fn a_client_that_stops_in_its_handshake_is_cut_at_the_deadline() {
    let rig = Rig::with(|_, setup| setup.option("client", r#"header_timeout = "200ms""#));
    let hello = rig.client().hello(GATE);
    let mut wire = rig.gate.raw();
    wire.send(&hello[..hello.len() - 1]);
    wire.check_closed();

    // The gate's part comes, and then nothing of the client's.
    let mut wire = rig.gate.raw();
    wire.send(&hello);
    assert_eq!(wire.read_to_end().first(), Some(&22));
    until("both count", || rig.failures("timeout") >= 2.0);
}

#[test]
fn a_client_that_dribbles_its_handshake_is_cut_at_the_deadline() {
    let rig = Rig::with(|_, setup| setup.option("client", r#"header_timeout = "300ms""#));
    let hello = rig.client().hello(GATE);
    let mut wire = rig.gate.raw();
    // A byte whenever nothing has happened for a while: far too slow for all of them, and never silent for long.
    let mut sent = 0;
    while sent < hello.len() && !wire.stirs_within(std::time::Duration::from_millis(50)) {
        wire.send(&hello[sent..=sent]);
        sent += 1;
    }
    assert!(sent < hello.len(), "the whole hello was waited for");
    wire.check_closed();
    rig.check_failed("timeout");
}

#[test]
fn a_client_that_is_silent_after_its_handshake_is_cut_at_the_deadline() {
    let rig = Rig::with(|_, setup| setup.option("client", r#"first_byte_timeout = "200ms""#));
    let mut wire = rig.client().connect(rig.public(), GATE);
    wire.check_closed();
    assert!(!wire.was_reset(), "an orderly end");
}

#[test]
fn clients_that_go_away_in_their_handshake_leave_nothing_behind() {
    let rig = Rig::start();
    let hello = rig.client().hello(GATE);
    for length in [0, 1, 5, hello.len() / 2, hello.len()] {
        let mut wire = rig.gate.raw();
        wire.send(&hello[..length]);
        wire.finish_sending();
        drop(wire);
    }
    until("they are all gone", || rig.failures("closed") >= 5.0 && rig.gate.metric("portcullis_connections") <= 1.0);
    check(&rig.gate.key(&["monitor:read"]).get(QUERY), 200);
}

#[test]
fn broken_handshakes_end_and_the_gate_goes_on() {
    let rig = Rig::start();
    let hello = rig.client().hello(GATE);
    // Every byte of the hello turned, in steps; records without content; one that says to be larger than any.
    let turned = (0..hello.len()).step_by(7).map(|at| {
        let mut turned = hello.clone();
        turned[at] ^= 0xff;
        turned
    });
    let empty = [22, 3, 1, 0, 0].repeat(100);
    for bytes in turned.chain([empty, vec![22, 3, 1, 0xff, 0xff]]) {
        let mut wire = rig.gate.raw();
        wire.send(&bytes).finish_sending();
        let answer = wire.read_to_end();
        assert!(!answer.windows(4).any(|bytes| bytes == b"HTTP"), "{answer:?}");
    }
    check(&rig.gate.key(&["monitor:read"]).get(QUERY), 200);
}

#[test]
fn a_protocol_that_is_not_spoken_is_refused_by_its_name() {
    let rig = Rig::start();
    let other = rig.client().alpn(&[b"smtp"]);
    assert!(other.refusal(rig.public(), GATE).contains("NoApplicationProtocol"));
    rig.check_failed("no_protocol");
    let reader = rig.gate.key(&["monitor:read"]);
    check(&reader.over(Some(&rig.client().alpn(&[b"smtp", b"http/1.1"]))).get(QUERY), 200);
}

#[test]
fn handshakes_take_a_place_among_the_connections() {
    let rig = Rig::with(|_, setup| setup.option("client", "connections_max = 1"));
    let hello = rig.client().hello(GATE);
    let mut first = rig.gate.raw();
    first.send(&hello[..10]);
    until("the first is being served", || rig.gate.metric("portcullis_connections") >= 2.0);
    let mut second = rig.gate.raw();
    second.send(&hello);
    until("the second waits", || rig.gate.metric("portcullis_connections_queued_total") >= 1.0);
    assert!(!second.stirs_within(std::time::Duration::from_millis(50)));
    drop(first);
    assert_eq!(second.read_exactly(1), [22]);
}

#[test]
fn a_cut_response_does_not_look_complete() {
    let rig = Rig::start();
    let reader = rig.gate.key(&["monitor:read"]);
    // Close-delimited for an HTTP/1.0 client: only the end of the connection can tell.
    let chunk = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n";
    rig.gate.upstream().reply(Reply::bytes(chunk).close());
    let mut wire = rig.client().connect(rig.public(), GATE);
    let authorization = reader.authorization();
    wire.send(format!("GET {QUERY} HTTP/1.0\r\nHost: gate.test\r\nAuthorization: {authorization}\r\n\r\n"));
    let answer = wire.read_response();
    assert!(wire.was_reset() && !answer.complete, "{answer:?}");
}

#[test]
fn a_response_without_a_length_ends_with_tls_own_word() {
    let rig = Rig::start();
    let reader = rig.gate.key(&["monitor:read"]);
    let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\n0\r\n\r\n";
    rig.gate.upstream().answer_with(chunks);
    let mut wire = rig.client().connect(rig.public(), GATE);
    let authorization = reader.authorization();
    wire.send(format!("GET {QUERY} HTTP/1.0\r\nHost: gate.test\r\nAuthorization: {authorization}\r\n\r\n"));
    let answer = wire.read_response();
    wire.check_closed();
    assert!(!wire.was_reset() && answer.complete, "{answer:?}");
}

#[test]
fn required_client_certificates_are_required_and_verified() {
    let (clients, others) = (Authority::new("Clients"), Authority::new("Others"));
    let rig = Rig::with_client_auth("required", &clients, &[]);
    let showing = |pair: &Pair| TlsClient::showing(&rig.authority, pair);
    let expired = clients.client_with("expired", |params| expires_in(params, -60));
    let for_servers =
        clients.client_with("server", |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    let refusals = [
        (rig.client(), "CertificateRequired", "certificate_missing"),
        (showing(&others.client("stranger")), "UnknownCA", "certificate_refused"),
        (showing(&expired), "CertificateExpired", "certificate_expired"),
        (showing(&for_servers), "", "certificate_refused"),
    ];
    for (client, alert, reason) in refusals {
        let before = rig.failures(reason);
        let refusal = client.refusal(rig.public(), GATE);
        assert!(refusal.contains(alert), "{reason}: {refusal}");
        until(reason, || rig.failures(reason) > before);
    }
    check(&rig.gate.key(&["monitor:read"]).get(QUERY), 200);
    for version in [&TLS12, &TLS13] {
        let good = TlsClient::with(&rig.authority, Some(&clients.client("good")), &[version]);
        check(&rig.gate.anonymous().over(Some(&good)).get("/public/x"), 200);
        check(&rig.gate.anonymous().over(Some(&good)).get(QUERY), 401);
    }
}

#[test]
fn optional_client_certificates_may_be_left_out_but_not_be_wrong() {
    let (clients, others) = (Authority::new("Clients"), Authority::new("Others"));
    let rig = Rig::with_client_auth("optional", &clients, &[]);
    check(&rig.gate.anonymous().over(Some(&rig.client())).get("/public/x"), 200);
    check(&rig.gate.anonymous().get("/public/x"), 200);
    let stranger = TlsClient::showing(&rig.authority, &others.client("stranger"));
    assert!(stranger.refusal(rig.public(), GATE).contains("UnknownCA"));
}

#[test]
fn only_listed_subjects_are_let_in() {
    let clients = Authority::new("Clients");
    let subjects = r#"client_subjects = ["CN=caller,O=Example", "CN=Smith\\, John,O=Example"]"#;
    let rig = Rig::with_client_auth("required", &clients, &[subjects]);
    let showing = |pair: &Pair| TlsClient::showing(&rig.authority, pair);
    check(&rig.gate.anonymous().get("/public/x"), 200);
    check(&rig.gate.anonymous().over(Some(&showing(&clients.client("Smith, John")))).get("/public/x"), 200);

    let organisation_alone = clients.client_with("x", |params| {
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Example");
    });
    // The separator as a part of the name must not make two names of one.
    let in_disguise = clients.client_with("y", |params| {
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "caller,O=Example");
    });
    for pair in [clients.client("other"), clients.client("Caller"), organisation_alone, in_disguise] {
        let refusal = showing(&pair).refusal(rig.public(), GATE);
        assert!(refusal.contains("AccessDenied"), "{refusal}");
    }
    rig.check_failed("subject_refused");
}

#[test]
fn revoked_client_certificates_are_refused_and_new_lists_count_without_a_restart() {
    let (clients, others) = (Authority::new("Clients"), Authority::new("Others"));
    let numbered =
        |name: &str, serial: u64| clients.client_with(name, |params| params.serial_number = Some(serial.into()));
    let (caller, first, second) = (numbered("caller", 1), numbered("first", 2), numbered("second", 3));
    let both = clients.folder().join("both.pem");
    let authorities = [clients.file(), others.file()].map(|file| std::fs::read_to_string(file).expect("readable"));
    std::fs::write(&both, authorities.concat()).expect("writable");
    let list = clients.revoke(&[2]);
    let rig = Rig::with(|authority, setup| {
        setup
            .option("tls", r#"reload_interval = "20ms""#)
            .option("tls.public", r#"client_auth = "required""#)
            .option("tls.public", &format!("client_ca = {both:?}"))
            .option("tls.public", &format!("client_crl = {list:?}"))
            .callers(&TlsClient::showing(authority, &caller))
    });
    let showing = |pair: &Pair| TlsClient::with(&rig.authority, Some(pair), &[&TLS13]);
    check(&rig.gate.anonymous().get("/public/x"), 200);
    let refusal = showing(&first).refusal(rig.public(), GATE);
    assert!(refusal.contains("CertificateRevoked"), "{refusal}");
    rig.check_failed("certificate_revoked");
    // Nothing is known of what an authority without a list has revoked.
    let refusal = showing(&others.client("unlisted")).refusal(rig.public(), GATE);
    assert!(refusal.contains("received fatal alert"), "{refusal}");

    let client = showing(&second);
    assert!(!client.resumes(rig.public(), PUBLIC));
    assert!(client.resumes(rig.public(), PUBLIC));
    clients.revoke(&[2, 3]);

    until("the new list counts, for old sessions too", || {
        rig.failures("certificate_revoked") >= 2.0 || {
            is_let_in(&client, rig.public());
            false
        }
    });
    assert!(!is_let_in(&client, rig.public()));
    check(&rig.gate.anonymous().get("/public/x"), 200);
}

#[test]
fn sessions_are_resumed_and_their_client_stays_known() {
    for version in [&TLS12, &TLS13] {
        let clients = Authority::new("Clients");
        let rig = Rig::with_client_auth("required", &clients, &[]);
        let client = TlsClient::with(&rig.authority, Some(&clients.client("again")), &[version]);
        assert!(!client.resumes(rig.public(), PUBLIC));
        assert!(client.resumes(rig.public(), PUBLIC), "{version:?}");
    }
}

#[test]
fn a_session_is_not_resumed_once_its_clients_certificate_has_expired() {
    let clients = Authority::new("Clients");
    let rig = Rig::with_client_auth("required", &clients, &[]);
    let short = clients.client_with("short", |params| expires_in(params, 2));
    let client = TlsClient::showing(&rig.authority, &short);
    assert!(!client.resumes(rig.public(), PUBLIC));
    until("the certificate counts as expired", || {
        // Each of these resumes, and gets new tickets, until the last one is refused.
        rig.failures("certificate_expired") > 0.0 || {
            drop(client.shake(rig.public(), GATE).map(|mut stream| {
                use std::io::{Read as _, Write as _};
                let asked = stream.write_all(PUBLIC).and_then(|()| stream.read_to_end(&mut Vec::new()));
                asked.is_ok()
            }));
            false
        }
    });
}

#[test]
fn a_ticket_of_an_old_client_authority_is_worth_nothing_after_a_change() {
    let (old, new) = (Authority::new("Old"), Authority::new("New"));
    for version in [&TLS12, &TLS13] {
        let authority = Authority::new("Test CA");
        let certificate = authority.server("gate", &[GATE]);
        let client_ca = authority.folder().join("clients.pem");
        std::fs::copy(old.file(), &client_ca).expect("writable");
        let client = TlsClient::with(&authority, Some(&old.client("c")), &[version]);
        let gate = Gate::with(|setup| {
            setup
                .tls(&certificate, &client)
                .option("tls", r#"reload_interval = "20ms""#)
                .option("tls.public", r#"client_auth = "required""#)
                .option("tls.public", &format!("client_ca = {client_ca:?}"))
        });
        assert!(!client.resumes(gate.public(), PUBLIC));
        assert!(client.resumes(gate.public(), PUBLIC));

        std::fs::copy(new.file(), &client_ca).expect("writable");
        let newcomer = TlsClient::with(&authority, Some(&new.client("n")), &[version]);
        until("the new authority counts", || is_let_in(&newcomer, gate.public()));

        assert!(!is_let_in(&client, gate.public()), "{version:?}");
    }
}

fn is_let_in(client: &TlsClient, address: SocketAddr) -> bool {
    use std::io::{Read as _, Write as _};
    let Ok(mut stream) = client.shake(address, GATE) else { return false };
    let mut answer = Vec::new();
    stream.write_all(PUBLIC).and_then(|()| stream.read_to_end(&mut answer)).is_ok() && answer.starts_with(b"HTTP/1.1 2")
}

#[test]
fn new_files_are_used_without_a_failed_request() {
    let rig = Rig::with(|_, setup| setup.option("tls", r#"reload_interval = "10ms""#));
    let reader = rig.gate.key(&["monitor:read"]);
    let held = reader.keep_alive();
    check(&held.get(QUERY), 200);
    let (client, old) = (rig.client(), rig.certificate.certificate());
    assert_eq!(client.certificate_shown(rig.public(), GATE), old);

    let is_over = Arc::new(AtomicBool::new(false));
    let asking = std::thread::spawn({
        let is_over = Arc::clone(&is_over);
        move || {
            let mut asked = 0;
            while !is_over.load(Ordering::Relaxed) || asked < 10 {
                check(&reader.get(QUERY), 200);
                asked += 1;
            }
        }
    });
    for _ in 0..3 {
        let new = rig.authority.server("gate", &[GATE]).certificate();
        until("the new certificate is shown", || client.certificate_shown(rig.public(), GATE) == new);
    }
    is_over.store(true, Ordering::Relaxed);
    asking.join().expect("no request failed");
    check(&held.get(QUERY), 200);
}

#[test]
fn a_swapped_symbolic_link_is_a_new_certificate() {
    let authority = Authority::new("Test CA");
    let (first, second) = (authority.server("first", &[GATE]), authority.server("second", &[GATE]));
    // As Kubernetes mounts secrets: files that link into a folder that is itself a link, replaced as a whole.
    let mount = authority.folder().join("mount");
    std::fs::create_dir(&mount).expect("writable");
    for (folder, pair) in [("v1", &first), ("v2", &second)] {
        std::fs::create_dir(mount.join(folder)).expect("writable");
        std::fs::copy(&pair.cert, mount.join(folder).join("tls.crt")).expect("writable");
        std::fs::copy(&pair.key, mount.join(folder).join("tls.key")).expect("writable");
    }
    let link = |to: &str, from: &str| std::os::unix::fs::symlink(to, mount.join(from)).expect("a link");
    link("v1", "data");
    link("data/tls.crt", "tls.crt");
    link("data/tls.key", "tls.key");
    let mounted = Pair { cert: mount.join("tls.crt"), key: mount.join("tls.key") };
    let client = TlsClient::trusting(&authority);
    let gate = Gate::with(|setup| setup.tls(&mounted, &client).option("tls", r#"reload_interval = "20ms""#));
    assert_eq!(client.certificate_shown(gate.public(), GATE), first.certificate());

    link("v2", "data.new");
    std::fs::rename(mount.join("data.new"), mount.join("data")).expect("replaced");

    until("the new one is shown", || client.certificate_shown(gate.public(), GATE) == second.certificate());
}

#[test]
fn broken_files_keep_the_old_pair_and_say_so() {
    let rig = Rig::with(|_, setup| setup.option("tls", r#"reload_interval = "20ms""#));
    let current = || rig.gate.metric("portcullis_tls_last_reload_successful{listener=\"public\"}");
    let failures = || rig.gate.metric("portcullis_tls_reload_failures_total{listener=\"public\"}");
    let old = rig.certificate.certificate();
    assert_eq!((current(), failures()), (1.0, 0.0));

    std::fs::write(&rig.certificate.cert, "junk").expect("writable");
    until("the failure counts", || failures() >= 1.0 && current() == 0.0);
    assert_eq!(rig.client().certificate_shown(rig.public(), GATE), old);

    std::fs::remove_file(&rig.certificate.key).expect("removable");
    until("the next failure counts", || failures() >= 2.0);
    assert_eq!(rig.client().certificate_shown(rig.public(), GATE), old);

    let new = rig.authority.server("gate", &[GATE]).certificate();
    until("the repaired pair is in use", || current() == 1.0);
    assert_eq!(rig.client().certificate_shown(rig.public(), GATE), new);
}

#[test]
fn hangup_reads_the_files_again_and_names_a_broken_one() {
    let authority = Authority::new("Test CA");
    let certificate = authority.server("gate", &[GATE]);
    let client = TlsClient::trusting(&authority);
    let installed =
        Installation::with(|setup| setup.tls(&certificate, &client).option("tls", r#"reload_interval = "off""#));
    installed.init();
    let mut served = installed.serve();
    let old = certificate.certificate();

    std::fs::write(&certificate.key, "junk").expect("writable");
    served.process.signal("HUP");
    let line = served.process.wait_for(|line| line.contains("not reloaded"));
    assert!(line.contains("gate.key"), "{line}");
    assert_eq!(client.certificate_shown(served.public, GATE), old);
    let current = |served: &Served| {
        let page = served.ops_get("/metrics").text();
        page.contains("portcullis_tls_last_reload_successful{listener=\"public\"} 1\n")
    };
    assert!(!current(&served));

    let new = authority.server("gate", &[GATE]).certificate();
    served.process.signal("HUP");
    served.process.wait_for(|line| line.contains("configuration reloaded"));
    assert_eq!(client.certificate_shown(served.public, GATE), new);
    assert!(current(&served));
}

#[test]
fn tls_cannot_be_switched_by_a_reload() {
    let authority = Authority::new("Test CA");
    let certificate = authority.server("gate", &[GATE]);
    let client = TlsClient::trusting(&authority);
    let installed = Installation::with(|setup| setup.tls(&certificate, &client));
    installed.init();
    let mut served = installed.serve();
    let text = std::fs::read_to_string(installed.config()).expect("readable");
    std::fs::write(installed.config(), text.replace("[tls.public]", "[tls.ops]")).expect("writable");
    served.process.signal("HUP");
    let line = served.process.wait_for(|line| line.contains("not reloaded"));
    assert!(line.contains("tls.public, tls.ops cannot change while the gate runs; restart it"), "{line}");
    assert_eq!(client.certificate_shown(served.public, GATE), certificate.certificate());
}

#[test]
fn the_expiry_of_certificates_is_told() {
    let authority = Authority::new("Test CA");
    let soon = authority.issue("soon", &[GATE], |params| expires_in(params, 10 * 86_400));
    let past = authority.issue("past", &["past.test"], |params| expires_in(params, -86_400));
    let client = TlsClient::trusting(&authority);
    let list = format!("certificates = [{}, {}]", soon.toml(), past.toml());
    let installed = Installation::with(|setup| setup.tls(&soon, &client).option("tls.public", &list));
    installed.init();
    let mut served = installed.serve();
    served.process.wait_for(|line| line.contains("soon.pem") && line.contains("expires within 14 days"));
    served.process.wait_for(|line| line.contains("past.pem") && line.contains("has expired"));

    let page = served.ops_get("/metrics").text();
    let expiry = |pair: &Pair| {
        let labels = format!("{{listener=\"public\",certificate=\"{}\"}} ", pair.cert.display());
        let sample = format!("portcullis_tls_certificate_expiry_timestamp_seconds{labels}");
        let value = page.lines().find_map(|line| line.strip_prefix(&sample)).unwrap_or_else(|| panic!("{page}"));
        value.parse::<f64>().expect("a number")
    };
    assert!((expiry(&soon) - expiry(&past) - 11.0 * 86_400.0).abs() <= 60.0);
    assert_eq!(client.certificate_shown(served.public, GATE), soon.certificate());
}

#[test]
fn the_ops_listener_speaks_tls_too() {
    let authority = Authority::new("Test CA");
    let certificate = authority.server("ops", &[GATE]);
    let client = TlsClient::trusting(&authority);
    let gate = Gate::with(|setup| setup.option("tls.ops", &format!("certificates = [{}]", certificate.toml())));
    let ops = Caller::new(gate.ops(), None).over(Some(&client));
    check(&ops.get("/-/ready"), 200);
    assert!(ops.get("/metrics").text().contains("portcullis_build_info"));
    let mut clear = Wire::connect(gate.ops());
    clear.send("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(!clear.read_to_end().starts_with(b"HTTP"));
    check(&gate.key(&["monitor:read"]).get(QUERY), 200);
}

#[test]
fn ops_listener_demands_subjects_and_takes_new_files_as_the_public_one_does() {
    let (authority, clients) = (Authority::new("Test CA"), Authority::new("Clients"));
    let certificate = authority.server("ops", &[GATE]);
    let scraper = TlsClient::showing(&authority, &clients.client("scraper"));
    let gate = Gate::with(|setup| {
        [
            format!("certificates = [{}]", certificate.toml()),
            r#"client_auth = "required""#.to_owned(),
            format!("client_ca = {:?}", clients.file()),
            r#"client_subjects = ["CN=scraper,O=Example"]"#.to_owned(),
        ]
        .iter()
        .fold(setup.option("tls", r#"reload_interval = "20ms""#), |setup, line| setup.option("tls.ops", line))
    });
    let ops = Caller::new(gate.ops(), None).over(Some(&scraper));
    check(&ops.get("/metrics"), 200);
    let other = TlsClient::showing(&authority, &clients.client("other")).refusal(gate.ops(), GATE);
    assert!(other.contains("AccessDenied"), "{other}");
    let without = TlsClient::trusting(&authority).refusal(gate.ops(), GATE);
    assert!(without.contains("CertificateRequired"), "{without}");

    std::fs::write(&certificate.cert, "junk").expect("writable");
    let failed = "portcullis_tls_last_reload_successful{listener=\"ops\"} 0\n";
    until("the failure is told", || ops.get("/metrics").text().contains(failed));
    let new = authority.server("ops", &[GATE]).certificate();
    until("the new certificate is shown", || scraper.certificate_shown(gate.ops(), GATE) == new);
    check(&ops.get("/-/ready"), 200);
}

#[test]
fn a_configuration_that_cannot_work_is_refused_with_its_place() {
    let authority = Authority::new("Test CA");
    let (one, two) = (authority.server("one", &[GATE]), authority.server("two", &[GATE]));
    let nameless = authority.client("nameless");
    let junk = authority.folder().join("junk.pem");
    std::fs::write(&junk, "junk").expect("writable");
    let good = format!("certificates = [{}]", one.toml());
    let ca = format!("client_ca = {:?}", authority.file());
    let auth = "client_auth = \"required\"".to_owned();
    let broken = authority.folder().join("broken.pem");
    std::fs::write(&broken, "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n").expect("writable");
    let mixed = Pair { cert: one.cert.clone(), key: two.key.clone() };
    let files = |cert, key| Pair { cert, key };
    let cases: [(Vec<String>, &str); 17] = [
        (vec![], "there are no certificates"),
        (vec![format!("certificates = [{}]", mixed.toml())], "is not the one that the certificate"),
        (
            vec![format!("certificates = [{}]", files(junk.clone(), one.key.clone()).toml())],
            "junk.pem holds no certificate",
        ),
        (
            vec![format!("certificates = [{}]", files(one.cert.clone(), junk.clone()).toml())],
            "junk.pem holds no private key",
        ),
        (
            vec![format!("certificates = [{}]", files(one.cert.clone(), authority.folder().join("no.key")).toml())],
            "no.key: No such file",
        ),
        (vec![format!("certificates = [{}, {}]", one.toml(), nameless.toml())], "names no host"),
        (vec!["certificates = [{ cert = \"x.pem\" }]".to_owned()], "must be like {"),
        (vec![good.clone(), "client_auth = \"required\"".to_owned()], "client_ca is not"),
        (vec![good.clone(), ca.clone()], "client_ca has no effect"),
        (vec![good.clone(), format!("client_crl = {:?}", authority.file())], "client_crl has no effect"),
        (
            vec![good.clone(), auth.clone(), ca.clone(), format!("client_crl = {:?}", authority.file())],
            "ca.pem holds no revocation list",
        ),
        (
            vec![good.clone(), auth.clone(), ca.clone(), "client_crl = \"/none.pem\"".to_owned()],
            "cannot read /none.pem",
        ),
        (vec![good.clone(), auth.clone(), ca.clone(), format!("client_crl = {broken:?}")], "list in"),
        (vec![good.clone(), "client_subjects = [\"CN=x\"]".to_owned()], "client_subjects has no effect"),
        (vec![good.clone(), "client_subjects = [\"prometheus\"]".to_owned()], "is no subject such as"),
        (vec![good.clone(), "min_version = \"1.1\"".to_owned()], "must be \"1.2\" or \"1.3\""),
        (vec![good, "client_auth = \"maybe\"".to_owned()], "must be \"off\", \"optional\" or \"required\""),
    ];
    for (lines, message) in cases {
        let installed = Installation::new();
        let mut text = std::fs::read_to_string(installed.config()).expect("readable");
        let first_line = text.lines().count() + 1;
        text += &format!("[tls.public]\n{}\n", lines.join("\n"));
        let last_line = text.lines().count();
        std::fs::write(installed.config(), text).expect("writable");
        let exit = Process::run(&installed.arguments("check"));
        assert_eq!(exit.code, Some(1), "{message}: {exit:?}");
        let told =
            exit.stderr.lines().find(|line| line.contains(message)).unwrap_or_else(|| panic!("{message}: {exit:?}"));
        let line = told.split("portcullis.toml:").nth(1).and_then(|rest| rest.split(':').next());
        let line: usize = line.and_then(|line| line.parse().ok()).unwrap_or_else(|| panic!("{told}"));
        assert!((first_line..=last_line).contains(&line), "{told}");
    }
}

#[test]
fn curl_is_served_and_refuses_what_it_cannot_verify() {
    if Command::new("curl").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("SKIPPED: curl is not installed");
        return;
    }
    let authority = Authority::new("Test CA");
    let certificate = authority.server("gate", &["localhost"]);
    let client = TlsClient::trusting(&authority);
    let gate = Gate::with(|setup| setup.tls(&certificate, &client));
    let url = format!("https://localhost:{}/public/x", gate.public().port());
    let curl = |arguments: &[&str]| {
        let mut command = Command::new("curl");
        command.args(["-sS", "--noproxy", "*", "--ipv4", "-o", "/dev/null", "-w", "%{http_code}"]).args(arguments);
        Process::spawn(command).wait()
    };
    let ca = authority.file().display().to_string();
    for version in ["1.2", "1.3"] {
        assert_eq!(curl(&["--cacert", &ca, "--tls-max", version, &url]).stdout.trim(), "200");
    }
    assert_eq!(curl(&["--cacert", &ca, "--tls-max", "1.1", &url]).stdout.trim(), "000");
    assert_eq!(curl(&[&url]).code, Some(60));
}

#[test]
fn keys_are_managed_over_tls_with_a_gate_that_proves_its_name() {
    let rig = Rig::start();
    let url = format!("https://127.0.0.1:{}", rig.public().port());
    let keys = |flags: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.args(["keys", "list"]).args(flags);
        command.env("PORTCULLIS_URL", &url).env("PORTCULLIS_KEY", rig.gate.root().secret());
        Process::spawn(command).wait()
    };
    let (ca, other) = (rig.authority.file().display().to_string(), Authority::new("Other"));
    let listed = keys(&["--cacert", &ca, "--server-name", GATE]);
    assert_eq!(listed.code, Some(0), "{listed:?}");
    assert!(listed.stdout.contains("root"), "{listed:?}");

    let requests = || rig.gate.metric("portcullis_admissions_total{outcome=\"admitted\"}");
    let before = requests();
    let stranger = other.file().display().to_string();
    for flags in [&["--cacert", &ca][..], &["--cacert", &stranger, "--server-name", GATE], &["--server-name", GATE]] {
        let refused = keys(flags);
        // Without the system's authorities there is no client at all.
        assert!(matches!(refused.code, Some(3 | 1)), "{refused:?}");
        assert!(refused.stderr.contains("certificate"), "{refused:?}");
    }
    assert_eq!(requests(), before);
}

/// A `serve` whose ops listener speaks TLS, its address in the configuration file too.
fn installation_with_ops(lines: &[String]) -> (Installation, Served) {
    let installed = Installation::with(|setup| {
        let off = setup.option("tls", r#"reload_interval = "off""#);
        lines.iter().fold(off, |setup, line| setup.option("tls.ops", line))
    });
    installed.init();
    let served = installed.serve();
    let text = std::fs::read_to_string(installed.config()).expect("readable");
    let known = text.replace(r#"ops = "127.0.0.1:0""#, &format!("ops = \"{}\"", served.ops));
    std::fs::write(installed.config(), known).expect("writable");
    (installed, served)
}

#[track_caller]
fn check_health(installed: &Installation, flags: &[&str], code: i32) {
    let mut arguments = installed.arguments("healthcheck");
    arguments.extend(flags.iter().map(|flag| (*flag).to_owned()));
    let exit = Process::run(&arguments);
    assert_eq!(exit.code, Some(code), "{exit:?}");
}

#[test]
fn healthcheck_believes_the_certificate_of_its_configuration_and_shows_its_own() {
    let authority = Authority::new("Test CA");
    let expired = authority.issue("ops", &["*.ops.test"], |params| expires_in(params, -3_600));
    let client = authority.client("healthcheck");
    let (installed, _served) = installation_with_ops(&[
        format!("certificates = [{}]", expired.toml()),
        "client_auth = \"required\"".to_owned(),
        format!("client_ca = {:?}", authority.file()),
    ]);
    let (cert, key) = (client.cert.display().to_string(), client.key.display().to_string());
    check_health(&installed, &["--client-cert", &cert, "--client-key", &key], 0);
    check_health(&installed, &[], 1);
}

#[test]
fn healthcheck_believes_a_replaced_certificate_by_its_authority() {
    let authority = Authority::new("Test CA");
    let pair = authority.server("ops", &["*.ops.test"]);
    let (installed, _served) = installation_with_ops(&[format!("certificates = [{}]", pair.toml())]);
    check_health(&installed, &[], 0);
    // The gate does not use the new one yet.
    authority.server("ops", &["*.ops.test"]);
    let ca = authority.file().display().to_string();
    check_health(&installed, &["--cacert", &ca], 0);
    check_health(&installed, &[], 1);
}

#[test]
fn chains_of_any_length_are_refused_in_time() {
    let (clients, others) = (Authority::new("Clients"), Authority::new("Others"));
    let rig = Rig::with_client_auth("required", &clients, &[]);
    let stranger = others.client("stranger");
    for length in [100, 2_500] {
        let endless = TlsClient::showing_chain(&rig.authority, &stranger, &others, length);
        let refusal = endless.refusal(rig.public(), GATE);
        assert!(!refusal.is_empty(), "{length}");
    }
    until("both count", || rig.failures("certificate_refused") + rig.failures("invalid") >= 2.0);
    check(&rig.gate.key(&["monitor:read"]).get(QUERY), 200);
}

#[test]
fn a_client_that_never_began_its_handshake_holds_up_no_shutdown() {
    let mut rig = Rig::with(|_, setup| {
        setup.option("client", r#"first_byte_timeout = "1h""#).option("shutdown", r#"timeout = "1h""#)
    });
    let mut silent = rig.gate.raw();
    until("it is being served", || rig.gate.metric("portcullis_connections") >= 2.0);
    let (ended, end) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        rig.gate.shutdown();
        ended.send(()).expect("waited for");
    });
    silent.check_closed();
    end.recv_timeout(DEADLINE).expect("the gate ends");
}
