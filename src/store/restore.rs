//! A store out of a backup, as it was: the same keys, revisions, last uses and log.
//!
//! Grants nothing of its own: the file decides, once all of it is known to be in order.

use std::io::{BufRead, Seek, SeekFrom};

use super::portable::{Content, FileError, Header, Item, Ported, Reader};
use super::staging::Staging;
use super::{LoggedChange, Settings, SledStore, StoreError};

/// Keys or changes in one transaction.
const ROWS_AT_ONCE: usize = 256;

/// Why there is no restored store.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error(
        "the file is an export, which lacks the log of changes; `portcullis store import` takes its keys into an empty store"
    )]
    Export,
    #[error(transparent)]
    File(#[from] FileError),
    #[error("the file changed while it was read; nothing was restored")]
    FileChanged,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Makes the store of a backup in an empty place, all of it or nothing. Blocking. Returns the backup's header.
///
/// # Errors
/// [`RestoreError`]; the place is empty then, or as it was.
pub fn restore<R: BufRead + Seek>(mut file: R, settings: &Settings, keys_max: u64) -> Result<Header, RestoreError> {
    // To the end before anything is written.
    let mut reader = Reader::open(&mut file, keys_max)?;
    let header = *reader.header();
    if header.content == Content::Export {
        return Err(RestoreError::Export);
    }
    while reader.next()?.is_some() {}
    let sum = reader.sum();
    file.seek(SeekFrom::Start(0)).map_err(FileError::Unreadable)?;
    let (staging, new) = Staging::begin(settings)?;
    let mut reader = Reader::open(&mut file, keys_max)?;
    fill(&new, header.revision, &mut reader)?;
    if reader.sum() != sum {
        return Err(RestoreError::FileChanged);
    }
    staging.publish(new)?;
    Ok(header)
}

fn fill<R: BufRead>(new: &SledStore, revision: u64, reader: &mut Reader<R>) -> Result<(), RestoreError> {
    let (mut keys, mut changes): (Vec<Ported>, Vec<LoggedChange>) = (Vec::new(), Vec::new());
    while let Some(item) = reader.next()? {
        match item {
            Item::Change(change) => changes.push(change),
            Item::Key(key) => keys.push(key),
        }
        if keys.len() + changes.len() == ROWS_AT_ONCE {
            new.load(revision, &keys, &changes)?;
            keys.clear();
            changes.clear();
        }
    }
    Ok(new.load(revision, &keys, &changes)?)
}
