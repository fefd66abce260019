//! A client's socket with what has been read of it and was not taken yet, and the deadline of each wait for the client.
//!
//! Whoever needs bytes reads them: the connection its heads, a request's body its own. An idle connection holds no buffer.
//!
//! Invariants: nothing is read beyond what is needed but once, to see a client leave; after what is invalid nothing is
//! read any more.

use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, Request};
use http_body::Frame;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http::framing::{Malformed, RequestPart, Requests};
use crate::http::outgoing::Outgoing;
use crate::http::room;
use crate::server::connection::Silence;
use crate::server::settings::Client;
use crate::server::watch::{Moment, Phase, Watch};

/// How long, and how much, to go on reading from a client that should stop sending, so that our last response is not
/// lost to a reset (RFC 9112 §9.6).
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 16 << 20;

/// Pieces of a body that are shorter go on together with their neighbours, as far as those are there.
const GATHERED_BYTES: usize = 4 * 1024;

/// What may come ahead of the answer to a request for a WebSocket and still lets its client be seen to leave.
const EARLY_BYTES_MAX: usize = 16 * 1024;

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A socket that ends in a reset where its connection must.
pub(in crate::server) struct Socket<S: AsFd> {
    socket: S,
    watch: Arc<Watch>,
}

pub(super) struct Wire<S: AsFd> {
    /// `None` once the connection is closed or belongs to a tunnel.
    socket: Option<Socket<S>>,
    rules: Requests,
    /// The start of a head that has not come to its end.
    held: BytesMut,
    /// What was read and nobody has taken. Empty while a head is held.
    rest: Bytes,
    /// The trailers of the present body, behind the last of its data.
    trailers: Option<HeaderMap>,
    watch: Arc<Watch>,
    header_timeout: Duration,
    body_timeout: Duration,
    write_timeout: Duration,
    /// Of the head or the silence in a body that is being waited for; survives dribbled bytes of a head.
    read_deadline: Option<Moment>,
    write_deadline: Option<Moment>,
    /// Whether nothing that the client sends can be gone on with: it was invalid, came too late or broke off.
    is_spoilt: bool,
    /// Whether the present body is wanted by nobody any more.
    is_abandoned: bool,
    /// Whether the connection waits for the end of the present body.
    awaits_body: bool,
    /// Whether the client is to be asked for the present body once that is waited for.
    may_invite: bool,
    /// The rest of the interim responses that have begun.
    aside: Bytes,
    /// Of the connection's task.
    task: Option<Waker>,
    /// Of whoever waits for the present body, in a task of its own.
    reader: Option<Waker>,
    lingering: Option<Lingering>,
}

struct Lingering {
    deadline: Moment,
    bytes_left: usize,
}

/// What a client has begun.
#[expect(clippy::large_enum_variant, reason = "moved twice, and nearly always the largest")]
pub(super) enum Begun {
    Request(Request<()>),
    /// What it sent is none, or did not come to its end in time.
    Malformed(Malformed),
    /// It left, or said nothing for too long.
    Nothing,
}

impl<S: AsyncRead + AsyncWrite + AsFd + Unpin> Wire<S> {
    pub(super) fn new(socket: S, client: &Client, watch: Arc<Watch>) -> Self {
        Self {
            socket: Some(Socket { socket, watch: Arc::clone(&watch) }),
            rules: Requests::new(client.request_limits()),
            held: BytesMut::new(),
            rest: Bytes::new(),
            trailers: None,
            watch,
            header_timeout: client.header_timeout,
            body_timeout: client.body_timeout,
            write_timeout: client.write_timeout,
            read_deadline: None,
            write_deadline: None,
            is_spoilt: false,
            is_abandoned: false,
            awaits_body: false,
            may_invite: false,
            aside: Bytes::new(),
            task: None,
            reader: None,
            lingering: None,
        }
    }

    pub(super) fn rules(&self) -> &Requests {
        &self.rules
    }

    /// Whether another request can follow what has come.
    pub(super) fn can_go_on(&self) -> bool {
        !self.is_spoilt && !self.rules.is_in_body() && self.rules.keeps_alive()
    }

    /// `waker` wakes the connection's task; only the first one counts.
    pub(super) fn set_task(&mut self, waker: &Waker) {
        self.task.get_or_insert_with(|| waker.clone());
    }

    /// Has whoever waits for the body in another task look at its deadline.
    pub(super) fn wake_reader(&mut self) {
        self.reader.take().into_iter().for_each(Waker::wake);
    }

