//! What a handler is, and what it is told about a request beside the request itself.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::{Request, Response};

use super::http2::{Aside, Invitation};
use super::incoming::Incoming;
use super::tunnel::Tunnel;
use super::watch::{Phase, Watch};
use crate::http::framing::Malformed;
use crate::http::headers::PeerText;
use crate::tls::TlsPeer;

/// Answers requests. Cloned for each of them.
pub trait Handler: Clone + Send + Sync + 'static {
    type Body: http_body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
        + Send
        + Unpin
        + 'static;

    /// Dropped when the client goes away.
    fn handle(
        &self,
        request: Request<Incoming>,
        exchange: Exchange,
    ) -> impl Future<Output = Response<Self::Body>> + Send;

    /// Whether what a peer says of its connections' clients holds: asked on listeners that take PROXY headers.
    fn is_trusted_proxy(&self, _peer: IpAddr) -> bool {
        false
    }
}

/// Where a connection comes from.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// The other end of the connection, or the client that a trusted sender's PROXY header names.
    pub peer: SocketAddr,
    /// What its TLS handshake told; `None` in clear text.
    pub tls: Option<Arc<TlsPeer>>,
    /// `peer` as upstreams are told it.
    peer_text: PeerText,
}

impl ConnectionInfo {
    pub(super) fn new(peer: SocketAddr, tls: Option<Arc<TlsPeer>>) -> Self {
        Self { peer, tls, peer_text: PeerText::of(peer.ip()) }
    }

    pub fn peer_text(&self) -> &PeerText {
        &self.peer_text
    }
}

/// One request's surroundings.
#[derive(Clone, Debug)]
pub struct Exchange {
    connection: Arc<ConnectionInfo>,
    malformed: Option<Malformed>,
    /// Over HTTP/1.
    head_bytes: Option<usize>,
    asks_for_websocket: bool,
    /// Of a stream.
    aside: Option<Aside>,
    /// Whether the body comes once it is asked for; over HTTP/1 it sees to that itself.
    holds_back: bool,
    timer: Timer,
}

impl Exchange {
    /// For a request of the connection, or over HTTP/2 of the stream, that `watch` is for.
    pub(super) fn new(connection: Arc<ConnectionInfo>, watch: Arc<Watch>) -> Self {
        Self {
            connection,
            malformed: None,
            head_bytes: None,
            asks_for_websocket: false,
            aside: None,
            holds_back: false,
            timer: Timer(watch),
        }
    }

    /// Of what was no request.
    pub(super) fn refused(self, malformed: Malformed) -> Self {
        Self { malformed: Some(malformed), ..self }
    }

    /// Of a request over HTTP/1 whose head took so many bytes.
    pub(super) fn of_head(self, bytes: usize) -> Self {
        Self { head_bytes: Some(bytes), ..self }
    }

    pub(super) fn asking_for_websocket(self, asks_for_websocket: bool) -> Self {
        Self { asks_for_websocket, ..self }
    }

    pub(super) fn on_stream(self, aside: Option<Aside>, holds_back: bool) -> Self {
        Self { aside, holds_back, ..self }
    }

    pub fn connection(&self) -> &ConnectionInfo {
        &self.connection
    }

    /// The other end of the connection.
    pub fn peer(&self) -> SocketAddr {
        self.connection.peer
    }

    /// Whether other requests of the connection do not depend on how this one ends.
    pub fn is_stream(&self) -> bool {
        self.aside.is_some()
    }

    /// Why what the client sent was no valid request. The request is then a stand-in without meaning: refuse it with
    /// this; the connection closes after the response, over HTTP/2 the stream alone.
    pub fn malformed(&self) -> Option<Malformed> {
        self.malformed
    }

    /// How many bytes the client has spent on what may be refused: over HTTP/1 on the request's head, `None` where that
    /// was no valid one; over HTTP/2 on that and on whatever else it sent, less what earlier refusals were more than worth.
    pub fn outlay(&self) -> Option<usize> {
        self.aside.as_ref().map(Aside::outlay).or(self.head_bytes)
    }

