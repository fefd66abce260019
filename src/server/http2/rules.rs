//! What a client may send over HTTP/2, as far as its frames tell without a look inside: the ledger's say, frame by frame.

use super::ledger::{Pass, SharedLedger};
use super::sieve::{Progress, Rules};
use crate::http::framing::frames::{Event, FrameKind, Frames, HEAD_BYTES, PREFACE};
use crate::metrics::Http2Cut;

/// The rules for a client's frames: the ledger's, told frame by frame.
pub(super) struct ClientFrames {
    ledger: SharedLedger,
    preface_left: usize,
    frames: Frames,
    /// Whether a header block has begun and not ended.
    is_in_block: bool,
    /// Counts frames, and header blocks as one.
    units: u64,
    cut: Option<Http2Cut>,
}

impl ClientFrames {
    pub(super) fn new(ledger: SharedLedger) -> Self {
        let frames = Frames::default();
        Self { ledger, preface_left: PREFACE.len(), frames, is_in_block: false, units: 0, cut: None }
    }

    /// Whether the preface has passed.
    pub(super) fn has_greeted(&self) -> bool {
        self.preface_left == 0
    }

    /// Whether what has passed ends with a frame, and with a whole header block.
    pub(super) fn is_between(&self) -> bool {
        self.has_greeted() && self.frames.is_between() && !self.is_in_block
    }

    /// Whether a piece of a body has passed in part.
    pub(super) fn is_in_body(&self) -> bool {
        self.frames.present().is_some_and(|frame| frame.kind == FrameKind::Data)
    }

    /// How many frames have begun; a header block counts as one.
    pub(super) fn units(&self) -> u64 {
        self.units
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Begins(frame) => {
                self.units += u64::from(!self.is_in_block);
                self.is_in_block |= frame.begins_block();
            }
            Event::Ends(frame) if frame.ends_block() => self.is_in_block = false,
            _ => {}
        }
    }

    /// Returns how many bytes belong to the preface.
    fn pass_preface(&mut self, bytes: &[u8]) -> Result<usize, Http2Cut> {
        let len = self.preface_left.min(bytes.len());
        let start = PREFACE.len() - self.preface_left;
        if bytes[..len] != PREFACE[start..start + len] {
            return Err(Http2Cut::Protocol);
        }
        self.preface_left -= len;
        if len > 0 && self.preface_left == 0 {
            self.ledger.lock().greeted();
        }
        Ok(len)
    }
}

impl Rules for ClientFrames {
    type Violation = Http2Cut;

    fn advance(&mut self, bytes: &mut [u8]) -> Result<Progress, Http2Cut> {
        if let Some(cut) = self.cut {
            return Err(cut);
        }
        let mut pass = self.pass_preface(bytes)?;
        let ledger = self.ledger.clone();
        let mut ledger = ledger.lock();
        ledger.begin();
        while self.preface_left == 0 && self.frames.can_step(&bytes[pass..]) {
            let rest = &bytes[pass..];
            // A head is passed on whole, so that it can be refused whole.
            if self.frames.is_between() && rest.len() < HEAD_BYTES {
                break;
            }
            let (taken, event) = self.frames.step(rest);
            let Some(event) = event else {
                pass += taken;
                continue;
            };
            self.note(event);
            match ledger.read(event) {
                Ok(Pass::AndGoOn) => pass += taken,
                Ok(Pass::AndStop) => {
                    pass += taken;
                    break;
                }
                Err(cut) => {
                    self.cut = Some(cut);
                    if pass == 0 {
                        return Err(cut);
                    }
                    break;
                }
            }
        }
        Ok(Progress { pass, skip: 0 })
    }
}
