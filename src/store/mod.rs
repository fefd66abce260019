//! Durable key records, the log of their changes, and the time of each key's last use.
//!
//! Knows nothing of caches, HTTP or who may do what. Blocking: reach it through `Keyring`.
//!
//! Invariants: a record, its line in the change log, the revision and the sums over all records change in one transaction;
//! revisions have no gaps; a time of use exists only for a key that exists, and never goes backwards.
//!
//! Damage is found by three means: each row has a checksum, the state has a sum over all records, and the mark beside the
//! database says which revision it must at least have. So a row that is altered, lost, old or back is never taken.

pub mod backup;
mod commit;
mod compact;
mod copy;
mod folder;
#[cfg(fuzzing)]
pub mod fuzzing;
mod healing;
mod import;
mod load;
mod memory;
mod mend;
pub mod portable;
mod rebuild;
mod record;
mod recovery;
mod reopening;
mod repair;
mod restore;
mod rows;
mod segments;
mod sled;
mod staging;
mod stats;
mod sums;
mod survey;
mod swap;
#[cfg(test)]
mod tests;
mod upgrade;
mod verify;
mod whole_file;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::key::{KeyId, KeyName, KeyRecord, Kind, ScopeSet};
use crate::metrics::StoreHealth;
use crate::settings::{ByteSize, Node, Value, settings};

pub use self::compact::{Compacted, compact};
pub use self::healing::{Engine, Extent, HealingStore};
pub use self::import::{Import, ImportError, Imported, OnConflict};
pub use self::memory::MemoryStore;
pub use self::record::RecordError;
pub use self::reopening::open;
pub use self::repair::{Doubtful, Dropped, Repaired, repair};
pub use self::restore::{RestoreError, restore};
pub use self::sled::SledStore;
pub use self::stats::{Stats, stats};
pub use self::survey::SURVEY;
pub use self::verify::{Verified, verify};
pub use self::whole_file::WholeFile;

const CHANGES_MAX: NonZeroU32 = NonZeroU32::new(100_000).expect("is not zero");

settings! {
    /// `[store]`
    pub struct Settings {
        /// The directory that holds the store; one process at a time.
        pub path: PathBuf = "data".into(),
        /// How much of the store is kept in memory; 1 MiB at least.
        pub cache: CacheSize = CacheSize(ByteSize::mib(16)),
        /// How many changes the log keeps; older ones are dropped.
        pub changes_max: NonZeroU32 = CHANGES_MAX,
        pub backup: backup::Settings = backup::Settings::default(),
    }
}

/// A size that the database can work with: it takes a smaller one for damage.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CacheSize(ByteSize);

impl CacheSize {
    pub fn bytes(self) -> u64 {
        self.0.0
    }
}

impl Value for CacheSize {
    fn read(node: &Node<'_>) -> Option<Self> {
        let size = ByteSize::read(node)?;
        if size < ByteSize::mib(1) {
            return node.problem(format!("{} must be at least 1MiB", node.path()));
        }
        Some(Self(size))
    }
}

/// Where keys are kept. All calls block, and may run at the same time from any thread.
pub trait Store: Send + Sync {
    /// Returns the revision of the last change; 0 before the first.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    fn revision(&self) -> Result<u64, StoreError>;

    /// Returns the record of a key; `None` when there is none, or no longer.
    ///
    /// May be ahead of the disk by the one change that a running [`Store::commit`] is making.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when the record cannot be trusted; others when the store cannot be read.
    fn record(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError>;

    /// Hands every record to `visit`, in no particular order. Commits wait until it is done.
    ///
    /// # Errors
    /// [`StoreError`] at the first record that cannot be read; `visit` has then seen some of them.
    fn scan(&self, visit: &mut dyn FnMut(KeyRecord)) -> Result<(), StoreError>;

    /// Makes one change, logs it, and returns when both are on disk.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the revision is not the next one or the key is not as the change expects: nothing
    /// happened. [`StoreError::Uncertain`]: it may have happened. All others: nothing happened.
    fn commit(&self, change: &Change) -> Result<(), StoreError>;

    /// Returns when a key was used last, as far as [`Store::touch`] was told.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    fn last_used(&self, id: &KeyId) -> Result<Option<Timestamp>, StoreError>;

    /// Moves the times of last use forward. Keys that do not exist are passed over: a deleted key leaves nothing behind.
    ///
    /// Not on disk before the next [`Store::commit`] or [`Store::flush`], or a few seconds.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be written; some of the times may have moved. Telling them again is harmless.
    fn touch(&self, uses: &[(KeyId, Timestamp)]) -> Result<(), StoreError>;

    /// Returns up to `limit` changes that came after the revision `after`, oldest first.
    ///
    /// # Errors
    /// [`StoreError`] when the log cannot be read.
    fn changes(&self, after: u64, limit: usize) -> Result<Vec<LoggedChange>, StoreError>;

    /// Returns when everything told so far is on disk.
    ///
    /// # Errors
    /// [`StoreError`] when it may not be.
    fn flush(&self) -> Result<(), StoreError>;

    /// Looks for faults that no call has met.
    ///
    /// # Errors
    /// [`StoreError`] when there is one: the store can make no more changes.
    fn check(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// What is known of its faults; `None` when it knows of none.
    fn health(&self) -> Option<Arc<StoreHealth>> {
        None
    }
}

/// One change of one key, to be made whole or not at all.
#[derive(Clone, Debug)]
pub struct Change {
    /// The store's revision after the change: its present one plus one.
    pub revision: u64,
    pub at: Timestamp,
    pub actor: Actor,
    pub operation: Operation,
    pub expiry: Expiry,
}

/// What becomes of the log's oldest lines when a change adds one to it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Expiry {
    /// Somebody reads the log: it may grow to twice what it keeps.
    Deferred,
    Due,
}

impl Expiry {
    /// How many lines the log has room for that keeps so many.
    fn room(self, changes_max: u64) -> u64 {
        match self {
            Self::Deferred => changes_max.saturating_mul(2),
            Self::Due => changes_max,
        }
    }
}

#[derive(Clone, Debug)]
pub enum Operation {
    /// The id must be free.
    Create(KeyRecord),
    /// The key must be as it is here.
    Delete(KeyRecord),
    /// The key must be as it is in `from`; `to` has the same id.
    Update { from: KeyRecord, to: KeyRecord },
}

impl Operation {
    pub fn key(&self) -> KeyId {
        match self {
            Self::Create(record) | Self::Delete(record) | Self::Update { to: record, .. } => record.id,
        }
    }

