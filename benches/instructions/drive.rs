//! The client and the upstream of a gate that is counted. Neither sends before the gate's worker sleeps.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use portcullis::key::KeySecret;

const KIB_64: usize = 64 * 1024;
const PATIENCE: Duration = Duration::from_secs(60);
/// The system calls in which a worker sleeps, as x86-64 numbers them: epoll_wait and epoll_pwait.
const SLEEPS: [&str; 2] = ["232 ", "281 "];

/// What is sent and answered.
#[derive(Clone, Copy, PartialEq)]
pub enum Wire {
    Get,
    GetHttp2,
    Response64K,
    UnknownKey,
    Upload64K,
}

/// A gate in another process.
#[derive(Clone)]
pub struct Gate {
    address: SocketAddr,
    key: String,
    /// What tells the system call that its worker is in.
    call: PathBuf,
}

impl Gate {
    pub fn new(address: SocketAddr, key: &str, process: u32) -> Self {
        let deadline = Instant::now() + PATIENCE;
        // A thread has its name only when it runs.
        let worker = loop {
            if let Some(worker) = worker(process) {
                break worker;
            }
            assert!(Instant::now() < deadline, "no worker in {process}");
            std::thread::yield_now();
        };
        Self { address, key: key.to_owned(), call: worker.join("syscall") }
    }

    fn wait_until_asleep(&self) {
        let deadline = Instant::now() + PATIENCE;
        let is_asleep = || {
            let call = std::fs::read_to_string(&self.call).expect("a thread that may be looked at");
            SLEEPS.iter().any(|sleep| call.starts_with(sleep))
        };
        while !is_asleep() {
            assert!(Instant::now() < deadline, "the worker does not come to rest");
            std::thread::yield_now();
        }
    }
}

/// The folder of the thread that serves.
fn worker(process: u32) -> Option<PathBuf> {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).ok()?;
    let mut threads = threads.filter_map(|thread| Some(thread.ok()?.path()));
    threads.find(|path| std::fs::read_to_string(path.join("comm")).is_ok_and(|name| name == "worker-0\n"))
}

/// Answers every request with 200, after its whole body.
pub struct Upstream {
    listener: TcpListener,
    response: Vec<u8>,
}

impl Upstream {
    pub fn start(wire: Wire) -> Self {
        let body = vec![b'x'; if wire == Wire::Response64K { KIB_64 } else { 129 }];
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n", body.len());
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        Self { listener, response: [head.into_bytes(), body].concat() }
    }

    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("an address")
    }

    /// From a thread of its own, which ends with the process.
    pub fn serve(self, gate: &Gate) {
        let gate = gate.clone();
        std::thread::spawn(move || {
            for connection in self.listener.incoming() {
                let mut connection = connection.expect("a connection");
                connection.set_nodelay(true).expect("an option");
                while read_message(&mut connection).is_some() {
                    gate.wait_until_asleep();
                    connection.write_all(&self.response).expect("a gate that listens");
                }
            }
        });
    }
}

pub fn drive(gate: &Gate, wire: Wire, requests: u32) {
    if wire == Wire::GetHttp2 {
        return drive_http2(gate, requests);
    }
    let mut connection = TcpStream::connect(gate.address).expect("a connection");
    connection.set_nodelay(true).expect("an option");
    let (key, expected) = match wire {
        // Of the right form, so that it is looked up.
        Wire::UnknownKey => (KeySecret::generate().expect("random bytes").expose().to_owned(), "401"),
        _ => (gate.key.clone(), "200"),
    };
    let (line, body) = match wire {
        Wire::Upload64K => ("POST /api/v1/write", vec![b'x'; KIB_64]),
        _ => ("GET /api/v1/query?query=up", Vec::new()),
    };
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let head = format!(
        "{line} HTTP/1.1\r\nHost: gate.example\r\nUser-Agent: bench\r\nAccept: */*\r\n{length}Authorization: Bearer {key}\r\n\r\n"
    );
    let request = [head.into_bytes(), body].concat();
    for _ in 0..requests {
        gate.wait_until_asleep();
        connection.write_all(&request).expect("a gate that listens");
        let head = read_message(&mut connection).expect("an answer");
        assert_eq!(head.get(9..12), Some(expected), "{head}");
    }
}

/// The head of a message whose body has been read too. `None`: the connection has ended.
fn read_message(connection: &mut TcpStream) -> Option<String> {
    let (mut buffer, mut read) = (vec![0; 2 * KIB_64], 0);
    let end = loop {
        let count = connection.read(&mut buffer[read..]).ok().filter(|count| *count > 0)?;
        read += count;
        if let Some(end) = buffer[..read].windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.map_or(0, |length| length.parse().expect("a number"));
    connection.read_exact(&mut buffer[read..end + length]).ok()?;
    Some(head)
}

fn drive_http2(gate: &Gate, requests: u32) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let socket = tokio::net::TcpStream::connect(gate.address).await.expect("a connection");
        socket.set_nodelay(true).expect("an option");
        let (mut client, connection) = h2::client::handshake(socket).await.expect("a connection");
        tokio::spawn(connection);
        let uri = format!("http://{}/api/v1/query?query=up", gate.address);
        let authorization = format!("Bearer {}", gate.key);
        for _ in 0..requests {
            client = client.ready().await.expect("an open connection");
            gate.wait_until_asleep();
            let request =
                http::Request::get(&uri).header("authorization", &authorization).header("user-agent", "bench");
            let (answer, _) =
                client.send_request(request.body(()).expect("a request"), true).expect("an open connection");
            let (head, mut body) = answer.await.expect("an answer").into_parts();
            assert_eq!(head.status, 200);
            while let Some(piece) = body.data().await {
                let count = piece.expect("a body").len();
                body.flow_control().release_capacity(count).expect("room");
            }
        }
    });
}
