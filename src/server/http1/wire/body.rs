//! The reading of a request's body, and what becomes of one that nobody wants.

use std::io;
use std::os::fd::AsFd;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use http_body::Frame;
use tokio::io::{AsyncRead, AsyncWrite};

use super::Wire;
use crate::http::framing::{Malformed, RequestPart};
use crate::http::room;
use crate::server::watch::Phase;

/// Pieces of a body that are shorter go on together with their neighbours, as far as those are there.
const GATHERED_BYTES: usize = 4 * 1024;

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

impl<S: AsyncRead + AsyncWrite + AsFd + Unpin> Wire<S> {
    /// Waits until the body of the present request has come, if somebody wants it still.
    pub(in crate::server::http1) fn poll_body_over(&mut self) -> Poll<()> {
        self.awaits_body = self.is_body_read();
        if self.awaits_body { Poll::Pending } else { Poll::Ready(()) }
    }

    /// The next piece of the body of request `ordinal`, its trailers, or `None` behind them.
    pub(in crate::server::http1) fn poll_body(
        &mut self,
        ordinal: u64,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let was_read = self.is_body_read();
        let polled = self.poll_piece(ordinal, cx);
        self.tell_body_over();
        // From now on it is the connection that has to see its client leave.
        if was_read && !self.is_body_read() {
            self.task.iter().filter(|task| !task.will_wake(cx.waker())).for_each(Waker::wake_by_ref);
        }
        polled
    }

    /// Whether somebody reads the present body.
    fn is_body_read(&self) -> bool {
        self.rules.is_in_body() && !self.is_abandoned && !self.is_spoilt
    }

    fn tell_body_over(&mut self) {
        if self.awaits_body && self.poll_body_over().is_ready() {
            self.task.iter().for_each(Waker::wake_by_ref);
        }
    }

    fn poll_piece(&mut self, ordinal: u64, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.rules.heads() != ordinal || self.is_spoilt {
            return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into())));
        }
        let mut gathered = BytesMut::new();
        loop {
            if self.rest.is_empty() || !self.rules.is_in_body() {
                if !gathered.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::data(gathered.freeze()))));
                }
                if !self.rules.is_in_body() {
                    return Poll::Ready(self.trailers.take().map(|fields| Ok(Frame::trailers(fields))));
                }
                if let Err(error) = ready!(self.poll_content(cx)) {
                    self.is_spoilt = true;
                    return Poll::Ready(Some(Err(error)));
                }
            }
            match self.rules.next(&self.rest) {
                Ok(RequestPart::Data(len))
                    if gathered.is_empty() && (len >= GATHERED_BYTES || len == self.rest.len()) =>
                {
                    return Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(len)))));
                }
                Ok(RequestPart::Data(len)) => {
                    gathered.extend_from_slice(&self.rest.split_to(len));
                    if gathered.len() >= GATHERED_BYTES {
                        return Poll::Ready(Some(Ok(Frame::data(gathered.freeze()))));
                    }
                }
                Ok(RequestPart::Framing(len) | RequestPart::Skip(len)) => self.rest.advance(len),
                Ok(RequestPart::Trailers(len, fields)) => {
                    self.rest.advance(len);
                    self.trailers = Some(fields).filter(|fields| !fields.is_empty());
                }
                // There again for the next call.
                Err(_) if !gathered.is_empty() => return Poll::Ready(Some(Ok(Frame::data(gathered.freeze())))),
                Err(malformed) => {
                    self.is_spoilt = true;
                    return Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::InvalidData, malformed))));
                }
                // No head comes within a body.
                Ok(RequestPart::Head(_) | RequestPart::Partial) => {
                    self.is_spoilt = true;
                    return Poll::Ready(Some(Err(io::ErrorKind::InvalidData.into())));
                }
            }
        }
    }

    /// Reads more of a body.
    fn poll_content(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(socket) = &mut self.socket else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
        if let Poll::Ready(read) = room::poll_content(&mut socket.socket, cx, self.rules.body_left()) {
            self.read_deadline = None;
            self.may_invite = false;
            self.watch.clear(Phase::Read);
            let read = read.and_then(|bytes| match bytes.is_empty() {
                true => Err(io::ErrorKind::UnexpectedEof.into()),
                false => Ok(bytes),
            });
            self.has_left = read.is_err();
            self.rest = read?;
            return Poll::Ready(Ok(()));
        }
        let deadline = *self.read_deadline.get_or_insert_with(|| self.watch.after(self.body_timeout));
        if self.watch.has_expired(deadline) {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, Malformed::BodyTimeout)));
        }
        let is_new = !self.watch.is_set(Phase::Read);
        self.watch.set(Phase::Read, deadline);
        let invites = std::mem::take(&mut self.may_invite);
        if invites {
            self.watch.say_first(CONTINUE);
        }
        if let Some(task) = self.task.as_ref().filter(|task| !task.will_wake(cx.waker())) {
            self.reader = Some(cx.waker().clone());
            if is_new || invites {
                task.wake_by_ref();
            }
        }
        Poll::Pending
    }

    /// The body of request `ordinal` is wanted by nobody any more.
    pub(in crate::server::http1) fn abandon(&mut self, ordinal: u64) {
        if self.rules.heads() == ordinal && self.rules.is_in_body() {
            self.is_abandoned = true;
            self.read_deadline = None;
            self.watch.clear(Phase::Read);
            self.tell_body_over();
        }
    }

    /// The response is there. What has come of a body that nobody wants is passed over, so that a request may follow it.
    pub(in crate::server::http1) fn answered(&mut self) {
        self.may_invite = false;
        while self.is_abandoned && self.rules.is_in_body() && !self.rest.is_empty() {
            match self.rules.next(&self.rest) {
                Ok(
                    RequestPart::Data(len)
                    | RequestPart::Framing(len)
                    | RequestPart::Skip(len)
                    | RequestPart::Trailers(len, _),
                ) => self.rest.advance(len),
                Ok(RequestPart::Head(_) | RequestPart::Partial) | Err(_) => {
                    self.is_spoilt = true;
                    return;
                }
            }
        }
    }
}
