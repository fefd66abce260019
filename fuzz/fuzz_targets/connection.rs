//! A whole connection's bytes, HTTP/1 or HTTP/2, over a socket to a gate in this process: nothing panics, and the upstream
//! behind it gets whole requests alone, each admitted, none with a credential.
//!
//! `{R}` in the bytes stands for the credentials of a key that may read, `{X}` for those of one that nobody has.

#![no_main]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use libfuzzer_sys::fuzz_target;
use portcullis::app::{self, Running, Start};
use portcullis::config::Config;
use portcullis::settings::Source;
use portcullis::store::MemoryStore;
use portcullis_fuzz::{http1, key, pieces};

/// How long the gate may be silent before the client ends its side.
const SILENCE: Duration = Duration::from_millis(3);
const ROUTES: &str = r#"
    "GET /api/{*rest}" = "monitor:read"
    "ANY /api/v1/admin/{*rest}" = "monitor:write"
    "GET,POST /api/v1/query" = "monitor:read"
    "POST /api/v1/write" = "telemetry:write"
    "GET,POST /public/{*rest}" = "public"
    "ANY /closed/{*rest}" = "deny"
"#;

fuzz_target!(|bytes: &[u8]| {
    let Some((seed, bytes)) = bytes.split_first() else { return };
    let rig = Rig::get();
    let bytes = filled_in(bytes, rig);
    let mut socket = TcpStream::connect(rig.public).expect("the gate listens");
    socket.set_read_timeout(Some(SILENCE)).expect("a timeout");
    for piece in pieces(&bytes, seed & !1) {
        // The gate may have hung up, and be right.
        if socket.write_all(piece).is_err() {
            break;
        }
    }
    let answer = answer(&mut socket);
    assert!(
        !rig.broken.lock().expect("no panic").is_some(),
        "{}",
        rig.broken.lock().expect("no panic").as_ref().expect("why")
    );
    if !bytes.starts_with(b"PRI") && !answer.is_empty() {
        assert!(answer.starts_with(b"HTTP/1.1 ") || answer.starts_with(b"HTTP/1.0 "), "{}", answer.escape_ascii());
        assert_ne!(answer.get(9..12), Some(&b"500"[..]), "{}", answer.escape_ascii());
    }
});

struct Rig {
    public: SocketAddr,
    reader: String,
    /// What the upstream got and must not.
    broken: Arc<Mutex<Option<String>>>,
    _gate: Mutex<Running>,
}

impl Rig {
    fn get() -> &'static Self {
        static RIG: OnceLock<Rig> = OnceLock::new();
        RIG.get_or_init(Self::start)
    }

    fn start() -> Self {
        survive_closed_sockets();
        let upstream = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = upstream.local_addr().expect("an address");
        let text = format!(
            "[listen]\npublic = \"127.0.0.1:0\"\nops = \"127.0.0.1:0\"\nworkers = 1\n[limits]\nfailures.rate = \"off\"\n\
             [upstream.main]\nurl = \"http://{address}\"\n[upstream.main.routes]\n{ROUTES}"
        );
        let config = Config::parse(&Source { path: "/nowhere/portcullis.toml".into(), text }).expect("a configuration");
        let start = Start { store: Some(Arc::new(MemoryStore::default())), root: Some(key(1)), ..Start::default() };
        let gate = app::start(config, start).expect("the gate starts");
        let reader = created(gate.public());
        let broken = Arc::new(Mutex::new(None));
        let told = Arc::clone(&broken);
        let id = reader[..16].to_owned();
        std::thread::spawn(move || {
            for socket in upstream.incoming().flatten() {
                let (told, id) = (Arc::clone(&told), id.clone());
                std::thread::spawn(move || serve(socket, &id, &told));
            }
        });
        Self { public: gate.public(), reader, broken, _gate: Mutex::new(gate) }
    }
}

/// The fuzzer's `main` is not Rust's, which sees to it that a write to a socket that is gone ends no process.
fn survive_closed_sockets() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
    runtime.block_on(async {
        // Handled from now on, whether anybody listens or not.
        drop(tokio::signal::unix::signal(tokio::signal::unix::SignalKind::pipe()).expect("a handler"));
    });
}

