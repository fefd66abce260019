//! What the guard is to do between two frames: resets, invitations, interim responses, the end of the connection.
//!
//! Says nothing of why. Invariant: there are no more orders than streams, but for interim responses, whose bytes have a
//! bound.

use super::streams::Streams;
use crate::http::framing::frames;

const CANCEL: u32 = 8;
/// Of interim responses that wait for room.
const INTERIM_BYTES_MAX: usize = 64 * 1024;

#[derive(Default)]
pub(super) struct Orders {
    /// Streams that hyper must believe to be reset by the client.
    resets: Vec<u32>,
    /// Streams whose clients are to be asked for their bodies.
    invitations: Vec<u32>,
    /// For their clients, by stream.
    interims: Vec<(u32, Vec<u8>)>,
    /// For the client.
    frames: Vec<u8>,
    /// Nothing is read any more.
    is_ending: bool,
}

impl Orders {
    /// The connection ends with a frame that tells the client why.
    pub(super) fn end(&mut self, go_away: &[u8]) {
        self.is_ending = true;
        self.frames.extend_from_slice(go_away);
    }

    pub(super) fn is_ending(&self) -> bool {
        self.is_ending
    }

    pub(super) fn reset(&mut self, streams: Vec<u32>) {
        self.resets.extend(streams);
    }

    /// A frame that hyper is to read between two of the client's. The client is told the same once hyper has it, so that
    /// it gets nothing more of a stream that is over.
    pub(super) fn take_reset(&mut self) -> Option<[u8; frames::RESET_BYTES]> {
        let frame = frames::reset(self.resets.pop()?, CANCEL);
        self.frames.extend_from_slice(&frame);
        Some(frame)
    }

    /// Returns whether the client of the stream is to be asked for its body.
    pub(super) fn invite(&mut self, id: u32, streams: &Streams) -> bool {
        if !streams.is_held_back(id) {
            return false;
        }
        // So that there are no more of them than streams.
        self.invitations.retain(|id| streams.is_held_back(*id));
        self.invitations.push(id);
        true
    }

    /// Returns whether there is room for an interim response, as a frame, and it does not come too late.
    pub(super) fn interim(&mut self, id: u32, frame: Vec<u8>, streams: &Streams) -> bool {
        let waiting: usize = self.interims.iter().map(|(_, frame)| frame.len()).sum();
        if waiting + frame.len() > INTERIM_BYTES_MAX || !streams.is_unanswered(id) {
            return false;
        }
        self.interims.push((id, frame));
        true
    }

    pub(super) fn has_frames(&self) -> bool {
        let Self { frames, interims, invitations, .. } = self;
        !frames.is_empty() || !interims.is_empty() || !invitations.is_empty()
    }

    /// What to send to the client between two of hyper's frames. `has_table_shrunk`: its header table has.
    pub(super) fn take_frames(&mut self, streams: &mut Streams, has_table_shrunk: bool) -> Vec<u8> {
        let mut frames = Vec::new();
        // RFC 7541 §4.2: after the table has shrunk a header block begins by saying so, which is hyper's to do.
        let may_begin_blocks = !has_table_shrunk && !self.is_ending;
        for id in std::mem::take(&mut self.invitations) {
            if streams.invite(id) && may_begin_blocks {
                frames.extend_from_slice(&frames::invitation(id));
            }
        }
        for (id, interim) in std::mem::take(&mut self.interims) {
            if streams.is_unanswered(id) && may_begin_blocks {
                frames.extend_from_slice(&interim);
            }
        }
        frames.append(&mut self.frames);
        frames
    }
}