    /// A refusal takes up so many bytes of the outlay.
    pub fn charge(&self, bytes: usize) {
        self.aside.iter().for_each(|aside| aside.charge(bytes));
    }

    pub fn timer(&self) -> &Timer {
        &self.timer
    }

    /// What to send once the body is waited for, if the client may hold it back until then. `None` over HTTP/1, where
    /// the body sees to it.
    pub fn invitation(&self) -> Option<Invitation> {
        self.aside.clone().filter(|_| self.holds_back).map(Invitation)
    }

    /// Sends an interim response, in its place before the response that is to follow. Not to be used for a client of
    /// HTTP/1.0. Never waits: it is left out when the connection has no room for it.
    pub fn send_interim(&self, interim: &Response<()>) {
        match &self.aside {
            Some(aside) => aside.send(interim),
            None => self.timer.0.say(interim),
        }
    }

    /// Whether the client wants to go on with a WebSocket, and may be answered with 101.
    pub fn asks_for_websocket(&self) -> bool {
        self.asks_for_websocket
    }

    /// Gives the connection to `tunnel`, once the response with status 101 is written that is to follow.
    pub fn switch_to(&self, tunnel: Box<dyn Tunnel>) {
        self.timer.0.switch_to(tunnel);
    }

    /// See [`Timer::bounded`].
    pub async fn bounded<F: Future>(&self, at: Instant, future: F) -> Result<F::Output, Elapsed> {
        self.timer.bounded(at, future).await
    }
}

/// The one timer of a connection, or over HTTP/2 of a stream, for a handler and the response body it returns.
///
/// Works where the connection's or stream's task polls, which is in `handle` and in the response body, not in tasks that
/// these spawn.
#[derive(Clone, Debug)]
pub struct Timer(Arc<Watch>);

/// The deadline came first.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("deadline elapsed")]
pub struct Elapsed;

impl Timer {
    /// Whether bytes of the request are wanted and have not come.
    pub fn is_awaiting_client(&self) -> bool {
        self.0.is_set(Phase::Read)
    }

    /// Whether the request's body stopped arriving, so that every wait has elapsed. Over HTTP/1 the body itself ends in
    /// an error instead.
    pub fn has_body_timed_out(&self) -> bool {
        self.0.has_body_expired()
    }

    /// Makes the connection end in a reset: for a response that was cut where an orderly end would look complete. Over
    /// HTTP/2 a body that fails resets its stream anyway, and nothing else.
    pub fn reset_connection(&self) {
        self.0.set_cut();
    }

    /// Ends the response by a reset when its task is polled next, even while the client takes nothing of it. May be
    /// called from any thread; wakes nobody.
    pub fn sever(&self) {
        self.0.sever();
    }

    /// Waits for `future`, at most until `at`. Nests; the earliest deadline counts.
    ///
    /// # Errors
    /// [`Elapsed`] when the future was not ready in time, or [`Timer::has_body_timed_out`]. It is dropped.
    pub async fn bounded<F: Future>(&self, at: Instant, future: F) -> Result<F::Output, Elapsed> {
        let mut future = pin!(future);
        std::future::poll_fn(|cx| {
            let poll = future.as_mut().poll(cx);
            self.poll_bounded(at, cx, poll)
        })
        .await
    }

    /// The same for a poll function: passes on what is ready, and tells the timer of `at` otherwise. `at` must be given
    /// again at every poll.
    pub fn poll_bounded<T>(&self, at: Instant, _cx: &mut Context<'_>, poll: Poll<T>) -> Poll<Result<T, Elapsed>> {
        if let Poll::Ready(value) = poll {
            return Poll::Ready(Ok(value));
        }
        let deadline = self.0.moment(at);
        if self.0.has_expired(deadline) || self.0.has_body_expired() {
            return Poll::Ready(Err(Elapsed));
        }
        self.0.lower(Phase::Request, deadline);
        Poll::Pending
    }
}
