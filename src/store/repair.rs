//! Makes a store that can be opened of one that cannot, out of what can be trusted. Everything else is told.
//!
//! # What can be trusted
//!
//! A record that is whole may still be an old one, from before its scopes were narrowed or the key was deleted. So being
//! whole is not enough. A record is taken only when one of these holds:
//!
//! 1. All records together have the sum in the state, and nothing is known of a later state.
//! 2. Those of its part of the keys have the sum that was kept for the part, and the sums of all parts add up to that of
//!    the state, of which nothing later is known.
//! 3. The change log has no later change of the key, and which key each revision after the record's has changed is known:
//!    by the log, or by a record that is of that revision. What the log says of the record's own revision is what it holds.
//!
//! Nothing is known of a later state when the mark says so. A damaged mark is no such word: then nothing is proven, unless
//! all else is in order, so that only the mark was met.
//!
//! The database is read twice: as it is, and with the broken parts of its log cancelled. So is the copy that was kept of it
//! before an earlier start, which has what that start has taken away. The originals are kept aside.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::copy::DatabaseCopy;
use super::folder::{Folder, Mark, at, write_mark};
use super::mend::mend;
use super::rebuild::Rebuild;
use super::record::VERSION;
use super::sums::{Bucket, SetSum};
use super::survey::Survey;
use super::swap::Reason;
use super::verify::{gaps, last_changes, verify_folder};
use super::{Actor, Facts, LoggedChange, Settings, State, StoreError, recovery};
use crate::clock::{Clock, Timestamp};
use crate::key::{KeyId, KeyRecord};

/// What a repair has done.
#[derive(Debug)]
pub struct Repaired {
    /// What was wrong. Empty: nothing was, and nothing was done.
    pub problems: Vec<String>,
    pub kept: usize,
    pub dropped: Vec<Dropped>,
    /// The keys that were kept although they may have been changed or deleted since.
    pub doubtful: Vec<Dropped>,
    /// How many more keys there were, of which nothing is known.
    pub unknown: u64,
    /// How many changes the log has lost.
    pub changes_lost: u64,
    /// The mark was damaged: nobody knows whether there were later changes.
    pub is_end_unknown: bool,
    pub revision: u64,
    /// Where the files are as they were.
    pub aside: Option<PathBuf>,
}

/// What becomes of keys that may have been changed or deleted since, when nobody knows which were.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Doubtful {
    Drop,
    /// At the operator's word alone: such a key may open more than it was left with.
    Keep,
}

/// A key that is gone, or doubtful.
#[derive(Clone, Debug)]
pub struct Dropped {
    pub id: KeyId,
    /// The last that is known of it.
    pub facts: Facts,
    pub reason: &'static str,
}

/// Repairs a store that no process has open. Whenever it is interrupted, the store is as it was or repaired. Blocking.
///
/// # Errors
/// [`StoreError::Unrepairable`] when no key can be kept; others when there is no store, another process has it, or the
/// repaired one cannot be written. Nothing is changed then.
pub fn repair(settings: &Settings, doubtful: Doubtful) -> Result<Repaired, StoreError> {
    let folder = Folder::existing(&settings.path)?;
    let found = verify_folder(&folder, settings)?;
    if found.format > VERSION {
        return Err(StoreError::Newer { path: settings.path.clone(), format: found.format });
    }
    if found.problems.is_empty() {
        let (kept, revision) = (found.keys, found.revision);
        let (problems, dropped, doubtful) = (Vec::new(), Vec::new(), Vec::new());
        let (unknown, changes_lost, is_end_unknown, aside) = (0, 0, false, None);
        return Ok(Repaired {
            problems,
            kept,
            dropped,
            doubtful,
            unknown,
            changes_lost,
            is_end_unknown,
            revision,
            aside,
        });
    }
    let is_mark_damaged = folder.mark()? == Mark::Damaged;
    let is_mark_alone = found.problems.len() == 1 && recovery::kept(folder.path()).is_none();
    let end = match () {
        () if !is_mark_damaged => End::Known,
        () if is_mark_alone && recovery::is_in_order(folder.path())? => End::Likely,
        () => End::Unknown,
    };
    let evidence = Evidence::gather(&folder, settings, end)?;
    let judged = evidence.judge(doubtful);
    if judged.records.is_empty() {
        return Err(StoreError::Unrepairable { path: settings.path.clone() });
    }
    let expected = evidence.surveys.iter().filter_map(|survey| survey.state).max_by_key(|state| state.revision);
    let named = (judged.records.len() + judged.dropped.len()) as u64;
    let unknown = expected.map_or(0, |state| state.set.keys).saturating_sub(named);
    let changes_lost = gaps(&evidence.log, evidence.end).iter().map(|(first, last)| last - first + 1).sum();
    let (revision, aside) = evidence.write(&folder, settings, &judged)?;
    let Judged { records, dropped, doubtful } = judged;
    let (problems, kept, is_end_unknown) = (found.problems, records.len(), is_mark_damaged);
    Ok(Repaired { problems, kept, dropped, doubtful, unknown, changes_lost, is_end_unknown, revision, aside })
}

