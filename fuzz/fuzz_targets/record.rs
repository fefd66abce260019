//! Rows of the store: any bytes are refused or read, and what was read is written as a row that is read as the same. A
//! row for one key is none for another.

#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::key::KeyId;
use portcullis::store::fuzzing::{Read, change, record, state};

const VERSION: u8 = 2;
const HEADER_BYTES: usize = 5;
const REVISION: u64 = 7;

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, fields)) = bytes.split_first() else { return };
    let id: KeyId = "pcl_AAAAAAAAAAAA".parse().expect("an id");
    let other: KeyId = "pcl_AAAAAAAAAAAB".parse().expect("an id");
    match kind % 4 {
        0 => check(id.as_bytes(), fields, |row| shown(record(&id, row)), |row| record(&other, row).is_err()),
        1 => check(&REVISION.to_be_bytes(), fields, |row| shown(change(REVISION, row)), |row| change(8, row).is_err()),
        2 => check(b"state", fields, |row| shown(state(row)), |_| true),
        // Without the checksum that would be right for it.
        _ => {
            let _ = (record(&id, fields), change(REVISION, fields), state(fields));
        }
    }
});

fn shown<T: std::fmt::Debug>(read: Read<T>) -> Option<(String, Vec<u8>)> {
    read.ok().map(|(value, again)| (format!("{value:?}"), again))
}

fn check(
    key: &[u8],
    fields: &[u8],
    read: impl Fn(&[u8]) -> Option<(String, Vec<u8>)>,
    is_refused_elsewhere: impl Fn(&[u8]) -> bool,
) {
    let row = sealed(key, fields);
    let Some((value, again)) = read(&row) else { return };
    // postcard has several spellings of one number, so the first row may be another; the second is ours.
    assert_eq!(read(&again), Some((value, again.clone())), "{}", row.escape_ascii());
    assert_eq!(sealed(key, &again[HEADER_BYTES..]), again, "the seal is as this target knows it");
    assert!(is_refused_elsewhere(&again), "a row belongs to its key: {}", again.escape_ascii());
    for place in 0..again.len() {
        let mut flipped = again.clone();
        flipped[place] ^= 1 << (place % 8);
        assert!(read(&flipped).is_none(), "a flipped bit at {place} of {}", again.escape_ascii());
    }
}

/// `fields` behind a header that is right for them.
fn sealed(key: &[u8], fields: &[u8]) -> Vec<u8> {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(&[VERSION]);
    hasher.update(fields);
    [&[VERSION], hasher.finalize().to_le_bytes().as_slice(), fields].concat()
}
