//! An HTTP/1 message on its way out, in either direction: its body's framing, and what waits to be written.
//!
//! Invariant: a body never writes more than its head says, and never looks whole when it is not.

use std::io::{self, IoSlice, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::header::TRAILER;
use http::{HeaderMap, HeaderName};
use tokio::io::AsyncWrite;

/// A piece so short goes into the buffer of what is written before it.
const SHORT_BYTES: usize = 2 * 1024;

/// How a body is sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Framing {
    Chunked,
    /// So many bytes more.
    Sized(u64),
    /// To a client of HTTP/1.0: the connection ends with it.
    UntilClose,
}

/// A body that is not what its head says: the connection must end.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the body is not what its head says")]
pub struct Misfit;

/// One message.
pub struct Outgoing {
    framing: Framing,
    /// Trailers that may follow.
    announced: Vec<HeaderName>,
    queue: Queue,
    /// Bytes that the socket has taken.
    written: u64,
    /// Whether the body has said its end.
    is_last: bool,
    is_unflushed: bool,
}

impl Outgoing {
    /// `head` is written first. `is_bare`: nothing follows it.
    pub fn new(head: Vec<u8>, framing: Framing, announced: Vec<HeaderName>, is_bare: bool) -> Self {
        let queue = Queue { front: head, ..Queue::default() };
        Self { framing, announced, queue, written: 0, is_last: is_bare, is_unflushed: false }
    }

    /// Bytes that the socket has taken.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Whether the body has said its end.
    pub fn is_last(&self) -> bool {
        self.is_last
    }

    /// Whether everything that was put is written, be it flushed or not.
    pub fn is_written(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether there is nothing left to do.
    pub fn is_over(&self) -> bool {
        self.is_last && self.queue.is_empty() && !self.is_unflushed
    }

    /// Whether as much of the body has come as its head says, and not yet its end. Its receiver would take the message
    /// for whole, and its sender may still break it off or send more.
    pub fn is_undecided(&self) -> bool {
        self.framing == Framing::Sized(0) && !self.is_last
    }

    /// Whether another piece can follow what waits.
    pub fn has_room(&self) -> bool {
        self.queue.has_room()
    }

    /// Takes a piece of the body.
    ///
    /// # Errors
    /// When it is longer than its head says: the rest would be the next message.
    pub fn put(&mut self, piece: Bytes) -> Result<(), Misfit> {
        if piece.is_empty() {
            return Ok(());
        }
        match &mut self.framing {
            Framing::Sized(left) => {
                *left = left.checked_sub(piece.len() as u64).ok_or(Misfit)?;
                self.queue.put(piece, b"");
            }
            Framing::Chunked => {
                // Into a vector, which takes everything.
                let _ = write!(self.queue.front, "{:x}\r\n", piece.len());
                self.queue.put(piece, b"\r\n");
            }
            Framing::UntilClose => self.queue.put(piece, b""),
        }
        Ok(())
    }

    /// The body has ended. Of `trailers` those are sent that the head has announced (RFC 9110 §6.6.2).
    ///
    /// # Errors
    /// When it is shorter than its head says.
    pub fn end(&mut self, trailers: Option<&HeaderMap>) -> Result<(), Misfit> {
        self.is_last = true;
        match self.framing {
            Framing::Sized(0) | Framing::UntilClose => {}
            Framing::Sized(_) => return Err(Misfit),
            Framing::Chunked => self.queue.last = last_chunk(trailers, &self.announced),
        }
        Ok(())
    }

    /// Writes some of what waits; there must be something.
    ///
    /// # Errors
    /// The socket's.
    pub fn poll_write<W: AsyncWrite + Unpin>(&mut self, socket: &mut W, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let written = ready!(self.queue.poll_write(socket, cx))?;
        self.written += written as u64;
        self.is_unflushed = true;
        Poll::Ready(Ok(()))
    }

    /// Flushes what was written, unless that was done.
    ///
    /// # Errors
    /// The socket's.
    pub fn poll_flush<W: AsyncWrite + Unpin>(&mut self, socket: &mut W, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_unflushed {
            ready!(Pin::new(socket).poll_flush(cx))?;
            self.is_unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

/// The fields that a head announces for behind its body.
pub fn announced(headers: &HeaderMap) -> Vec<HeaderName> {
    let names = headers.get_all(TRAILER).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    names.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok()).collect()
}

/// Appends a field's line.
pub fn put_field(head: &mut Vec<u8>, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        head.extend_from_slice(part);
    }
}

/// What ends a chunked body.
fn last_chunk(trailers: Option<&HeaderMap>, announced: &[HeaderName]) -> Vec<u8> {
    let mut end = b"0\r\n".to_vec();
    for (name, value) in trailers.into_iter().flatten() {
        if announced.contains(name) {
            put_field(&mut end, name.as_str(), value.as_bytes());
        }
    }
    end.extend_from_slice(b"\r\n");
    end
}

/// What waits to be written, in this order.
#[derive(Default)]
struct Queue {
    front: Vec<u8>,
    /// Bytes of `front` that are written.
    at: usize,
    piece: Bytes,
    behind: &'static [u8],
    last: Vec<u8>,
    last_at: usize,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.rests().iter().all(|rest| rest.is_empty())
    }

    /// Whether another piece can follow what is there.
    fn has_room(&self) -> bool {
        self.piece.is_empty() && self.behind.is_empty() && self.last.is_empty() && self.front.len() < SHORT_BYTES
    }

    fn put(&mut self, piece: Bytes, behind: &'static [u8]) {
        if piece.len() <= SHORT_BYTES {
            self.front.extend_from_slice(&piece);
            self.front.extend_from_slice(behind);
        } else {
            (self.piece, self.behind) = (piece, behind);
        }
    }

    fn rests(&self) -> [&[u8]; 4] {
        [&self.front[self.at..], &self.piece, self.behind, &self.last[self.last_at..]]
    }

    fn poll_write<W: AsyncWrite + Unpin>(&mut self, socket: &mut W, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let rests = self.rests();
        let mut filled = rests.iter().filter(|rest| !rest.is_empty());
        let polled = match (filled.next(), filled.next()) {
            (Some(only), None) => Pin::new(socket).poll_write(cx, only),
            _ => Pin::new(socket).poll_write_vectored(cx, &rests.map(IoSlice::new)),
        };
        let written = ready!(polled)?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.advance(written);
        Poll::Ready(Ok(written))
    }

    fn advance(&mut self, mut written: usize) {
        let mut take = |len: usize| {
            let taken = written.min(len);
            written -= taken;
            taken
        };
        self.at += take(self.front.len() - self.at);
        let of_piece = take(self.piece.len());
        self.piece.advance(of_piece);
        let of_behind = take(self.behind.len());
        self.behind = &self.behind[of_behind..];
        self.last_at += take(self.last.len() - self.last_at);
        if self.at == self.front.len() {
            (self.at, self.front) = (0, Vec::new());
        }
        if self.piece.is_empty() {
            // An empty one may still keep its buffer.
            self.piece = Bytes::new();
        }
    }
}