/// What is known of the last revision that was acknowledged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    Known,
    /// Nothing but the mark is damaged: it would take two faults at once for there to have been more.
    Likely,
    Unknown,
}

/// All that could be read, by every way of reading.
struct Evidence {
    surveys: Vec<Survey>,
    log: BTreeMap<u64, LoggedChange>,
    /// The last revision that is known of.
    end: u64,
    is_end_known: bool,
}

struct Judged {
    records: HashMap<KeyId, KeyRecord>,
    dropped: Vec<Dropped>,
    /// In `records` as well.
    doubtful: Vec<Dropped>,
}

impl Evidence {
    fn gather(folder: &Folder, settings: &Settings, end: End) -> Result<Self, StoreError> {
        let cache = settings.cache.bytes();
        let mut surveys = read_both_ways(folder.path(), folder, ["as-it-is", "mended"], cache)?;
        if let Some(kept) = recovery::kept(folder.path()) {
            surveys.extend(read_both_ways(&kept, folder, ["kept", "kept-mended"], cache)?);
        }
        let is_end_known = end != End::Unknown;
        let log: BTreeMap<u64, LoggedChange> = surveys.iter().flat_map(|survey| survey.changes.clone()).collect();
        let states = surveys.iter().filter_map(|survey| survey.state).map(|state| state.revision);
        let known = [folder.marked()?, states.max(), log.keys().next_back().copied()];
        let end = known.into_iter().flatten().max().unwrap_or(0);
        Ok(Self { surveys, log, end, is_end_known })
    }

    fn judge(&self, doubtful: Doubtful) -> Judged {
        let state = self.present_state();
        let whole = |state: &State| self.surveys.iter().find(|survey| survey.set() == state.set);
        if let Some(survey) = state.as_ref().and_then(whole) {
            return Judged { records: by_id(survey.records.iter()), dropped: Vec::new(), doubtful: Vec::new() };
        }
        let parts = state.and_then(|state| self.surveys.iter().find(|survey| survey.bucket_set() == state.set));
        let settled = parts.map(|parts| self.settled(&parts.buckets)).unwrap_or_default();
        let sound = self.surveys.iter().enumerate().flat_map(|(place, survey)| {
            let settled = &settled;
            let of_place = move |record: &&KeyRecord| settled.get(&bucket(&record.id)) == Some(&place);
            survey.records.iter().filter(of_place)
        });
        let mut judged = Judged { records: by_id(sound), dropped: Vec::new(), doubtful: Vec::new() };
        self.judge_by_log(&settled, doubtful, &mut judged);
        judged
    }

    /// The state, if nothing later is known. One of format 1 has no sum.
    fn present_state(&self) -> Option<State> {
        let states = self.surveys.iter().filter(|survey| survey.format == Some(VERSION));
        states.filter_map(|survey| survey.state).find(|state| self.is_end_known && state.revision == self.end)
    }

    /// The parts of the keys that were read as they should be, each with the survey that has.
    fn settled(&self, parts: &[SetSum]) -> HashMap<Bucket, usize> {
        let read = |bucket: Bucket| {
            let part = parts.get(bucket.index());
            let place = self.surveys.iter().position(|survey| survey.sets.get(bucket.index()) == part)?;
            Some((bucket, place))
        };
        Bucket::every().filter_map(read).collect()
    }

    fn judge_by_log(&self, settled: &HashMap<Bucket, usize>, doubtful: Doubtful, judged: &mut Judged) {
        let lines = last_changes(&self.log);
        let blind = self.last_blind_revision();
        let mut newest: HashMap<KeyId, &KeyRecord> = HashMap::new();
        for record in self.surveys.iter().flat_map(|survey| &survey.records) {
            let known = newest.entry(record.id).or_insert(record);
            if known.revision < record.revision {
                *known = record;
            }
        }
        let unsettled = |id: &KeyId| !settled.contains_key(&bucket(id));
        let lost = lines.values().filter(|line| !newest.contains_key(&line.key) && unsettled(&line.key));
        for line in lost {
            if let Some(facts) = line.after.clone() {
                let reason = "its record cannot be read";
                judged.dropped.push(Dropped { id: line.key, facts, reason });
            }
        }
        for (id, record) in newest.into_iter().filter(|(id, _)| unsettled(id)) {
            let line = lines.get(&id).copied();
            let last_known = || line.and_then(|line| line.after.clone()).unwrap_or_else(|| Facts::from(record));
            match standing(record, line, blind) {
                Standing::Deleted => {}
                Standing::Proven => drop(judged.records.insert(id, record.clone())),
                Standing::Wrong(reason) => judged.dropped.push(Dropped { id, facts: last_known(), reason }),
                Standing::Doubtful(reason) => {
                    let key = Dropped { id, facts: last_known(), reason };
                    if doubtful == Doubtful::Keep {
                        judged.records.insert(id, record.clone());
                        judged.doubtful.push(key);
                    } else {
                        judged.dropped.push(key);
                    }
                }
            }
        }
        judged.doubtful.sort_by_key(|doubtful| doubtful.id);
        judged.dropped.sort_by_key(|dropped| dropped.id);
    }

