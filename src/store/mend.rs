//! Makes the database's log readable past damage: the messages that are broken are marked as cancelled.
//!
//! Works on a copy, and trusts nothing: which of the rows that come out are the present ones is for others to judge.
//! Without this, sled 0.34 takes the first broken message for the end of a segment, and all behind it for lost.

use std::fs;
use std::path::Path;

use super::StoreError;
use super::folder::{SEGMENT_BYTES, at, ensure_configuration, known_segment_bytes};
use super::segments::{
    CANCELLED, CAP, CRC_BYTES, MESSAGE_HEADER_MAX, Message, SEGMENT_HEADER_BYTES, SegmentHeader, is_blob_whole,
    next_message, write_integer,
};

/// The segments of stores that were made by older releases.
const OLDER_SEGMENT_BYTES: usize = 512 * 1024;

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
    let is_older = match log.get(OLDER_SEGMENT_BYTES..).filter(|rest| rest.len() >= SEGMENT_HEADER_BYTES) {
        Some(rest) => SegmentHeader::read(rest, OLDER_SEGMENT_BYTES).is_some(),
        None => log.len() >= OLDER_SEGMENT_BYTES - MESSAGE_HEADER_MAX,
    };
    if is_older { OLDER_SEGMENT_BYTES } else { SEGMENT_BYTES }
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
        let Some(next) = next_message(segment, position + 1, number) else { return };
        if !cancel(segment, position, next, number) {
            return;
        }
        position = next;
    }
}

/// The number that each message of the segment repeats. A broken header is found out by what the messages say.
fn segment_number(segment: &mut [u8], bytes: usize) -> Option<u64> {
    if let Some(header) = SegmentHeader::read(segment, bytes) {
        return Some(header.lsn / bytes as u64);
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
