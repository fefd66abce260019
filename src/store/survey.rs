//! Reads all that can be read of a database, damaged or not, and notes what cannot.
//!
//! Judges nothing but single rows. Invariant: it ends, since a damaged database may keep its reader for ever.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::sled::{IVec, Tree};

use super::record::{
    RecordError, STATE, VERSION, decode_bucket, decode_change, decode_record, decode_state, decode_state_1,
    decode_time, decode_time_1,
};
use super::rows::{Rows, guard};
use super::sums::{Bucket, SetSum};
use super::{LoggedChange, State, StoreError};
use crate::clock::Timestamp;
use crate::key::{KeyId, KeyRecord};

/// The name of the thread that reads a database that may be damaged.
pub const SURVEY: &str = "survey";

/// How long the database may read one row. Far more than a slow disk takes; a damaged one may loop for ever.
const ROW_MAX: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(2);
/// How many places behind unreadable ones are tried, to find where a tree goes on.
const PROBES_MAX: usize = 10_000;
/// The database looks for a page that is gone for about a second before it panics.
const PANICS_MAX: usize = 3;

/// What a database holds, as far as it can be read.
#[derive(Clone, Default)]
pub(super) struct Survey {
    pub(super) format: Option<u8>,
    pub(super) state: Option<State>,
    pub(super) records: Vec<KeyRecord>,
    /// Of the records that can be read, by bucket.
    pub(super) sets: Vec<SetSum>,
    /// As the database has them.
    pub(super) buckets: Vec<SetSum>,
    pub(super) times: Vec<(KeyId, Timestamp)>,
    pub(super) changes: BTreeMap<u64, LoggedChange>,
    /// What cannot be read or trusted, row by row.
    pub(super) problems: Vec<String>,
    steps: u64,
    ended: bool,
}

impl Survey {
    /// Reads the database in a folder. Leaves what does not answer to itself, with a thread.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be opened.
    pub(super) fn of(folder: &Path, cache: u64) -> Result<Self, StoreError> {
        let shared = Shared::default();
        let (path, writer) = (folder.to_owned(), shared.clone());
        let thread = std::thread::Builder::new().name(SURVEY.to_owned());
        let reading = thread.spawn(move || writer.read_all(&path, cache)).map_err(StoreError::Thread)?;
        let (mut steps, mut still) = (0, Duration::ZERO);
        while !reading.is_finished() && !shared.survey().ended && still < ROW_MAX {
            std::thread::sleep(POLL);
            let present = shared.survey().steps;
            still = if present == steps { still + POLL } else { Duration::ZERO };
            steps = present;
        }
        // Closing a damaged database may take for ever: that is not waited for.
        if reading.is_finished() {
            // A panic outside of the guards is damage as well.
            reading.join().unwrap_or(Err(StoreError::Panicked))?;
        }
        let mut survey = shared.survey().clone();
        if !survey.ended {
            survey.problems.push("the database does not answer: reading it was given up".to_owned());
        }
        Ok(survey)
    }

    /// The sum of the records that can be read.
    pub(super) fn set(&self) -> SetSum {
        joined(&self.sets)
    }

    /// The sum of the buckets' sums as the database has them.
    pub(super) fn bucket_set(&self) -> SetSum {
        joined(&self.buckets)
    }
}

fn joined(sets: &[SetSum]) -> SetSum {
    let mut all = SetSum::default();
    sets.iter().for_each(|set| all.join(*set));
    all
}

/// A survey that one thread writes and another waits for.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Survey>>);

