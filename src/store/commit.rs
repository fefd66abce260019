//! What the database does in one transaction: a change of a key with all that belongs to it, and times of last use.
//!
//! Decides nothing but whether the change fits what is there.

use ::sled::IVec;
use ::sled::transaction::{ConflictableTransactionError, TransactionalTree};

use super::record::{STATE, decode_record, decode_state, encode_change, encode_record, encode_state};
use super::{Change, LoggedChange, State, StoreError};
use crate::clock::Timestamp;
use crate::key::{KeyId, KeyRecord};

/// A change as rows, ready to be written in one transaction.
pub(super) struct Commit<'c> {
    id: KeyId,
    change: &'c Change,
    record: Option<Vec<u8>>,
    logged: Vec<u8>,
    expired: Vec<IVec>,
}

/// Why a transaction changed nothing.
pub(super) enum Refused {
    Conflict,
    Store(StoreError),
}

impl From<Refused> for StoreError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Conflict => Self::Conflict,
            Refused::Store(error) => error,
        }
    }
}

type Transacted<T> = Result<T, ConflictableTransactionError<Refused>>;

impl<'c> Commit<'c> {
    pub(super) fn prepare(change: &'c Change, expired: Vec<IVec>) -> Result<Self, StoreError> {
        let id = change.operation.key();
        let corrupt = |source| StoreError::Corrupt { key: id, source };
        let record = change.operation.after().map(encode_record).transpose().map_err(corrupt)?;
        let logged = encode_change(&LoggedChange::from(change)).map_err(corrupt)?;
        Ok(Self { id, change, record, logged, expired })
    }

    pub(super) fn apply(
        &self,
        (records, last_used, changes, meta): &(
            TransactionalTree,
            TransactionalTree,
            TransactionalTree,
            TransactionalTree,
        ),
    ) -> Transacted<()> {
        let state = self.checked_state(records, meta)?;
        match &self.record {
            Some(row) => {
                records.insert(self.id.as_bytes(), row.as_slice())?;
            }
            None => {
                records.remove(self.id.as_bytes())?;
                last_used.remove(self.id.as_bytes())?;
            }
        }
        changes.insert(&self.change.revision.to_be_bytes(), self.logged.as_slice())?;
        for revision in &self.expired {
            changes.remove(revision)?;
        }
        meta.insert(STATE, encode_state(state).map_err(|error| refused(StoreError::CorruptState(error)))?)?;
        Ok(())
    }

    /// The state after the change, if the change fits what is there.
    fn checked_state(&self, records: &TransactionalTree, meta: &TransactionalTree) -> Transacted<State> {
        let row = meta.get(STATE)?;
        let state = row.map(|row| decode_state(&row)).transpose();
        let state = state.map_err(|error| refused(StoreError::CorruptState(error)))?;
        let State { revision, keys } = state.unwrap_or(State { revision: 0, keys: 0 });
        let row = records.get(self.id.as_bytes())?;
        let present = row.map(|row| read_record(&self.id, &row)).transpose().map_err(refused)?;
        let operation = &self.change.operation;
        let expected = operation.before().map(|record| record.revision);
        if self.change.revision != revision + 1 || present.map(|record| record.revision) != expected {
            return Err(ConflictableTransactionError::Abort(Refused::Conflict));
        }
        let keys =
            (keys + u64::from(operation.after().is_some())).saturating_sub(u64::from(operation.before().is_some()));
        Ok(State { revision: self.change.revision, keys })
    }
}

fn refused(error: StoreError) -> ConflictableTransactionError<Refused> {
    ConflictableTransactionError::Abort(Refused::Store(error))
}

/// In one transaction with the look at the record: a delete cannot come between and leave a time behind.
pub(super) fn touch(
    records: &TransactionalTree,
    last_used: &TransactionalTree,
    uses: &[(KeyId, Timestamp)],
) -> Result<(), ConflictableTransactionError<::sled::Error>> {
    for (id, at) in uses {
        if records.get(id.as_bytes())?.is_none() {
            continue;
        }
        let known = last_used.get(id.as_bytes())?.as_deref().and_then(read_time);
        if known.is_none_or(|known| known < *at) {
            last_used.insert(id.as_bytes(), &at.unix().to_be_bytes())?;
        }
    }
    Ok(())
}

pub(super) fn read_record(id: &KeyId, row: &[u8]) -> Result<KeyRecord, StoreError> {
    decode_record(id, row).map_err(|source| StoreError::Corrupt { key: *id, source })
}

pub(super) fn read_time(row: &[u8]) -> Option<Timestamp> {
    row.try_into().ok().map(i64::from_be_bytes).map(Timestamp::from_unix)
}
