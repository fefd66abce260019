//! Damage to any file of a store: noticed, or harmless. What opens is what was acknowledged, and what is repaired is no
//! more than that.
//!
//! `PORTCULLIS_DAMAGES=N` damages N times in place of a hundred or two.

use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use super::*;

/// Opening takes milliseconds; whoever reads a damaged store must not wait for ever.
const ANSWER_MAX: Duration = Duration::from_secs(60);

const THREADS: usize = 6;

/// A store as files, and what is in it.
struct Original {
    files: Vec<(PathBuf, Vec<u8>)>,
    /// The same as they were some changes earlier.
    earlier: Vec<(PathBuf, Vec<u8>)>,
    keys: BTreeMap<KeyId, String>,
    revision: u64,
}

/// Everything that a record says, as text.
fn told(record: &KeyRecord) -> String {
    format!("{record:?} {:?}", record.digest.as_bytes())
}

pub(super) fn keys_of(store: &SledStore) -> Result<BTreeMap<KeyId, String>, StoreError> {
    let mut keys = BTreeMap::new();
    store.scan(&mut |record| drop(keys.insert(record.id, told(&record))))?;
    for (id, expected) in &keys {
        assert_eq!(store.record(id)?.as_ref().map(told).as_ref(), Some(expected));
    }
    Ok(keys)
}

pub(super) fn files_of(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            files.extend(files_of(&path));
        } else if path.file_name().unwrap() != "portcullis.lock" {
            let bytes = fs::read(&path).unwrap();
            files.push((path, bytes));
        }
    }
    files
}

pub(super) fn narrow(store: &dyn Store, from: &KeyRecord) -> KeyRecord {
    let revision = store.revision().unwrap() + 1;
    let to = KeyRecord { scopes: scopes(&["monitor:read"]), revision, ..from.clone() };
    store.commit(&change(revision, Operation::Update { from: from.clone(), to: to.clone() })).unwrap();
    to
}

/// Two hundred changes of forty keys. One has so many scopes that the database keeps its page in a file of its own.
fn original(settings: &Settings) -> Original {
    // The segments of older releases: those of today take any page.
    drop(::sled::Config::new().path(&settings.path).open().unwrap());
    let store = SledStore::create(settings).unwrap();
    let mut records: Vec<KeyRecord> = (0..60).map(|_| create(&store)).collect();
    drop(store);
    let relative = |(path, bytes): (PathBuf, Vec<u8>)| (path.strip_prefix(&settings.path).unwrap().to_owned(), bytes);
    let earlier = files_of(&settings.path).into_iter().map(relative).collect();
    let store = SledStore::open(settings).unwrap();
    for record in records.drain(40..) {
        delete(&store, &record);
    }
    for round in 0..120 {
        let record = &mut records[round % 40];
        *record = if round % 2 == 0 { narrow(&store, record) } else { rename(&store, record) };
        store.touch(&[(record.id, at(1_000 + round as i64))]).unwrap();
    }
    let revision = store.revision().unwrap() + 1;
    let many: Vec<String> = (0..9_000).map(|number| format!("team:many-{number:05}")).collect();
    let wide = KeyRecord { scopes: scopes(&many.iter().map(String::as_str).collect::<Vec<_>>()), ..fresh(revision) };
    store.commit(&change(revision, Operation::Create(wide))).unwrap();
    (0..4).for_each(|index| drop(rename(&store, &records[index])));
    store.flush().unwrap();
    let (keys, revision) = (keys_of(&store).unwrap(), store.revision().unwrap());
    drop(store);
    // What closing writes is part of it.
    drop(SledStore::open(settings).unwrap());
    drop(bare_database(settings));
    Original { files: files_of(&settings.path).into_iter().map(relative).collect(), earlier, keys, revision }
}

/// A small generator of numbers: the same damage each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % end.max(1)
    }
}

