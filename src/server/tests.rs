//! Real sockets, an echoing handler: what a client sees.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown as Half, SocketAddr, TcpStream};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::sync::Semaphore;

use super::*;
use crate::clock::Clock;
use crate::http::framing::Malformed;
use crate::metrics::Metrics;
use crate::settings::{Reading, Source};

/// Answers by path: `/echo` with the request body, `/unread` without reading it, `/hold` when released,
/// `/bounded` with 504 after 50 ms, `/large` with 64 MiB, all else with method and path.
#[derive(Clone)]
struct Echo(Arc<Seen>);

struct Seen {
    requests: AtomicUsize,
    arrivals: Semaphore,
    releases: Semaphore,
}

impl Handler for Echo {
    type Body = Full<Bytes>;

    async fn handle(&self, request: Request<Incoming>, exchange: Exchange) -> Response<Full<Bytes>> {
        if let Some(malformed) = exchange.malformed() {
            return answer(malformed.status(), malformed.code());
        }
        self.0.requests.fetch_add(1, Ordering::Relaxed);
        self.0.arrivals.add_permits(1);
        let path = request.uri().path().to_owned();
        match path.as_str() {
            "/echo" => echo(request).await,
            "/hold" => {
                self.0.releases.acquire().await.unwrap().forget();
                answer(StatusCode::OK, "held")
            }
            "/bounded" => {
                let never = std::future::pending::<()>();
                let waited = exchange.bounded(Instant::now() + Duration::from_millis(50), never).await;
                assert_eq!(waited, Err(Elapsed));
                answer(StatusCode::GATEWAY_TIMEOUT, "elapsed")
            }
            "/large" => Response::new(Full::new(Bytes::from(vec![b'x'; 64 << 20]))),
            _ => answer(StatusCode::OK, format!("{} {path}", request.method())),
        }
    }
}

async fn echo(request: Request<Incoming>) -> Response<Full<Bytes>> {
    match request.into_body().collect().await {
        Ok(body) => Response::new(Full::new(body.to_bytes())),
        Err(error) => match Malformed::of_body(&error) {
            Some(malformed) => answer(malformed.status(), malformed.code()),
            None => answer(StatusCode::BAD_REQUEST, "cut"),
        },
    }
}

fn answer(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response
}

const SHORT: Duration = Duration::from_millis(150);

struct Running {
    address: SocketAddr,
    client: Arc<ArcSwap<Client>>,
    slots: Slots,
    drain: Drain,
    shutdown: Shutdown,
    seen: Arc<Seen>,
    workers: Option<Workers>,
}

impl Running {
    fn start(client: Client) -> Self {
        Self::with(client, 1, Duration::from_secs(10))
    }

    fn with(client: Client, workers: usize, drain_timeout: Duration) -> Self {
        let seen =
            Arc::new(Seen { requests: AtomicUsize::new(0), arrivals: Semaphore::new(0), releases: Semaphore::new(0) });
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listeners = Listeners::bind(any_port, workers, Listen::default().backlog).unwrap();
        let address = listeners.address();
        let (drain, draining) = drain();
        let slots = Slots::new(client.connections_max);
        let client = Arc::new(ArcSwap::from_pointee(client));
        let metrics = Metrics::new(workers, Clock::System);
        let context = Context {
            client: Arc::clone(&client),
            http2: Arc::default(),
            slots: slots.clone(),
            addresses: None,
            draining,
            metrics,
            tls: None,
            proxy_protocol: false,
        };
        let echo = Echo(Arc::clone(&seen));
        let workers = Some(run_workers(listeners, &context, move |_| echo.clone()).unwrap());
        let shutdown = Shutdown { timeout: drain_timeout, ..Shutdown::default() };
        Self { address, client, slots, drain, shutdown, seen, workers }
    }

    fn connect(&self) -> Wire {
        let socket = TcpStream::connect(self.address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Wire(socket)
    }

    /// Waits until the handler has begun another request.
    fn arrival(&self) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(self.seen.arrivals.acquire()).unwrap().forget();
    }

    fn release(&self) {
        self.seen.releases.add_permits(1);
    }

