//! A client connection that speaks HTTP/2, to its close: hyper behind a guard that counts frames, a task for each stream.
//!
//! A fragment in a `:path` is no longer there when h2 hands a request over: it takes part in nothing and is not forwarded,
//! where HTTP/1.1 refuses it. Pseudo-fields of trailers are gone likewise. What h2 cannot decode as a field at all (an
//! upper-case name, a control character in a value, a pseudo-field of no kind) ends the connection and not its stream alone,
//! as RFC 9113 §5.4.1 allows: nothing of it gets further.
//!
//! Each limit is set here, none left to a library's default; what neither hyper nor h2 bounds is the [`ledger`]'s.
//!
//! Invariants: a stream's task ends with its connection, and with its client's interest in it; every wait for the client
//! has a deadline: for its preface, its settings, a frame that has begun, a body, the room for a response, the next
//! request.

mod aside;
#[cfg(fuzzing)]
pub(super) mod fuzzing;
mod guard;
mod ledger;
mod orders;
mod outlay;
mod rules;
mod settings;
mod sieve;
mod streams;
mod tasks;

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue};
use http::{Method, Request, Response};
use http_body_util::{Either, Empty};
use hyper::body::Body;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Sleep;

use super::connection::{Silence, poll_alarm};
use super::drain::Draining;
use super::exchange::{ConnectionInfo, Exchange, Handler};
use super::incoming::Incoming;
use super::settings::Client;
use super::watch::{Moment, Watch};
use crate::http::framing::{self, RequestLimits};
use crate::http::pieces::Gathered;
use crate::metrics::Metrics;
use guard::Guarded;
use ledger::{Ledger, SharedLedger};
use tasks::{Spawner, Tasks};

pub use aside::{Aside, Invitation};
pub use settings::Http2;

/// How long a client that has nothing running may take to leave once it was told to.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Of a header in a list, beside its name and value (RFC 9113 §6.5.2).
const FIELD_OVERHEAD: u32 = 32;

/// What a connection may take.
#[derive(Clone, Copy)]
pub(super) struct Limits<'l> {
    pub(super) client: &'l Client,
    pub(super) http2: &'l Http2,
}

impl Limits<'_> {
    fn builder(self, spawner: Spawner) -> http2::Builder<Spawner> {
        let count = |number: std::num::NonZeroU32| usize::try_from(number.get()).unwrap_or(usize::MAX);
        let Self { client, http2 } = self;
        let mut builder = http2::Builder::new(spawner);
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(http2.streams_max.get())
            .initial_stream_window_size(http2.stream_window.get())
            .initial_connection_window_size(http2.connection_window.get())
            .max_frame_size(http2.frame_bytes_max.get())
            .max_send_buf_size(http2.send_buffer.get() as usize)
            .max_header_list_size(header_list_bytes_max(client))
            .header_table_size(HEADER_TABLE_BYTES)
            .max_pending_accept_reset_streams(count(http2.resets_pending_max))
            .max_local_error_reset_streams(count(http2.errors_max))
            .keep_alive_interval(http2.ping_interval)
            .keep_alive_timeout(http2.ping_timeout);
        builder
    }
}

/// The compression state of each direction.
const HEADER_TABLE_BYTES: u32 = 4_096;

/// Twice what is taken, so that what is too much gets the same answer as over HTTP/1. h2 keeps no more than this; at four
/// times as much it ends the connection.
fn header_list_bytes_max(client: &Client) -> u32 {
    let bytes = u32::try_from(client.header_bytes_max.0).unwrap_or(u32::MAX);
    let fields = u32::from(client.headers_max.0).saturating_mul(FIELD_OVERHEAD);
    bytes.saturating_add(fields).saturating_mul(2)
}

/// Serves one connection until it ends, of itself or because of `draining`.
///
/// # Errors
/// What hyper ended with; worth a debug line, since clients come and go.
pub(super) async fn serve<S, H>(
    socket: S,
    info: ConnectionInfo,
    limits: Limits<'_>,
    handler: H,
    draining: &Draining,
    metrics: &Arc<Metrics>,
) -> hyper::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Handler,
{
    let client = limits.client;
    let now = Instant::now();
    let watch = Arc::new(Watch::new(now));
    let ledger = SharedLedger::new(Ledger::new(client, limits.http2, Arc::clone(&watch), now));
    let tasks = Tasks::default();
    let builder = limits.builder(tasks.spawner(ledger.clone(), Arc::clone(metrics)));
    let guarded = TokioIo::new(Guarded::new(socket, client, Arc::clone(&watch), ledger.clone()));
    let service =
        Service { handler, connection: Arc::new(info), ledger: ledger.clone(), limits: client.request_limits() };
    let mut connection = pin!(builder.serve_connection(guarded, service_fn(move |request| service.call(request))));
    let mut alarm = pin!(tokio::time::sleep(client.first_byte_timeout));
    let mut drain_started = pin!(draining.started());
    let mut is_registered = false;
    let silence = Silence::new(client);
    let mut waiting = Waiting { ledger, watch, tasks, silence, is_leaving: false, leave_until: None };
    std::future::poll_fn(|cx| {
        if !is_registered {
            is_registered = true;
            waiting.ledger.lock().set_task(cx.waker());
            waiting.tasks.set_task(cx.waker());
            let _ = drain_started.as_mut().poll(cx);
        }
        if !waiting.is_leaving && draining.has_started() {
            waiting.is_leaving = true;
            connection.as_mut().graceful_shutdown();
        }
        loop {
            let polled = connection.as_mut().poll(cx);
            if let Some(cut) = waiting.ledger.lock().take_cut() {
                metrics.http2_cut(cut);
            }
            if let Poll::Ready(result) = polled {
                return Poll::Ready(result);
            }
            if waiting.ledger.lock().take_pause() {
                continue;
            }
            match ready!(waiting.poll_expired(alarm.as_mut(), cx)) {
                Expired::Patience => return Poll::Ready(Ok(())),
                Expired::Silence => connection.as_mut().graceful_shutdown(),
                Expired::Stream => {}
            }
        }
    })
    .await
}

