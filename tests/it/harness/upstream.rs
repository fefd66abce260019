//! An upstream that records every connection and every raw byte, and answers what the test tells it to.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::DEADLINE;
use super::answer::{decode_chunked, find};
use super::secrets;

/// A running upstream; it ends when it is dropped.
pub struct Upstream {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

/// An address where nobody listens, and which nobody else can take.
pub struct Vacant(socket2::Socket);

impl Vacant {
    pub fn new() -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        socket.bind(&any.into()).expect("a free port");
        Self(socket)
    }

    pub fn url(&self) -> String {
        let address = self.0.local_addr().ok().and_then(|address| address.as_socket());
        format!("http://{}", address.expect("an address"))
    }

    /// Starts an upstream there.
    pub fn occupy(self) -> Upstream {
        self.0.listen(128).expect("a bound socket can listen");
        Upstream::accepting_from(self.0.into())
    }
}

/// A request that arrived whole.
#[derive(Clone)]
pub struct Recorded {
    pub method: String,
    pub target: String,
    pub version: String,
    /// In order, names as they were spelled on the wire.
    pub headers: Vec<(String, String)>,
    /// Decoded from its framing.
    pub body: Vec<u8>,
    pub raw: Vec<u8>,
    /// Which connection it came on, counted from 0.
    pub connection: usize,
}

/// What the upstream does with a request: a list of steps, taken in order.
#[derive(Clone, Default)]
pub struct Reply {
    steps: Vec<Step>,
    before_body: bool,
}

#[derive(Clone)]
enum Step {
    Close,
    Echo,
    EchoRaw,
    Forever(Vec<u8>),
    Hold,
    Reset,
    Send(Vec<u8>),
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    connections: Vec<Connection>,
    requests: Vec<Recorded>,
    queue: VecDeque<Reply>,
    always: Option<Reply>,
    by_path: Vec<(String, Reply)>,
    holds_all: bool,
    released: bool,
    ended: bool,
    /// A route passes the credential on.
    sees_credentials: bool,
}

struct Connection {
    stream: TcpStream,
    bytes: Vec<u8>,
    closed: bool,
}

impl Recorded {
    /// The first value of a header, by lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.header_values(name).into_iter().next()
    }

    pub fn header_values(&self, name: &str) -> Vec<&str> {
        let same = self.headers.iter().filter(|(given, _)| given.eq_ignore_ascii_case(name));
        same.map(|(_, value)| value.as_str()).collect()
    }

    pub fn has(&self, name: &str) -> bool {
        self.header(name).is_some()
    }

    /// The raw request as text, for `contains`.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.raw).into_owned()
    }
}

impl std::fmt::Debug for Recorded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.raw[..self.raw.len().min(4_096)]))
    }
}

impl Reply {
    /// Sends raw bytes.
    pub fn bytes(bytes: impl AsRef<[u8]>) -> Self {
        Self::default().then(bytes)
    }

    /// A 200 that carries the request's body back.
    pub fn echo() -> Self {
        Self { steps: vec![Step::Echo], before_body: false }
    }

    /// Sends more raw bytes.
    pub fn then(self, bytes: impl AsRef<[u8]>) -> Self {
        self.step(Step::Send(bytes.as_ref().to_vec()))
    }

    /// Sends the same bytes again and again until the peer closes.
    pub fn forever(self, bytes: impl AsRef<[u8]>) -> Self {
        self.step(Step::Forever(bytes.as_ref().to_vec()))
    }

    /// Sends every byte that arrives from now on back as it is, until the peer ends its direction; then ends its own.
    pub fn echo_raw(self) -> Self {
        self.step(Step::EchoRaw)
    }

    /// Waits for [`Upstream::release`].
    pub fn hold(self) -> Self {
        self.step(Step::Hold)
    }

    /// Closes the connection with FIN.
    pub fn close(self) -> Self {
        self.step(Step::Close)
    }

    /// Closes the connection with RST.
    pub fn reset(self) -> Self {
        self.step(Step::Reset)
    }

    /// Answers once the request's head is there, whatever of its body is.
    pub fn before_body(mut self) -> Self {
        self.before_body = true;
        self
    }

    fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }
}

