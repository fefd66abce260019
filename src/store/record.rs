//! How rows are written: a version byte, a CRC-32, and the fields in postcard's format.
//!
//! Refuses to guess: a row whose version, checksum or fields are wrong is an error, never a record with less or more.
//!
//! Invariant: the checksum covers the row's own key, so a row that turns up under another key is refused.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::sums::{Bucket, SetSum};
use super::{Actor, Facts, LoggedChange, State, Who};
use crate::clock::Timestamp;
use crate::key::{Digest, KeyId, KeyName, KeyRecord, Scope, ScopeSet};

/// The format that is written. Rows of a store with an older state are rewritten before it is used: `upgrade`.
///
/// 1: the state has no sum, a time of last use is eight bytes without a checksum. 2: sums of all rows, here and by bucket.
/// Records and lines of the change log have the same fields in both.
pub(super) const VERSION: u8 = 2;
const HEADER_BYTES: usize = 5;

/// Why a row cannot be trusted.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RecordError {
    #[error("the checksum is wrong")]
    Checksum,
    #[error("the fields are malformed")]
    Malformed,
    #[error("it was written by a newer portcullis (format {0})")]
    NewerVersion(u8),
    #[error("it was written by an older portcullis (format {0})")]
    OlderVersion(u8),
}

/// The fields of a record but the id, which is the row's key. Names are text: a scope that is no longer declared stays.
#[derive(Deserialize, Serialize)]
struct RecordRow<'a> {
    digest: [u8; 32],
    #[serde(borrow)]
    facts: FactsRow<'a>,
    created: i64,
    updated: i64,
    created_revision: u64,
    revision: u64,
}

#[derive(Deserialize, Serialize)]
struct FactsRow<'a> {
    name: &'a str,
    kind: &'a str,
    scopes: Vec<&'a str>,
}

#[derive(Deserialize, Serialize)]
struct ChangeRow<'a> {
    at: i64,
    /// `None` is the operator.
    actor: Option<[u8; 12]>,
    address: Option<IpAddr>,
    key: [u8; 12],
    #[serde(borrow)]
    before: Option<FactsRow<'a>>,
    #[serde(borrow)]
    after: Option<FactsRow<'a>>,
}

pub(super) fn encode_record(record: &KeyRecord) -> Result<Vec<u8>, RecordError> {
    let row = RecordRow {
        digest: *record.digest.as_bytes(),
        facts: FactsRow { name: record.name.as_str(), kind: record.kind.as_str(), scopes: record.scopes.names() },
        created: record.created.unix(),
        updated: record.updated.unix(),
        created_revision: record.created_revision,
        revision: record.revision,
    };
    seal(record.id.as_bytes(), &row)
}

pub(super) fn decode_record(id: &KeyId, bytes: &[u8]) -> Result<KeyRecord, RecordError> {
    let row: RecordRow<'_> = unseal(id.as_bytes(), bytes)?;
    let facts = row.facts.read()?;
    Ok(KeyRecord {
        id: *id,
        digest: Digest::from_bytes(row.digest),
        name: facts.name,
        kind: facts.kind,
        scopes: facts.scopes,
        created: Timestamp::from_unix(row.created),
        updated: Timestamp::from_unix(row.updated),
        created_revision: row.created_revision,
        revision: row.revision,
    })
}

pub(super) fn encode_change(change: &LoggedChange) -> Result<Vec<u8>, RecordError> {
    let row = ChangeRow {
        at: change.at.unix(),
        actor: match &change.actor.who {
            Who::Key(id) => Some(*id.as_bytes()),
            Who::Operator => None,
        },
        address: change.actor.address,
        key: *change.key.as_bytes(),
        before: change.before.as_ref().map(FactsRow::of),
        after: change.after.as_ref().map(FactsRow::of),
    };
    seal(&change.revision.to_be_bytes(), &row)
}

pub(super) fn decode_change(revision: u64, bytes: &[u8]) -> Result<LoggedChange, RecordError> {
    let row: ChangeRow<'_> = unseal(&revision.to_be_bytes(), bytes)?;
    let who = row.actor.map_or(Ok(Who::Operator), |id| read_id(&id).map(Who::Key))?;
    Ok(LoggedChange {
        revision,
        at: Timestamp::from_unix(row.at),
        actor: Actor { who, address: row.address },
        key: read_id(&row.key)?,
        before: row.before.map(|facts| facts.read()).transpose()?,
        after: row.after.map(|facts| facts.read()).transpose()?,
    })
}

