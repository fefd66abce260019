//! One HTTP/2 connection to a target, shared by the requests of one worker.
//!
//! Invariants: there are never more streams than both sides allow; a stream that ends early ends alone; the connection
//! ends with its last user once it is in no pool.

use std::convert::Infallible;
use std::future::pending;
use std::num::NonZeroU32;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use h2::{Ping, PingPong};
use http::uri::Scheme;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

use super::dial::{Dialed, Dialer};
use super::metered::Metered;
use super::protocol::Http2;
use super::resolve::Origin;
use super::target::OpenSlot;
use super::{Settings, UpstreamError};

pub(super) use super::stream::Stream;

/// What is held of one request's body for an upstream that takes it slowly.
const SEND_BUFFER_BYTES: usize = 256 << 10;
/// Protocol violations that end one stream each; the connection gets no more requests after the first.
const STREAM_ERRORS_MAX: usize = 1_024;
/// How long frames for a stream that was given up may still arrive.
const RESET_MEMORY: Duration = Duration::from_secs(30);
/// How long a connection that nobody needs may take to say so.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) struct Http2Connection {
    requests: SendRequest<Bytes>,
    pub(super) state: Arc<State>,
    pub(super) scheme: Scheme,
    pub(super) ping_timeout: Duration,
    /// Between two pieces of a body.
    pub(super) stall_max: Duration,
    streams_max: NonZeroU32,
    /// The connection's place among those that are open.
    pub(super) slot: OpenSlot,
    origin: Mutex<Option<Origin>>,
    /// Dropped, it lets the driver close the connection.
    _users: oneshot::Sender<Infallible>,
}

/// What a connection, its driver and its streams tell each other.
#[derive(Debug)]
pub(super) struct State {
    born: Instant,
    /// Streams in use.
    in_use: AtomicU32,
    /// When the last of them ended, in milliseconds from `born`.
    idle_since: AtomicU64,
    /// Whether it gets no more requests.
    is_retired: AtomicBool,
    pub(super) read: AtomicU64,
    pub(super) written: AtomicU64,
    /// Told when a request waited for long and nothing came.
    pub(super) is_suspected: Notify,
}

impl State {
    fn new() -> Self {
        Self {
            born: Instant::now(),
            in_use: AtomicU32::new(0),
            idle_since: AtomicU64::new(0),
            is_retired: AtomicBool::new(false),
            read: AtomicU64::new(0),
            written: AtomicU64::new(0),
            is_suspected: Notify::new(),
        }
    }

