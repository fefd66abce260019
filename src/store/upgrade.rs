//! Brings a store of an older format to the present one. The older files are kept aside.

use super::StoreError;
use super::folder::Folder;
use super::rebuild::{Rewritten, rewrite};
use super::record::VERSION;
use super::rows::Rows;
use super::swap::Reason;

/// Makes sure that a database that was just opened is in the present format.
///
/// # Errors
/// [`StoreError::Newer`], and those of reading: a store in which anything cannot be trusted is left as it is.
pub(super) fn to_present(folder: &Folder, rows: Rows, cache: u64) -> Result<Rows, StoreError> {
    match rows.format()? {
        Some(format) if format > VERSION => Err(StoreError::Newer { path: folder.path().to_owned(), format }),
        Some(format) if format < VERSION => {
            let Rewritten { keys, kept } = rewrite(folder, rows, cache, Reason::Upgrade)?;
            tracing::info!(
                store.path = %folder.path().display(), from = format, to = VERSION, keys,
                kept = %kept.unwrap_or_default().display(), "store upgraded; the files of the older format are kept",
            );
            Rows::open(folder.path(), cache)
        }
        _ => Ok(rows),
    }
}
