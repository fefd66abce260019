//! One whole request over loopback, sent through the gate and sent direct: same client, same upstream, one connection.
//!
//! Client, gate and upstream share the machine, so the difference is the gate's time and two more trips through the
//! kernel. A ratio of the two says more than either.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use portcullis::app::{self, Running, Start};
use portcullis::config::Config;
use portcullis::key::KeySecret;
use portcullis::settings::Source;
use portcullis::store::MemoryStore;

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 10\r\n\r\nup{} 1 2 3";

/// Answers every request on every connection with [`RESPONSE`], without reading it closely.
fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let Ok(connection) = connection else { return };
            std::thread::spawn(move || answer_all(connection));
        }
    });
    address
}

fn answer_all(mut connection: TcpStream) {
    let _ = connection.set_nodelay(true);
    let Ok(read_half) = connection.try_clone() else { return };
    let mut lines = BufReader::new(read_half);
    let mut line = String::new();
    loop {
        line.clear();
        match lines.read_line(&mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) if line == "\r\n" => {
                if connection.write_all(RESPONSE).is_err() {
                    return;
                }
            }
            Ok(_) => {}
        }
    }
}

fn gate(upstream: SocketAddr, secret: &KeySecret) -> Running {
    let text = format!(
        "[listen]\npublic = \"127.0.0.1:0\"\nops = \"127.0.0.1:0\"\nworkers = 1\n\
         [limits]\nkey = {{ rate = \"1000000/s\", burst = 1000000 }}\n\
         [upstream.u]\nurl = \"http://{upstream}\"\n[upstream.u.routes]\n\"GET /api/v1/query\" = \"monitor:read\"\n"
    );
    let config = Config::parse(&Source { path: PathBuf::from("bench.toml"), text }).expect("a valid configuration");
    let root = KeySecret::parse(secret.expose().as_bytes()).expect("a key");
    let start = Start { store: Some(Arc::new(MemoryStore::default())), root: Some(root), ..Start::default() };
    app::start(config, start).expect("a gate")
}

struct Client {
    connection: TcpStream,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Client {
    fn new(address: SocketAddr, secret: &KeySecret) -> Self {
        let connection = TcpStream::connect(address).expect("a connection");
        connection.set_nodelay(true).expect("an option");
        let request = format!(
            "GET /api/v1/query?query=up HTTP/1.1\r\nHost: gate.example\r\nUser-Agent: bench\r\nAccept: */*\r\n\
             Authorization: Bearer {}\r\n\r\n",
            secret.expose()
        );
        Self { connection, request: request.into_bytes(), answer: vec![0; 4_096] }
    }

    fn ask(&mut self) {
        self.connection.write_all(&self.request).expect("a request");
        let mut read = 0;
        // Both answers end in the same body.
        while !self.answer[..read].ends_with(b"up{} 1 2 3") {
            let more = self.connection.read(&mut self.answer[read..]).expect("an answer");
            assert!(more > 0, "the connection ended: {}", String::from_utf8_lossy(&self.answer[..read]));
            read += more;
        }
        assert!(self.answer.starts_with(b"HTTP/1.1 200"));
    }
}

fn proxied(criterion: &mut Criterion) {
    let secret = KeySecret::generate().expect("random bytes");
    let upstream = upstream();
    let gate = gate(upstream, &secret);
    let mut group = criterion.benchmark_group("request");
    let mut direct = Client::new(upstream, &secret);
    group.bench_function("direct", |bencher| bencher.iter(|| direct.ask()));
    let mut through = Client::new(gate.public(), &secret);
    group.bench_function("through the gate", |bencher| bencher.iter(|| through.ask()));
    group.finish();
    drop((direct, through));
    gate.shutdown();
}

criterion_group!(benches, proxied);
criterion_main!(benches);
