//! The bodies of requests on their way to the upstream: streamed, counted, bounded; what came back is sent again.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::HeaderName;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use crate::credential::Source;
use crate::http::overrides::is_one_of;
use crate::http::{headers, trailers};
use crate::server::{Incoming, Invitation};
use crate::settings::ByteSize;
use crate::upstream::{RequestContent, Unread};

use super::body::{BodyError, is_timeout};
use super::rewrite::FieldRules;
use super::upload::{Upload, UploadState};

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