    fn requests(&self) -> usize {
        self.seen.requests.load(Ordering::Relaxed)
    }

    fn join(mut self) {
        self.workers.take().unwrap().join();
    }
}

struct Wire(TcpStream);

impl Wire {
    fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.0.write_all(bytes.as_ref()).unwrap();
        self
    }

    /// Everything until the server closes.
    fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        self.0.read_to_end(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    /// The next response, head and body.
    fn response(&mut self) -> String {
        let mut text = String::new();
        while !text.contains("\r\n\r\n") {
            text.push_str(&self.more());
        }
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let missing = length.map_or(0, |length| length.parse::<usize>().unwrap()) - body.len();
        let mut rest = vec![0; missing];
        self.0.read_exact(&mut rest).unwrap();
        text + &String::from_utf8(rest).unwrap()
    }

    fn more(&mut self) -> String {
        let mut byte = [0; 1];
        self.0.read_exact(&mut byte).unwrap();
        char::from(byte[0]).to_string()
    }
}

#[track_caller]
fn check_statuses(text: &str, expected: &[u16]) {
    let status = |line: &str| line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse::<u16>().ok());
    let statuses: Vec<u16> = text.match_indices("HTTP/1.1 ").filter_map(|(at, _)| status(&text[at..])).collect();
    assert_eq!(statuses, expected, "{text}");
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: t\r\n\r\n")
}

fn post(path: &str, fields: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: t\r\n{fields}\r\n\r\n")
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Running::start(Client::default());
    let mut client = server.connect();
    client.send(get("/1") + &post("/echo", "Content-Length: 2") + "hi" + &get("/3"));
    assert!(client.response().ends_with("GET /1"));
    assert!(client.response().ends_with("hi"));
    assert!(client.response().ends_with("GET /3"));
}

#[test]
fn malformed_request_behind_a_valid_one_is_refused_after_it_and_the_connection_closes() {
    let server = Running::start(Client::default());
    let mut client = server.connect();
    client.send(get("/1") + "GET * HTTP/1.1\r\nHost: t\r\n\r\n" + &get("/2"));
    let text = client.rest();
    check_statuses(&text, &[200, 400]);
    assert!(text.contains("connection: close") && text.ends_with("target_form_unsupported"), "{text}");
    assert_eq!(server.requests(), 1);
}

#[test]
fn malformed_request_waits_for_the_one_in_flight() {
    let server = Running::start(Client::default());
    let mut client = server.connect();
    client.send(get("/hold"));
    server.arrival();
    client.send("BAD\r\n\r\n");
    server.release();
    check_statuses(&client.rest(), &[200, 400]);
}

#[test]
fn malformed_request_is_answered_to_a_client_that_has_closed_its_side() {
    let server = Running::start(Client::default());
    let mut client = server.connect();
    client.send("GET http://t/ HTTP/1.1\r\nHost: t\r\n\r\n");
    client.0.shutdown(Half::Write).unwrap();
    check_statuses(&client.rest(), &[400]);
}

#[test]
fn heads_and_bodies_may_come_in_single_bytes() {
    let server = Running::start(Client::default());
    let mut client = server.connect();
    client.0.set_nodelay(true).unwrap();
    let request = post("/echo", "Transfer-Encoding: chunked") + "5;x\r\nhello\r\n0\r\nA: b\r\n\r\n";
    for byte in request.as_bytes() {
        client.send([*byte]);
    }
    assert!(client.response().ends_with("hello"));
    client.send("\r\n".to_owned() + &get("/next"));
    assert!(client.response().ends_with("GET /next"));
}

#[test]
fn large_heads_and_bodies_pass_whole() {
    let server = Running::start(Client::default());
    let mut client = server.connect();
    let body = "0123456789abcdef".repeat(64 << 10);
    let field = format!("X: {}\r\nContent-Length: {}", "y".repeat(30 << 10), body.len());
    client.send(post("/echo", &field) + &body);
    assert!(client.response().ends_with(&body));
    client.send(get("/next"));
    assert!(client.response().ends_with("GET /next"));
}