    /// The last revision of which nobody knows which key it has changed.
    fn last_blind_revision(&self) -> u64 {
        if !self.is_end_known {
            return u64::MAX;
        }
        let claimed: HashSet<u64> =
            self.surveys.iter().flat_map(|survey| &survey.records).map(|record| record.revision).collect();
        let is_blind = |revision: &u64| !self.log.contains_key(revision) && !claimed.contains(revision);
        (1..=self.end).rev().find(is_blind).unwrap_or(0)
    }

    /// Writes what was judged sound into a new store. The log says of each key that is gone that it is.
    fn write(
        &self,
        folder: &Folder,
        settings: &Settings,
        judged: &Judged,
    ) -> Result<(u64, Option<PathBuf>), StoreError> {
        let mut rebuild = Rebuild::begin(folder, settings.cache.bytes())?;
        for record in judged.records.values() {
            rebuild.put_record(record)?;
        }
        for (id, at) in self.times() {
            if judged.records.contains_key(&id) {
                rebuild.put_time(&id, at)?;
            }
        }
        for line in self.log.values() {
            rebuild.put_change(line)?;
        }
        let now = Clock::System.now();
        let mut revision = self.end;
        for dropped in &judged.dropped {
            revision += 1;
            let before = Some(dropped.facts.clone());
            let (at, actor, key) = (now, Actor::OPERATOR, dropped.id);
            rebuild.put_change(&LoggedChange { revision, at, actor, key, before, after: None })?;
        }
        let aside = rebuild.finish(revision, Reason::Repair)?;
        if let Some(aside) = &aside {
            recovery::put_aside(folder.path(), aside)?;
        }
        let mark = folder.mark_file()?;
        write_mark(&mark, revision).and_then(|()| mark.sync_all()).map_err(at(folder.path()))?;
        Ok((revision, aside))
    }

    fn times(&self) -> HashMap<KeyId, Timestamp> {
        let mut times = HashMap::new();
        for (id, at) in self.surveys.iter().flat_map(|survey| &survey.times) {
            let latest = times.entry(*id).or_insert(*at);
            *latest = (*latest).max(*at);
        }
        times
    }
}

/// What can be read of a database as it is, and of one whose log was mended.
fn read_both_ways(
    database: &Path,
    folder: &Folder,
    [as_it_is, mended]: [&str; 2],
    cache: u64,
) -> Result<Vec<Survey>, StoreError> {
    let as_it_is = DatabaseCopy::from(database, folder, as_it_is)?;
    let mended = DatabaseCopy::from(database, folder, mended)?;
    mend(mended.path())?;
    let ways = [Survey::of(as_it_is.path(), cache), Survey::of(mended.path(), cache)];
    Ok(ways.into_iter().flatten().collect())
}

/// What is to be thought of a record that no sum speaks for.
enum Standing {
    Deleted,
    Doubtful(&'static str),
    Proven,
    Wrong(&'static str),
}

/// Judges a record by the last line about its key, and by the last revision that may have been a change of any key.
fn standing(record: &KeyRecord, line: Option<&LoggedChange>, blind: u64) -> Standing {
    match line {
        Some(line) if line.revision > record.revision && line.after.is_none() => Standing::Deleted,
        Some(line) if line.revision > record.revision => Standing::Wrong("its record is older than its last change"),
        Some(line) if line.revision == record.revision && line.after.as_ref() != Some(&Facts::from(record)) => {
            Standing::Wrong("its record is not what the log says")
        }
        _ if record.revision < blind => {
            Standing::Doubtful("it may have been changed or deleted since: changes are missing")
        }
        _ => Standing::Proven,
    }
}

fn by_id<'r>(records: impl Iterator<Item = &'r KeyRecord>) -> HashMap<KeyId, KeyRecord> {
    records.map(|record| (record.id, record.clone())).collect()
}

fn bucket(id: &KeyId) -> Bucket {
    Bucket::of(id.as_bytes())
}