/// What a connection waits for beside its frames.
struct Waiting {
    ledger: SharedLedger,
    watch: Arc<Watch>,
    tasks: Tasks,
    silence: Silence,
    /// Whether the client was told to leave.
    is_leaving: bool,
    /// When it must have left, while nothing of it is running.
    leave_until: Option<Moment>,
}

enum Expired {
    /// A client that should have left, or has never begun.
    Patience,
    /// The client has asked for nothing for too long, and is to be told to leave.
    Silence,
    /// Something that the ledger or the guard sees to.
    Stream,
}

impl Waiting {
    fn poll_expired(&mut self, alarm: Pin<&mut Sleep>, cx: &mut Context<'_>) -> Poll<Expired> {
        let silence_ends = self.silence_ends();
        let of_streams = self.tasks.next_deadline(&self.watch);
        let next = silence_ends.into_iter().chain(self.ledger.lock().next_deadline()).chain(of_streams).min();
        ready!(poll_alarm(alarm, cx, &self.watch, next));
        let mut ledger = self.ledger.lock();
        ledger.expire();
        if silence_ends.is_none_or(|deadline| !self.watch.has_expired(deadline)) {
            return Poll::Ready(Expired::Stream);
        }
        if self.is_leaving || !ledger.has_greeted() {
            return Poll::Ready(Expired::Patience);
        }
        self.is_leaving = true;
        Poll::Ready(Expired::Silence)
    }

    /// When the connection has done nothing for too long; `None` while it does something.
    fn silence_ends(&mut self) -> Option<Moment> {
        let ledger = self.ledger.lock();
        let is_idle = !self.tasks.is_any_running() && !ledger.is_sending();
        self.is_leaving |= ledger.is_ending();
        if !self.is_leaving {
            return is_idle.then(|| self.silence.deadline(&self.watch, ledger.requests()));
        }
        if !is_idle && !ledger.is_ending() {
            self.leave_until = None;
            return None;
        }
        Some(*self.leave_until.get_or_insert_with(|| self.watch.after(LEAVE_TIMEOUT)))
    }
}

/// What is sent behind a response's head: its body, or nothing where that was all that was asked for.
type Sent<B> = Either<Gathered<B>, Empty<Bytes>>;

/// A handler on one connection.
struct Service<H> {
    handler: H,
    connection: Arc<ConnectionInfo>,
    ledger: SharedLedger,
    limits: RequestLimits,
}

impl<H: Handler> Service<H> {
    fn call(
        &self,
        request: Request<hyper::body::Incoming>,
    ) -> impl Future<Output = Result<Response<Sent<H::Body>>, Infallible>> + use<H> {
        let is_head = request.method() == Method::HEAD;
        let holds_back = aside::is_awaited(&request);
        let mut ledger = self.ledger.lock();
        let block_bytes = ledger.outlay.block_bytes();
        let (watch, stream) = ledger.adopt(holds_back);
        drop(ledger);
        let aside = stream.map(|stream| Aside::new(self.ledger.clone(), stream, block_bytes));
        let (mut parts, body) = request.into_parts();
        let exchange = Exchange::new(Arc::clone(&self.connection), Arc::clone(&watch)).on_stream(aside, holds_back);
        let exchange = match framing::normalize(&mut parts, self.limits) {
            Ok(()) => exchange,
            Err(malformed) => exchange.refused(malformed),
        };
        let handler = self.handler.clone();
        // In a place of its own at once: hyper moves it several times. It is given back once there is a response.
        Box::pin(async move {
            let mut response = handler.handle(Request::from_parts(parts, Incoming::Http2(body)), exchange).await;
            watch.set_answered();
            // RFC 9113 §8.2.2: what a handler says of the connection ends at the stream.
            response.headers_mut().remove(CONNECTION);
            Ok(if is_head { without_body(response) } else { response.map(Gathered::new).map(Either::Left) })
        })
    }
}

/// RFC 9110 §9.3.2. Over HTTP/2 hyper sends whatever it is given, to a client that asked for none of it.
fn without_body<B: Body>(response: Response<B>) -> Response<Sent<B>> {
    let (mut parts, body) = response.into_parts();
    if let (Some(length), false) = (body.size_hint().exact(), body.is_end_stream()) {
        parts.headers.entry(CONTENT_LENGTH).or_insert(HeaderValue::from(length));
    }
    Response::from_parts(parts, Either::Right(Empty::new()))
}