    /// Lets it get no more requests; those that it has go on.
    pub(super) fn retire(&self) {
        self.is_retired.store(true, Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Http2Connection {
    /// Makes a connected socket a connection and waits for the upstream's side of it, so that its limits are known and
    /// whatever speaks another protocol there is found out before it gets a request. Gives the first stream.
    pub(super) async fn open(
        dialed: Dialed,
        scheme: &Scheme,
        settings: &Settings,
        slot: OpenSlot,
    ) -> Result<Stream, UpstreamError> {
        let state = Arc::new(State::new());
        let socket = Metered::new(dialed.socket, Arc::clone(&state), settings.http2.control_frames);
        let handshake = builder(settings).handshake::<_, Bytes>(socket);
        let (requests, mut connection) = handshake.await.map_err(UpstreamError::http2)?;
        // Nothing may be sent at first; what the upstream allows replaces that.
        std::future::poll_fn(|cx| match Pin::new(&mut connection).poll(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(UpstreamError::http2(error))),
            Poll::Ready(Ok(())) => Poll::Ready(Err(closed())),
            Poll::Pending if connection.max_concurrent_send_streams() > 0 => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        })
        .await?;
        let pings = connection.ping_pong();
        let (users, no_users) = oneshot::channel();
        let http2 = settings.http2.clone();
        let streams_max = http2.streams_max;
        let ping_timeout = http2.ping_timeout;
        tokio::spawn(Driver { state: Arc::clone(&state), http2, no_users }.run(connection, pings));
        let (scheme, stall_max) = (scheme.clone(), settings.body_timeout);
        let origin = Mutex::new(dialed.origin);
        let connection =
            Self { requests, state, scheme, ping_timeout, stall_max, streams_max, slot, origin, _users: users };
        Arc::new(connection).stream().ok_or_else(closed)
    }

    /// A stream, if one is free.
    pub(super) fn stream(self: &Arc<Self>) -> Option<Stream> {
        let mut requests = self.requests.clone();
        if !self.takes_requests(&mut requests) {
            return None;
        }
        let theirs = u32::try_from(requests.current_max_send_streams()).unwrap_or(u32::MAX);
        let max = theirs.min(self.streams_max.get());
        // Streams are given out by one worker alone; others only give them back.
        if self.state.in_use.fetch_add(1, Ordering::Relaxed) >= max {
            self.state.in_use.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Stream::new(Permit { connection: Arc::clone(self) }, requests))
    }

    /// Whether it is there for more requests, now or when streams end: not closed, and not told to go away.
    pub(super) fn is_open(&self) -> bool {
        self.takes_requests(&mut self.requests.clone())
    }

    fn takes_requests(&self, requests: &mut SendRequest<Bytes>) -> bool {
        // Ready or an error at once, since this handle has opened no stream.
        let ready = requests.poll_ready(&mut Context::from_waker(Waker::noop()));
        !self.state.is_retired.load(Ordering::Relaxed) && matches!(ready, Poll::Ready(Ok(())))
    }

    /// Whether it leads where the target is now. One that does not gets no more requests.
    pub(super) fn still_leads_to(&self, dialer: &Dialer) -> bool {
        let mut origin = self.origin.lock().unwrap_or_else(PoisonError::into_inner);
        let leads = dialer.still_leads_to(&mut origin);
        if !leads {
            self.state.retire();
        }
        leads
    }

    pub(super) fn is_unused(&self) -> bool {
        self.state.in_use.load(Ordering::Relaxed) == 0
    }

    pub(super) fn is_unused_for(&self, time: Duration) -> bool {
        let since = self.state.idle_since.load(Ordering::Relaxed);
        self.is_unused() && u128::from(self.state.now().saturating_sub(since)) > time.as_millis()
    }
}

/// A place among a connection's streams, given back on drop. Keeps the connection open.
pub(super) struct Permit {
    pub(super) connection: Arc<Http2Connection>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let state = &self.connection.state;
        state.idle_since.store(state.now(), Ordering::Relaxed);
        state.in_use.fetch_sub(1, Ordering::Relaxed);
    }
}

fn builder(settings: &Settings) -> Builder {
    let http2 = &settings.http2;
    let mut builder = Builder::new();
    builder
        .initial_max_send_streams(0)
        .enable_push(false)
        .initial_window_size(http2.stream_window.0)
        .initial_connection_window_size(http2.stream_window.times(http2.streams_max))
        .max_header_list_size(u32::try_from(settings.header_bytes_max.0).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER_BYTES)
        .max_concurrent_reset_streams(http2.resets_max.get() as usize)
        .max_local_error_reset_streams(Some(STREAM_ERRORS_MAX))
        .reset_stream_duration(RESET_MEMORY);
    builder
}

fn closed() -> UpstreamError {
    UpstreamError::reset(std::io::Error::from(std::io::ErrorKind::UnexpectedEof))
}

/// The task that moves a connection's bytes.
struct Driver {
    state: Arc<State>,
    http2: Http2,
    no_users: oneshot::Receiver<Infallible>,
}

impl Driver {
    /// Whoever waits for a response on the connection is told how it ended; there is nobody else to tell.
    async fn run(self, connection: h2::client::Connection<Metered, Bytes>, pings: Option<PingPong>) {
        let Self { state, http2, no_users } = self;
        let mut connection = pin!(connection);
        tokio::select! {
            _ = &mut connection => {}
            () = lost(pings, &state, &http2) => {}
            _ = no_users => {
                // It says goodbye, unless the upstream takes nothing any more.
                let _ = timeout(CLOSE_TIMEOUT, connection).await;
            }
        }
        state.retire();
    }
}

/// Ends when the other end gives no sign of life.
async fn lost(pings: Option<PingPong>, state: &State, http2: &Http2) {
    let Some(mut pings) = pings else { return pending().await };
    loop {
        let is_suspected = state.is_suspected.notified();
        match http2.ping_interval {
            None => is_suspected.await,
            Some(interval) => {
                let is_due = timeout(interval, is_suspected).await.is_ok() || state.in_use.load(Ordering::Relaxed) > 0;
                if !is_due {
                    continue;
                }
            }
        }
        let mut ping = pin!(pings.ping(Ping::opaque()));
        let mut read = state.read.load(Ordering::Relaxed);
        loop {
            match timeout(http2.ping_timeout, &mut ping).await {
                Ok(Ok(_)) => break,
                // The connection has ended, as its own future tells.
                Ok(Err(_)) => return pending().await,
                Err(_) if state.read.load(Ordering::Relaxed) == read => return,
                Err(_) => read = state.read.load(Ordering::Relaxed),
            }
        }
    }
}