impl Original {
    /// The file with damage, and what it is.
    fn damaged(&self, dice: &mut Dice) -> (usize, Vec<u8>, String) {
        // The one file that holds nearly everything as often as all others together.
        let database = self.files.iter().position(|(path, _)| path == Path::new("db")).unwrap();
        let file = if dice.below(2) == 0 { database } else { dice.below(self.files.len()) };
        let (path, bytes) = &self.files[file];
        let mut damaged = bytes.clone();
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let position = dice.below(used);
        let what = match dice.below(5) {
            0 => {
                damaged.truncate(position);
                format!("cut at {position}")
            }
            1 => {
                let end = (position + 512).min(damaged.len());
                damaged[position..end].fill(0);
                format!("zeros at {position}")
            }
            2 => {
                let start = position & !4_095;
                if let Some((_, earlier)) = self.earlier.iter().find(|(other, _)| other == path) {
                    let end = (start + 4_096).min(damaged.len()).min(earlier.len());
                    if start < end {
                        damaged[start..end].copy_from_slice(&earlier[start..end]);
                    }
                }
                format!("an earlier block at {start}")
            }
            3 => {
                damaged[position] = dice.below(256) as u8;
                format!("a byte at {position}")
            }
            _ => {
                damaged[position] ^= 1 << dice.below(8);
                format!("a bit at {position}")
            }
        };
        (file, damaged, format!("{}: {what}", path.display()))
    }

    fn write(&self, folder: &Path, file: usize, damaged: &[u8]) {
        for (index, (path, bytes)) in self.files.iter().enumerate() {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, if index == file { damaged } else { bytes }).unwrap();
        }
    }

    #[track_caller]
    fn check(&self, store: &SledStore, keys: &BTreeMap<KeyId, String>, what: &str) {
        assert_eq!(store.revision().unwrap(), self.revision, "{what}");
        assert_eq!(keys, &self.keys, "{what}");
    }
}

/// What came of it within the time that a test has.
fn answered<T: Send + 'static>(what: &str, call: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, answer) = mpsc::channel();
    std::thread::spawn(move || sender.send(call()));
    answer.recv_timeout(ANSWER_MAX).unwrap_or_else(|error| panic!("{what}: {error}"))
}

fn opened(settings: &Settings) -> Result<(SledStore, BTreeMap<KeyId, String>), StoreError> {
    let store = SledStore::open(settings)?;
    let keys = keys_of(&store)?;
    Ok((store, keys))
}

/// What came of the damages of one thread.
#[derive(Default)]
struct Tally {
    refused: usize,
    repaired: usize,
    kept: usize,
    dropped: usize,
}

impl Original {
    /// Damages a copy of the store once, opens it, and repairs every fourth that is refused.
    fn round(&self, round: usize, base: &Settings, dice: &mut Dice, tally: &mut Tally) {
        let (file, damaged, what) = self.damaged(dice);
        let what = format!("round {round}, {what}");
        let settings = Settings { path: base.path.with_file_name(format!("round-{round}")), ..base.clone() };
        self.write(&settings.path, file, &damaged);
        let own = settings.clone();
        match answered(&what, move || opened(&own)) {
            Ok((store, keys)) => self.check(&store, &keys, &what),
            Err(error) => {
                assert!(!error.to_string().is_empty());
                tally.refused += 1;
                if tally.refused % 4 == 1 {
                    let opened = Settings { path: base.path.with_file_name(format!("opened-{round}")), ..base.clone() };
                    super::swapped::copied(&settings.path, &opened.path);
                    fs::remove_dir_all(&settings.path).unwrap();
                    self.write(&settings.path, file, &damaged);
                    let kept = self.repair(&settings, what.clone(), tally);
                    // The opening that was refused has taken nothing from it.
                    let own = opened.clone();
                    let again = answered(&what, move || repair(&own, Doubtful::Drop));
                    assert_eq!(again.ok().map(|done| done.kept), kept, "{what}");
                    let _ = fs::remove_dir_all(&opened.path);
                }
            }
        }
        // A database whose threads still close must not find its folder gone.
        let _ = fs::remove_dir_all(&settings.path);
    }

    /// Returns how many keys were kept, if any could be.
    fn repair(&self, settings: &Settings, what: String, tally: &mut Tally) -> Option<usize> {
        let own = settings.clone();
        match answered(&what, move || repair(&own, Doubtful::Drop)) {
            Ok(done) => {
                let (store, keys) = opened(settings).unwrap_or_else(|error| panic!("{what}: {error:?}"));
                for (id, record) in &keys {
                    assert_eq!(Some(record), self.keys.get(id), "{what}");
                }
                assert!(store.revision().unwrap() >= self.revision, "{what}");
                assert_eq!(done.kept, keys.len(), "{what}");
                drop(store);
                let left = verify(settings).unwrap().problems;
                // What the log has kept of keys that are lost names them.
                let is_of_what_was_lost = |problem: &String| {
                    let lost = problem.strip_prefix("key ").and_then(|rest| rest.split_once(": it is missing since "));
                    let lost = lost.and_then(|(id, _)| id.parse().ok());
                    problem.starts_with("change") || lost.is_some_and(|id: KeyId| !keys.contains_key(&id))
                };
                assert!(left.iter().all(is_of_what_was_lost), "{what}: {left:?}");
                println!("{what}: {} kept, {} dropped", done.kept, done.dropped.len());
                tally.repaired += 1;
                tally.kept += done.kept;
                tally.dropped += self.keys.len() - done.kept;
                Some(done.kept)
            }
            Err(StoreError::Unrepairable { .. }) => {
                println!("{what}: nothing could be kept");
                None
            }
            Err(error) => panic!("{what}: {error:?}"),
        }
    }
}

