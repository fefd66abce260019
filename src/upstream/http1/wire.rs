//! The reading side of a connection, and what has been read of it and not yet been judged.
//!
//! An idle connection holds no buffer: what is kept of the bytes that were read is as large as it is.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::Response;
use tokio::io::{AsyncRead, ReadBuf, ReadHalf, WriteHalf};

use crate::http::framing::interim::Interims;
use crate::http::framing::{BadResponse, Part, Responses};
use crate::http::room;
use crate::upstream::dial::Socket;

pub(super) struct Wire {
    pub(super) side: Side,
    pub(super) rules: Responses,
    /// The beginning of a head that has not come to its end.
    held: BytesMut,
}

/// What of a connection is read from.
pub(super) enum Side {
    Whole(Socket),
    /// The rest of the request is still written, by somebody else.
    Read(ReadHalf<Socket>),
}

/// Why there is no more of a response.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error(transparent)]
    Bad(#[from] BadResponse),
    #[error("the connection closed before the end of the response")]
    Ended,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl AsyncRead for Side {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Whole(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Read(half) => Pin::new(half).poll_read(cx, buf),
        }
    }
}

impl Wire {
    pub(super) fn new(socket: Socket, rules: Responses) -> Self {
        Self { side: Side::Whole(socket), rules, held: BytesMut::new() }
    }

    /// Parts the writing side from it, once.
    pub(super) fn split(mut self: Box<Self>) -> (Box<Self>, Option<WriteHalf<Socket>>) {
        match self.side {
            Side::Whole(socket) => {
                let (reader, writer) = tokio::io::split(socket);
                self.side = Side::Read(reader);
                (self, Some(writer))
            }
            Side::Read(_) => (self, None),
        }
    }

    /// Looks at the socket once more before the first byte of a request: what is there now answers nothing that was
    /// asked, and must not be taken for this request's answer. Sees only what the reactor has seen.
    pub(super) fn look(&mut self, cx: &mut Context<'_>) -> Result<(), Fault> {
        let mut byte = [0];
        let mut probe = ReadBuf::new(&mut byte);
        match Pin::new(&mut self.side).poll_read(cx, &mut probe) {
            Poll::Pending => Ok(()),
            Poll::Ready(Err(error)) => Err(Fault::Io(error)),
            Poll::Ready(Ok(())) if probe.filled().is_empty() => Err(Fault::Bad(BadResponse::Closed)),
            Poll::Ready(Ok(())) => Err(Fault::Bad(BadResponse::Stray)),
        }
    }

    /// Reads until the head of the response is there, and gives it with what came behind it. Interim ones are told as they
    /// come.
    pub(super) fn poll_head(
        &mut self,
        interims: &Interims,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(Response<()>, Bytes), Fault>> {
        loop {
            while !self.held.is_empty() {
                match self.rules.next(&self.held)? {
                    Part::Partial => break,
                    Part::Interim(len, interim) => {
                        self.held.advance(len);
                        interim.into_iter().for_each(|interim| interims.push(interim));
                    }
                    Part::Head(len) => {
                        let block = std::mem::take(&mut self.held).freeze();
                        let response = self.rules.head(&block)?;
                        return Poll::Ready(Ok((response, block.slice(len..))));
                    }
                    // No head comes after anything else.
                    Part::Data(_) | Part::Framing(_) | Part::Trailers(..) => return Poll::Ready(Err(Fault::Ended)),
                }
            }
            let held = &mut self.held;
            let read = ready!(room::poll_through(&mut self.side, cx, |bytes| {
                held.extend_from_slice(bytes);
                bytes.len()
            }))?;
            if read == 0 {
                return Poll::Ready(Err(Fault::Ended));
            }
        }
    }

    /// Reads some content. Empty at the end of the connection.
    pub(super) fn poll_content(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        room::poll_content(&mut self.side, cx, self.rules.content_left())
    }
}