    /// Waits for the next request, no longer than `silence` and the time for a head allow.
    pub(super) fn poll_request(&mut self, silence: &mut Silence, cx: &mut Context<'_>) -> Poll<Begun> {
        loop {
            match self.next_request() {
                Ok(None) => {}
                Ok(Some(request)) => {
                    self.read_deadline = None;
                    self.watch.clear(Phase::Read);
                    self.is_abandoned = false;
                    self.may_invite = self.rules.awaits_invitation() && self.rules.is_in_body();
                    return Poll::Ready(Begun::Request(request));
                }
                Err(malformed) => return Poll::Ready(self.refuse(malformed)),
            }
            match self.poll_fill(cx) {
                Poll::Ready(Ok(count)) if count > 0 => {}
                Poll::Ready(_) => return Poll::Ready(Begun::Nothing),
                Poll::Pending => {
                    let is_begun = !self.held.is_empty();
                    let deadline = match is_begun {
                        true => *self.read_deadline.get_or_insert_with(|| self.watch.after(self.header_timeout)),
                        false => silence.deadline(&self.watch, self.rules.heads()),
                    };
                    if !self.watch.has_expired(deadline) {
                        self.watch.set(Phase::Read, deadline);
                        return Poll::Pending;
                    }
                    return Poll::Ready(if is_begun { self.refuse(Malformed::HeadTimeout) } else { Begun::Nothing });
                }
            }
        }
    }

    fn refuse(&mut self, malformed: Malformed) -> Begun {
        self.is_spoilt = true;
        self.read_deadline = None;
        self.watch.clear(Phase::Read);
        Begun::Malformed(malformed)
    }

    /// The request that what was read begins with, if its head is all there.
    fn next_request(&mut self) -> Result<Option<Request<()>>, Malformed> {
        loop {
            let bytes: &[u8] = if self.held.is_empty() { &self.rest } else { &self.held };
            if bytes.is_empty() {
                return Ok(None);
            }
            match self.rules.next(bytes)? {
                RequestPart::Head(len) if self.held.is_empty() => {
                    let head = self.rest.split_to(len);
                    return self.rules.head(&head).map(Some);
                }
                RequestPart::Head(len) => {
                    let mut head = std::mem::take(&mut self.held).freeze();
                    self.rest = head.split_off(len);
                    return self.rules.head(&head).map(Some);
                }
                RequestPart::Partial => {
                    if self.held.is_empty() {
                        self.held.extend_from_slice(&self.rest);
                        self.rest = Bytes::new();
                    }
                    return Ok(None);
                }
                RequestPart::Skip(len)
                | RequestPart::Data(len)
                | RequestPart::Framing(len)
                | RequestPart::Trailers(len, _) => {
                    if self.held.is_empty() {
                        self.rest.advance(len);
                    } else {
                        self.held.advance(len);
                    }
                }
            }
        }
    }

