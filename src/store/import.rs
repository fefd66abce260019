//! Keys of another store, taken into this one: all that is new in the file, and what is said to happen with the rest.
//!
//! Invariants: nothing is written before the whole file is known to be in order and to fit, and nothing that was not in it
//! then; a key of the store never gets another secret or kind; each key that is made or changed is logged as the operator's doing. An import that was cut off
//! has taken in whole keys from the file's beginning, and goes on when it is repeated.

use std::fmt;
use std::io::{BufRead, Seek, SeekFrom};

use super::portable::{FileError, FileSum, Item, Ported, Reader};
use super::staging::Staging;
use super::{Actor, Change, Expiry, Facts, LoggedChange, Operation, Settings, SledStore, Store, StoreError};
use crate::clock::Timestamp;
use crate::key::{ALL, KeyRecord, ScopeCatalog, ScopeSet};
use crate::policy::{self, Deny};

/// Keys in one transaction, and between two sums of the file.
const KEYS_AT_ONCE: usize = 256;
/// Problems that are told one by one.
const PROBLEMS_MAX: usize = 20;

/// Undeclared scopes of a key that are told by name.
const SCOPES_TOLD_MAX: usize = 4;

/// What happens with a key that is in the store already, with another name or other scopes than in the file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OnConflict {
    /// Nothing is imported at all.
    Refuse,
    /// The store's key stays as it is.
    Skip,
    /// The store's key gets the name and the scopes of the file.
    Update,
}

/// How to import.
pub struct Import<'i> {
    pub settings: &'i Settings,
    /// The scopes that keys may have; `None`: any.
    pub scopes: Option<&'i ScopeCatalog>,
    pub on_conflict: OnConflict,
    pub keys_max: u64,
    pub now: Timestamp,
}

/// How many keys of the file came to what.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Imported {
    pub created: u64,
    pub skipped: u64,
    pub unchanged: u64,
    pub updated: u64,
    /// How many keys of the whole store can manage keys now.
    pub managers: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("the operator may not")]
    Denied(#[source] Deny),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("the file changed while it was read; keys of it may have been imported, which a repetition finds there")]
    FileChanged,
    #[error("there would be {0} keys, and keys.keys_max allows {1}; nothing was imported")]
    Full(u64, u64),
    #[error("no key would be left that can manage keys; nothing was imported")]
    LastManager,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("nothing was imported:\n{0}")]
    Unfit(Problems),
}

/// What is wrong with single keys, each with its line.
#[derive(Debug, Default)]
pub struct Problems {
    told: Vec<(u64, String)>,
    more: u64,
}

