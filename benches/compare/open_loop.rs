//! A load that does not wait for whom it measures: requests are due at a constant rate, and their times count from when
//! they were due.
//!
//! A closed loop asks less of who is slow, and so leaves out of its times what is worst (coordinated omission). Here a
//! request that finds no connection free waits for one, and its wait counts. `--changes` makes and deletes keys beside it.
//!
//! Usage: `open_loop ADDRESS PATH AUTHORIZATION RATE SECONDS CONNECTIONS [CHANGES_A_SECOND ROOT_AUTHORIZATION]`;
//! prints counts and percentiles in microseconds.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// What is not answered by then is an error.
const PATIENCE: Duration = Duration::from_secs(5);

struct Connection {
    socket: TcpStream,
    /// When the request was due that is not answered yet.
    due: Option<Instant>,
    answer: Vec<u8>,
}

fn main() {
    // `cargo test --bench` runs every bench with this, to see that it starts.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [address, path, authorization, rate, seconds, connections, changes @ ..] = arguments.as_slice() else {
        println!(
            "usage: open_loop ADDRESS PATH AUTHORIZATION RATE SECONDS CONNECTIONS; benches/compare/compare starts it"
        );
        return;
    };
    let address: SocketAddr = address.parse().expect("an address");
    let number = |text: &str| text.parse::<f64>().unwrap_or_else(|error| panic!("{text}: {error}"));
    let end = Instant::now() + Duration::from_secs_f64(number(seconds));
    let changing = match changes {
        [every, root] => {
            let (every, root) = (Duration::from_secs_f64(1.0 / number(every)), root.clone());
            Some(std::thread::spawn(move || change(address, &root, every, end)))
        }
        _ => None,
    };
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: {authorization}\r\n\r\n");
    let interval = Duration::from_secs_f64(1.0 / number(rate));
    let mut load = Load::new(address, number(connections) as usize, request.into_bytes());
    load.run(interval, end);
    let changes = changing.map_or(0, |thread| thread.join().expect("changes that are answered"));
    load.report(changes);
}

struct Load {
    poll: rustix::fd::OwnedFd,
    connections: Vec<Connection>,
    free: Vec<usize>,
    /// When the requests were due that no connection was free for.
    waiting: VecDeque<Instant>,
    request: Vec<u8>,
    times: Vec<Duration>,
    unanswered: usize,
}

impl Load {
    fn new(address: SocketAddr, count: usize, request: Vec<u8>) -> Self {
        let poll = epoll::create(CreateFlags::CLOEXEC).expect("epoll");
        let connections: Vec<Connection> = (0..count)
            .map(|number| {
                let socket = TcpStream::connect(address).expect("a connection");
                socket.set_nodelay(true).expect("an option");
                socket.set_nonblocking(true).expect("an option");
                epoll::add(&poll, &socket, EventData::new_u64(number as u64), EventFlags::IN).expect("watched");
                Connection { socket, due: None, answer: Vec::with_capacity(4_096) }
            })
            .collect();
        let free = (0..count).collect();
        Self { poll, connections, free, waiting: VecDeque::new(), request, times: Vec::new(), unanswered: 0 }
    }

    fn run(&mut self, interval: Duration, end: Instant) {
        let mut due = Instant::now();
        while due < end {
            let now = Instant::now();
            while due <= now && due < end {
                self.waiting.push_back(due);
                due += interval;
            }
            self.send();
            self.receive(due.saturating_duration_since(Instant::now()));
        }
        while (!self.waiting.is_empty() || self.free.len() < self.connections.len()) && end.elapsed() < PATIENCE {
            self.send();
            self.receive(Duration::from_millis(10));
        }
        self.unanswered = self.waiting.len() + self.connections.len() - self.free.len();
    }

    fn send(&mut self) {
        while !self.waiting.is_empty() {
            let Some(number) = self.free.pop() else { return };
            let connection = &mut self.connections[number];
            connection.due = self.waiting.pop_front();
            connection.socket.write_all(&self.request).expect("room for a small request");
        }
    }

