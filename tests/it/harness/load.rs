//! Requests at a steady pace, from clients that forgive nothing; and a backend that answers them cheaply.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::DEADLINE;
use super::answer::find;

/// How many failures are told; the others are counted.
const FAILURES_TOLD: usize = 5;

/// What is sent, and how fast.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Clients that keep their connection until they are told that it closes.
    pub kept: usize,
    /// Clients that make a connection for each request.
    pub fresh: usize,
    /// Clients that keep a connection and send a request every two seconds, looking first whether it was closed, as
    /// agents do.
    pub pausing: usize,
    /// Requests, over all other clients. A client that was held up catches up.
    pub per_second: u32,
}

const PAUSE: Duration = Duration::from_secs(2);

/// Running clients. None of them repeats a request: whatever is not a whole 200 is a failure.
pub struct Load {
    begun: Instant,
    stops: Vec<SyncSender<()>>,
    clients: Vec<JoinHandle<Tally>>,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Tally {
    pub answered: u64,
    pub failed: u64,
    /// The first few.
    pub failures: Vec<String>,
    pub connections: u64,
    /// Requests that came back unserved and were sent again: over HTTP/2 alone.
    pub returned: u64,
    pub slowest: Duration,
    /// How long each turn took, failed ones too.
    pub turns: Turns,
    pub took: Duration,
}

/// In no order.
#[derive(Default)]
pub struct Turns(Vec<Duration>);

impl std::fmt::Debug for Turns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} turns", self.0.len())
    }
}

impl Load {
    /// Gets `path` with this Authorization from now on.
    pub fn start(address: SocketAddr, path: &str, authorization: &str, pace: Pace) -> Self {
        let clients = pace.kept + pace.fresh;
        let pausing = clients..clients + pace.pausing;
        let interval = Duration::from_secs(1) * u32::try_from(clients).expect("a few") / pace.per_second;
        let request = |connection: &str| {
            format!("GET {path} HTTP/1.1\r\nHost: gate.test\r\nAuthorization: {authorization}\r\n{connection}\r\n")
        };
        let (mut stops, mut handles) = (Vec::new(), Vec::new());
        for number in 0..pausing.end {
            let (stop, stopped) = sync_channel(1);
            let (is_fresh, looks) = ((pace.kept..clients).contains(&number), pausing.contains(&number));
            let request = request(if is_fresh { "Connection: close\r\n" } else { "" }).into_bytes();
            let client = Client { address, request, looks, stream: None, tally: Tally::default() };
            let interval = if looks { PAUSE } else { interval };
            stops.push(stop);
            handles.push(std::thread::spawn(move || client.run(interval, &stopped)));
        }
        Self { begun: Instant::now(), stops, clients: handles }
    }

    /// Ends the clients after their present request.
    pub fn stop(self) -> Tally {
        drop(self.stops);
        let mut total = Tally { took: self.begun.elapsed(), ..Tally::default() };
        for client in self.clients {
            total = total.and(client.join().expect("a client counts what goes wrong"));
        }
        total
    }
}

impl Tally {
    pub(super) fn fail(&mut self, failure: String) {
        self.failed += 1;
        if self.failures.len() < FAILURES_TOLD {
            self.failures.push(failure);
        }
    }

    /// The time within which so many of a hundred turns were over.
    pub fn percentile(&self, percent: usize) -> Duration {
        let mut turns = self.turns.0.clone();
        turns.sort_unstable();
        turns.get((turns.len() * percent / 100).min(turns.len().saturating_sub(1))).copied().unwrap_or_default()
    }

    pub(super) fn took_turn(&mut self, took: Duration) {
        self.slowest = self.slowest.max(took);
        self.turns.0.push(took);
    }