impl Problems {
    fn add(&mut self, line: u64, problem: String) {
        if self.told.len() < PROBLEMS_MAX {
            self.told.push((line, problem));
        } else {
            self.more += 1;
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut told: Vec<String> = self.told.iter().map(|(line, problem)| format!("line {line}: {problem}")).collect();
        if self.more > 0 {
            told.push(format!("and {} more", self.more));
        }
        f.write_str(&told.join("\n"))
    }
}

/// What becomes of a key.
enum Verdict {
    Create,
    Skip,
    Unchanged,
    Update(KeyRecord),
}

impl Import<'_> {
    /// Takes the file's keys into the store, which is made when there is none. Blocking.
    ///
    /// # Errors
    /// [`ImportError`]. Nothing was imported, but for [`ImportError::FileChanged`] and faults of the store; a store that
    /// was not there before then still is not.
    pub fn run<R: BufRead + Seek>(&self, mut file: R) -> Result<Imported, ImportError> {
        match SledStore::open(self.settings) {
            Ok(store) => {
                let (_, sums) = self.check(&mut file, Some(&store))?;
                self.apply(&mut file, &sums, &store)
            }
            Err(StoreError::Missing { .. }) => {
                let (_, sums) = self.check(&mut file, None)?;
                let (staging, new) = Staging::begin(self.settings)?;
                let imported = self.apply(&mut file, &sums, &new)?;
                staging.publish(new)?;
                Ok(imported)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Finds out what [`Import::run`] would do, and does nothing.
    ///
    /// # Errors
    /// As [`Import::run`].
    pub fn rehearse<R: BufRead + Seek>(&self, mut file: R) -> Result<Imported, ImportError> {
        match SledStore::open(self.settings) {
            Ok(store) => self.check(&mut file, Some(&store)),
            Err(StoreError::Missing { .. }) => self.check(&mut file, None),
            Err(error) => Err(error.into()),
        }
        .map(|(imported, _)| imported)
    }

    /// Returns what is to be done, and the sums of the file up to every so many keys and to its end.
    fn check<R: BufRead + Seek>(
        &self,
        file: &mut R,
        store: Option<&SledStore>,
    ) -> Result<(Imported, Vec<FileSum>), ImportError> {
        let (mut keys, mut managers) = (0, 0_u64);
        if let Some(store) = store {
            store.scan(&mut |record| {
                keys += 1;
                managers += u64::from(record.manages_keys());
            })?;
        }
        let (had_managers, mut problems) = (managers > 0, Problems::default());
        let (mut imported, mut sums, mut read) = (Imported::default(), Vec::new(), 0);
        let mut reader = Reader::open(&mut *file, self.keys_max)?;
        while let Some(item) = reader.next()? {
            let Item::Key(key) = item else { continue };
            read += 1;
            if read % KEYS_AT_ONCE == 0 {
                sums.push(reader.sum());
            }
            let verdict = match self.judge(&key, store)? {
                Ok(verdict) => verdict,
                Err(problem) => {
                    problems.add(reader.line(), format!("{}: {problem}", key.record.id));
                    continue;
                }
            };
            imported.count(&verdict);
            let (loses, gains) = match verdict {
                Verdict::Create => (false, key.record.manages_keys()),
                Verdict::Update(from) => (from.manages_keys(), key.record.manages_keys()),
                Verdict::Skip | Verdict::Unchanged => (false, false),
            };
            managers = managers + u64::from(gains) - u64::from(loses);
        }
        sums.push(reader.sum());
        if !problems.told.is_empty() {
            return Err(ImportError::Unfit(problems));
        }
        if keys + imported.created > self.keys_max {
            return Err(ImportError::Full(keys + imported.created, self.keys_max));
        }
        if had_managers && managers == 0 {
            return Err(ImportError::LastManager);
        }
        imported.managers = managers;
        file.seek(SeekFrom::Start(0)).map_err(FileError::Unreadable)?;
        Ok((imported, sums))
    }

    fn judge(&self, key: &Ported, store: Option<&SledStore>) -> Result<Result<Verdict, String>, StoreError> {
        let wanted = &key.record;
        let undeclared = self.scopes.map(|declared| {
            let unknown = wanted.scopes.iter().filter(|scope| !declared.contains(scope));
            unknown.take(SCOPES_TOLD_MAX).map(|scope| scope.as_str()).collect::<Vec<_>>()
        });
        let present = store.map(|store| store.record(&wanted.id)).transpose()?.flatten();
        Ok(match (undeclared, present) {
            (Some(undeclared), _) if !undeclared.is_empty() => Err(format!(
                "undeclared scope {}; declare it in [scopes], or see --undeclared-scopes",
                undeclared.join(", ")
            )),
            (_, None) => Ok(Verdict::Create),
            (_, Some(present)) if !present.digest.matches(&wanted.digest) => {
                Err("is in the store with another secret; delete one of the two where it was made".to_owned())
            }
            (_, Some(present)) if present.kind != wanted.kind => {
                Err(format!("is in the store as a key of kind {}, which never changes", present.kind))
            }
            (_, Some(present)) if present.name == wanted.name && present.scopes == wanted.scopes => {
                Ok(Verdict::Unchanged)
            }
            (_, Some(present)) => match self.on_conflict {
                OnConflict::Refuse => {
                    Err("is in the store with another name or other scopes; see --on-conflict".to_owned())
                }
                OnConflict::Skip => Ok(Verdict::Skip),
                OnConflict::Update => Ok(Verdict::Update(present)),
            },
        })
    }

    fn apply<R: BufRead + Seek>(
        &self,
        file: &mut R,
        sums: &[FileSum],
        store: &SledStore,
    ) -> Result<Imported, ImportError> {
        let mut imported = Imported::default();
        let applied = self.apply_each(file, sums, store, &mut imported);
        match applied {
            // It was in order a moment ago.
            Err(ImportError::File(FileError::Line { .. }) | ImportError::Unfit(_)) => Err(ImportError::FileChanged),
            Err(error) => Err(error),
            Ok(()) => {
                store.scan(&mut |record| imported.managers += u64::from(record.manages_keys()))?;
                Ok(imported)
            }
        }
    }

    fn apply_each<R: BufRead>(
        &self,
        file: &mut R,
        sums: &[FileSum],
        store: &SledStore,
        imported: &mut Imported,
    ) -> Result<(), ImportError> {
        let mut reader = Reader::open(file, self.keys_max)?;
        let mut batch = Batch { store, now: self.now, revision: store.revision()?, keys: Vec::new(), log: Vec::new() };
        for sum in sums {
            let keys = next_keys(&mut reader)?;
            if reader.sum() != *sum {
                return Err(ImportError::FileChanged);
            }
            for key in keys {
                let verdict = self.judge(&key, Some(store))?.map_err(|_| ImportError::Unfit(Problems::default()))?;
                imported.count(&verdict);
                match verdict {
                    Verdict::Create => batch.create(key)?,
                    Verdict::Update(from) => batch.update(from, &key.record)?,
                    Verdict::Skip | Verdict::Unchanged => {}
                }
            }
        }
        batch.flush()
    }
}

impl Imported {
    fn count(&mut self, verdict: &Verdict) {
        *match verdict {
            Verdict::Create => &mut self.created,
            Verdict::Skip => &mut self.skipped,
            Verdict::Unchanged => &mut self.unchanged,
            Verdict::Update(_) => &mut self.updated,
        } += 1;
    }
}

/// So many keys, or those up to the end.
fn next_keys<R: BufRead>(reader: &mut Reader<R>) -> Result<Vec<Ported>, FileError> {
    let mut keys = Vec::new();
    while keys.len() < KEYS_AT_ONCE {
        match reader.next()? {
            Some(Item::Key(key)) => keys.push(key),
            Some(Item::Change(_)) => {}
            None => break,
        }
    }
    Ok(keys)
}

/// The operator holds all scopes.
fn granted(scopes: &ScopeSet) -> Result<ScopeSet, ImportError> {
    let grant = policy::grant(&ScopeSet::of(&[ALL]), scopes.clone()).map_err(ImportError::Denied)?;
    Ok(grant.scopes().clone())
}

/// Keys that are to be made together.
struct Batch<'b> {
    store: &'b SledStore,
    now: Timestamp,
    /// After the last change, those of the batch included.
    revision: u64,
    keys: Vec<Ported>,
    log: Vec<LoggedChange>,
}

impl Batch<'_> {
    fn create(&mut self, key: Ported) -> Result<(), ImportError> {
        self.revision += 1;
        let record = KeyRecord {
            scopes: granted(&key.record.scopes)?,
            created_revision: self.revision,
            revision: self.revision,
            ..key.record
        };
        self.log.push(LoggedChange {
            revision: self.revision,
            at: self.now,
            actor: Actor::OPERATOR,
            key: record.id,
            before: None,
            after: Some(Facts::from(&record)),
        });
        // A time yet to come would keep every use until then from being seen.
        let last_used = key.last_used.map(|at| at.min(self.now));
        self.keys.push(Ported { record, last_used });
        if self.keys.len() == KEYS_AT_ONCE { self.flush() } else { Ok(()) }
    }

    fn update(&mut self, from: KeyRecord, wanted: &KeyRecord) -> Result<(), ImportError> {
        self.flush()?;
        self.revision += 1;
        let to = KeyRecord {
            name: wanted.name.clone(),
            scopes: granted(&wanted.scopes)?,
            updated: self.now.max(from.updated),
            revision: self.revision,
            ..from.clone()
        };
        let operation = Operation::Update { from, to };
        let (revision, at, actor, expiry) = (self.revision, self.now, Actor::OPERATOR, Expiry::Due);
        Ok(self.store.commit(&Change { revision, at, actor, operation, expiry })?)
    }

    fn flush(&mut self) -> Result<(), ImportError> {
        if !self.keys.is_empty() {
            self.store.load(self.revision, &self.keys, &self.log)?;
            self.keys.clear();
            self.log.clear();
        }
        Ok(())
    }
}