/// A key that may read, made by the root key.
fn created(public: SocketAddr) -> String {
    let body = r#"{"name":"reader","kind":"custom","scopes":["monitor:read"]}"#;
    let mut socket = TcpStream::connect(public).expect("the gate listens");
    let request = format!(
        "POST /api/keys HTTP/1.1\r\nHost: t\r\nAuthorization: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        basic(key(1).expose()),
        body.len()
    );
    socket.write_all(request.as_bytes()).expect("it is taken");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("an answer");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    let body: serde_json::Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"));
    body["key"].as_str().expect("a key").to_owned()
}

fn basic(key: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{key}:")))
}

fn filled_in(bytes: &[u8], rig: &Rig) -> Vec<u8> {
    let mut filled = Vec::with_capacity(bytes.len() + 128);
    let mut left = bytes;
    while let Some((first, rest)) = left.split_first() {
        if let Some(rest) = left.strip_prefix(b"{R}") {
            filled.extend_from_slice(basic(&rig.reader).as_bytes());
            left = rest;
        } else if let Some(rest) = left.strip_prefix(b"{X}") {
            filled.extend_from_slice(basic(key(2).expose()).as_bytes());
            left = rest;
        } else {
            filled.push(*first);
            left = rest;
        }
    }
    filled
}

/// All that comes until the gate ends the connection. Once it is silent, our side ends.
fn answer(socket: &mut TcpStream) -> Vec<u8> {
    let (mut answer, mut room) = (Vec::new(), [0; 8 << 10]);
    let mut has_ended = false;
    loop {
        match socket.read(&mut room) {
            Ok(0) => return answer,
            Ok(count) => answer.extend_from_slice(&room[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if has_ended || socket.shutdown(Shutdown::Write).is_err() {
                    return answer;
                }
                has_ended = true;
                let _ = socket.set_read_timeout(Some(Duration::from_millis(50)));
            }
            Err(_) => return answer,
        }
    }
}

/// The upstream's side of a connection: whatever comes must be requests that the routes let the reader make.
fn serve(mut socket: TcpStream, reader: &str, broken: &Mutex<Option<String>>) {
    let (mut held, mut room) = (Vec::new(), [0; 8 << 10]);
    loop {
        let count = match socket.read(&mut room) {
            Ok(count) if count > 0 => count,
            // What is left is a request that its client gave up.
            _ => return,
        };
        held.extend_from_slice(&room[..count]);
        loop {
            let read = std::panic::catch_unwind(|| http1::request(&held));
            let Ok(request) = read else {
                return *broken.lock().expect("no panic") = Some(format!("no request: {}", held.escape_ascii()));
            };
            let Some(request) = request else { break };
            if let Err(why) = check(&request, reader) {
                return *broken.lock().expect("no panic") = Some(format!("{why}: {}", held.escape_ascii()));
            }
            let Some(end) = request.end else { break };
            held.drain(..end);
            let head = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n";
            let body = if request.start[0] == "HEAD" { "" } else { "ok" };
            if socket.write_all(format!("{head}{body}").as_bytes()).is_err() {
                return;
            }
        }
    }
}

fn check(request: &http1::Message, reader: &str) -> Result<(), String> {
    for name in ["authorization", "proxy-authorization", "connection-key", "upgrade"] {
        if !request.values(name).is_empty() {
            return Err(format!("it has {name}"));
        }
    }
    if request.values("host").len() != 1 {
        return Err("it has not one host".to_owned());
    }
    let (method, target) = (request.start[0].as_str(), request.start[1].as_str());
    let path = target.split('?').next().unwrap_or_default();
    let is_public = path.strip_prefix("/public").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let ids = request.values("x-portcullis-key-id");
    let is_admitted = ids.len() == 1 && ids[0] == reader.as_bytes();
    let may_read = path.strip_prefix("/api").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        && !path.starts_with("/api/v1/admin/")
        && path != "/api/v1/admin";
    let is_own = !path.starts_with("/api/keys");
    match method {
        "GET" | "HEAD" | "POST" if is_public => Ok(()),
        "GET" | "HEAD" if is_admitted && may_read && is_own && path != "/api/v1/write" => Ok(()),
        "POST" if is_admitted && path == "/api/v1/query" => Ok(()),
        _ => Err("nobody may do that".to_owned()),
    }
}