#[test]
fn damage_to_any_file_is_noticed_or_harmless_and_never_widens() {
    let damages: usize = std::env::var("PORTCULLIS_DAMAGES").map_or(100, |damages| damages.parse().unwrap());
    let seed: u64 = std::env::var("PORTCULLIS_SEED").map_or(1, |seed| seed.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let base = Settings { path: folder.path().join("original"), ..Settings::default() };
    let original = original(&base);
    assert!(original.files.iter().any(|(path, _)| path.starts_with("blobs")), "no page is in a file of its own");
    let (original, base) = (&original, &base);
    // Most of the time of a round is waiting for threads to end.
    let tallies: Vec<Tally> = std::thread::scope(|scope| {
        let run = |thread: usize| {
            move || {
                let mut tally = Tally::default();
                let mut dice = Dice(seed * 1_000 + thread as u64);
                let rounds = (thread..damages).step_by(THREADS);
                rounds.for_each(|round| original.round(round, base, &mut dice, &mut tally));
                tally
            }
        };
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(run(thread))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let sum = |count: fn(&Tally) -> usize| tallies.iter().map(count).sum::<usize>();
    let (refused, repaired) = (sum(|tally| tally.refused), sum(|tally| tally.repaired));
    let (kept, dropped) = (sum(|tally| tally.kept), sum(|tally| tally.dropped));
    println!("{damages} damages, {refused} refused; {repaired} repaired: {kept} keys kept, {dropped} dropped");
    assert!(refused > 0 && repaired > 0 && kept > dropped);
}

/// More than the database keeps in memory, so that reads come from the file.
#[test]
fn damage_under_an_open_store_never_widens_a_key() {
    const RECORDS: u64 = 12_000;
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { path: folder.path().join("data"), ..Settings::default() };
    drop(SledStore::create(&settings).unwrap());
    let cache = 1 << 20;
    let names: Vec<String> = (0..20).map(|number| format!("team:scope-{number:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let records: Vec<KeyRecord> =
        (1..=RECORDS).map(|revision| KeyRecord { scopes: scopes(&names), ..fresh(revision) }).collect();
    let build = |records: &[KeyRecord]| {
        let holder = folder::Folder::existing(&settings.path).unwrap();
        let mut rebuild = rebuild::Rebuild::begin(&holder, cache).unwrap();
        records.iter().for_each(|record| rebuild.put_record(record).unwrap());
        rebuild.finish(RECORDS, swap::Reason::Compact).unwrap();
        fs::read(settings.path.join("db")).unwrap()
    };
    let wide = build(&records);
    let records: Vec<KeyRecord> =
        records.into_iter().map(|record| KeyRecord { scopes: scopes(&["monitor:read"]), ..record }).collect();
    let narrow = build(&records);
    let store = std::mem::ManuallyDrop::new(SledStore::open(&settings).unwrap());
    let file = fs::OpenOptions::new().write(true).open(settings.path.join("db")).unwrap();
    let mut dice = Dice(3);
    let mut refused = 0;
    for _ in 0..40 {
        let block = dice.below(narrow.len() / 4_096) * 4_096;
        let mut damaged = narrow[block..block + 4_096].to_vec();
        if dice.below(2) == 0 {
            damaged[dice.below(4_096)] ^= 1 << dice.below(8);
        } else if let Some(old) = wide.get(block..block + 4_096) {
            damaged.copy_from_slice(old);
        }
        std::os::unix::fs::FileExt::write_all_at(&file, &damaged, block as u64).unwrap();
        for _ in 0..250 {
            let record = &records[dice.below(records.len())];
            match store.record(&record.id) {
                Ok(found) => same(found.as_ref(), Some(record)),
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 0, "no read has come from the file");
}
