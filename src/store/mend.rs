//! Makes the database's log readable past damage: the messages that are broken are marked as cancelled.
//!
//! Works on a copy, and trusts nothing: which of the rows that come out are the present ones is for others to judge.
//! Without this, sled 0.34 takes the first broken message for the end of a segment, and all behind it for lost.
//!
//! The format is that of sled 0.34: segments of one size, each with a header of 20 bytes, then messages. A message is a
//! CRC-32 of all that follows, inverted; a byte for its kind; its length, its segment's number and its page's number as
//! variable-length integers; then its body.

use std::fs;
use std::path::Path;

use super::StoreError;
use super::folder::{SEGMENT_BYTES, at, ensure_configuration, known_segment_bytes};

/// The segments of stores that were made by older releases.
const OLDER_SEGMENT_BYTES: usize = 512 * 1024;
const SEGMENT_HEADER_BYTES: usize = 20;
/// No message begins so close to a segment's end.
const MESSAGE_HEADER_MAX: usize = 32;
const CRC_BYTES: usize = 4;
const CANCELLED: u8 = 1;
const CAP: u8 = 2;
const KIND_MAX: u8 = 11;

/// Cancels what is broken in the log, and takes away what is only an index of it.
pub(super) fn mend(folder: &Path) -> Result<(), StoreError> {
    let known_bytes = known_segment_bytes(folder);
    for file in super::swap::database_files(folder)? {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        // The snapshot tells where pages are, which the log tells as well. Each configuration here is the default one.
        if name.starts_with("snap.") || name == "conf" {
            fs::remove_file(&file).map_err(at(&file))?;
        }
    }
    let blobs = folder.join("blobs");
    for entry in fs::read_dir(&blobs).map_err(at(&blobs))? {
        let path = entry.map_err(at(&blobs))?.path();
        let blob = fs::read(&path).map_err(at(&path))?;
        // One that is not there is passed over; a broken one ends the log.
        if !is_blob_whole(&blob) {
            fs::remove_file(&path).map_err(at(&path))?;
        }
    }
    let path = folder.join("db");
    let mut log = fs::read(&path).map_err(at(&path))?;
    let bytes = known_bytes.filter(|bytes| *bytes > MESSAGE_HEADER_MAX).unwrap_or_else(|| likely_segment_bytes(&log));
    for segment in log.chunks_mut(bytes) {
        mend_segment(segment, bytes);
    }
    fs::write(&path, log).map_err(at(&path))?;
    ensure_configuration(folder, bytes)
}

/// How large the segments of a log are, by where its second one begins or how long it is.
fn likely_segment_bytes(log: &[u8]) -> usize {
    let is_older = match log.get(OLDER_SEGMENT_BYTES..).and_then(|rest| rest.first_chunk()) {
        Some(header) => segment_lsn(header, OLDER_SEGMENT_BYTES).is_some(),
        None => log.len() >= OLDER_SEGMENT_BYTES - MESSAGE_HEADER_MAX,
    };
    if is_older { OLDER_SEGMENT_BYTES } else { SEGMENT_BYTES }
}

/// The place of a segment in the whole log, if its header is whole.
fn segment_lsn(header: &[u8; SEGMENT_HEADER_BYTES], segment_bytes: usize) -> Option<u64> {
    let crc = u32::from_le_bytes(std::array::from_fn(|index| header[index]));
    let lsn = u64::from_le_bytes(std::array::from_fn(|index| header[4 + index])) ^ (u64::MAX >> 1);
    let is_whole = crc == !crc32fast::hash(&header[4..]) && lsn.is_multiple_of(segment_bytes as u64);
    is_whole.then_some(lsn)
}

/// A large page in a file of its own: the checksum of the rest, a byte for its kind, the page.
fn is_blob_whole(blob: &[u8]) -> bool {
    blob.split_first_chunk().is_some_and(|(crc, rest)| !rest.is_empty() && *crc == crc32fast::hash(rest).to_le_bytes())
}

fn mend_segment(segment: &mut [u8], bytes: usize) {
    let Some(number) = segment_number(segment, bytes) else { return };
    let mut position = SEGMENT_HEADER_BYTES;
    while position + MESSAGE_HEADER_MAX <= segment.len() {
        if let Some(message) = Message::at(segment, position, number) {
            if message.kind == CAP {
                return;
            }
            position = message.end;
            continue;
        }
        // The next message that is whole, or none: then what follows was never written.
        let mut candidates = position + 1..segment.len().saturating_sub(MESSAGE_HEADER_MAX);
        let Some(next) = candidates.find(|next| Message::at(segment, *next, number).is_some()) else { return };
        if !cancel(segment, position, next, number) {
            return;
        }
        position = next;
    }
}

/// The number that each message of the segment repeats. A broken header is found out by what the messages say.
fn segment_number(segment: &mut [u8], bytes: usize) -> Option<u64> {
    if let Some(lsn) = segment_lsn(segment.first_chunk()?, bytes) {
        return Some(lsn / bytes as u64);
    }
    let number = (SEGMENT_HEADER_BYTES..segment.len().saturating_sub(MESSAGE_HEADER_MAX))
        .find_map(|position| Message::any(segment, position).filter(|message| message.kind != 0))?
        .segment;
    let lsn = number.checked_mul(bytes as u64)?;
    segment[4..12].copy_from_slice(&(lsn ^ (u64::MAX >> 1)).to_le_bytes());
    // Nothing is known to be stable: then all of the log is read.
    segment[12..20].copy_from_slice(&(u64::MAX >> 1).to_le_bytes());
    let crc = !crc32fast::hash(&segment[4..SEGMENT_HEADER_BYTES]);
    segment[..4].copy_from_slice(&crc.to_le_bytes());
    Some(number)
}

struct Message {
    kind: u8,
    segment: u64,
    end: usize,
}

impl Message {
    fn at(log: &[u8], position: usize, segment: u64) -> Option<Self> {
        Self::any(log, position).filter(|message| message.segment == segment)
    }

    /// The whole message at a position.
    fn any(log: &[u8], position: usize) -> Option<Self> {
        let message = log.get(position..)?;
        let (crc, rest) = message.split_first_chunk::<CRC_BYTES>()?;
        let (&kind, mut fields) = rest.split_first()?;
        if kind == 0 || kind > KIND_MAX {
            return None;
        }
        let length = usize::try_from(integer(&mut fields)?).ok()?;
        let segment = integer(&mut fields)?;
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

/// Covers `from..to` with one message that says to go on behind it. `false`: there is no room for one.
fn cancel(segment: &mut [u8], from: usize, to: usize, number: u64) -> bool {
    // Each possible length of the header: it depends on the length that it tells.
    for header in CRC_BYTES + 4..=MESSAGE_HEADER_MAX {
        let Some(length) = (to - from).checked_sub(header) else { return false };
        let mut fields = vec![CANCELLED];
        write_integer(&mut fields, length as u64);
        write_integer(&mut fields, number);
        write_integer(&mut fields, 0);
        if CRC_BYTES + fields.len() != header {
            continue;
        }
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&segment[from + header..to]);
        hasher.update(&fields);
        segment[from..from + CRC_BYTES].copy_from_slice(&(!hasher.finalize()).to_le_bytes());
        segment[from + CRC_BYTES..from + header].copy_from_slice(&fields);
        return true;
    }
    false
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

fn write_integer(bytes: &mut Vec<u8>, value: u64) {
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
