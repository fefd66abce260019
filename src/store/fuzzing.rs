//! The reader of rows, for the fuzz target `record` alone: built with `--cfg fuzzing` and never shipped.

use super::record::{decode_change, decode_record, decode_state, encode_change, encode_record, encode_state};
use super::{LoggedChange, RecordError};
use crate::key::{KeyId, KeyRecord};

/// What a row is read as, and the row that would be written for that.
pub type Read<T> = Result<(T, Vec<u8>), RecordError>;

/// # Errors
/// [`RecordError`] when the row cannot be trusted.
pub fn record(id: &KeyId, row: &[u8]) -> Read<KeyRecord> {
    let record = decode_record(id, row)?;
    let again = encode_record(&record)?;
    Ok((record, again))
}

/// # Errors
/// [`RecordError`] when the row cannot be trusted.
pub fn change(revision: u64, row: &[u8]) -> Read<LoggedChange> {
    let change = decode_change(revision, row)?;
    let again = encode_change(&change)?;
    Ok((change, again))
}

/// # Errors
/// [`RecordError`] when the row cannot be trusted.
pub fn state(row: &[u8]) -> Read<String> {
    let state = decode_state(row)?;
    let shown = format!("{state:?}");
    Ok((shown, encode_state(state)?))
}
