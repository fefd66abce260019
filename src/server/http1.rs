//! A client connection that speaks HTTP/1, to its close: hyper behind the guard, with one timer for all that it waits for.

use std::convert::Infallible;
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Sleep;

use super::connection::{Silence, poll_alarm};
use super::drain::Draining;
use super::exchange::{ConnectionInfo, Exchange, Handler};
use super::guard::Guarded;
use super::settings::Client;
use super::tunnel::{Switched, Tunnel};
use super::watch::{Phase, Watch};

/// hyper, set up once for all connections of a listener.
pub(super) fn protocol(client: &Client) -> http1::Builder {
    let mut builder = http1::Builder::new();
    // No `pipeline_flush`: with it hyper buffers a response body without bound while pipelined bytes wait.
    builder.half_close(false).header_read_timeout(None).max_buf_size(buffer_bytes(client));
    let headers_max = usize::from(client.headers_max.0);
    if headers_max > HYPER_HEADERS {
        builder.max_headers(headers_max);
    }
    builder
}

/// hyper's own limit, for which it needs no allocation; ours is checked before.
const HYPER_HEADERS: usize = 100;

fn buffer_bytes(client: &Client) -> usize {
    client.header_bytes_max.as_usize().saturating_add(8 * 1024).max(64 * 1024)
}

/// Serves one connection until it ends, of itself or because of `draining`.
///
/// # Errors
/// What hyper ended with; worth a debug line, since clients come and go.
pub(super) async fn serve<S, H>(
    protocol: &http1::Builder,
    socket: S,
    info: ConnectionInfo,
    client: &Client,
    handler: H,
    draining: &Draining,
) -> hyper::Result<()>
where
    S: AsyncRead + AsyncWrite + AsFd + Send + Unpin,
    H: Handler,
{
    let watch = Arc::new(Watch::new(Instant::now()));
    let service =
        Service { handler, connection: Arc::new(info), watch: Arc::clone(&watch), ordinal: AtomicU64::new(0) };
    let service = Arc::new(service);
    // hyper keeps some 16 KiB for as long as it lives, so it does from a request to the end of the next pause.
    let awake = |guarded| {
        let service = Arc::clone(&service);
        Box::new(protocol.serve_connection(TokioIo::new(guarded), service_fn(move |request| service.call(request))))
    };
    let mut asleep = Some(Guarded::new(socket, client, Arc::clone(&watch)));
    let mut connection = None;
    let mut alarm = pin!(tokio::time::sleep(client.first_byte_timeout));
    let mut silence = Silence::new(client);
    let mut accepting_ended = pin!(draining.accepting_ended());
    let mut is_registered = false;
    std::future::poll_fn(|cx| {
        // Polled once, for its waker: a spawned task's waker stays the same, and the drain's own answer is cheaper.
        if !is_registered {
            is_registered = true;
            let _ = accepting_ended.as_mut().poll(cx);
        }
        watch.set_leaving(draining.has_started());
        silence.shorten(draining.idle_timeout());
        loop {
            // Whoever still waits in the handler or in a response body says so again when it is polled.
            watch.clear(Phase::Request);
            let has_work = asleep.as_mut().is_some_and(|guarded| guarded.poll_ahead(cx).is_ready());
            if has_work {
                connection = asleep.take().map(awake);
            }
            if let Some(connection) = &mut connection
                && let Poll::Ready(result) = Pin::new(connection).poll(cx)
            {
                return Poll::Ready(result);
            }
            // Here only while the client takes nothing: hyper polls no response body then.
            if watch.is_severed() {
                return Poll::Ready(Ok(()));
            }
            let silence_ends = silence.deadline(&watch);
            let sleeps = silence.sleeps().filter(|_| connection.is_some() && watch.is_at_rest(service.answered()));
            if sleeps.is_some_and(|moment| watch.has_expired(moment)) {
                let Some(parts) = connection.take().map(|connection| connection.into_parts()) else { continue };
                // Never so: all that went to hyper belongs to requests that were answered.
                if !parts.read_buf.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                asleep = Some(parts.io.into_inner());
                continue;
            }
            let earliest = silence_ends.into_iter().chain(sleeps).min();
            ready!(poll_alarm(alarm.as_mut(), cx, &watch, earliest));
            if silence_ends.is_some_and(|deadline| watch.has_expired(deadline)) {
                if let Some(guarded) = asleep.take() {
                    connection = Some(awake(guarded));
                }
                // Nothing is in flight, so this closes at once.
                connection.iter_mut().for_each(|connection| Pin::new(&mut **connection).graceful_shutdown());
            }
        }
    })
    .await?;
    if let (Some(tunnel), Some(connection)) = (watch.take_tunnel(), connection) {
        let guarded = connection.into_parts().io.into_inner();
        run_tunnel(tunnel, Switched::new(guarded, client.tunnel_idle_timeout), &watch, alarm).await;
    }
    Ok(())
}

