//! Bodies in both directions: streamed, counted, bounded, never held.
//!
//! Invariant: a response body that did not reach its end is an error to the connection, so that no client takes a cut
//! body for a whole one.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderName, StatusCode};
use http_body_util::Full;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use crate::credential::Source;
use crate::http::framing::Malformed;
use crate::http::overrides::is_one_of;
use crate::http::trailers::TooLarge;
use crate::http::{headers, trailers};
use crate::metrics::UpstreamFailure;
use crate::server::{Incoming, IncomingError, Invitation, Timer};
use crate::settings::ByteSize;
use crate::upstream::{CutError, Lease, RequestContent, ResponseBody, Unread};

use super::account::Account;
use super::rewrite::FieldRules;
use super::tunnel::Opening;
use super::upload::{Upload, UploadState};

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

/// The body of a request on its way to the upstream.
pub struct RequestBody {
    incoming: Incoming,
    left: u64,
    /// `None`: there was nothing to send from the start.
    upload: Option<Arc<Upload>>,
    hidden: Hidden,
    /// For a client that may hold it back until it is asked for it.
    invitation: Option<Invitation>,
    /// What was sent to an upstream that gave it back.
    returned: Option<Returned>,
}

/// Fields of the trailers that the upstream must not get.
#[derive(Default)]
struct Hidden {
    /// A key may be in them.
    key_fields: Vec<Source>,
    /// The route sets or removes them.
    overridden: Vec<HeaderName>,
}

/// A body's beginning, to be sent again.
#[derive(Default)]
struct Returned {
    pieces: VecDeque<Bytes>,
    trailers: Option<http::HeaderMap>,
    bytes: u64,
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
        let upload = (!incoming.is_end_stream()).then(|| Arc::new(Upload::new(begun)));
        Ok(Self { incoming, left, upload, hidden: Hidden::default(), invitation: None, returned: None })
    }

    /// Sends `invitation` when the body is waited for first.
    pub(super) fn invite_with(&mut self, invitation: Option<Invitation>) {
        self.invitation = invitation;
    }

    /// Keeps the upstream from getting trailers that one of `sources` reads keys from, or that `rules` are about: what
    /// is true of a field is true of it behind the body.
    pub(super) fn hide<'s>(&mut self, sources: impl Iterator<Item = &'s Source>, rules: &FieldRules) {
        if !self.incoming.is_end_stream() {
            let in_fields = sources.filter(|source| matches!(source, Source::Header(_)));
            self.hidden.key_fields.extend(in_fields.cloned());
            self.hidden.overridden.extend(rules.names().cloned());
        }
    }

    /// How its sending goes; `None` when there is nothing to send.
    pub(super) fn upload(&self) -> Option<Arc<Upload>> {
        self.upload.clone()
    }

    fn progress(&self, state: UploadState) {
        if let Some(upload) = &self.upload {
            upload.progress(state);
        }
    }

    fn take(&mut self, piece: &Bytes) -> Result<(), BodyError> {
        let Some(left) = self.left.checked_sub(piece.len() as u64) else {
            self.progress(UploadState::TooLarge);
            return Err(BodyError::TooLarge);
        };
        self.left = left;
        self.progress(if self.incoming.is_end_stream() { UploadState::Done } else { UploadState::Running });
        Ok(())
    }

    fn take_trailers(&self, mut trailers: http::HeaderMap) -> Result<Frame<Bytes>, BodyError> {
        let Hidden { key_fields, overridden } = &self.hidden;
        let prepared = trailers::prepare_request(&mut trailers, |name| {
            headers::carries_key(name.as_str(), key_fields.iter()) || is_one_of(name, overridden)
        });
        self.progress(if prepared.is_ok() { UploadState::Done } else { UploadState::TooLarge });
        prepared?;
        Ok(Frame::trailers(trailers))
    }

    fn take_returned(&mut self) -> Option<Frame<Bytes>> {
        let returned = self.returned.as_mut()?;
        if let Some(piece) = returned.pieces.pop_front() {
            returned.bytes -= piece.len() as u64;
            return Some(Frame::data(piece));
        }
        self.returned.take()?.trailers.map(Frame::trailers)
    }
}

impl RequestContent for RequestBody {
    fn unread(&mut self, unread: Unread) {
        let Unread { pieces, trailers } = unread;
        if pieces.is_empty() && trailers.is_none() {
            return;
        }
        // What an earlier attempt gave back and this one did not come to follows.
        let returned = self.returned.get_or_insert_default();
        returned.bytes += pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
        for piece in pieces.into_iter().rev() {
            returned.pieces.push_front(piece);
        }
        returned.trailers = returned.trailers.take().or(trailers);
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.upload.as_ref().is_some_and(|upload| upload.poll_lost(cx).is_ready()) {
            self.progress(UploadState::Broken);
            return Poll::Ready(Some(Err(BodyError::Revoked)));
        }
        if let Some(frame) = self.take_returned() {
            return Poll::Ready(Some(Ok(frame)));
        }
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Pending => {
                if let Some(invitation) = self.invitation.take() {
                    invitation.send();
                }
                Poll::Pending
            }
            Poll::Ready(None) => {
                self.progress(UploadState::Done);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                let state = if is_timeout(&error) { UploadState::TimedOut } else { UploadState::Broken };
                self.progress(state);
                Poll::Ready(Some(Err(BodyError::Broken(error))))
            }
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(match frame.into_data() {
                Ok(piece) => self.take(&piece).map(|()| Frame::data(piece)),
                Err(frame) => self.take_trailers(frame.into_trailers().unwrap_or_default()),
            })),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.returned.is_none() && self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.incoming.size_hint();
        let returned = self.returned.as_ref().map_or(0, |returned| returned.bytes);
        match rest.exact() {
            Some(rest) => SizeHint::with_exact(rest + returned),
            None => rest,
        }
    }
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
