//! Bodies in both directions: streamed, counted, bounded, never held.
//!
//! Invariant: a response body that did not reach its end is an error to the connection, so that no client takes a cut
//! body for a whole one.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use http_body_util::Full;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};

use crate::http::framing::Malformed;
use crate::metrics::UpstreamFailure;
use crate::server::Timer;
use crate::settings::ByteSize;
use crate::upstream::Lease;

use super::account::Account;
use super::tunnel::Opening;

/// Why a body ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the request's body broke off")]
    Broken(#[source] hyper::Error),
    #[error("the upstream's body broke off")]
    Cut(#[source] hyper::Error),
    #[error("the key admits the request no more")]
    Revoked,
    #[error("the response took longer than its deadline")]
    Stalled,
    #[error("the request's body is too large")]
    TooLarge,
}

/// The body of a request on its way to the upstream. Trailers end here (RFC 9110 §6.5.1 lets a proxy drop them).
pub struct RequestBody {
    incoming: Incoming,
    left: u64,
    upload: Arc<Upload>,
}

/// How the sending of a request's body goes, for whoever waits for the response.
pub(super) struct Upload {
    begun: Instant,
    /// Milliseconds from `begun` to the last piece.
    progress: AtomicU64,
    state: AtomicU8,
}

/// Where an upload stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(super) enum UploadState {
    Broken,
    Done,
    Running,
    TimedOut,
    TooLarge,
}

const STATES: [UploadState; 5] =
    [UploadState::Broken, UploadState::Done, UploadState::Running, UploadState::TimedOut, UploadState::TooLarge];

impl Upload {
    pub(super) fn state(&self) -> UploadState {
        STATES[usize::from(self.state.load(Ordering::Relaxed)) % STATES.len()]
    }

    /// When the last piece of the body went by.
    pub(super) fn last_progress(&self) -> Instant {
        self.begun + Duration::from_millis(self.progress.load(Ordering::Relaxed))
    }

    fn progress(&self, state: UploadState) {
        let elapsed = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.progress.store(elapsed, Ordering::Relaxed);
        self.state.store(state as u8, Ordering::Relaxed);
    }
}

impl RequestBody {
    /// Wraps a body of at most `max` bytes.
    ///
    /// # Errors
    /// [`BodyError::TooLarge`] when its length is known and larger; nothing has been read then.
    pub(super) fn new(incoming: Incoming, max: Option<ByteSize>, begun: Instant) -> Result<Self, BodyError> {
        let left = max.map_or(u64::MAX, |max| max.0);
        if incoming.size_hint().lower() > left {
            return Err(BodyError::TooLarge);
        }
        let state = if incoming.is_end_stream() { UploadState::Done } else { UploadState::Running };
        let upload = Upload { begun, progress: AtomicU64::new(0), state: AtomicU8::new(state as u8) };
        Ok(Self { incoming, left, upload: Arc::new(upload) })
    }

    pub(super) fn upload(&self) -> Arc<Upload> {
        Arc::clone(&self.upload)
    }

    fn take(&mut self, piece: &Bytes) -> Result<(), BodyError> {
        let Some(left) = self.left.checked_sub(piece.len() as u64) else {
            self.upload.progress(UploadState::TooLarge);
            return Err(BodyError::TooLarge);
        };
        self.left = left;
        self.upload.progress(if self.incoming.is_end_stream() { UploadState::Done } else { UploadState::Running });
        Ok(())
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            return match Pin::new(&mut self.incoming).poll_frame(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(None) => {
                    self.upload.progress(UploadState::Done);
                    Poll::Ready(None)
                }
                Poll::Ready(Some(Err(error))) => {
                    let state = if is_timeout(&error) { UploadState::TimedOut } else { UploadState::Broken };
                    self.upload.progress(state);
                    Poll::Ready(Some(Err(BodyError::Broken(error))))
                }
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(piece) => Poll::Ready(Some(self.take(&piece).map(|()| Frame::data(piece)))),
                    Err(_trailers) => continue,
                },
            };
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// Whether the connection gave up on a client that stopped sending.
pub(super) fn is_timeout(error: &(dyn std::error::Error + 'static)) -> bool {
    Malformed::of_body(error).is_some_and(|malformed| malformed.status() == StatusCode::REQUEST_TIMEOUT)
}

/// The body of a response, with the account of its request: dropping it ends the request.
pub struct Body {
    kind: BodyKind,
    account: Option<Account>,
}

enum BodyKind {
    Local(Full<Bytes>),
    Streamed(Streamed),
    /// No body: the connection goes on as a tunnel.
    Tunnel(Opening),
}

/// A body that an upstream is still sending.
pub(super) struct Streamed {
    pub(super) incoming: Incoming,
    pub(super) lease: Option<Lease<RequestBody>>,
    pub(super) timer: Timer,
    /// The longest wait between two pieces; `None`: as long as it takes.
    pub(super) body_timeout: Option<Duration>,
    /// When the whole request must be over.
    pub(super) until: Option<Instant>,
    /// When the present wait for a piece ends.
    pub(super) wait_until: Option<Instant>,
    /// Whether the client must see a reset, and not an end, when the body is cut.
    pub(super) resets_when_cut: bool,
    pub(super) metrics: Arc<crate::metrics::UpstreamMetrics>,
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

    pub(super) fn charged_to(self, mut account: Account) -> Self {
        account.answered = Some(Instant::now());
        if let BodyKind::Tunnel(opening) = self.kind {
            opening.charge_to(account);
            return Self::local(Bytes::new());
        }
        account.complete = self.is_end_stream();
        Self { account: Some(account), ..self }
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
            account.complete |= frame.is_none() || ended;
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
        loop {
            return match Pin::new(&mut self.incoming).poll_frame(cx) {
                Poll::Pending => self.wait(cx),
                Poll::Ready(None) => {
                    self.finish();
                    Poll::Ready(None)
                }
                Poll::Ready(Some(Err(error))) => {
                    self.metrics.failed(UpstreamFailure::BodyCut);
                    tracing::debug!(error = %error, "the upstream's body broke off");
                    Poll::Ready(Some(Err(BodyError::Cut(error))))
                }
                // A client that takes little at a time may never leave us waiting for the upstream.
                Poll::Ready(Some(Ok(_))) if self.until.is_some_and(|until| Instant::now() >= until) => {
                    Poll::Ready(Some(Err(BodyError::Stalled)))
                }
                Poll::Ready(Some(Ok(frame))) if frame.is_data() => {
                    self.wait_until = None;
                    if self.incoming.is_end_stream() {
                        self.finish();
                    }
                    Poll::Ready(Some(Ok(frame)))
                }
                Poll::Ready(Some(Ok(_trailers))) => continue,
            };
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

    fn finish(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.finish();
        }
    }
}
