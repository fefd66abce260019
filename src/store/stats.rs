//! What a store holds and how large it is.

use std::fs;
use std::path::{Path, PathBuf};

use super::copy::DatabaseCopy;
use super::folder::{Folder, at};
use super::record::VERSION;
use super::survey::Survey;
use super::{Settings, StoreError, swap};
use crate::key::Kind;

/// A store in numbers.
#[derive(Debug)]
pub struct Stats {
    pub format: u8,
    pub revision: u64,
    pub kinds: [(Kind, usize); Kind::EVERY.len()],
    /// How many keys have a time of last use.
    pub used: usize,
    /// How many changes the log keeps, and the revision of the first.
    pub changes: usize,
    pub first_change: Option<u64>,
    /// Every file of the store with its bytes.
    pub files: Vec<(PathBuf, u64)>,
    /// How many rows could not be read; `verify` tells which.
    pub unreadable: usize,
}

/// Counts what is in a store that no process has open. Needs room for a copy of it. Blocking.
///
/// # Errors
/// [`StoreError`] when there is no store, another process has it, or it cannot be opened.
pub fn stats(settings: &Settings) -> Result<Stats, StoreError> {
    let folder = Folder::existing(&settings.path)?;
    let mut files = Vec::new();
    list(folder.path(), folder.path(), &mut files)?;
    files.sort();
    let copy = DatabaseCopy::of(&folder, "stats")?;
    let survey = Survey::of(copy.path(), settings.cache.bytes())?;
    let count = |kind: Kind| survey.records.iter().filter(|record| record.kind == kind).count();
    Ok(Stats {
        format: survey.format.unwrap_or(VERSION),
        revision: survey.state.map_or(0, |state| state.revision),
        kinds: Kind::EVERY.map(|kind| (kind, count(kind))),
        used: survey.times.len(),
        changes: survey.changes.len(),
        first_change: survey.changes.keys().next().copied(),
        files,
        unreadable: survey.problems.len(),
    })
}

/// The bytes of the files that the database has.
pub(super) fn database_bytes(folder: &Path) -> Result<u64, StoreError> {
    let mut files = Vec::new();
    for file in swap::database_files(folder)? {
        list(folder, &file, &mut files)?;
    }
    Ok(files.iter().map(|(_, bytes)| bytes).sum())
}

fn list(store: &Path, path: &Path, files: &mut Vec<(PathBuf, u64)>) -> Result<(), StoreError> {
    let metadata = fs::metadata(path).map_err(at(path))?;
    if metadata.is_dir() {
        for entry in fs::read_dir(path).map_err(at(path))? {
            list(store, &entry.map_err(at(path))?.path(), files)?;
        }
    } else {
        files.push((path.strip_prefix(store).unwrap_or(path).to_owned(), metadata.len()));
    }
    Ok(())
}