    /// Both together.
    pub fn and(mut self, other: Self) -> Self {
        self.failures.extend(other.failures);
        self.turns.0.extend(other.turns.0);
        Self {
            answered: self.answered + other.answered,
            failed: self.failed + other.failed,
            failures: self.failures,
            connections: self.connections + other.connections,
            returned: self.returned + other.returned,
            slowest: self.slowest.max(other.slowest),
            turns: self.turns,
            took: self.took.max(other.took),
        }
    }
}

struct Client {
    address: SocketAddr,
    request: Vec<u8>,
    /// Whether it looks before each request whether its connection was closed.
    looks: bool,
    stream: Option<TcpStream>,
    tally: Tally,
}

impl Client {
    fn run(mut self, interval: Duration, stopped: &Receiver<()>) -> Tally {
        let mut next = Instant::now();
        while stopped.recv_timeout(next.saturating_duration_since(Instant::now())) == Err(RecvTimeoutError::Timeout) {
            next += interval;
            let begun = Instant::now();
            match self.exchange() {
                Ok(()) => self.tally.answered += 1,
                Err(failure) => {
                    self.stream = None;
                    self.tally.fail(failure);
                }
            }
            self.tally.took_turn(begun.elapsed());
        }
        self.tally
    }

    fn exchange(&mut self) -> Result<(), String> {
        if self.looks && self.stream.as_ref().is_some_and(has_ended) {
            self.stream = None;
        }
        let reused = self.stream.is_some();
        let failed = |what: &'static str| move |error: std::io::Error| format!("{what} (reused: {reused}): {error}");
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                self.tally.connections += 1;
                let stream = TcpStream::connect_timeout(&self.address, DEADLINE).map_err(failed("connect"))?;
                stream.set_read_timeout(Some(DEADLINE)).map_err(failed("read timeout"))?;
                stream.set_nodelay(true).map_err(failed("nodelay"))?;
                stream
            }
        };
        stream.write_all(&self.request).map_err(failed("send"))?;
        let mut received = Vec::with_capacity(1_024);
        let mut buffer = [0; 4_096];
        loop {
            match stream.read(&mut buffer).map_err(failed("receive"))? {
                0 => return Err(format!("closed (reused: {reused}) after {:?}", String::from_utf8_lossy(&received))),
                count => received.extend_from_slice(&buffer[..count]),
            }
            if let Some(closes) = whole_answer(&received)? {
                self.stream = (!closes).then_some(stream);
                return Ok(());
            }
        }
    }
}

fn has_ended(stream: &TcpStream) -> bool {
    let looked = stream.set_nonblocking(true).and_then(|()| stream.peek(&mut [0]));
    let _ = stream.set_nonblocking(false);
    !looked.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

/// Whether the connection closes after the answer, once the answer is whole.
fn whole_answer(received: &[u8]) -> Result<Option<bool>, String> {
    let Some(head_end) = find(received, b"\r\n\r\n") else { return Ok(None) };
    let head = String::from_utf8_lossy(&received[..head_end]).to_ascii_lowercase();
    if !head.starts_with("http/1.1 200 ") {
        return Err(format!("answer: {}", String::from_utf8_lossy(received)));
    }
    let value = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let length = value("content-length:").and_then(|length| length.parse::<usize>().ok()).ok_or("no length")?;
    match received.len().checked_sub(head_end + 4 + length) {
        None => Ok(None),
        Some(0) => Ok(Some(value("connection:") == Some("close"))),
        Some(_) => Err(format!("more than an answer: {}", String::from_utf8_lossy(received))),
    }
}

/// Answers every GET with a short 200, records nothing, and runs until the tests end.
pub struct Backend {
    address: SocketAddr,
}

impl Backend {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || answer_all(stream));
            }
        });
        Self { address }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

fn answer_all(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut received = Vec::new();
    let mut buffer = [0; 4_096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => received.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return,
        }
        while let Some(end) = find(&received, b"\r\n\r\n") {
            received.drain(..end + 4);
            if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_err() {
                return;
            }
        }
    }
}