    pub fn before(&self) -> Option<&KeyRecord> {
        match self {
            Self::Create(_) => None,
            Self::Delete(record) | Self::Update { from: record, .. } => Some(record),
        }
    }

    pub fn after(&self) -> Option<&KeyRecord> {
        match self {
            Self::Delete(_) => None,
            Self::Create(record) | Self::Update { to: record, .. } => Some(record),
        }
    }
}

/// Who makes a change, and from where.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Actor {
    pub who: Who,
    /// `None` for what is done on the machine itself.
    pub address: Option<IpAddr>,
}

impl Actor {
    /// Whoever runs this program: the commands and files of the machine itself.
    pub const OPERATOR: Self = Self { who: Who::Operator, address: None };
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Who {
    Key(KeyId),
    Operator,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(id) => id.fmt(f),
            Self::Operator => f.write_str("operator"),
        }
    }
}

/// A line of the change log.
#[derive(Clone, Debug, PartialEq)]
pub struct LoggedChange {
    pub revision: u64,
    pub at: Timestamp,
    pub actor: Actor,
    pub key: KeyId,
    /// `None`: the key was created.
    pub before: Option<Facts>,
    /// `None`: the key was deleted.
    pub after: Option<Facts>,
}

impl From<&Change> for LoggedChange {
    fn from(change: &Change) -> Self {
        Self {
            revision: change.revision,
            at: change.at,
            actor: change.actor,
            key: change.operation.key(),
            before: change.operation.before().map(Facts::from),
            after: change.operation.after().map(Facts::from),
        }
    }
}

/// What a change of a key can change, and its kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    pub name: KeyName,
    pub kind: Kind,
    pub scopes: ScopeSet,
}

impl From<&KeyRecord> for Facts {
    fn from(record: &KeyRecord) -> Self {
        Self { name: record.name.clone(), kind: record.kind, scopes: record.scopes.clone() }
    }
}

/// What the store keeps beside the keys: rewritten by every change.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    revision: u64,
    /// Of all records.
    set: sums::SetSum,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "the stored keys are not those that were acknowledged: some are lost, altered or older than they should be; \
         restore the directory from a backup, or see `portcullis store verify` and `portcullis store repair`"
    )]
    Altered,
    #[error("the key is not as the change expects")]
    Conflict,
    #[error("the stored record of key {key} cannot be trusted")]
    Corrupt { key: KeyId, source: RecordError },
    #[error("the stored line of change {revision} cannot be trusted")]
    CorruptChange { revision: u64, source: RecordError },
    #[error("the stored revision cannot be trusted")]
    CorruptState(#[source] RecordError),
    #[error("the database refused")]
    Database(#[source] ::sled::Error),
    #[error(
        "the store in {} is damaged; restore the directory from a backup, or see `portcullis store repair`",
        path.display()
    )]
    Damaged { path: PathBuf, source: Option<::sled::Error> },
    #[error("the database's own thread has died")]
    Died,
    #[error("an earlier fault has left the store read-only")]
    Failed,
    #[error("{}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error(
        "the store in {} ends at revision {found}, after all that this process has written; it is another store, or was \
         changed by another program: restart portcullis to take it as it is",
        path.display()
    )]
    Foreign { path: PathBuf, found: u64 },
    #[error("the files of the store in {} are gone or were replaced; put them back", path.display())]
    Gone { path: PathBuf },
    #[error("the store in {} has keys already ({keys}); use one of them, or move the store away", path.display())]
    Initialised { path: PathBuf, keys: u64 },
    #[error("{} is in use by another portcullis{}", path.display(), pid.map(|pid| format!(" (process {pid})")).unwrap_or_default())]
    Locked { path: PathBuf, pid: Option<u32> },
    #[error(
        "the store in {} ends at revision {found}, but revision {acknowledged} was acknowledged; \
         restore the directory from a backup, or see `portcullis store repair`",
        path.display()
    )]
    Lost { path: PathBuf, acknowledged: u64, found: u64 },
    #[error("there is no store in {}; `portcullis init` makes one", path.display())]
    Missing { path: PathBuf },
    #[error("the store has {found} keys where {expected} were counted")]
    Miscounted { expected: u64, found: u64 },
    #[error(
        "the store in {} was written by a newer portcullis (format {format}); this one reads formats up to {}",
        path.display(), record::VERSION
    )]
    Newer { path: PathBuf, format: u8 },
    #[error("the database panicked")]
    Panicked,
    #[error("no thread for the store's changes")]
    Thread(#[source] io::Error),
    #[error(
        "no key in the store in {} is proven to be as it was last acknowledged; restore the directory from a backup, or \
         move it away and run `portcullis init`; --keep-doubtful keeps what may be older",
        path.display()
    )]
    Unrepairable { path: PathBuf },
    #[error("the change may or may not be on disk")]
    Uncertain(#[source] Box<StoreError>),
    #[error("the database does not let go of its files in {}; restart portcullis", path.display())]
    Wedged { path: PathBuf },
}
