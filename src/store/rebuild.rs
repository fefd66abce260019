//! Writes a whole database anew beside the present one: for upgrades, compaction and repair.
//!
//! Invariant: what takes the old one's place was closed, opened again and found to hold what was put in.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::sled::Tree;

use super::commit::read_record;
use super::folder::{Folder, SEGMENT_BYTES, at, ensure_configuration};
use super::record::{
    STATE, decode_change, decode_state, decode_state_1, decode_time, decode_time_1, encode_bucket, encode_change,
    encode_record, encode_state, encode_time,
};
use super::rows::{Rows, guard};
use super::sums::{Bucket, SetSum};
use super::swap::{self, Reason};
use super::{LoggedChange, State, StoreError};
use crate::clock::Timestamp;
use crate::key::{KeyId, KeyRecord};

/// How long a closed database may take to let go of its file.
const CLOSING_MAX: Duration = Duration::from_secs(10);
const CLOSING_POLL: Duration = Duration::from_millis(5);

/// A database in the making.
pub(super) struct Rebuild<'f> {
    folder: &'f Folder,
    path: PathBuf,
    cache: u64,
    rows: Rows,
    buckets: Vec<SetSum>,
}

impl<'f> Rebuild<'f> {
    pub(super) fn begin(folder: &'f Folder, cache: u64) -> Result<Self, StoreError> {
        let path = swap::begin(folder.path())?;
        ensure_configuration(&path, SEGMENT_BYTES)?;
        let rows = Rows::open(&path, cache)?;
        Ok(Self { folder, path, cache, rows, buckets: vec![SetSum::default(); Bucket::COUNT] })
    }

    pub(super) fn put_record(&mut self, record: &KeyRecord) -> Result<(), StoreError> {
        let id = record.id.as_bytes();
        let row = encode_record(record).map_err(|source| StoreError::Corrupt { key: record.id, source })?;
        self.buckets[Bucket::of(id).index()].insert(id, &row);
        guard(|| self.rows.records.insert(id, row)).map(drop)
    }

    pub(super) fn put_time(&mut self, id: &KeyId, at: Timestamp) -> Result<(), StoreError> {
        let row = encode_time(id, at).map_err(|source| StoreError::Corrupt { key: *id, source })?;
        guard(|| self.rows.last_used.insert(id.as_bytes(), row)).map(drop)
    }

    pub(super) fn put_change(&mut self, change: &LoggedChange) -> Result<(), StoreError> {
        let revision = change.revision;
        let row = encode_change(change).map_err(|source| StoreError::CorruptChange { revision, source })?;
        guard(|| self.rows.changes.insert(revision.to_be_bytes(), row)).map(drop)
    }

    /// Puts the new database in the place of the present one, which must be closed. Returns where the files of that are.
    pub(super) fn finish(self, revision: u64, reason: Reason) -> Result<Option<PathBuf>, StoreError> {
        let Self { folder, path, cache, rows, buckets } = self;
        let mut state = State { revision, set: SetSum::default() };
        for bucket in Bucket::every() {
            let set = buckets[bucket.index()];
            if set.keys > 0 {
                let row = encode_bucket(bucket, set).map_err(StoreError::CorruptState)?;
                guard(|| rows.meta.insert(bucket.row_key(), row))?;
            }
            state.set.join(set);
        }
        let row = encode_state(state).map_err(StoreError::CorruptState)?;
        guard(|| rows.meta.insert(STATE, row))?;
        guard(|| rows.database.flush())?;
        close(rows, &path)?;
        check(&path, cache, state)?;
        swap::commit(folder.path(), reason)
    }
}

/// What has become of a store that was written anew.
pub(super) struct Rewritten {
    pub(super) keys: u64,
    /// Where the older files are, if they are kept.
    pub(super) kept: Option<PathBuf>,
}

/// Writes all that is in a store anew, in the present format. A store in which anything cannot be trusted is left as it is.
pub(super) fn rewrite(folder: &Folder, rows: Rows, cache: u64, reason: Reason) -> Result<Rewritten, StoreError> {
    let is_old = rows.format()? == Some(1);
    let row = guard(|| rows.meta.get(STATE))?.unwrap_or_default();
    let state = if is_old {
        decode_state_1(&row).map(|(revision, keys)| State { revision, set: SetSum::counted(keys) })
    } else {
        decode_state(&row)
    };
    let state = state.map_err(StoreError::CorruptState)?;
    let acknowledged = folder.marked()?.unwrap_or(0);
    if state.revision < acknowledged {
        return Err(StoreError::Lost { path: folder.path().to_owned(), acknowledged, found: state.revision });
    }
    let mut rebuild = Rebuild::begin(folder, cache)?;
    let mut found = SetSum::default();
    each(&rows.records, |key, row| {
        let miscounted = StoreError::Miscounted { expected: state.set.keys, found: found.keys };
        let id = KeyId::from_bytes(key).map_err(|_| miscounted)?;
        found.insert(key, row);
        rebuild.put_record(&read_record(&id, row)?)
    })?;
    if found.keys != state.set.keys {
        return Err(StoreError::Miscounted { expected: state.set.keys, found: found.keys });
    }
    if !is_old && found != state.set {
        return Err(StoreError::Altered);
    }
    each(&rows.last_used, |key, row| {
        let Ok(id) = KeyId::from_bytes(key) else { return Ok(()) };
        let at = if is_old { decode_time_1(row) } else { decode_time(&id, row) };
        // One that cannot be trusted is not known anyway.
        match at {
            Ok(at) if guard(|| rows.records.contains_key(key))? => rebuild.put_time(&id, at),
            _ => Ok(()),
        }
    })?;
    each(&rows.changes, |key, row| {
        let revision = key.try_into().map_or(0, u64::from_be_bytes);
        let corrupt = |source| StoreError::CorruptChange { revision, source };
        rebuild.put_change(&decode_change(revision, row).map_err(corrupt)?)
    })?;
    close(rows, folder.path())?;
    let kept = rebuild.finish(state.revision, reason)?;
    Ok(Rewritten { keys: found.keys, kept })
}

fn each(tree: &Tree, mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), StoreError>) -> Result<(), StoreError> {
    let mut rows = tree.iter();
    while let Some((key, row)) = guard(|| rows.next().transpose())? {
        visit(&key, &row)?;
    }
    Ok(())
}

/// Whether the database in this folder holds what was put in.
fn check(path: &Path, cache: u64, expected: State) -> Result<(), StoreError> {
    let rows = Rows::open(path, cache)?;
    let row = guard(|| rows.meta.get(STATE))?.ok_or(StoreError::Altered)?;
    let state = decode_state(&row).map_err(StoreError::CorruptState)?;
    let mut found = SetSum::default();
    each(&rows.records, |id, row| {
        found.insert(id, row);
        Ok(())
    })?;
    close(rows, path)?;
    if found == expected.set && state.set == expected.set && state.revision == expected.revision {
        Ok(())
    } else {
        Err(StoreError::Altered)
    }
}

/// Closes a database and waits until its threads have let go of its file.
pub(super) fn close(rows: Rows, path: &Path) -> Result<(), StoreError> {
    drop(rows);
    let path = path.join("db");
    let file = File::open(&path).map_err(at(&path))?;
    let mut left = CLOSING_MAX;
    while file.try_lock().is_err() && !left.is_zero() {
        std::thread::sleep(CLOSING_POLL);
        left = left.saturating_sub(CLOSING_POLL);
    }
    Ok(())
}