    /// Reads more, to be called when `rest` is empty. Nothing at the end of the stream.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(socket) = &mut self.socket else { return Poll::Ready(Ok(0)) };
        let (held, rest) = (&mut self.held, &mut self.rest);
        room::poll_through(&mut socket.socket, cx, |bytes| {
            if held.is_empty() {
                *rest = Bytes::copy_from_slice(bytes);
            } else {
                held.extend_from_slice(bytes);
            }
            bytes.len()
        })
    }

    /// Looks whether the client has left while it waits. What it sends ahead is kept, and then it is not seen to leave.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let may_hold = if self.rules.asks_for_websocket() { EARLY_BYTES_MAX } else { 1 };
        while !self.is_spoilt && !self.rules.is_in_body() && self.rest.len() < may_hold {
            let before = std::mem::take(&mut self.rest);
            let filled = self.poll_fill(cx);
            if !before.is_empty() {
                self.rest = [before, std::mem::take(&mut self.rest)].concat().into();
            }
            match ready!(filled) {
                Ok(count) if count > 0 => {}
                Ok(_) | Err(_) => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }

    /// Waits until the body of the present request has come, if somebody wants it still.
    pub(super) fn poll_body_over(&mut self) -> Poll<()> {
        self.awaits_body = self.rules.is_in_body() && !self.is_abandoned && !self.is_spoilt;
        if self.awaits_body { Poll::Pending } else { Poll::Ready(()) }
    }

    /// The next piece of the body of request `ordinal`, its trailers, or `None` behind them.
    pub(super) fn poll_body(&mut self, ordinal: u64, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let polled = self.poll_piece(ordinal, cx);
        self.tell_body_over();
        polled
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
            self.rest = read?;
            self.read_deadline = None;
            self.may_invite = false;
            self.watch.clear(Phase::Read);
            return Poll::Ready(if self.rest.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) });
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
    pub(super) fn abandon(&mut self, ordinal: u64) {
        if self.rules.heads() == ordinal && self.rules.is_in_body() {
            self.is_abandoned = true;
            self.read_deadline = None;
            self.watch.clear(Phase::Read);
            self.tell_body_over();
        }
    }

    /// The response is there. What has come of a body that nobody wants is passed over, so that a request may follow it.
    pub(super) fn answered(&mut self) {
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

    /// Keeps the write deadline: set when the client takes nothing, gone when it takes something.
    fn written<T>(&mut self, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            if self.write_deadline.take().is_some() {
                self.watch.clear(Phase::Write);
            }
            return poll;
        }
        let deadline = *self.write_deadline.get_or_insert_with(|| self.watch.after(self.write_timeout));
        if self.watch.has_expired(deadline) {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "client takes nothing of the response")));
        }
        self.watch.set(Phase::Write, deadline);
        Poll::Pending
    }

    /// Writes some of a response.
    pub(super) fn poll_write(&mut self, outgoing: &mut Outgoing, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(socket) = &mut self.socket else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
        let poll = outgoing.poll_write(&mut socket.socket, cx);
        self.written(poll)
    }

    /// Flushes what was written of a response.
    pub(super) fn poll_flush(&mut self, outgoing: &mut Outgoing, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(socket) = &mut self.socket else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
        let poll = outgoing.poll_flush(&mut socket.socket, cx);
        self.written(poll)
    }

    /// Sends the interim responses that there are, while there is no final one.
    pub(super) fn poll_aside(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.aside.is_empty() && !self.watch.has_aside() {
            return Poll::Ready(Ok(()));
        }
        loop {
            if self.aside.is_empty() {
                self.aside = self.watch.take_aside();
            }
            let Some(socket) = &mut self.socket else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
            if self.aside.is_empty() {
                let poll = Pin::new(&mut socket.socket).poll_flush(cx);
                return self.written(poll);
            }
            let poll = Pin::new(&mut socket.socket).poll_write(cx, &self.aside);
            match ready!(self.written(poll))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.aside.advance(count),
            }
        }
    }

    /// What is left of the interim responses, to be sent before the final one.
    pub(super) fn take_aside(&mut self) -> Vec<u8> {
        let mut aside = Vec::from(std::mem::take(&mut self.aside));
        if self.watch.has_aside() {
            aside.extend_from_slice(&self.watch.take_aside());
        }
        aside
    }

    /// Ends the connection in order: says so, and reads for a while what was under way.
    pub(super) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.watch.is_cut() {
            return Poll::Ready(());
        }
        if self.lingering.is_none() {
            let Some(socket) = &mut self.socket else { return Poll::Ready(()) };
            let poll = Pin::new(&mut socket.socket).poll_shutdown(cx);
            if ready!(self.written(poll)).is_err() {
                return Poll::Ready(());
            }
        }
        self.poll_linger(cx)
    }

    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let is_on_its_way = !self.rest.is_empty() || !self.held.is_empty();
        let owes_more = self.is_spoilt || self.rules.is_in_body() || is_on_its_way;
        let Some(socket) = &mut self.socket else { return Poll::Ready(()) };
        let lingering = self.lingering.get_or_insert_with(|| Lingering {
            deadline: self.watch.after(LINGER_TIMEOUT),
            bytes_left: LINGER_BYTES_MAX,
        });
        while lingering.bytes_left > 0 {
            match room::poll_through(&mut socket.socket, cx, <[u8]>::len) {
                Poll::Ready(Ok(count)) if count > 0 => {
                    lingering.bytes_left = lingering.bytes_left.saturating_sub(count);
                }
                Poll::Ready(_) => break,
                // A client that owes nothing may stay silent for long: its side closes when it sees ours closed.
                Poll::Pending if !owes_more || self.watch.has_expired(lingering.deadline) => break,
                Poll::Pending => {
                    self.watch.set(Phase::Read, lingering.deadline);
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(())
    }

    /// The socket and what was read ahead of it, for a tunnel.
    pub(super) fn take(&mut self) -> Option<(Socket<S>, Bytes)> {
        self.socket.take().map(|socket| (socket, std::mem::take(&mut self.rest)))
    }
}

impl<S: AsFd> Wire<S> {
    /// Ends the connection at once, whoever may still hold its wire.
    pub(super) fn close(&mut self) {
        // One that was never begun: it may hold what holds the watch.
        drop(self.watch.take_tunnel());
        self.socket = None;
        self.rest = Bytes::new();
        self.is_spoilt = true;
        self.reader.take().into_iter().for_each(Waker::wake);
    }
}

impl<S: AsFd> Drop for Socket<S> {
    fn drop(&mut self) {
        if self.watch.is_cut() {
            // Closing then sends a reset. When it cannot be asked for there is nothing else to try.
            let _ = SockRef::from(&self.socket).set_linger(Some(Duration::ZERO));
        }
    }
}

impl<S: AsyncRead + AsFd + Unpin> AsyncRead for Socket<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + AsFd + Unpin> AsyncWrite for Socket<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
