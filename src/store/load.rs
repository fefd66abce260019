//! What the database does in one transaction to take over keys and lines of the log from elsewhere.
//!
//! Decides nothing but whether they fit what is there.

use ::sled::transaction::{ConflictableTransactionError, TransactionalTree};

use super::commit::Refused;
use super::portable::Ported;
use super::record::{STATE, decode_state, encode_change, encode_record, encode_state};
use super::{LoggedChange, State, StoreError};
use crate::key::KeyId;

/// Keys and changes as rows.
pub(super) struct Load<'l> {
    revision: u64,
    keys: Vec<(KeyId, Vec<u8>, &'l Ported)>,
    changes: Vec<(u64, Vec<u8>)>,
}

impl<'l> Load<'l> {
    pub(super) fn prepare(revision: u64, keys: &'l [Ported], changes: &[LoggedChange]) -> Result<Self, StoreError> {
        let key = |key: &'l Ported| -> Result<_, StoreError> {
            let id = key.record.id;
            let row = encode_record(&key.record).map_err(|source| StoreError::Corrupt { key: id, source })?;
            Ok((id, row, key))
        };
        let change = |change: &LoggedChange| -> Result<_, StoreError> {
            let revision = change.revision;
            let row = encode_change(change).map_err(|source| StoreError::CorruptChange { revision, source })?;
            Ok((revision, row))
        };
        let (keys, changes) = (keys.iter().map(key), changes.iter().map(change));
        Ok(Self { revision, keys: keys.collect::<Result<_, _>>()?, changes: changes.collect::<Result<_, _>>()? })
    }

    pub(super) fn apply(
        &self,
        (records, last_used, changes, meta): &(
            TransactionalTree,
            TransactionalTree,
            TransactionalTree,
            TransactionalTree,
        ),
    ) -> Result<(), ConflictableTransactionError<Refused>> {
        let refused = |error| ConflictableTransactionError::Abort(Refused::Store(error));
        let corrupt = |error| refused(StoreError::CorruptState(error));
        let state = meta.get(STATE)?.map(|row| decode_state(&row)).transpose().map_err(corrupt)?;
        let State { revision, keys } = state.unwrap_or(State { revision: 0, keys: 0 });
        if self.revision < revision {
            return Err(ConflictableTransactionError::Abort(Refused::Conflict));
        }
        for (id, row, key) in &self.keys {
            if records.insert(id.as_bytes(), row.as_slice())?.is_some() {
                return Err(ConflictableTransactionError::Abort(Refused::Conflict));
            }
            if let Some(at) = key.last_used {
                last_used.insert(id.as_bytes(), &at.unix().to_be_bytes())?;
            }
        }
        for (revision, row) in &self.changes {
            changes.insert(&revision.to_be_bytes(), row.as_slice())?;
        }
        let state = State { revision: self.revision, keys: keys + self.keys.len() as u64 };
        meta.insert(STATE, encode_state(state).map_err(corrupt)?)?;
        Ok(())
    }
}
