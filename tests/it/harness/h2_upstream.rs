//! An upstream that speaks HTTP/2, records whole requests with their trailers, and answers what the test tells it to.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Instant;

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

use super::DEADLINE;

/// A running upstream; it ends when it is dropped.
pub struct H2Upstream {
    address: SocketAddr,
    shared: Arc<Shared>,
    running: Option<JoinHandle<()>>,
}

/// A request that arrived whole.
#[derive(Clone, Debug)]
pub struct H2Recorded {
    pub method: String,
    pub scheme: String,
    pub authority: Option<String>,
    /// Path and query.
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    /// Which connection it came on, counted from 0.
    pub connection: usize,
}

impl H2Recorded {
    /// The first value of a header, by lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        value_of(&self.headers, name)
    }

    pub fn trailer(&self, name: &str) -> Option<&str> {
        value_of(&self.trailers, name)
    }
}

fn value_of<'f>(fields: &'f [(String, String)], name: &str) -> Option<&'f str> {
    fields.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
}

/// What is done with a request: a status with fields, then steps in order. The stream ends after the last one.
#[derive(Clone)]
pub struct H2Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    steps: Vec<Step>,
    before_body: bool,
}

#[derive(Clone)]
enum Step {
    Data(Vec<u8>),
    Echo,
    EchoWhole,
    Hold,
    Informational(u16, Vec<(&'static str, &'static str)>),
    Reset(Reason),
    Trailers(Vec<(&'static str, String)>),
}

impl H2Reply {
    pub fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), steps: Vec::new(), before_body: false }
    }

    /// A 200 that carries the request's body back, piece by piece while it arrives, and its trailers.
    pub fn echo() -> Self {
        Self::status(200).step(Step::Echo).before_body()
    }

    /// The same once the request is whole, without its trailers.
    pub fn echo_whole() -> Self {
        Self::status(200).step(Step::EchoWhole)
    }

    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    pub fn data(self, bytes: impl AsRef<[u8]>) -> Self {
        self.step(Step::Data(bytes.as_ref().to_vec()))
    }

    pub fn trailers(self, fields: &[(&'static str, &str)]) -> Self {
        self.step(Step::Trailers(fields.iter().map(|(name, value)| (*name, (*value).to_owned())).collect()))
    }

    /// Waits for [`H2Upstream::release`], before the head if it is the first step.
    pub fn hold(self) -> Self {
        self.step(Step::Hold)
    }

    /// Ends the stream with RST_STREAM, without a head if it is the first step.
    pub fn reset(self, reason: Reason) -> Self {
        self.step(Step::Reset(reason))
    }

    /// Sends an interim response; only before the head.
    pub fn informational(self, status: u16, headers: &[(&'static str, &'static str)]) -> Self {
        self.step(Step::Informational(status, headers.to_vec()))
    }

    /// Begins once the request's head is there, whatever of its body is.
    pub fn before_body(mut self) -> Self {
        self.before_body = true;
        self
    }

    fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    released: Notify,
    goes_away: watch::Sender<usize>,
    ends: Notify,
    drops: watch::Sender<usize>,
}

#[derive(Default)]
struct State {
    connections: usize,
    open: usize,
    /// Request heads that have arrived.
    begun: usize,
    at_once: usize,
    at_once_max: usize,
    requests: Vec<H2Recorded>,
    /// Streams that the gate has reset.
    resets: usize,
    queue: VecDeque<H2Reply>,
    always: Option<H2Reply>,
    is_released: bool,
}

impl H2Upstream {
    pub fn start() -> Self {
        Self::with(|_| {})
    }

    /// With other limits: `H2Upstream::with(|server| { server.max_concurrent_streams(1); })`.
    pub fn with(change: impl FnOnce(&mut Builder)) -> Self {
        let mut builder = Builder::new();
        change(&mut builder);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("nonblocking");
        let address = listener.local_addr().expect("a local address");
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            released: Notify::new(),
            goes_away: watch::channel(0).0,
            ends: Notify::new(),
            drops: watch::channel(0).0,
        });
        let for_thread = Arc::clone(&shared);
        let running = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).expect("a listener");
                tokio::select! {
                    () = accept(&listener, &builder, &for_thread) => {}
                    () = for_thread.ends.notified() => {}
                }
            });
        });
        Self { address, shared, running: Some(running) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers the next request so; later calls queue behind. With nothing queued, requests are answered by an echo.
    pub fn reply(&self, reply: H2Reply) {
        self.state().queue.push_back(reply);
    }

    /// Answers every request so, unless one is queued.
    pub fn reply_always(&self, reply: H2Reply) {
        self.state().always = Some(reply);
    }

    /// Lets everything that is held go on, and holds no more.
    pub fn release(&self) {
        self.change(|state| state.is_released = true);
        self.shared.released.notify_waiters();
    }

    /// Sends GOAWAY on all connections: no new streams, those that are there may finish.
    pub fn go_away(&self) {
        self.shared.goes_away.send_modify(|count| *count += 1);
    }

    /// Drops all connections.
    pub fn drop_connections(&self) {
        self.shared.drops.send_modify(|count| *count += 1);
    }

    /// Every request that has arrived whole, in order.
    pub fn requests(&self) -> Vec<H2Recorded> {
        self.state().requests.clone()
    }

    /// The request that arrived last. Panics when there was none.
    #[track_caller]
    pub fn last(&self) -> H2Recorded {
        self.state().requests.last().cloned().expect("the upstream has seen a request")
    }

    /// How many requests have begun to arrive.
    pub fn begun(&self) -> usize {
        self.state().begun
    }

    /// Forgets all requests; connections stay open and are counted on.
    #[track_caller]
    pub fn forget(&self) {
        let mut state = self.state();
        state.search();
        state.begun = 0;
        state.requests.clear();
    }

    pub fn connections(&self) -> usize {
        self.state().connections
    }

    pub fn open_connections(&self) -> usize {
        self.state().open
    }

    /// The most requests that were open at a time.
    pub fn at_once_max(&self) -> usize {
        self.state().at_once_max
    }

    #[track_caller]
    pub fn wait_for_begun(&self, count: usize) {
        self.wait_until("requests", |state| state.begun >= count);
    }

    #[track_caller]
    pub fn wait_for_requests(&self, count: usize) {
        self.wait_until("whole requests", |state| state.requests.len() >= count);
    }

    #[track_caller]
    pub fn wait_for_resets(&self, count: usize) {
        self.wait_until("resets", |state| state.resets >= count);
    }

    /// Waits until only so many connections are open.
    #[track_caller]
    pub fn wait_for_open(&self, count: usize) {
        self.wait_until("closed connections", |state| state.open <= count);
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

    fn change(&self, change: impl FnOnce(&mut State)) {
        self.shared.change(change);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }
}

impl State {
    #[track_caller]
    fn search(&self) {
        for request in &self.requests {
            super::secrets::check("what an upstream got", format!("{request:?}"));
            super::secrets::check("a body that an upstream got", &request.body);
        }
    }
}

impl Drop for H2Upstream {
    fn drop(&mut self) {
        self.release();
        self.shared.ends.notify_one();
        if let Some(running) = self.running.take() {
            let _ = running.join();
        }
        self.state().search();
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

    async fn held(&self) {
        loop {
            let released = self.released.notified();
            if self.state().is_released {
                return;
            }
            released.await;
        }
    }
}

async fn accept(listener: &TcpListener, builder: &Builder, shared: &Arc<Shared>) {
    loop {
        let (socket, _) = listener.accept().await.expect("a connection");
        let number = shared.change(|state| {
            state.connections += 1;
            state.open += 1;
            state.connections - 1
        });
        let (shared, builder) = (Arc::clone(shared), builder.clone());
        tokio::spawn(async move {
            let mut drops = shared.drops.subscribe();
            tokio::select! {
                () = talk(socket, &builder, number, &shared) => {}
                _ = drops.changed() => {}
            }
            shared.change(|state| state.open -= 1);
        });
    }
}

async fn talk(socket: TcpStream, builder: &Builder, number: usize, shared: &Arc<Shared>) {
    let mut goes_away = shared.goes_away.subscribe();
    let Ok(mut connection) = builder.handshake::<_, Bytes>(socket).await else { return };
    loop {
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted,
            _ = goes_away.changed() => {
                connection.graceful_shutdown();
                continue;
            }
        };
        let Some(Ok((request, respond))) = accepted else { return };
        let reply = shared.change(|state| {
            state.begun += 1;
            state.at_once += 1;
            state.at_once_max = state.at_once_max.max(state.at_once);
            state.queue.pop_front().or(state.always.clone()).unwrap_or_else(H2Reply::echo)
        });
        let shared = Arc::clone(shared);
        tokio::spawn(async move {
            if serve(request, respond, reply, number, &shared).await.is_none() {
                shared.change(|state| state.resets += 1);
            }
            shared.change(|state| state.at_once -= 1);
        });
    }
}

/// `None` when the gate reset the stream.
async fn serve(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    reply: H2Reply,
    number: usize,
    shared: &Shared,
) -> Option<()> {
    let (head, mut body) = request.into_parts();
    let mut recorded = H2Recorded {
        method: head.method.to_string(),
        scheme: head.uri.scheme_str().unwrap_or_default().to_owned(),
        authority: head.uri.authority().map(ToString::to_string),
        target: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        headers: fields(&head.headers),
        body: Vec::new(),
        trailers: Vec::new(),
        connection: number,
    };
    if !reply.before_body {
        read(&mut body, &mut recorded).await?;
        shared.change(|state| state.requests.push(recorded.clone()));
    }
    let mut steps = reply.steps.iter().peekable();
    while let Some(step) = steps.next_if(|step| matches!(step, Step::Hold | Step::Informational(..) | Step::Reset(_))) {
        match step {
            Step::Reset(reason) => {
                respond.send_reset(*reason);
                return Some(());
            }
            Step::Informational(status, headers) => {
                let mut interim = Response::builder().status(*status);
                for (name, value) in headers {
                    interim = interim.header(*name, *value);
                }
                respond.send_informational(interim.body(()).expect("a head")).ok()?;
            }
            _ => tokio::select! {
                () = shared.held() => {}
                _ = std::future::poll_fn(|cx| respond.poll_reset(cx)) => return None,
            },
        }
    }
    let mut response = Response::builder().status(reply.status);
    for (name, value) in &reply.headers {
        response = response.header(*name, value);
    }
    let is_bare = steps.peek().is_none();
    let mut stream = respond.send_response(response.body(()).expect("a head"), is_bare).ok()?;
    if !is_bare {
        act(steps, &mut stream, &mut body, &mut recorded, shared).await?;
    }
    let is_recorded = reply.steps.iter().any(|step| matches!(step, Step::Echo));
    if reply.before_body && !is_recorded {
        read(&mut body, &mut recorded).await?;
        shared.change(|state| state.requests.push(recorded));
    }
    Some(())
}

async fn act<'s>(
    steps: impl Iterator<Item = &'s Step>,
    stream: &mut SendStream<Bytes>,
    body: &mut RecvStream,
    recorded: &mut H2Recorded,
    shared: &Shared,
) -> Option<()> {
    for step in steps {
        match step {
            Step::Data(bytes) => send(stream, bytes).await?,
            Step::Echo => {
                while let Some(piece) = body.data().await {
                    let piece = piece.ok()?;
                    let _ = body.flow_control().release_capacity(piece.len());
                    recorded.body.extend_from_slice(&piece);
                    send(stream, &piece).await?;
                }
                let trailers = body.trailers().await.ok()?;
                recorded.trailers = trailers.as_ref().map(fields).unwrap_or_default();
                shared.change(|state| state.requests.push(recorded.clone()));
                if let Some(trailers) = trailers {
                    return stream.send_trailers(trailers).ok();
                }
            }
            Step::EchoWhole => send(stream, &recorded.body).await?,
            Step::Hold => tokio::select! {
                () = shared.held() => {}
                _ = std::future::poll_fn(|cx| stream.poll_reset(cx)) => return None,
            },
            Step::Informational(..) => panic!("an interim response comes before the head"),
            Step::Reset(reason) => {
                stream.send_reset(*reason);
                return Some(());
            }
            Step::Trailers(trailers) => {
                let field = |(name, value): &(&'static str, String)| {
                    (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"))
                };
                stream.send_trailers(trailers.iter().map(field).collect()).ok()?;
                return Some(());
            }
        }
    }
    stream.send_data(Bytes::new(), true).ok()
}

/// Sends with regard to the window. `None` when the gate reset the stream.
async fn send(stream: &mut SendStream<Bytes>, bytes: &[u8]) -> Option<()> {
    let mut rest = Bytes::copy_from_slice(bytes);
    while !rest.is_empty() {
        stream.reserve_capacity(rest.len());
        let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await?.ok()?;
        stream.send_data(rest.split_to(room.min(rest.len())), false).ok()?;
    }
    Some(())
}

async fn read(body: &mut RecvStream, recorded: &mut H2Recorded) -> Option<()> {
    while let Some(piece) = body.data().await {
        let piece = piece.ok()?;
        let _ = body.flow_control().release_capacity(piece.len());
        recorded.body.extend_from_slice(&piece);
    }
    if let Some(trailers) = body.trailers().await.ok()? {
        recorded.trailers = fields(&trailers);
    }
    Some(())
}

fn fields(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}
