//! A socket that counts its bytes, so that others can tell whether anything moved, and the frames that an upstream wants
//! answered: h2 answers however many come.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::dial::Socket;
use super::http2::State;
use crate::http::framing::allowance::Allowance;
use crate::http::framing::frames::{Event, Frame, FrameKind, Frames, PREFACE};
use crate::settings::Rate;

pub(super) struct Metered {
    socket: Socket,
    state: Arc<State>,
    answered: Answered,
}

impl Metered {
    pub(super) fn new(socket: Socket, state: Arc<State>, control_frames: Rate) -> Self {
        Self { socket, state, answered: Answered::new(control_frames) }
    }
}

/// What an upstream may have answered: so many pings and settings, and a ping for each piece of a request, since servers
/// that speak gRPC send one with whatever they get.
struct Answered {
    allowance: Allowance,
    read: Frames,
    written: Frames,
    preface_left: usize,
}

impl Answered {
    fn new(rate: Rate) -> Self {
        Self {
            allowance: Allowance::new(rate, Instant::now()),
            read: Frames::default(),
            written: Frames::default(),
            preface_left: PREFACE.len(),
        }
    }

    fn read(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while self.read.can_step(bytes) {
            let (taken, event) = self.read.step(bytes);
            bytes = &bytes[taken..];
            if matches!(event, Some(Event::Begins(frame)) if is_answered(frame)) && !self.allowance.take(Instant::now) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "too many pings and settings"));
            }
        }
        Ok(())
    }

    fn wrote(&mut self, bytes: &[u8]) {
        let of_preface = self.preface_left.min(bytes.len());
        self.preface_left -= of_preface;
        let mut bytes = &bytes[of_preface..];
        while self.written.can_step(bytes) {
            let (taken, event) = self.written.step(bytes);
            bytes = &bytes[taken..];
            if let Some(Event::Begins(Frame { kind: FrameKind::Data | FrameKind::Headers, .. })) = event {
                self.allowance.grant(1);
            }
        }
    }
}

fn is_answered(frame: Frame) -> bool {
    matches!(frame.kind, FrameKind::Ping | FrameKind::Settings) && !frame.is_ack()
}

impl AsyncRead for Metered {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let poll = Pin::new(&mut this.socket).poll_read(cx, buf);
        let read = &buf.filled()[before..];
        this.state.read.fetch_add(read.len() as u64, Ordering::Relaxed);
        this.answered.read(read)?;
        poll
    }
}

impl AsyncWrite for Metered {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.socket).poll_write(cx, buf);
        if let Poll::Ready(Ok(count)) = poll {
            this.state.written.fetch_add(count as u64, Ordering::Relaxed);
            this.answered.wrote(&buf[..count]);
        }
        poll
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.socket).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(mut count)) = poll {
            this.state.written.fetch_add(count as u64, Ordering::Relaxed);
            for buf in bufs {
                let written = count.min(buf.len());
                this.answered.wrote(&buf[..written]);
                count -= written;
            }
        }
        poll
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