/// Runs until the tunnel ends or nothing has moved for too long. A drain leaves it alone until it times out.
async fn run_tunnel<S>(mut tunnel: Box<dyn Tunnel>, mut client: Switched<S>, watch: &Watch, mut alarm: Pin<&mut Sleep>)
where
    S: AsyncRead + AsyncWrite + AsFd + Send + Unpin,
{
    watch.clear(Phase::Read);
    watch.clear(Phase::Write);
    std::future::poll_fn(|cx| {
        loop {
            watch.clear(Phase::Request);
            if tunnel.poll(&mut client, cx).is_ready() {
                return Poll::Ready(());
            }
            let idle_ends = client.idle_deadline(watch);
            if watch.has_expired(idle_ends) {
                return Poll::Ready(());
            }
            ready!(poll_alarm(alarm.as_mut(), cx, watch, Some(idle_ends)));
        }
    })
    .await;
}

/// A handler on one connection.
struct Service<H> {
    handler: H,
    connection: Arc<ConnectionInfo>,
    watch: Arc<Watch>,
    /// Of the last request, from 1.
    ordinal: AtomicU64,
}

impl<H: Handler> Service<H> {
    /// How many requests have come this far.
    fn answered(&self) -> u64 {
        self.ordinal.load(Ordering::Relaxed)
    }

    fn call(
        &self,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<Tracked<H::Body>>, Infallible>> + use<H> {
        let ordinal = self.ordinal.fetch_add(1, Ordering::Relaxed) + 1;
        let exchange = Exchange::new(Arc::clone(&self.connection), ordinal, Arc::clone(&self.watch));
        let is_malformed = exchange.malformed().is_some();
        let asks_for_websocket = exchange.asks_for_websocket();
        let version = request.version();
        let busy = Busy::new(Arc::clone(&self.watch));
        let handler = self.handler.clone();
        async move {
            // In a place of its own: hyper keeps room for this future also while the connection is idle.
            let mut response = Box::pin(handler.handle(request, exchange)).await;
            if busy.0.has_aside() && busy.0.is_behind() {
                // Its place has passed: what hyper still has goes out together with this response.
                drop(busy.0.take_aside());
            }
            if asks_for_websocket {
                busy.0.decide();
                // The guard may have stopped reading until now.
                wake_self().await;
            }
            // Said, not only done: a client that is told so sends its next request elsewhere. And hyper finds out that a
            // body was left unread only after it has written the head.
            let closes = is_malformed || busy.0.is_in_body_of(ordinal) || busy.0.is_leaving();
            if closes && !busy.0.is_switched() {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            // hyper says `keep-alive` beside it in a response that is not of the client's own version.
            if version == Version::HTTP_10 && response.headers().contains_key(CONNECTION) {
                *response.version_mut() = version;
            }
            Ok(response.map(|body| Tracked { body, _busy: busy }))
        }
    }
}

async fn wake_self() {
    std::future::poll_fn(|cx| {
        cx.waker().wake_by_ref();
        Poll::Ready(())
    })
    .await;
}

/// Marks the connection as busy while it lives.
struct Busy(Arc<Watch>);

impl Busy {
    fn new(watch: Arc<Watch>) -> Self {
        watch.set_busy(true);
        Self(watch)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.set_busy(false);
    }
}

/// A response body that keeps the connection busy until hyper is done with it.
struct Tracked<B> {
    body: B,
    _busy: Busy,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Tracked<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