impl Upstream {
    pub fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().expect("an address"))
    }

    pub fn start_at(address: SocketAddr) -> Self {
        Self::accepting_from(TcpListener::bind(address).expect("a free port"))
    }

    fn accepting_from(listener: TcpListener) -> Self {
        let address = listener.local_addr().expect("a local address");
        let shared = Arc::new(Shared::default());
        let for_thread = Arc::clone(&shared);
        let accepting = std::thread::spawn(move || accept(&listener, &for_thread));
        Self { address, shared, accepting: Some(accepting) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers the next request with these raw bytes; later ones queue behind.
    pub fn answer_with(&self, bytes: impl AsRef<[u8]>) {
        self.reply(Reply::bytes(bytes));
    }

    /// Answers the next request so; later calls queue behind. With nothing queued, a request's body is echoed.
    pub fn reply(&self, reply: Reply) {
        self.state().queue.push_back(reply);
    }

    /// Answers every request so, unless one is queued or set for its path.
    pub fn reply_always(&self, reply: Reply) {
        self.state().always = Some(reply);
    }

    /// Answers every request for this path (query aside) so, unless one is queued.
    pub fn reply_on(&self, path: &str, reply: Reply) {
        let by_path = &mut self.state().by_path;
        by_path.retain(|(known, _)| known != path);
        by_path.push((path.to_owned(), reply));
    }

    /// From now on no request is answered until [`Upstream::release`].
    pub fn hold(&self) {
        let mut state = self.state();
        state.holds_all = true;
        state.released = false;
    }

    /// Lets everything that is held go on, and holds no more.
    pub fn release(&self) {
        let mut state = self.state();
        state.holds_all = false;
        state.released = true;
        self.shared.changed.notify_all();
    }

    /// Every request that has arrived whole, in order.
    pub fn requests(&self) -> Vec<Recorded> {
        self.state().requests.clone()
    }

    /// How many requests for this target have arrived whole.
    pub fn requests_for(&self, target: &str) -> usize {
        self.state().requests.iter().filter(|request| request.target == target).count()
    }

    /// The request that arrived last. Panics when there was none.
    #[track_caller]
    pub fn last(&self) -> Recorded {
        self.state().requests.last().cloned().expect("the upstream has seen a request")
    }

    /// How many connections there have been.
    pub fn connections(&self) -> usize {
        self.state().connections.len()
    }

    /// How many connections are open now.
    pub fn open_connections(&self) -> usize {
        self.state().connections.iter().filter(|connection| !connection.closed).count()
    }

    /// Every byte received so far, connection after connection.
    pub fn raw(&self) -> Vec<u8> {
        self.state().connections.iter().flat_map(|connection| connection.bytes.clone()).collect()
    }

    /// Says that the gate passes credentials on to this upstream, which it else must not.
    pub fn sees_credentials(&self) {
        self.state().sees_credentials = true;
    }

    /// Every byte received on one connection.
    pub fn raw_of(&self, connection: usize) -> Vec<u8> {
        self.state().connections[connection].bytes.clone()
    }

    /// Forgets all that was recorded; connections stay open and are counted on.
    #[track_caller]
    pub fn forget(&self) {
        let mut state = self.state();
        state.search();
        state.requests.clear();
        state.connections.iter_mut().for_each(|connection| connection.bytes.clear());
    }

    /// Waits until so many requests have arrived whole.
    #[track_caller]
    pub fn wait_for_requests(&self, count: usize) {
        self.wait_until("requests", |state| state.requests.len() >= count);
    }

    /// Waits until these bytes have arrived on some connection.
    #[track_caller]
    pub fn wait_for_bytes(&self, needle: &[u8]) {
        self.wait_until("bytes", |state| state.connections.iter().any(|seen| find(&seen.bytes, needle).is_some()));
    }

    /// Waits until the gate has closed so many of its connections.
    #[track_caller]
    pub fn wait_for_closed(&self, count: usize) {
        self.wait_until("closed connections", |state| {
            state.connections.iter().filter(|seen| seen.closed).count() >= count
        });
    }

    #[track_caller]
    fn wait_until(&self, what: &str, ready: impl Fn(&State) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        let mut state = self.state();
        while !ready(&state) {
            let wait = deadline.saturating_duration_since(Instant::now());
            assert!(!wait.is_zero(), "the upstream waited in vain for {what}; it has seen {:?}", state.requests);
            state = self.shared.changed.wait_timeout(state, wait).unwrap_or_else(|poison| poison.into_inner()).0;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state());
        self.changed.notify_all();
        result
    }

    /// Whether the wait is over, after at most `wait`.
    fn is_released_within(&self, wait: Duration) -> bool {
        let state = self.state();
        let is_held = |state: &mut State| !state.released && !state.ended;
        let (state, _) =
            self.changed.wait_timeout_while(state, wait, is_held).unwrap_or_else(|poison| poison.into_inner());
        state.released || state.ended
    }
}

impl State {
    #[track_caller]
    fn search(&self) {
        if !self.sees_credentials {
            self.connections.iter().for_each(|seen| secrets::check("what an upstream got", &seen.bytes));
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.change(|state| {
            state.ended = true;
            for connection in &state.connections {
                let _ = connection.stream.shutdown(Shutdown::Both);
            }
        });
        let _ = TcpStream::connect(self.address);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
        self.state().search();
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming().flatten() {
        let Ok(kept) = stream.try_clone() else { continue };
        let _ = stream.set_nodelay(true);
        let number = shared.change(|state| {
            state.connections.push(Connection { stream: kept, bytes: Vec::new(), closed: false });
            state.connections.len() - 1
        });
        if shared.state().ended {
            return;
        }
        let shared = Arc::clone(shared);
        std::thread::spawn(move || {
            let mut talk = Talk { stream, shared: &shared, number, pending: Vec::new() };
            while talk.serve_one().is_some() {}
            shared.change(|state| state.connections[number].closed = true);
        });
    }
}

/// One connection from the gate.
struct Talk<'s> {
    stream: TcpStream,
    shared: &'s Shared,
    number: usize,
    /// Received, and not yet part of a recorded request.
    pending: Vec<u8>,
}

impl Talk<'_> {
    /// `None` when the connection is over.
    fn serve_one(&mut self) -> Option<()> {
        let head_length = self.read_until(|pending| find(pending, b"\r\n\r\n").map(|at| at + 4))?;
        let mut request = parse_head(&self.pending[..head_length], self.number);
        let reply = self.choose(&request);
        let mut answered = false;
        if reply.before_body {
            self.act(&reply, &request)?;
            answered = true;
        }
        let chunked = request.header("transfer-encoding").is_some();
        let length: usize = request.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        let total =
            self.read_until(|pending| body_end(&pending[head_length..], chunked, length).map(|at| head_length + at))?;
        request.raw = self.pending.drain(..total).collect();
        let body = &request.raw[head_length..];
        request.body = if chunked { decode_chunked(body).0 } else { body.to_vec() };
        self.shared.change(|state| state.requests.push(request.clone()));
        if !answered {
            self.act(&reply, &request)?;
        }
        Some(())
    }

    fn choose(&self, request: &Recorded) -> Reply {
        let path = request.target.split('?').next().unwrap_or_default();
        self.shared.change(|state| {
            let held = state.holds_all;
            let on_path = state.by_path.iter().find(|(wanted, _)| wanted == path).map(|(_, reply)| reply.clone());
            let mut reply = state.queue.pop_front().or(on_path).or(state.always.clone()).unwrap_or_else(Reply::echo);
            if held {
                reply.steps.insert(0, Step::Hold);
            }
            reply
        })
    }

    fn act(&mut self, reply: &Reply, request: &Recorded) -> Option<()> {
        for step in &reply.steps {
            match step {
                Step::Close => {
                    let _ = self.stream.shutdown(Shutdown::Both);
                    return None;
                }
                Step::Echo => self.stream.write_all(&echo(request)).ok()?,
                Step::EchoRaw => {
                    self.echo_raw();
                    return None;
                }
                Step::Forever(bytes) => loop {
                    self.stream.write_all(bytes).ok()?;
                },
                Step::Hold => self.hold()?,
                Step::Reset => {
                    let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
                    // The last handle's close is what sends the RST.
                    self.shared.change(|state| {
                        let number = self.number;
                        state.connections[number].stream = dead_socket();
                    });
                    self.stream = dead_socket();
                    return None;
                }
                Step::Send(bytes) => self.stream.write_all(bytes).ok()?,
            }
        }
        Some(())
    }

    fn echo_raw(&mut self) {
        loop {
            let bytes = std::mem::take(&mut self.pending);
            if self.stream.write_all(&bytes).is_err()
                || self.read_until(|pending| (!pending.is_empty()).then_some(())).is_none()
            {
                break;
            }
        }
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Waits for the release; `None` when the gate closes the connection first.
    fn hold(&mut self) -> Option<()> {
        self.stream.set_read_timeout(Some(Duration::from_millis(1))).ok()?;
        while !self.shared.is_released_within(Duration::from_millis(10)) {
            let is_quiet = |error: &std::io::Error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
            match self.stream.peek(&mut [0]) {
                Ok(0) => return None,
                Err(error) if !is_quiet(&error) => return None,
                _ => {}
            }
        }
        self.stream.set_read_timeout(None).ok()
    }

    fn read_until<T>(&mut self, ready: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
        let mut buffer = vec![0; 65_536];
        loop {
            if let Some(found) = ready(&self.pending) {
                return Some(found);
            }
            let count = self.stream.read(&mut buffer).ok().filter(|count| *count > 0)?;
            self.pending.extend_from_slice(&buffer[..count]);
            self.shared.change(|state| state.connections[self.number].bytes.extend_from_slice(&buffer[..count]));
        }
    }
}

/// A socket that is connected to nothing, to stand in for one that was closed.
fn dead_socket() -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    socket.expect("a socket").into()
}

fn body_end(body: &[u8], chunked: bool, length: usize) -> Option<usize> {
    if chunked {
        // Decoding from the start at every read would be quadratic for large bodies; the end is cheap to rule out.
        return if body.ends_with(b"\r\n\r\n") || body.ends_with(b"0\r\n\r\n") { decode_chunked(body).1 } else { None };
    }
    (body.len() >= length).then_some(length)
}

fn echo(request: &Recorded) -> Vec<u8> {
    let mut response = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", request.body.len()).into_bytes();
    if request.method != "HEAD" {
        response.extend_from_slice(&request.body);
    }
    response
}

fn parse_head(head: &[u8], connection: usize) -> Recorded {
    let text = String::from_utf8_lossy(&head[..head.len() - 4]).into_owned();
    let mut lines = text.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ').map(str::to_owned);
    let mut word = || words.next().unwrap_or_default();
    let (method, target, version) = (word(), word(), word());
    let header = |line: &str| {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        (name.to_owned(), value.trim().to_owned())
    };
    let headers = lines.map(header).collect();
    Recorded { method, target, version, headers, body: Vec::new(), raw: head.to_vec(), connection }
}