pub(super) const STATE: &[u8] = b"state";

#[derive(Deserialize, Serialize)]
struct StateRow {
    revision: u64,
    keys: u64,
    sum: [u8; 16],
}

#[derive(Deserialize)]
struct StateRow1 {
    revision: u64,
    keys: u64,
}

pub(super) fn encode_state(state: State) -> Result<Vec<u8>, RecordError> {
    seal(STATE, &StateRow { revision: state.revision, keys: state.set.keys, sum: state.set.to_bytes() })
}

pub(super) fn decode_state(bytes: &[u8]) -> Result<State, RecordError> {
    if format_of(bytes) == Some(1) {
        return Err(RecordError::OlderVersion(1));
    }
    let row: StateRow = unseal(STATE, bytes)?;
    Ok(State { revision: row.revision, set: SetSum::from_bytes(row.keys, row.sum) })
}

/// The revision and the number of keys in a state of format 1.
pub(super) fn decode_state_1(bytes: &[u8]) -> Result<(u64, u64), RecordError> {
    let row: StateRow1 = unseal(STATE, bytes)?;
    Ok((row.revision, row.keys))
}

/// The format that a row says it is in.
pub(super) fn format_of(row: &[u8]) -> Option<u8> {
    row.first().copied()
}

pub(super) fn encode_bucket(bucket: Bucket, set: SetSum) -> Result<Vec<u8>, RecordError> {
    seal(&bucket.row_key(), &(set.keys, set.to_bytes()))
}

pub(super) fn decode_bucket(bucket: Bucket, bytes: &[u8]) -> Result<SetSum, RecordError> {
    let (keys, sum) = unseal(&bucket.row_key(), bytes)?;
    Ok(SetSum::from_bytes(keys, sum))
}

pub(super) fn encode_time(id: &KeyId, at: Timestamp) -> Result<Vec<u8>, RecordError> {
    seal(id.as_bytes(), &at.unix())
}

pub(super) fn decode_time(id: &KeyId, bytes: &[u8]) -> Result<Timestamp, RecordError> {
    unseal(id.as_bytes(), bytes).map(Timestamp::from_unix)
}

pub(super) fn decode_time_1(bytes: &[u8]) -> Result<Timestamp, RecordError> {
    let seconds = bytes.try_into().map_err(|_| RecordError::Malformed)?;
    Ok(Timestamp::from_unix(i64::from_be_bytes(seconds)))
}

impl<'a> FactsRow<'a> {
    fn of(facts: &'a Facts) -> Self {
        Self { name: facts.name.as_str(), kind: facts.kind.as_str(), scopes: facts.scopes.names() }
    }

    fn read(&self) -> Result<Facts, RecordError> {
        let scopes: Result<Vec<Scope>, _> = self.scopes.iter().map(|name| Scope::parse(name)).collect();
        Ok(Facts {
            name: KeyName::parse(self.name).map_err(|_| RecordError::Malformed)?,
            kind: self.kind.parse().map_err(|_| RecordError::Malformed)?,
            scopes: ScopeSet::new(scopes.map_err(|_| RecordError::Malformed)?),
        })
    }
}

fn read_id(bytes: &[u8]) -> Result<KeyId, RecordError> {
    KeyId::from_bytes(bytes).map_err(|_| RecordError::Malformed)
}

fn seal(key: &[u8], row: &impl Serialize) -> Result<Vec<u8>, RecordError> {
    let mut bytes = vec![VERSION, 0, 0, 0, 0];
    bytes = postcard::to_extend(row, bytes).map_err(|_| RecordError::Malformed)?;
    let checksum = checksum(key, VERSION, &bytes[HEADER_BYTES..]);
    bytes[1..HEADER_BYTES].copy_from_slice(&checksum);
    Ok(bytes)
}

fn unseal<'a, Row: Deserialize<'a>>(key: &[u8], bytes: &'a [u8]) -> Result<Row, RecordError> {
    let (header, fields) = bytes.split_at_checked(HEADER_BYTES).ok_or(RecordError::Malformed)?;
    let version = header[0];
    if version > VERSION {
        return Err(RecordError::NewerVersion(version));
    }
    if header[1..] != checksum(key, version, fields) {
        return Err(RecordError::Checksum);
    }
    postcard::from_bytes(fields).map_err(|_| RecordError::Malformed)
}

fn checksum(key: &[u8], version: u8, fields: &[u8]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(&[version]);
    hasher.update(fields);
    hasher.finalize().to_le_bytes()
}
