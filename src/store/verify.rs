//! Reads a store whole and tells what of it does not hold. Changes nothing: what is read is a copy.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::Path;

use super::copy::DatabaseCopy;
use super::folder::{Folder, Mark, at};
use super::record::VERSION;
use super::sums::Bucket;
use super::survey::Survey;
use super::{Facts, LoggedChange, Settings, State, StoreError};
use crate::key::KeyId;

/// What was found in a store.
#[derive(Debug)]
pub struct Verified {
    pub format: u8,
    pub revision: u64,
    pub keys: usize,
    pub changes: usize,
    /// One line each; none: the store is sound.
    pub problems: Vec<String>,
}

/// Reads everything in a store that no process has open. Needs room for a copy of it. Blocking.
///
/// # Errors
/// [`StoreError`] when there is no store, another process has it, or it cannot be copied. Damage is no error.
pub fn verify(settings: &Settings) -> Result<Verified, StoreError> {
    verify_folder(&Folder::existing(&settings.path)?, settings)
}

pub(super) fn verify_folder(folder: &Folder, settings: &Settings) -> Result<Verified, StoreError> {
    let copy = DatabaseCopy::of(folder, "verify")?;
    let mut problems = conf_problem(copy.path())?.into_iter().collect::<Vec<String>>();
    let mark = folder.mark()?;
    let survey = match Survey::of(copy.path(), settings.cache.bytes()) {
        Ok(survey) => survey,
        Err(error) => {
            problems.push(format!("database: it cannot be opened: {error}"));
            Survey::default()
        }
    };
    problems.extend(survey.problems.iter().cloned());
    if mark == Mark::Damaged {
        problems.push("mark: it is damaged".to_owned());
    }
    if let Some(state) = survey.state {
        judge(&survey, state, mark.revision(), &mut problems);
    }
    let revision = survey.state.map_or(0, |state| state.revision);
    let format = survey.format.unwrap_or(VERSION);
    Ok(Verified { format, revision, keys: survey.records.len(), changes: survey.changes.len(), problems })
}

/// Holds the parts of a database against each other.
fn judge(survey: &Survey, state: State, acknowledged: Option<u64>, problems: &mut Vec<String>) {
    let State { revision, set } = state;
    if let Some(acknowledged) = acknowledged.filter(|acknowledged| *acknowledged > revision) {
        problems.push(format!("state: it ends at revision {revision}, but revision {acknowledged} was acknowledged"));
    }
    let found = survey.set();
    if found.keys != set.keys {
        problems.push(format!("keys: {} can be read where {} were counted", found.keys, set.keys));
    }
    // Format 1 has no sums.
    if survey.format != Some(1) {
        if found != set {
            problems.push("keys: their sum is not the acknowledged one: some are lost, altered or old".to_owned());
        }
        if survey.bucket_set() != set {
            problems.push("sums: those of the parts do not add up to that of the whole".to_owned());
        }
        let differs = |bucket: &Bucket| survey.sets.get(bucket.index()) != survey.buckets.get(bucket.index());
        problems.extend(Bucket::every().filter(differs).map(|bucket| format!("sum {}: it differs", bucket.index())));
    }
    judge_log(survey, revision, problems);
    let known: HashSet<KeyId> = survey.records.iter().map(|record| record.id).collect();
    let orphans = survey.times.iter().filter(|(id, _)| !known.contains(id));
    problems.extend(orphans.map(|(id, _)| format!("last use {id}: there is no such key")));
}

fn judge_log(survey: &Survey, revision: u64, problems: &mut Vec<String>) {
    let gaps = gaps(&survey.changes, revision);
    problems.extend(gaps.iter().map(|(first, last)| match first == last {
        true => format!("change {first}: it is missing"),
        false => format!("changes {first} to {last}: they are missing"),
    }));
    let last = last_changes(&survey.changes);
    let mut left: HashMap<&KeyId, &LoggedChange> = last.clone();
    for record in &survey.records {
        if record.revision > revision {
            problems.push(format!("key {}: its revision {} is yet to come", record.id, record.revision));
        }
        let Some(line) = left.remove(&record.id) else { continue };
        // A line that is missing is told as missing; the record may be of that change.
        let is_later = record.revision > line.revision && !survey.changes.contains_key(&record.revision);
        let is_same = record.revision == line.revision && line.after.as_ref() == Some(&Facts::from(record));
        if !is_later && !is_same {
            problems.push(format!("key {}: it is not as change {} left it", record.id, line.revision));
        }
    }
    let lost = left.values().filter(|line| line.after.is_some());
    let mut lost: Vec<String> =
        lost.map(|line| format!("key {}: it is missing since change {}", line.key, line.revision)).collect();
    lost.sort();
    problems.extend(lost);
}

/// The revisions that a log does not have between its first line and the end, as ranges.
pub(super) fn gaps(changes: &BTreeMap<u64, LoggedChange>, end: u64) -> Vec<(u64, u64)> {
    let mut gaps = Vec::new();
    // A log without a line should have the last one.
    let mut expected = changes.keys().next().copied().unwrap_or(end.max(1));
    for revision in changes.keys() {
        if *revision > expected {
            gaps.push((expected, revision - 1));
        }
        expected = revision.saturating_add(1);
    }
    if expected <= end {
        gaps.push((expected, end));
    }
    gaps
}

/// The last line about each key.
pub(super) fn last_changes(changes: &BTreeMap<u64, LoggedChange>) -> HashMap<&KeyId, &LoggedChange> {
    changes.values().map(|line| (&line.key, line)).collect()
}

/// The database only warns of a broken configuration, and only where nobody looks.
fn conf_problem(folder: &Path) -> Result<Option<String>, StoreError> {
    let path = folder.join("conf");
    let text = match fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Some("conf: it is missing".to_owned()));
        }
        read => read.map_err(at(&path))?,
    };
    let whole = text.split_last_chunk().is_some_and(|(text, crc)| *crc == crc32fast::hash(text).to_le_bytes());
    Ok((!whole).then(|| "conf: it is damaged".to_owned()))
}
