//! A client connection that speaks HTTP/1, to its close: one request after the other, with one timer for all that it waits
//! for.
//!
//! What is no valid request is handed to the handler as a stand-in that says what is wrong, so that it is answered in its
//! place behind earlier ones of a pipeline; nothing is read after that. Interim responses go out while the handler is at
//! work.
//!
//! Invariants: a request's handler is dropped when its client leaves; another request is read only when the one before it
//! was answered to its end; what was cut is never followed by anything.

mod body;
mod response;
#[cfg(test)]
mod tests;
mod wire;

use std::io;
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use http::{Method, Request, Response, Version};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Sleep;

use super::connection::{Silence, poll_alarm};
use super::drain::Draining;
use super::exchange::{ConnectionInfo, Exchange, Handler};
use super::incoming::Incoming;
use super::settings::Client;
use super::tunnel::{Switched, Tunnel};
use super::watch::{Phase, Watch};
use response::{Manner, Sending};
use wire::{Begun, Wire};

pub(super) use body::Body;
pub(super) use wire::Socket;

/// Serves one connection until it ends, of itself or because of `draining`.
///
/// # Errors
/// Why it ended early; worth a debug line, since clients come and go.
pub(super) async fn serve<S, H>(
    socket: S,
    info: ConnectionInfo,
    client: &Client,
    handler: H,
    draining: &Draining,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + AsFd + Send + Unpin + 'static,
    H: Handler,
{
    let watch = Arc::new(Watch::new(Instant::now()));
    let wire = Arc::new(Mutex::new(Wire::new(socket, client, Arc::clone(&watch))));
    let _ends = Ends(&wire);
    let mut alarm = pin!(tokio::time::sleep(client.first_byte_timeout));
    let silence = Silence::new(client);
    let connection = Connection { wire: &wire, watch: &watch, info: Arc::new(info), handler, draining, silence };
    let mut accepting_ended = pin!(draining.accepting_ended());
    let mut is_registered = false;
    let mut serving = pin!(connection.serve());
    let tunnel = std::future::poll_fn(|cx| {
        // Polled once, for its waker: a spawned task's waker stays the same, and the drain's own answer is cheaper.
        if !is_registered {
            is_registered = true;
            let _ = accepting_ended.as_mut().poll(cx);
            lock(&wire).set_task(cx.waker());
        }
        loop {
            // Whoever still waits in the handler or in a response body says so again when it is polled.
            watch.clear(Phase::Request);
            if let Poll::Ready(result) = serving.as_mut().poll(cx) {
                return Poll::Ready(result);
            }
            // Here only while the client takes nothing: no response body is polled then.
            if watch.is_severed() {
                return Poll::Ready(Ok(None));
            }
            ready!(poll_alarm(alarm.as_mut(), cx, &watch, None));
            lock(&wire).wake_reader();
        }
    })
    .await?;
    let taken = lock(&wire).take();
    if let (Some(tunnel), Some((socket, early))) = (tunnel, taken) {
        run_tunnel(tunnel, Switched::new(socket, early, client.tunnel_idle_timeout), &watch, alarm).await;
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

/// Nothing is left behind in the wire by a panic that another call would trip over: every change of it is whole.
fn lock<S: AsFd>(wire: &Mutex<Wire<S>>) -> MutexGuard<'_, Wire<S>> {
    wire.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Closes the connection with its task, also when that is cut: a body in another task may still hold the wire.
struct Ends<'w, S: AsFd>(&'w Mutex<Wire<S>>);

impl<S: AsFd> Drop for Ends<'_, S> {
    fn drop(&mut self) {
        lock(self.0).close();
    }
}

struct Connection<'c, S: AsFd, H> {
    wire: &'c Arc<Mutex<Wire<S>>>,
    watch: &'c Arc<Watch>,
    info: Arc<ConnectionInfo>,
    handler: H,
    draining: &'c Draining,
    silence: Silence,
}

impl<S, H> Connection<'_, S, H>
where
    S: AsyncRead + AsyncWrite + AsFd + Send + Unpin + 'static,
    H: Handler,
{
    /// Answers requests until there are no more, or one becomes a tunnel.
    async fn serve(mut self) -> io::Result<Option<Box<dyn Tunnel>>> {
        loop {
            let (request, exchange, manner) = match std::future::poll_fn(|cx| self.poll_request(cx)).await {
                Begun::Request(request) => self.received(request),
                Begun::Malformed(malformed) => {
                    let exchange = self.exchange().refused(malformed);
                    let manner =
                        Manner { is_head: false, version: Version::HTTP_11, takes_trailers: false, keeps: false };
                    (Request::new(Incoming::Empty), exchange, manner)
                }
                Begun::Nothing => break,
            };
            let Some(response) = self.answer(request, exchange).await? else { return Ok(None) };
            let mut sending = self.sending(response, manner);
            std::future::poll_fn(|cx| sending.poll(self.wire, cx)).await?;
            if self.watch.is_switched() {
                return Ok(self.watch.take_tunnel());
            }
            if !sending.keeps() {
                break;
            }
        }
        // An upload may go on behind a response that came early.
        std::future::poll_fn(|_| lock(self.wire).poll_body_over()).await;
        std::future::poll_fn(|cx| lock(self.wire).poll_close(cx)).await;
        Ok(None)
    }

    fn poll_request(&mut self, cx: &mut Context<'_>) -> Poll<Begun> {
        self.silence.shorten(self.draining.idle_timeout());
        lock(self.wire).poll_request(&mut self.silence, cx)
    }

    fn exchange(&self) -> Exchange {
        Exchange::new(Arc::clone(&self.info), Arc::clone(self.watch))
    }

    fn received(&self, request: Request<()>) -> (Request<Incoming>, Exchange, Manner) {
        let wire = lock(self.wire);
        let rules = wire.rules();
        let body = match rules.body_left() {
            Some(0) => Incoming::Empty,
            left => Incoming::Http1(Body::new(Arc::clone(self.wire), rules.heads(), left)),
        };
        let exchange = self.exchange().of_head(wire.head_bytes()).asking_for_websocket(rules.asks_for_websocket());
        let manner = Manner {
            is_head: request.method() == Method::HEAD,
            version: request.version(),
            takes_trailers: rules.takes_trailers(),
            keeps: true,
        };
        (request.map(|()| body), exchange, manner)
    }

    /// The handler's response; `None` when the client left before it.
    async fn answer(&self, request: Request<Incoming>, exchange: Exchange) -> io::Result<Option<Response<H::Body>>> {
        // In a place of its own: an idle connection keeps no room for it.
        let mut handling = Box::pin(self.handler.handle(request, exchange));
        std::future::poll_fn(|cx| {
            if let Poll::Ready(response) = handling.as_mut().poll(cx) {
                return Poll::Ready(Ok(Some(response)));
            }
            let mut wire = lock(self.wire);
            if let Poll::Ready(Err(error)) = wire.poll_aside(cx) {
                return Poll::Ready(Err(error));
            }
            wire.poll_gone(cx).map(|()| Ok(None))
        })
        .await
    }

    fn sending(&self, response: Response<H::Body>, manner: Manner) -> Sending<H::Body> {
        let mut wire = lock(self.wire);
        wire.answered();
        // Said, not only done: a client that is told so sends its next request elsewhere.
        let keeps = manner.keeps && wire.can_go_on() && !self.draining.has_started();
        Sending::new(wire.take_aside(), response, Manner { keeps, ..manner }, self.watch)
    }
}