    fn receive(&mut self, at_most: Duration) {
        let timeout = Timespec { tv_sec: at_most.as_secs() as i64, tv_nsec: at_most.subsec_nanos().into() };
        // epoll_wait knows nothing below a millisecond.
        let ready = poll(&mut [PollFd::new(&self.poll, PollFlags::IN)], Some(&timeout));
        if !ready.is_ok_and(|count| count > 0) {
            return;
        }
        let mut events = [MaybeUninit::uninit(); 256];
        let (events, _) = epoll::wait(&self.poll, &mut events[..], Some(&Timespec::default())).expect("epoll");
        for event in &*events {
            let number = event.data.u64() as usize;
            let connection = &mut self.connections[number];
            if connection.is_answered() {
                self.times.extend(connection.due.take().map(|due| due.elapsed()));
                self.free.push(number);
            }
        }
    }

    fn report(&mut self, changes: usize) {
        self.times.sort_unstable();
        let count = self.times.len();
        let share = |share: f64| {
            let time = self.times.get(((count as f64 * share) as usize).min(count.saturating_sub(1)));
            time.map_or(0.0, |time| time.as_secs_f64() * 1e6)
        };
        println!(
            "requests={count} errors={} p50={:.1} p99={:.1} p999={:.1} max={:.1} changes={changes}",
            self.unanswered,
            share(0.5),
            share(0.99),
            share(0.999),
            share(1.0)
        );
    }
}

impl Connection {
    fn is_answered(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        match self.socket.read(&mut buffer) {
            Ok(0) => panic!("a connection was closed after: {}", String::from_utf8_lossy(&self.answer)),
            Ok(count) => self.answer.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(error) => panic!("{error}"),
        }
        let is_whole = length(&self.answer).is_some_and(|length| self.answer.len() >= length);
        if is_whole {
            assert!(self.answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&self.answer));
            self.answer.clear();
        }
        is_whole
    }
}

/// Of head and body, once the head is there.
fn length(answer: &[u8]) -> Option<usize> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&answer[..end]).expect("a plain head");
    let is_length = |line: &&str| line.get(..15).is_some_and(|name| name.eq_ignore_ascii_case("content-length:"));
    let body = head.lines().find(is_length).map_or(0, |line| line[15..].trim().parse().expect("a number"));
    Some(end + body)
}

/// Makes a key and deletes it again, so often. Returns how many changes were acknowledged.
fn change(address: SocketAddr, root: &str, every: Duration, end: Instant) -> usize {
    let mut connection = TcpStream::connect(address).expect("a connection");
    connection.set_nodelay(true).expect("an option");
    let mut call = |line: &str, body: &str, status: &str| {
        let json = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        let request = format!("{line} HTTP/1.1\r\nHost: {address}\r\nAuthorization: {root}\r\n{json}\r\n{body}");
        connection.write_all(request.as_bytes()).expect("an open connection");
        let (mut answer, mut buffer) = (Vec::new(), [0; 4_096]);
        while length(&answer).is_none_or(|length| answer.len() < length) {
            let count = connection.read(&mut buffer).expect("an answer");
            assert!(count > 0, "the connection was closed: {}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&buffer[..count]);
        }
        let answer = String::from_utf8(answer).expect("text");
        assert_eq!(answer.get(9..12), Some(status), "{line}: {answer}");
        answer
    };
    let (mut changes, mut due) = (0, Instant::now());
    while due < end {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let made = call("POST /api/keys", r#"{"name":"bench","kind":"custom","scopes":["metrics:read"]}"#, "201");
        let (_, rest) = made.split_once(r#""id":""#).expect("an id");
        let (id, _) = rest.split_once('"').expect("an id");
        call(&format!("DELETE /api/keys/{id}"), "", "204");
        changes += 2;
        due += every;
    }
    changes
}
