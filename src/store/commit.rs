//! What the database does in one transaction: a change of a key with all that belongs to it, and times of last use.
//!
//! Decides nothing but whether the change fits what is there.

use ::sled::IVec;
use ::sled::transaction::{ConflictableTransactionError, TransactionalTree};

use super::record::{
    RecordError, STATE, decode_bucket, decode_record, decode_state, decode_time, encode_bucket, encode_change,
    encode_record, encode_state, encode_time,
};
use super::sums::{Bucket, SetSum};
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

/// Records, times of last use, the change log, the state.
pub(super) type Trees = (TransactionalTree, TransactionalTree, TransactionalTree, TransactionalTree);
pub(super) type Transacted<T> = Result<T, ConflictableTransactionError<Refused>>;

impl<'c> Commit<'c> {
    pub(super) fn prepare(change: &'c Change, expired: Vec<IVec>) -> Result<Self, StoreError> {
        let id = change.operation.key();
        let corrupt = |source| StoreError::Corrupt { key: id, source };
        let record = change.operation.after().map(encode_record).transpose().map_err(corrupt)?;
        let logged = encode_change(&LoggedChange::from(change)).map_err(corrupt)?;
        Ok(Self { id, change, record, logged, expired })
    }

    pub(super) fn apply(&self, (records, last_used, changes, meta): &Trees) -> Transacted<()> {
        let (state, present) = self.checked(records, meta)?;
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
        let set = self.changed(state.set, present.as_deref());
        let state = State { revision: self.change.revision, set };
        put_state(meta, state)?;
        change_bucket(meta, Bucket::of(self.id.as_bytes()), |set| self.changed(set, present.as_deref()))
    }

    /// The state before the change and the key's row, if the change fits what is there.
    fn checked(&self, records: &TransactionalTree, meta: &TransactionalTree) -> Transacted<(State, Option<IVec>)> {
        let state = state_in(meta)?;
        let row = records.get(self.id.as_bytes())?;
        let present = row.as_ref().map(|row| read_record(&self.id, row)).transpose().map_err(refused)?;
        let expected = self.change.operation.before().map(|record| record.revision);
        if self.change.revision != state.revision + 1 || present.map(|record| record.revision) != expected {
            return Err(ConflictableTransactionError::Abort(Refused::Conflict));
        }
        Ok((state, row))
    }

    /// What a sum over records becomes by the change.
    fn changed(&self, mut set: SetSum, present: Option<&[u8]>) -> SetSum {
        if let Some(row) = present {
            set.remove(self.id.as_bytes(), row);
        }
        if let Some(row) = &self.record {
            set.insert(self.id.as_bytes(), row);
        }
        set
    }
}

pub(super) fn state_in(meta: &TransactionalTree) -> Transacted<State> {
    meta.get(STATE)?.map_or(Ok(State::default()), |row| decode_state(&row)).map_err(corrupt_state)
}

pub(super) fn put_state(meta: &TransactionalTree, state: State) -> Transacted<()> {
    meta.insert(STATE, encode_state(state).map_err(corrupt_state)?)?;
    Ok(())
}

/// Changes the sum of a part of the keys.
pub(super) fn change_bucket(
    meta: &TransactionalTree,
    bucket: Bucket,
    change: impl FnOnce(SetSum) -> SetSum,
) -> Transacted<()> {
    let row = meta.get(bucket.row_key())?;
    let set = row.map_or(Ok(SetSum::default()), |row| decode_bucket(bucket, &row)).map_err(corrupt_state)?;
    let row = encode_bucket(bucket, change(set)).map_err(corrupt_state)?;
    meta.insert(bucket.row_key().as_slice(), row)?;
    Ok(())
}

fn corrupt_state(error: RecordError) -> ConflictableTransactionError<Refused> {
    refused(StoreError::CorruptState(error))
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
        // A time that cannot be trusted gives way to any other.
        let known = last_used.get(id.as_bytes())?.and_then(|row| decode_time(id, &row).ok());
        if known.is_none_or(|known| known < *at)
            && let Ok(row) = encode_time(id, *at)
        {
            last_used.insert(id.as_bytes(), row)?;
        }
    }
    Ok(())
}

pub(super) fn read_record(id: &KeyId, row: &[u8]) -> Result<KeyRecord, StoreError> {
    decode_record(id, row).map_err(|source| StoreError::Corrupt { key: *id, source })
}
