//! How the database writes its log: segments of one size, messages in them, large pages in files of their own.
//!
//! Reads bytes and judges whether they are whole. Knows nothing of what is in a message.
//!
//! The format is that of sled 0.34: each segment has a header of 20 bytes, then messages. A message is a CRC-32 of all that
//! follows, inverted; a byte for its kind; its length, its segment's number and its page's number as variable-length
//! integers; then its body.

pub(super) const SEGMENT_HEADER_BYTES: usize = 20;
/// No message begins so close to a segment's end.
pub(super) const MESSAGE_HEADER_MAX: usize = 32;
pub(super) const CRC_BYTES: usize = 4;
pub(super) const CANCELLED: u8 = 1;
pub(super) const CAP: u8 = 2;
const KIND_MAX: u8 = 11;

/// What a segment's header says, if it is whole.
#[derive(Clone, Copy, Debug)]
pub(super) struct SegmentHeader {
    /// The segment's place in the whole log, in bytes.
    pub(super) lsn: u64,
    /// Up to where the log was known to be on disk when the segment was begun; -1 before its first byte was.
    pub(super) stable: i64,
}

impl SegmentHeader {
    pub(super) fn read(segment: &[u8], segment_bytes: usize) -> Option<Self> {
        let header: &[u8; SEGMENT_HEADER_BYTES] = segment.first_chunk()?;
        let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|index| header[at + index])) ^ (u64::MAX >> 1);
        let crc = u32::from_le_bytes(std::array::from_fn(|index| header[index]));
        let lsn = number(CRC_BYTES);
        let is_whole = crc == !crc32fast::hash(&header[CRC_BYTES..]) && lsn.is_multiple_of(segment_bytes as u64);
        is_whole.then(|| Self { lsn, stable: number(12).cast_signed() })
    }
}

/// A large page in a file of its own: the checksum of the rest, a byte for its kind, the page.
pub(super) fn is_blob_whole(blob: &[u8]) -> bool {
    blob.split_first_chunk().is_some_and(|(crc, rest)| !rest.is_empty() && *crc == crc32fast::hash(rest).to_le_bytes())
}

/// A message that is whole.
pub(super) struct Message {
    pub(super) kind: u8,
    /// The number of its segment.
    pub(super) segment: u64,
    /// Where it ends.
    pub(super) end: usize,
}

impl Message {
    /// The whole message at a position, if it is one of this segment.
    pub(super) fn at(log: &[u8], position: usize, segment: u64) -> Option<Self> {
        Self::read(log, position, Some(segment))
    }

    /// The whole message at a position.
    pub(super) fn any(log: &[u8], position: usize) -> Option<Self> {
        Self::read(log, position, None)
    }

    fn read(log: &[u8], position: usize, expected: Option<u64>) -> Option<Self> {
        let message = log.get(position..)?;
        let (crc, rest) = message.split_first_chunk::<CRC_BYTES>()?;
        let (&kind, mut fields) = rest.split_first()?;
        if kind == 0 || kind > KIND_MAX {
            return None;
        }
        let length = usize::try_from(integer(&mut fields)?).ok()?;
        let segment = integer(&mut fields)?;
        // Before the sum: what is looked for in all places is found wrong by this nearly everywhere.
        if expected.is_some_and(|expected| expected != segment) {
            return None;
        }
        integer(&mut fields)?;
        let header = message.len() - fields.len();
        let body = fields.get(..length)?;
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(body);
        hasher.update(&message[CRC_BYTES..header]);
        (u32::from_le_bytes(*crc) == !hasher.finalize()).then_some(Self {
            kind,
            segment,
            end: position + header + length,
        })
    }
}

/// Where the next whole message of a segment begins, at or behind a position.
pub(super) fn next_message(segment: &[u8], from: usize, number: u64) -> Option<usize> {
    let end = segment.len().saturating_sub(MESSAGE_HEADER_MAX);
    (from..end).find(|position| Message::at(segment, *position, number).is_some())
}

fn integer(bytes: &mut &[u8]) -> Option<u64> {
    let (&first, rest) = bytes.split_first()?;
    let (value, left) = match first {
        0..=240 => (u64::from(first), rest),
        241..=248 => {
            let (&second, rest) = rest.split_first()?;
            (240 + 256 * (u64::from(first) - 241) + u64::from(second), rest)
        }
        249 => {
            let ([second, third], rest) = rest.split_first_chunk()?;
            (2288 + 256 * u64::from(*second) + u64::from(*third), rest)
        }
        _ => {
            let (little_endian, rest) = rest.split_at_checked(usize::from(first) - 247)?;
            let byte = |index: usize| little_endian.get(index).copied().unwrap_or(0);
            (u64::from_le_bytes(std::array::from_fn(byte)), rest)
        }
    };
    *bytes = left;
    Some(value)
}

pub(super) fn write_integer(bytes: &mut Vec<u8>, value: u64) {
    let low = value.to_le_bytes();
    match value {
        0..=240 => bytes.push(low[0]),
        241..=2_287 => {
            let [second, first, ..] = (value - 240).to_le_bytes();
            bytes.extend([first + 241, second]);
        }
        2_288..=67_823 => {
            let [third, second, ..] = (value - 2_288).to_le_bytes();
            bytes.extend([249, second, third]);
        }
        _ => {
            let length = low.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1).max(3);
            bytes.push(247 + u8::try_from(length).unwrap_or(8));
            bytes.extend(&low[..length]);
        }
    }
}
