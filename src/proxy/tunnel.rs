//! A request that became a tunnel: bytes both ways between client and upstream, until either end, silence or the key.
//!
//! Holds what the request held, its account and its place in the key's limit, for as long as it lives. Reads nothing of
//! what passes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::header::{CONNECTION, HeaderMap, HeaderValue, UPGRADE};
use http::{Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http::{Refusal, headers};
use crate::server::{self, ClientSocket, Exchange};
use crate::upstream::{Lease, ResponseBody, Switched};

use super::account::Account;
use super::body::Body;

/// What each direction may have in hand: a slow side slows the other, and nothing else grows.
const BUFFER_BYTES: usize = 16 * 1024;

/// Makes a request one that asks for a WebSocket.
pub(super) fn ask(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

/// A tunnel whose client has not been told yet.
pub(super) struct Opening {
    upstream: Switched,
    lease: Lease,
    exchange: Exchange,
}

/// Takes over the connection of an upstream that has switched protocols.
///
/// # Errors
/// When it has not.
pub(super) fn open(
    mut response: Response<ResponseBody>,
    lease: Lease,
    exchange: &Exchange,
) -> Result<Response<Body>, Refusal> {
    let upstream = response.body_mut().take_switched().ok_or(Refusal::UpstreamInvalid)?;
    let opening = Opening { upstream, lease, exchange: exchange.clone() };
    let (mut parts, _empty) = response.into_parts();
    headers::prepare_response(&mut parts.headers);
    ask(&mut parts.headers);
    let mut answer = Response::from_parts(parts, Body::tunnel(opening));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    Ok(answer)
}

impl Opening {
    /// The connection belongs to the tunnel from now on, and the request with it.
    pub(super) fn charge_to(self, account: Box<Account>) {
        let Self { upstream, lease, exchange } = self;
        let tunnel =
            Tunnel { account, upstream, up: Flow::new(), down: Flow::new(), exchange: exchange.clone(), _lease: lease };
        exchange.switch_to(Box::new(tunnel));
    }
}

struct Tunnel {
    account: Box<Account>,
    upstream: Switched,
    up: Flow,
    down: Flow,
    exchange: Exchange,
    /// Never given back: what the connection is used for is nothing that another request could follow.
    _lease: Lease,
}

impl server::Tunnel for Tunnel {
    fn poll(&mut self, client: &mut dyn ClientSocket, cx: &mut Context<'_>) -> Poll<()> {
        let is_lost = self.account.run.as_ref().is_some_and(|run| run.poll_lost(cx).is_ready());
        if is_lost {
            self.exchange.timer().reset_connection();
            return Poll::Ready(());
        }
        let up = self.up.poll(client, &mut self.upstream, cx);
        let down = self.down.poll(&mut self.upstream, client, cx);
        self.account.received = Some(self.up.moved);
        self.account.bytes = self.down.moved;
        match (up, down) {
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => {
                self.account.complete = true;
                Poll::Ready(())
            }
            (Poll::Ready(Err(error)), _) | (_, Poll::Ready(Err(error))) => {
                tracing::debug!(error = %error, "a tunnel broke");
                self.exchange.timer().reset_connection();
                Poll::Ready(())
            }
            _ => Poll::Pending,
        }
    }
}

/// One direction: at most one buffer of bytes on their way.
struct Flow {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Bytes that were passed on.
    moved: u64,
    stage: Stage,
    is_unflushed: bool,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Stage {
    Done,
    /// The reading side has ended; what is in hand is passed on, and then the end.
    Ending,
    Running,
}

impl Flow {
    fn new() -> Self {
        let buffer = vec![0; BUFFER_BYTES].into_boxed_slice();
        Self { buffer, start: 0, end: 0, moved: 0, stage: Stage::Running, is_unflushed: false }
    }

    /// Ready once the end of `from` has been passed on to `to`, and at every later poll.
    fn poll<R, W>(&mut self, from: &mut R, to: &mut W, cx: &mut Context<'_>) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin + ?Sized,
        W: AsyncWrite + Unpin + ?Sized,
    {
        loop {
            while self.start < self.end {
                let rest = &self.buffer[self.start..self.end];
                let written = ready!(Pin::new(&mut *to).poll_write(cx, rest))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.start += written;
                self.moved += written as u64;
                self.is_unflushed = true;
            }
            match self.stage {
                Stage::Done => return Poll::Ready(Ok(())),
                Stage::Ending => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                    self.stage = Stage::Done;
                }
                Stage::Running => {
                    if self.poll_fill(from, cx)?.is_pending() {
                        ready!(self.poll_flush(to, cx))?;
                        return Poll::Pending;
                    }
                }
            }
        }
    }

    fn poll_fill<R: AsyncRead + Unpin + ?Sized>(&mut self, from: &mut R, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut buf = ReadBuf::new(&mut self.buffer);
        ready!(Pin::new(from).poll_read(cx, &mut buf))?;
        (self.start, self.end) = (0, buf.filled().len());
        if self.end == 0 {
            self.stage = Stage::Ending;
        }
        Poll::Ready(Ok(()))
    }

    /// Only when nothing more is there to be sent with it.
    fn poll_flush<W: AsyncWrite + Unpin + ?Sized>(&mut self, to: &mut W, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_unflushed {
            ready!(Pin::new(to).poll_flush(cx))?;
            self.is_unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}
