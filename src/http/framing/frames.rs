//! HTTP/2 frames as they go by in one direction: where each begins and ends, and the few numbers in them that somebody
//! must keep count of.
//!
//! Changes and refuses nothing: the rules are those of whoever listens. Holds no more than the head of one frame.
//!
//! Invariant: what is told depends on the bytes alone, never on how they were cut into pieces.

/// What a client that knows to be understood sends first (RFC 9113 §3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Length of a frame's head.
pub const HEAD_BYTES: usize = 9;

/// RFC 9113 §6.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FrameKind {
    Continuation,
    Data,
    GoAway,
    Headers,
    Ping,
    Priority,
    PushPromise,
    Reset,
    Settings,
    Unknown,
    WindowUpdate,
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Frame {
    pub kind: FrameKind,
    pub stream: u32,
    /// Of the payload, padding included.
    pub len: usize,
    flags: u8,
}

impl Frame {
    fn parse(head: [u8; HEAD_BYTES]) -> Self {
        let [a, b, c, kind, flags, stream @ ..] = head;
        let kind = match kind {
            0 => FrameKind::Data,
            1 => FrameKind::Headers,
            2 => FrameKind::Priority,
            3 => FrameKind::Reset,
            4 => FrameKind::Settings,
            5 => FrameKind::PushPromise,
            6 => FrameKind::Ping,
            7 => FrameKind::GoAway,
            8 => FrameKind::WindowUpdate,
            9 => FrameKind::Continuation,
            _ => FrameKind::Unknown,
        };
        let len = u32::from_be_bytes([0, a, b, c]) as usize;
        Self { kind, stream: u32::from_be_bytes(stream) & !(1 << 31), len, flags }
    }

    /// Of SETTINGS and PING.
    pub fn is_ack(&self) -> bool {
        self.flags & 1 != 0
    }

    /// Whether it is the last one that its stream has in this direction.
    pub fn ends_stream(&self) -> bool {
        matches!(self.kind, FrameKind::Data | FrameKind::Headers) && self.flags & 1 != 0
    }

    /// Whether it ends a header block, which nothing may come between.
    pub fn ends_block(&self) -> bool {
        matches!(self.kind, FrameKind::Continuation | FrameKind::Headers | FrameKind::PushPromise)
            && self.flags & 4 != 0
    }

    pub fn begins_block(&self) -> bool {
        matches!(self.kind, FrameKind::Headers | FrameKind::PushPromise)
    }

    /// The bytes of each number in the payload that is told of; 0: none.
    fn entry_bytes(&self) -> usize {
        match self.kind {
            FrameKind::GoAway => 8,
            FrameKind::Settings => 6,
            FrameKind::WindowUpdate => 4,
            _ => 0,
        }
    }
}

/// Something in a row of frames.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event {
    /// A frame's head is complete.
    Begins(Frame),
    /// Its last byte has passed.
    Ends(Frame),
    GoAway {
        code: u32,
    },
    Setting {
        id: u16,
        value: u32,
    },
    /// Stream 0 is the connection.
    WindowUpdate {
        stream: u32,
        increment: u32,
    },
}

/// A walk along one direction of a connection, after the preface.
#[derive(Debug, Default)]
pub struct Frames {
    frame: Option<Frame>,
    /// Bytes of its payload that are still to come.
    left: usize,
    /// What there is of the next head, or of the present number.
    part: [u8; HEAD_BYTES],
    part_len: usize,
}

impl Frames {
    /// Whether the last frame has ended and nothing of the next one has come.
    pub fn is_between(&self) -> bool {
        self.frame.is_none() && self.part_len == 0
    }

    /// The frame that has begun and not ended.
    pub fn present(&self) -> Option<Frame> {
        self.frame
    }

    /// Bytes of the present frame's payload that are still to come.
    pub fn left(&self) -> usize {
        self.left
    }

    /// Whether there is anything to do for [`Frames::step`] with these bytes: an end may be due without any.
    pub fn can_step(&self, bytes: &[u8]) -> bool {
        !bytes.is_empty() || (self.frame.is_some() && self.left == 0)
    }

