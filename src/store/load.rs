//! What the database does in one transaction to take over keys and lines of the log from elsewhere.
//!
//! Decides nothing but whether they fit what is there.

use std::collections::BTreeMap;

use ::sled::transaction::ConflictableTransactionError;

use super::commit::{Refused, Transacted, Trees, change_bucket, put_state, state_in};
use super::portable::Ported;
use super::record::{encode_change, encode_record, encode_time};
use super::sums::{Bucket, SetSum};
use super::{LoggedChange, State, StoreError};
use crate::key::KeyId;

/// Keys and changes as rows.
pub(super) struct Load {
    revision: u64,
    /// Each with the time of its last use.
    keys: Vec<(KeyId, Vec<u8>, Option<Vec<u8>>)>,
    changes: Vec<(u64, Vec<u8>)>,
}

impl Load {
    pub(super) fn prepare(revision: u64, keys: &[Ported], changes: &[LoggedChange]) -> Result<Self, StoreError> {
        let key = |key: &Ported| -> Result<_, StoreError> {
            let id = key.record.id;
            let corrupt = |source| StoreError::Corrupt { key: id, source };
            let last_used = key.last_used.map(|at| encode_time(&id, at)).transpose().map_err(corrupt)?;
            Ok((id, encode_record(&key.record).map_err(corrupt)?, last_used))
        };
        let change = |change: &LoggedChange| -> Result<_, StoreError> {
            let revision = change.revision;
            let row = encode_change(change).map_err(|source| StoreError::CorruptChange { revision, source })?;
            Ok((revision, row))
        };
        let (keys, changes) = (keys.iter().map(key), changes.iter().map(change));
        Ok(Self { revision, keys: keys.collect::<Result<_, _>>()?, changes: changes.collect::<Result<_, _>>()? })
    }

    pub(super) fn apply(&self, (records, last_used, changes, meta): &Trees) -> Transacted<()> {
        let State { revision, mut set } = state_in(meta)?;
        if self.revision < revision {
            return Err(ConflictableTransactionError::Abort(Refused::Conflict));
        }
        let mut added: BTreeMap<usize, (Bucket, SetSum)> = BTreeMap::new();
        for (id, row, used) in &self.keys {
            if records.insert(id.as_bytes(), row.as_slice())?.is_some() {
                return Err(ConflictableTransactionError::Abort(Refused::Conflict));
            }
            if let Some(used) = used {
                last_used.insert(id.as_bytes(), used.as_slice())?;
            }
            set.insert(id.as_bytes(), row);
            let bucket = Bucket::of(id.as_bytes());
            added.entry(bucket.index()).or_insert((bucket, SetSum::default())).1.insert(id.as_bytes(), row);
        }
        for (bucket, added) in added.into_values() {
            change_bucket(meta, bucket, |mut set| {
                set.join(added);
                set
            })?;
        }
        for (revision, row) in &self.changes {
            changes.insert(&revision.to_be_bytes(), row.as_slice())?;
        }
        put_state(meta, State { revision: self.revision, set })
    }
}
