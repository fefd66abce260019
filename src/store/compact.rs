//! Writes a store into fresh files: those of the database grow with use and never shrink.

use super::folder::Folder;
use super::rebuild::rewrite;
use super::record::VERSION;
use super::rows::Rows;
use super::stats::database_bytes;
use super::swap::Reason;
use super::{Settings, StoreError, recovery};

/// What a compaction has done.
#[derive(Clone, Copy, Debug)]
pub struct Compacted {
    pub keys: u64,
    pub bytes_before: u64,
    pub bytes_after: u64,
}

/// Compacts a store that no process has open. Whenever it is interrupted, the store has all that it had. Blocking.
///
/// # Errors
/// [`StoreError`] when there is no store, another process has it, or anything in it cannot be trusted: nothing is changed.
pub fn compact(settings: &Settings) -> Result<Compacted, StoreError> {
    let folder = Folder::existing(&settings.path)?;
    let kept = recovery::prepare(&folder)?;
    let bytes_before = database_bytes(folder.path())?;
    let cache = settings.cache.bytes();
    let rows = Rows::open(folder.path(), cache)?;
    let reason = match rows.format()? {
        Some(format) if format > VERSION => {
            return Err(StoreError::Newer { path: folder.path().to_owned(), format });
        }
        Some(VERSION) => Reason::Compact,
        // The files of an older format are kept, whoever brings it to the present one.
        Some(_) => Reason::Upgrade,
        None => return Err(StoreError::Missing { path: folder.path().to_owned() }),
    };
    let keys = rewrite(&folder, rows, cache, reason)?.keys;
    kept.release();
    Ok(Compacted { keys, bytes_before, bytes_after: database_bytes(folder.path())? })
}