    /// Goes on along `bytes`, as far as the next event. Returns how many of them that took: to be called again with the
    /// rest while it can.
    pub fn step(&mut self, bytes: &[u8]) -> (usize, Option<Event>) {
        let Some(frame) = self.frame else {
            let taken = self.fill(bytes, HEAD_BYTES);
            if self.part_len < HEAD_BYTES {
                return (taken, None);
            }
            let frame = Frame::parse(self.part);
            (self.frame, self.left, self.part_len) = (Some(frame), frame.len, 0);
            return (taken, Some(Event::Begins(frame)));
        };
        if self.left == 0 {
            (self.frame, self.part_len) = (None, 0);
            return (0, Some(Event::Ends(frame)));
        }
        let bytes = &bytes[..bytes.len().min(self.left)];
        let wanted = frame.entry_bytes();
        let taken = if wanted == 0 { bytes.len() } else { self.fill(bytes, wanted) };
        self.left -= taken;
        if wanted == 0 || self.part_len < wanted {
            return (taken, None);
        }
        self.part_len = 0;
        (taken, self.entry(frame))
    }

    fn fill(&mut self, bytes: &[u8], wanted: usize) -> usize {
        let taken = bytes.len().min(wanted.saturating_sub(self.part_len));
        self.part[self.part_len..self.part_len + taken].copy_from_slice(&bytes[..taken]);
        self.part_len += taken;
        taken
    }

    fn entry(&self, frame: Frame) -> Option<Event> {
        let [a, b, c, d, e, f, g, h, _] = self.part;
        match frame.kind {
            // What follows the code is text.
            FrameKind::GoAway if frame.len - self.left == 8 => {
                Some(Event::GoAway { code: u32::from_be_bytes([e, f, g, h]) })
            }
            FrameKind::Settings => {
                Some(Event::Setting { id: u16::from_be_bytes([a, b]), value: u32::from_be_bytes([c, d, e, f]) })
            }
            FrameKind::WindowUpdate => {
                let increment = u32::from_be_bytes([a, b, c, d]) & !(1 << 31);
                Some(Event::WindowUpdate { stream: frame.stream, increment })
            }
            _ => None,
        }
    }
}

/// Length of a RST_STREAM frame.
pub const RESET_BYTES: usize = 13;

/// A RST_STREAM frame.
pub fn reset(stream: u32, code: u32) -> [u8; RESET_BYTES] {
    let mut frame = [0, 0, 4, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    frame[5..9].copy_from_slice(&stream.to_be_bytes());
    frame[9..].copy_from_slice(&code.to_be_bytes());
    frame
}

/// A HEADERS frame with status 100 alone: nothing in it depends on, or changes, what was sent before.
pub fn invitation(stream: u32) -> [u8; 14] {
    // RFC 7541 §6.2.2: `:status` by its place in the static table, not to be kept.
    let mut frame = [0, 0, 5, 1, 4, 0, 0, 0, 0, 8, 3, b'1', b'0', b'0'];
    frame[5..9].copy_from_slice(&stream.to_be_bytes());
    frame
}

/// A GOAWAY frame without a text.
pub fn go_away(last_stream: u32, code: u32) -> [u8; 17] {
    let mut frame = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    frame[9..13].copy_from_slice(&last_stream.to_be_bytes());
    frame[13..].copy_from_slice(&code.to_be_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(bytes: &[u8], piece: usize) -> Vec<Event> {
        let mut frames = Frames::default();
        let mut events = Vec::new();
        for mut bytes in bytes.chunks(piece) {
            while frames.can_step(bytes) {
                let (taken, event) = frames.step(bytes);
                bytes = &bytes[taken..];
                events.extend(event);
            }
        }
        assert!(frames.is_between(), "{frames:?}");
        events
    }

    #[test]
    fn frames_are_told_alike_however_they_are_cut() {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&[0, 0, 12, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 7, 0, 3, 0, 0, 0, 100]);
        bytes.extend_from_slice(&[0, 0, 0, 4, 1, 0, 0, 0, 0]);
        bytes.extend_from_slice(&[0, 0, 3, 0, 1, 0, 0, 0, 5, b'a', b'b', b'c']);
        bytes.extend_from_slice(&[0, 0, 4, 8, 0, 0, 0, 0, 5, 0x80, 0, 1, 0]);
        bytes.extend_from_slice(&reset(5, 8));
        bytes.extend_from_slice(&invitation(5));
        bytes.extend_from_slice(&go_away(5, 11));
        let whole = events(&bytes, bytes.len());
        for piece in 1..bytes.len() {
            assert_eq!(events(&bytes, piece), whole, "in pieces of {piece}");
        }
        let told: Vec<Event> =
            whole.into_iter().filter(|event| !matches!(event, Event::Begins(_) | Event::Ends(_))).collect();
        let expected = [
            Event::Setting { id: 4, value: 7 },
            Event::Setting { id: 3, value: 100 },
            Event::WindowUpdate { stream: 5, increment: 256 },
            Event::GoAway { code: 11 },
        ];
        assert_eq!(told, expected);
    }
}