impl Shared {
    fn survey(&self) -> MutexGuard<'_, Survey> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn problem(&self, text: impl Into<String>) {
        self.survey().problems.push(text.into());
    }

    fn read_all(&self, path: &Path, cache: u64) -> Result<(), StoreError> {
        let rows = Rows::open(path, cache)?;
        self.read_meta(&rows);
        let format = self.survey().format.unwrap_or(VERSION);
        self.survey().sets = vec![SetSum::default(); Bucket::COUNT];
        self.each(&rows.records, ("key", 12), |survey, key, row| {
            let id = KeyId::from_bytes(key).map_err(|_| RecordError::Malformed)?;
            let record = decode_record(&id, row)?;
            survey.sets[Bucket::of(key).index()].insert(key, row);
            survey.records.push(record);
            Ok(())
        });
        self.each(&rows.last_used, ("last use", 12), |survey, key, row| {
            let id = KeyId::from_bytes(key).map_err(|_| RecordError::Malformed)?;
            let at = if format == 1 { decode_time_1(row)? } else { decode_time(&id, row)? };
            survey.times.push((id, at));
            Ok(())
        });
        self.each(&rows.changes, ("change", 8), |survey, key, row| {
            let revision = key.try_into().map(u64::from_be_bytes).map_err(|_| RecordError::Malformed)?;
            survey.changes.insert(revision, decode_change(revision, row)?);
            Ok(())
        });
        self.survey().ended = true;
        Ok(())
    }

    fn read_meta(&self, rows: &Rows) {
        match guard(|| rows.meta.get(STATE)) {
            Ok(Some(row)) => self.read_state(&row),
            Ok(None) => self.problem("state: there is none"),
            Err(error) => self.problem(format!("state: {}", told(&error))),
        }
        let buckets = Bucket::every().map(|bucket| {
            self.survey().steps += 1;
            match guard(|| rows.meta.get(bucket.row_key())) {
                Ok(Some(row)) => decode_bucket(bucket, &row).unwrap_or_else(|error| {
                    self.problem(format!("sum {}: {error}", bucket.index()));
                    SetSum::default()
                }),
                Ok(None) => SetSum::default(),
                Err(error) => {
                    self.problem(format!("sum {}: {}", bucket.index(), told(&error)));
                    SetSum::default()
                }
            }
        });
        let buckets = buckets.collect();
        self.survey().buckets = buckets;
    }

    fn read_state(&self, row: &[u8]) {
        let mut survey = self.survey();
        survey.format = row.first().copied();
        let state = match survey.format {
            // Its keys have no sum; it is brought to the present format when it is opened.
            Some(1) => decode_state_1(row).map(|(revision, keys)| State { revision, set: SetSum::counted(keys) }),
            _ => decode_state(row),
        };
        match state {
            Ok(state) => survey.state = Some(state),
            Err(error) => survey.problems.push(format!("state: {error}")),
        }
    }

    /// Visits every row that can be read, and goes on behind those that cannot.
    fn each(
        &self,
        tree: &Tree,
        (what, key_bytes): (&str, usize),
        visit: impl Fn(&mut Survey, &[u8], &[u8]) -> Result<(), RecordError>,
    ) {
        let mut probes = Probes::new(key_bytes);
        let mut next = guard(|| tree.first());
        loop {
            let place = match next {
                Ok(None) => return,
                Ok(Some((key, row))) => {
                    let mut survey = self.survey();
                    survey.steps += 1;
                    if let Err(error) = visit(&mut survey, &key, &row) {
                        survey.problems.push(format!("{what} {}: {error}", shown(&key)));
                    }
                    probes.behind(&key)
                }
                Err(error) => {
                    let mut survey = self.survey();
                    survey.steps += 1;
                    if probes.in_gap == 0 {
                        let behind = shown(&probes.place);
                        survey.problems.push(format!("{what}s behind {behind} cannot be read: {}", told(&error)));
                    }
                    drop(survey);
                    let Some(place) = probes.next(&error) else { return };
                    place
                }
            };
            next = guard(|| following(tree, &place));
        }
    }
}

/// The first row behind a place.
fn following(tree: &Tree, place: &[u8]) -> Result<Option<(IVec, IVec)>, ::sled::Error> {
    use std::ops::Bound::{Excluded, Unbounded};
    let next = tree.range::<&[u8], _>((Excluded(place), Unbounded)).next().transpose()?;
    // In a broken tree the way forward may lead back, and round for ever.
    Ok(next.filter(|(key, _)| key.as_ref() > place))
}

/// Where to go on in a tree.
struct Probes {
    place: Vec<u8>,
    /// How many places were tried since the last row that could be read.
    in_gap: u32,
    tried: usize,
    panics: usize,
}

impl Probes {
    fn new(key_bytes: usize) -> Self {
        Self { place: vec![0; key_bytes], in_gap: 0, tried: 0, panics: 0 }
    }

    fn behind(&mut self, key: &[u8]) -> Vec<u8> {
        self.in_gap = 0;
        key.clone_into(&mut self.place);
        key.to_owned()
    }

    /// A place some way behind the last one, in steps that grow: all of a page can be read or nothing, and a page holds a
    /// small part of a large tree or all of a small one.
    fn next(&mut self, error: &StoreError) -> Option<Vec<u8>> {
        self.in_gap += 1;
        self.tried += 1;
        self.panics += usize::from(matches!(error, StoreError::Panicked));
        if self.tried > PROBES_MAX || self.panics > PANICS_MAX {
            return None;
        }
        if let Ok(revision) = <[u8; 8]>::try_from(self.place.as_slice()) {
            let step = 1_u64.checked_shl(self.in_gap / 8)?;
            self.place = u64::from_be_bytes(revision).checked_add(step)?.to_be_bytes().to_vec();
            return Some(self.place.clone());
        }
        // The third character of an id is one of a quarter of a million, the first one of 62.
        let at = 2_usize.saturating_sub(self.in_gap as usize / 64);
        for index in (0..=at).rev() {
            let byte = self.place.get_mut(index)?;
            *byte = byte.wrapping_add(1);
            if *byte != 0 {
                return Some(self.place.clone());
            }
        }
        None
    }
}

fn told(error: &StoreError) -> String {
    match error {
        StoreError::Database(source) => format!("{error}: {source}"),
        _ => error.to_string(),
    }
}

/// A row's key as text: an id, a revision, or bytes.
fn shown(key: &[u8]) -> String {
    match (KeyId::from_bytes(key), <[u8; 8]>::try_from(key)) {
        (Ok(id), _) => id.to_string(),
        (_, Ok(revision)) => u64::from_be_bytes(revision).to_string(),
        _ => format!("{key:02x?}"),
    }
}
