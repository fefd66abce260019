//! The bodies of responses: streamed, counted, bounded, never held.
//!
//! Invariant: a response body that did not reach its end is an error to the connection, so that no client takes a cut
//! body for a whole one.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderName, StatusCode};
use http_body_util::Full;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use crate::http::framing::Malformed;
use crate::http::overrides::is_one_of;
use crate::http::trailers;
use crate::http::trailers::TooLarge;
use crate::metrics::UpstreamFailure;
use crate::server::{IncomingError, Timer};
use crate::upstream::{CutError, Lease, ResponseBody};

use super::account::Account;
use super::tunnel::Opening;

/// Why a body ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the request's body broke off")]
    Broken(#[source] IncomingError),
    #[error("the upstream's body broke off")]
    Cut(#[source] CutError),
    #[error("the key admits the request no more")]
    Revoked,
    #[error("the response took longer than its deadline")]
    Stalled,
    #[error("the request's body is too large")]
    TooLarge,
    #[error(transparent)]
    Trailers(#[from] TooLarge),
}

/// Whether the connection gave up on a client that stopped sending.
pub(super) fn is_timeout(error: &(dyn std::error::Error + 'static)) -> bool {
    Malformed::of_body(error).is_some_and(|malformed| malformed.status() == StatusCode::REQUEST_TIMEOUT)
}

/// The body of a response, with the account of its request: dropping it ends the request.
pub struct Body {
    kind: BodyKind,
    account: Option<Box<Account>>,
}

enum BodyKind {
    Local(Full<Bytes>),
    Streamed(Streamed),
    /// No body: the connection goes on as a tunnel.
    Tunnel(Opening),
}

/// A body that an upstream is still sending.
pub(super) struct Streamed {
    pub(super) incoming: ResponseBody,
    pub(super) lease: Option<Lease>,
    pub(super) timer: Timer,
    /// The longest wait between two pieces; `None`: as long as it takes.
    pub(super) body_timeout: Option<Duration>,
    /// When the whole request must be over.
    pub(super) until: Option<Instant>,
    /// When the present wait for a piece ends.
    pub(super) wait_until: Option<Instant>,
    /// Whether the client must see a reset, and not an end, when the body is cut.
    pub(super) resets_when_cut: bool,
    /// Fields that the route sets or removes.
    pub(super) overridden: Vec<HeaderName>,
    pub(super) metrics: Arc<crate::metrics::UpstreamMetrics>,
    /// Why there is no more of it, until the client's side of the machine has delivered what there was.
    pub(super) cut: Option<CutError>,
}

impl Body {
    /// A body of our own, whole.
    pub fn local(bytes: Bytes) -> Self {
        Full::new(bytes).into()
    }

    pub(super) fn streamed(mut streamed: Streamed) -> Self {
        if streamed.incoming.is_end_stream() {
            streamed.finish();
        }
        Self { kind: BodyKind::Streamed(streamed), account: None }
    }

    pub(super) fn tunnel(opening: Opening) -> Self {
        Self { kind: BodyKind::Tunnel(opening), account: None }
    }

    /// Ends with the body what `account` is of, or with the tunnel that it stands for.
    pub(super) fn charge_to(&mut self, mut account: Box<Account>) {
        account.answered = Some(Instant::now());
        if matches!(self.kind, BodyKind::Tunnel(_)) {
            let kind = std::mem::replace(&mut self.kind, BodyKind::Local(Full::default()));
            if let BodyKind::Tunnel(opening) = kind {
                opening.charge_to(account);
            }
            return;
        }
        // Nobody asks for the body of what answers a HEAD.
        account.complete = account.is_head || self.is_end_stream();
        self.account = Some(account);
    }
}

impl From<Full<Bytes>> for Body {
    fn from(full: Full<Bytes>) -> Self {
        Self { kind: BodyKind::Local(full), account: None }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Self { kind, account } = &mut *self;
        let run = account.as_ref().and_then(|account| account.run.as_ref());
        let polled = match kind {
            BodyKind::Local(full) => Pin::new(full).poll_frame(cx).map_err(|never| match never {}),
            BodyKind::Streamed(streamed) if run.is_some_and(|run| run.poll_lost(cx).is_ready()) => streamed.revoke(),
            BodyKind::Streamed(streamed) => streamed.poll_frame(cx),
            BodyKind::Tunnel(_) => Poll::Ready(None),
        };
        let ended = self.is_end_stream();
        if let (Poll::Ready(frame), Some(account)) = (&polled, &mut self.account) {
            let piece = frame.as_ref().and_then(|frame| frame.as_ref().ok()).and_then(Frame::data_ref);
            account.bytes += piece.map_or(0, |piece| piece.len() as u64);
            let is_trailers = frame.as_ref().is_some_and(|frame| frame.as_ref().is_ok_and(Frame::is_trailers));
            account.complete |= frame.is_none() || ended || is_trailers;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            BodyKind::Local(full) => full.is_end_stream(),
            BodyKind::Streamed(streamed) => streamed.incoming.is_end_stream(),
            BodyKind::Tunnel(_) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            BodyKind::Local(full) => full.size_hint(),
            BodyKind::Streamed(streamed) => streamed.incoming.size_hint(),
            BodyKind::Tunnel(_) => SizeHint::with_exact(0),
        }
    }
}

impl Streamed {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = self.poll_piece(cx);
        if let (Poll::Ready(Some(Err(_))), true) = (&polled, self.resets_when_cut) {
            self.timer.reset_connection();
        }
        polled
    }

    fn revoke(&mut self) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        // Takes back what the client's side of the machine has not delivered yet.
        self.timer.reset_connection();
        Poll::Ready(Some(Err(BodyError::Revoked)))
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(error) = self.cut.take() {
            return Poll::Ready(Some(Err(BodyError::Cut(error))));
        }
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Pending => self.wait(cx),
            Poll::Ready(None) => {
                self.finish();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                self.metrics.failed(UpstreamFailure::BodyCut);
                tracing::debug!(error = %error, "the upstream's body broke off");
                // A connection drops what it has not written when a body fails, be it the head.
                self.cut = Some(error);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            // A client that takes little at a time may never leave us waiting for the upstream.
            Poll::Ready(Some(Ok(_))) if !self.incoming.is_end_stream() && self.is_out_of_time() => {
                Poll::Ready(Some(Err(BodyError::Stalled)))
            }
            Poll::Ready(Some(Ok(frame))) if frame.is_data() => {
                self.wait_until = None;
                if self.incoming.is_end_stream() {
                    self.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Ok(frame))) => {
                self.wait_until = None;
                self.finish();
                let mut trailers = frame.into_trailers().unwrap_or_default();
                let prepared = trailers::prepare_response(&mut trailers, |name| is_one_of(name, &self.overridden));
                Poll::Ready(Some(prepared.map(|()| Frame::trailers(trailers)).map_err(BodyError::Trailers)))
            }
        }
    }

    /// Waits for the next piece, up to the upstream's patience and the request's deadline.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let (body_timeout, until) = (self.body_timeout, self.until);
        if self.wait_until.is_none() {
            let idle = body_timeout.map(|timeout| Instant::now() + timeout);
            self.wait_until = idle.into_iter().chain(until).min();
        }
        let Some(at) = self.wait_until else { return Poll::Pending };
        match self.timer.poll_bounded(at, cx, Poll::<()>::Pending) {
            Poll::Ready(_) => {
                // The request's own deadline says nothing against the upstream.
                if until.is_none_or(|until| at < until) {
                    self.metrics.failed(UpstreamFailure::BodyCut);
                }
                Poll::Ready(Some(Err(BodyError::Stalled)))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_out_of_time(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }

    fn finish(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.finish(&mut self.incoming);
        }
    }
}
