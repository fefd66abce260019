//! The writing of one request: its head, and its body as that comes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::request::Parts;
use http::{HeaderMap, HeaderName};
use tokio::io::AsyncWrite;

use super::head::{self, Framing};
use crate::upstream::RequestContent;
use crate::upstream::upload::{Broken, Unread};

/// A piece so short goes into the buffer of what is written before it.
const SHORT_BYTES: usize = 2 * 1024;

pub(super) struct Sending<B> {
    body: B,
    framing: Framing,
    announced: Vec<HeaderName>,
    queue: Queue,
    /// Bytes that the socket has taken.
    written: u64,
    /// Whether the body has been asked for everything.
    is_last: bool,
    is_unflushed: bool,
    /// The piece that was read before anything was written: that much can be given back.
    first: Option<Bytes>,
}

/// Why a request could not be written to its end.
#[derive(Debug)]
pub(super) enum SendError {
    /// The request's own body broke off, or is not what its head says.
    Broken(Broken),
    Io(io::Error),
}

impl<B: RequestContent> Sending<B> {
    pub(super) fn new(parts: &Parts, body: B) -> Self {
        let is_bare = body.is_end_stream();
        let framing = if is_bare { Framing::Sized(0) } else { Framing::of(&body) };
        let announced = if framing == Framing::Chunked { head::announced(&parts.headers) } else { Vec::new() };
        let queue = Queue { front: head::encode(parts, framing, is_bare), ..Queue::default() };
        Self { body, framing, announced, queue, written: 0, is_last: is_bare, is_unflushed: false, first: None }
    }

    /// Whether no byte of the request has been written, so that it cannot have been acted on.
    pub(super) fn is_untouched(&self) -> bool {
        self.written == 0
    }

    /// Bytes that the socket has taken.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Whether there is nothing left to write.
    pub(super) fn is_over(&self) -> bool {
        self.is_last && self.queue.is_empty() && !self.is_unflushed
    }

    /// Whether as much of the body has come as its head says, and not yet its end. An upstream would take the request for
    /// whole, and a client may still break it off or send more.
    fn is_undecided(&self) -> bool {
        self.framing == Framing::Sized(0) && !self.is_last
    }

    /// The body as it was, of a request that is untouched.
    pub(super) fn into_body(mut self) -> B {
        if let Some(piece) = self.first.take() {
            self.body.unread(Unread { pieces: vec![piece], trailers: None });
        }
        self.body
    }

    /// Writes what there is. Ready when all of it is written.
    pub(super) fn poll<W: AsyncWrite + Unpin>(
        &mut self,
        socket: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), SendError>> {
        loop {
            let asks = !self.is_last && (self.queue.has_room() || self.is_undecided());
            let body = if asks { self.poll_body(cx)? } else { Poll::Ready(()) };
            if !self.queue.is_empty() && !self.is_undecided() {
                let written = ready!(self.queue.poll_write(socket, cx)).map_err(SendError::Io)?;
                self.written += written as u64;
                self.is_unflushed = true;
                self.first = None;
                continue;
            }
            if self.is_unflushed && (self.is_last || body.is_pending()) {
                ready!(Pin::new(&mut *socket).poll_flush(cx)).map_err(SendError::Io)?;
                self.is_unflushed = false;
            }
            if self.is_last {
                return Poll::Ready(Ok(()));
            }
            // As long as it has more: what waits to be written waits for its end.
            ready!(body);
        }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, SendError> {
        let frame = match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(None) => {
                self.end(None)?;
                return Ok(Poll::Ready(()));
            }
            Poll::Ready(Some(Err(_))) => return Err(SendError::Broken(Broken)),
            Poll::Ready(Some(Ok(frame))) => frame,
        };
        match frame.into_data() {
            Ok(piece) => {
                if self.written == 0 {
                    self.first = Some(piece.clone());
                }
                self.put(piece)?;
                if self.body.is_end_stream() {
                    self.end(None)?;
                }
            }
            Err(frame) => {
                let trailers = frame.into_trailers().unwrap_or_default();
                self.end(Some(&trailers))?;
            }
        }
        Ok(Poll::Ready(()))
    }

    fn put(&mut self, piece: Bytes) -> Result<(), SendError> {
        if piece.is_empty() {
            return Ok(());
        }
        match &mut self.framing {
            Framing::Sized(left) => {
                // A body longer than its head says would be the next request.
                *left = left.checked_sub(piece.len() as u64).ok_or(SendError::Broken(Broken))?;
                self.queue.put(piece, b"");
            }
            Framing::Chunked => {
                self.queue.front.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                self.queue.put(piece, b"\r\n");
            }
        }
        Ok(())
    }

    fn end(&mut self, trailers: Option<&HeaderMap>) -> Result<(), SendError> {
        self.is_last = true;
        match self.framing {
            Framing::Sized(0) => {}
            Framing::Sized(_) => return Err(SendError::Broken(Broken)),
            Framing::Chunked => self.queue.last = head::last_chunk(trailers, &self.announced),
        }
        Ok(())
    }
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
