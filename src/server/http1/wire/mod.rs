//! A client's socket with what has been read of it and was not taken yet, and the deadline of each wait for the client.
//!
//! Whoever needs bytes reads them: the connection its heads, a request's body its own. An idle connection holds no buffer.
//!
//! Invariants: nothing is read beyond what is needed but once, to see a client leave; after what is invalid nothing is
//! read any more.

mod body;
mod socket;
mod writing;

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, Request};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::http::framing::{Malformed, RequestPart, Requests};
use crate::http::room;
use crate::server::connection::Silence;
use crate::server::settings::Client;
use crate::server::watch::{Moment, Phase, Watch};
use writing::Lingering;

pub(in crate::server) use socket::Socket;

/// What may come ahead of the answer to a request for a WebSocket and still lets its client be seen to leave.
const EARLY_BYTES_MAX: usize = 16 * 1024;

pub(super) struct Wire<S: AsFd> {
    /// `None` once the connection is closed or belongs to a tunnel.
    socket: Option<Socket<S>>,
    rules: Requests,
    /// The start of a head that has not come to its end.
    held: BytesMut,
    /// What was read and nobody has taken. Empty while a head is held.
    rest: Bytes,
    /// How long the present request's head was.
    head_bytes: usize,
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
    /// Whether it closed its side, or the connection broke, within a body.
    has_left: bool,
    /// Whether the present body is wanted by nobody any more.
    is_abandoned: bool,
    /// Whether the connection waits for the end of the present body.
    awaits_body: bool,
    /// Whether the client is to be asked for the present body once that is waited for.
    may_invite: bool,
    /// The rest of the interim responses that have begun.
    aside: Bytes,
    /// Whether what was written of them may wait in the socket.
    is_aside_unflushed: bool,
    /// Of the connection's task.
    task: Option<Waker>,
    /// Of whoever waits for the present body, in a task of its own.
    reader: Option<Waker>,
    lingering: Option<Lingering>,
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
            head_bytes: 0,
            trailers: None,
            watch,
            header_timeout: client.header_timeout,
            body_timeout: client.body_timeout,
            write_timeout: client.write_timeout,
            read_deadline: None,
            write_deadline: None,
            is_spoilt: false,
            has_left: false,
            is_abandoned: false,
            awaits_body: false,
            may_invite: false,
            aside: Bytes::new(),
            is_aside_unflushed: false,
            task: None,
            reader: None,
            lingering: None,
        }
    }

    pub(super) fn rules(&self) -> &Requests {
        &self.rules
    }

    pub(super) fn head_bytes(&self) -> usize {
        self.head_bytes
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
                    self.may_invite = self.rules.awaits_invitation() && self.rules.is_in_body() && self.rest.is_empty();
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
                    self.head_bytes = len;
                    let head = self.rest.split_to(len);
                    return self.rules.head(&head).map(Some);
                }
                RequestPart::Head(len) => {
                    self.head_bytes = len;
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
                    // The time for a head begins with its first byte.
                    self.read_deadline = None;
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

    /// As [`Self::poll_gone`], for whoever has an answer under way already: a client that broke off its body has left too.
    pub(super) fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.has_left { Poll::Ready(()) } else { self.poll_gone(cx) }
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