#[test]
fn silent_connection_is_closed() {
    let server = Running::start(Client { first_byte_timeout: SHORT, ..Client::default() });
    let begun = Instant::now();
    assert_eq!(server.connect().rest(), "");
    assert!(begun.elapsed() >= SHORT);
}

#[test]
fn idle_connection_is_closed_and_a_busy_one_is_not() {
    let server = Running::start(Client { idle_timeout: SHORT, ..Client::default() });
    let (mut idle, mut busy) = (server.connect(), server.connect());
    idle.send(get("/1"));
    server.arrival();
    busy.send(get("/hold"));
    server.arrival();
    check_statuses(&idle.rest(), &[200]);
    // Busy for longer than the idle one was allowed to be idle.
    server.release();
    let begun = Instant::now();
    check_statuses(&busy.rest(), &[200]);
    assert!(begun.elapsed() >= SHORT);
}

#[test]
fn slow_head_is_408() {
    let server = Running::start(Client { header_timeout: SHORT, ..Client::default() });
    let mut client = server.connect();
    client.send("GET / HTTP/1.1\r\nHost:");
    let text = client.rest();
    check_statuses(&text, &[408]);
    assert!(text.ends_with("header_timeout"), "{text}");
    assert_eq!(server.requests(), 0);
}

#[test]
fn dribbled_head_does_not_gain_time() {
    let server = Running::start(Client { header_timeout: SHORT, ..Client::default() });
    let mut client = server.connect();
    client.0.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    client.send("GET / HTTP/1.1\r\nX: ");
    let begun = Instant::now();
    // The read's own timeout is the pause between the bytes.
    while client
        .0
        .peek(&mut [0])
        .is_err_and(|error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
    {
        assert!(begun.elapsed() < Duration::from_secs(5), "never cut");
        client.send("x");
    }
    client.0.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    check_statuses(&client.rest(), &[408]);
}

#[test]
fn stalled_body_is_408_and_closes() {
    let server = Running::start(Client { body_timeout: SHORT, ..Client::default() });
    let mut client = server.connect();
    client.send(post("/echo", "Content-Length: 10") + "12345");
    let text = client.rest();
    check_statuses(&text, &[408]);
    assert!(text.contains("connection: close") && text.ends_with("body_timeout"), "{text}");
}

#[test]
fn client_that_takes_nothing_is_cut() {
    let server = Running::start(Client { write_timeout: SHORT, ..Client::default() });
    let mut client = server.connect();
    client.send(get("/large"));
    server.arrival();
    // The drain ends when the connection does: at the write deadline, long before the drain's own.
    server.drain.start(&server.shutdown);
    server.join();
    let mut bytes = Vec::new();
    let _ = client.0.read_to_end(&mut bytes);
    assert!(bytes.len() < 64 << 20);
}

#[test]
fn handler_deadline_uses_the_connections_timer() {
    let server = Running::start(Client::default());
    let mut client = server.connect();
    client.send(get("/bounded"));
    check_statuses(&client.response(), &[504]);
    client.send(get("/bounded"));
    check_statuses(&client.response(), &[504]);
}

#[test]
fn refused_upload_gets_its_whole_answer() {
    let server = Running::start(Client::default());
    let mut client = server.connect();
    client.send(post("/unread", "Content-Length: 8000000"));
    client.send(vec![b'x'; 8_000_000]);
    let text = client.rest();
    check_statuses(&text, &[200]);
    assert!(text.contains("connection: close") && text.ends_with("POST /unread"), "{text}");
}

#[test]
fn unread_body_is_not_taken_for_a_request() {
    let server = Running::start(Client::default());
    let mut client = server.connect();
    client.send(post("/unread", "Content-Length: 1000000") + "0123456789" + &get("/smuggled"));
    client.0.shutdown(Half::Write).unwrap();
    check_statuses(&client.rest(), &[200]);
    assert_eq!(server.requests(), 1);
}

#[test]
fn malformed_chunk_fails_the_body() {
    let server = Running::start(Client::default());
    let mut client = server.connect();
    client.send(post("/echo", "Transfer-Encoding: chunked") + "5\r\nhelloXX0\r\n\r\n" + &get("/smuggled"));
    let text = client.rest();
    check_statuses(&text, &[400]);
    assert!(text.ends_with("chunk_end_invalid"), "{text}");
    assert_eq!(server.requests(), 1);
}

#[test]
fn cut_body_fails_the_body() {
    let server = Running::start(Client::default());
    let mut client = server.connect();
    client.send(post("/echo", "Content-Length: 10") + "12345");
    server.arrival();
    client.0.shutdown(Half::Write).unwrap();
    check_statuses(&client.rest(), &[400]);
}

#[test]
fn continue_is_sent_only_when_the_body_is_read() {
    let server = Running::start(Client::default());
    let fields = "Content-Length: 2\r\nExpect: 100-continue";
    let mut client = server.connect();
    client.send(post("/unread", fields));
    check_statuses(&client.rest(), &[200]);

    let mut client = server.connect();
    client.send(post("/echo", fields));
    check_statuses(&client.response(), &[100]);
    client.send("hi");
    assert!(client.response().ends_with("hi"));
}

#[test]
fn upgrade_is_ignored_and_the_response_is_whole() {
    let server = Running::start(Client::default());
    let mut client = server.connect();
    client.send("GET /large HTTP/1.1\r\nHost: t\r\nUpgrade: h2c\r\nConnection: upgrade, close\r\n\r\n");
    assert!(client.rest().len() > 64 << 20);
}

#[test]
fn drain_finishes_what_is_in_flight_and_closes_what_is_idle() {
    let server = Running::start(Client::default());
    let (mut fresh, mut idle, mut busy) = (server.connect(), server.connect(), server.connect());
    idle.send(get("/1"));
    idle.response();
    server.arrival();
    busy.send(get("/hold"));
    server.arrival();

    server.drain.start(&server.shutdown);

    assert_eq!(fresh.rest(), "");
    assert_eq!(idle.rest(), "");
    server.release();
    let text = busy.rest();
    check_statuses(&text, &[200]);
    assert!(text.contains("connection: close"), "{text}");
    server.join();
}

#[test]
fn request_that_was_on_its_way_when_the_drain_began_is_served_and_told_to_go() {
    let server = Running::start(Client::default());
    let (mut fresh, mut idle) = (server.connect(), server.connect());
    idle.send(get("/1"));
    idle.response();
    // Accepted in order, so `fresh` is too.
    let mut last = server.connect();
    last.send(get("/2"));
    last.response();

    server.drain.start(&Shutdown { idle_timeout: Duration::from_secs(60), ..server.shutdown.clone() });

    for client in [&mut fresh, &mut idle, &mut last] {
        client.send(get("/late"));
        let text = client.rest();
        check_statuses(&text, &[200]);
        assert!(text.contains("connection: close"), "{text}");
    }
    server.join();
}

#[test]
fn connections_that_wait_to_be_accepted_when_the_drain_begins_are_served() {
    let server = Running::start(Client { connections_max: NonZeroU32::new(1).unwrap(), ..Client::default() });
    let mut busy = server.connect();
    busy.send(get("/hold"));
    server.arrival();
    // The accept loop waits for room with one of these in hand; the others are in the backlog.
    let mut waiting: Vec<Wire> = (0..3).map(|_| server.connect()).collect();
    for client in &mut waiting {
        client.send(get("/late"));
    }
    server.slots.resize(NonZeroU32::new(10).unwrap());

    server.drain.start(&server.shutdown);

    waiting.iter_mut().for_each(|client| check_statuses(&client.rest(), &[200]));
    server.release();
    check_statuses(&busy.rest(), &[200]);
    server.join();
}

#[test]
fn leaving_server_accepts_and_tells_each_client_to_go() {
    let server = Running::start(Client::default());
    let mut early = server.connect();
    early.send(get("/1"));
    early.response();

    server.drain.leave();

    let late = server.connect();
    for mut client in [early, late] {
        client.send(get("/2"));
        let text = client.rest();
        check_statuses(&text, &[200]);
        assert!(text.contains("connection: close"), "{text}");
    }
}

#[test]
fn connection_keeps_its_deadlines_and_the_next_one_has_new_ones() {
    let server = Running::start(Client::default());
    let mut old = server.connect();
    old.send(get("/1"));
    old.response();

    server.client.store(Arc::new(Client { idle_timeout: SHORT, ..Client::default() }));

    let mut new = server.connect();
    new.send(get("/2"));
    new.response();
    assert_eq!(new.rest(), "");
    old.send(get("/3"));
    check_statuses(&old.response(), &[200]);
}

#[test]
fn room_for_connections_grows_and_shrinks_under_those_that_are_open() {
    let number = |count| NonZeroU32::new(count).unwrap();
    let slots = Slots::new(number(2));
    let mut held: Vec<_> = (0..2).map(|_| slots.try_enter().unwrap()).collect();
    assert!(slots.try_enter().is_none());

    slots.resize(number(3));
    held.push(slots.try_enter().unwrap());
    assert!(slots.try_enter().is_none());

    slots.resize(number(1));
    held.pop();
    held.pop();
    assert!(slots.try_enter().is_none(), "one is still held, and one is all there is");

    slots.resize(number(2));
    held.push(slots.try_enter().unwrap());
    assert!(slots.try_enter().is_none());

    slots.resize(number(1));
    slots.resize(number(2));
    held.clear();
    assert_eq!((0..9).map_while(|_| slots.try_enter()).collect::<Vec<_>>().len(), 2);
}

#[test]
fn drain_cuts_what_does_not_finish() {
    let server = Running::with(Client::default(), 1, SHORT);
    let mut busy = server.connect();
    busy.send(get("/hold"));
    server.arrival();
    server.drain.start(&server.shutdown);
    server.join();
    let mut bytes = Vec::new();
    let _ = busy.0.read_to_end(&mut bytes);
    assert_eq!(bytes, b"");
}

#[test]
fn connection_over_the_limit_waits_for_room() {
    let client = Client { connections_max: NonZeroU32::new(1).unwrap(), ..Client::default() };
    let server = Running::with(client, 2, Duration::from_secs(10));
    let mut first = server.connect();
    first.send(get("/1"));
    first.response();
    let mut second = server.connect();
    second.send(get("/2"));
    second.0.set_read_timeout(Some(SHORT)).unwrap();
    assert!(second.0.peek(&mut [0]).is_err(), "served over the limit");

    drop(first);

    second.0.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert!(second.response().ends_with("GET /2"));
}

#[test]
fn workers_share_a_port_that_no_one_else_gets() {
    let server = Running::with(Client::default(), 4, Duration::from_secs(10));
    for _ in 0..20 {
        let mut client = server.connect();
        client.send(get("/x"));
        check_statuses(&client.response(), &[200]);
    }
    let error = Listeners::bind(server.address, 4, Listen::default().backlog).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&server.address.to_string()) && text.contains("in use"), "{text}");
}

#[track_caller]
fn check_workers(value: &str, expected: Option<WorkerCount>) {
    let source = Source { path: "t.toml".into(), text: format!("workers = {value}") };
    let reading = Reading::new(&source);
    let listen: Option<Listen> = reading.document();
    let read = reading.finish().ok().and(listen).map(|listen| listen.workers);
    assert_eq!(read, expected, "{value}");
}

#[test]
fn worker_count_is_auto_or_a_number() {
    check_workers("\"auto\"", Some(WorkerCount::Auto));
    check_workers("3", NonZeroU32::new(3).map(WorkerCount::Fixed));
    for wrong in ["0", "-1", "\"3\"", "true", "1.5"] {
        check_workers(wrong, None);
    }
}

#[test]
fn what_a_listener_accepts_sends_without_delay() {
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listeners = Listeners::bind(any_port, 1, Listen::default().backlog).unwrap();
    let _client = TcpStream::connect(listeners.address()).unwrap();
    let listener = listeners.into_first().unwrap().socket;
    listener.set_nonblocking(false).unwrap();
    assert!(listener.accept().unwrap().0.nodelay().unwrap());
}
