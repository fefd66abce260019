//! What a client has sent on a connection, so that it is refused with no more than a multiple of that.
//!
//! A frame counts once all of it has come: what is only announced costs nothing.

use crate::http::framing::frames::{Frame, FrameKind, HEAD_BYTES, PREFACE};

pub(super) struct Outlay {
    /// Of the header block that came last.
    block_bytes: usize,
    /// Besides the requests that are not answered, and less what was charged: negative where that was more.
    surplus: i64,
}

impl Default for Outlay {
    fn default() -> Self {
        Self { block_bytes: 0, surplus: length(PREFACE.len()) }
    }
}

impl Outlay {
    /// The header block of a new stream.
    pub(super) fn block_begins(&mut self, frame: Frame) {
        self.block_bytes = HEAD_BYTES + frame.len;
    }

    pub(super) fn block_goes_on(&mut self, frame: Frame) {
        self.block_bytes += HEAD_BYTES + frame.len;
    }

    pub(super) fn frame_ended(&mut self, frame: Frame) {
        // Blocks count with the requests that they become.
        if !matches!(frame.kind, FrameKind::Headers | FrameKind::Continuation) {
            self.surplus = self.surplus.saturating_add(length(HEAD_BYTES + frame.len));
        }
    }

    /// What the block of the request that hyper is about to make took of the connection.
    pub(super) fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    /// What a request whose block took so many bytes can pay for.
    pub(super) fn with(&self, block_bytes: usize) -> usize {
        usize::try_from(length(block_bytes).saturating_add(self.surplus)).unwrap_or(0)
    }

    /// The request was refused with what is worth so many bytes.
    pub(super) fn charge(&mut self, block_bytes: usize, bytes: usize) {
        self.surplus = self.surplus.saturating_add(length(block_bytes)).saturating_sub(length(bytes));
    }
}

fn length(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
