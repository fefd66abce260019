//! What a `store` command leaves when the power goes while it works: what was there, or what it was to make, whole.
//!
//! A command has told that it is done with its first line, or with its end. From then on nothing else may be found.

use std::fs::{self, File};
use std::io::BufReader;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use portcullis::clock::Clock;
use portcullis::key::{KeyRecord, KeySecret};
use portcullis::store::portable::{Content, Reader, write_store};
use portcullis::store::{Doubtful, Import, OnConflict, Operation, Settings, SledStore, Store, StoreError};

use super::recording::{self, Recording, SHORT_SEGMENT_BYTES, State};
use super::{scratch, unlocked};
use crate::harness::{Dice, Effect, Installation, Moment, is_installed};

/// How many images are tried of each command; `PORTCULLIS_POWER_LOSSES` sets another number, `PORTCULLIS_SEED` the seed.
const IMAGES: usize = 8;
const KEYS: usize = 24;
const KEYS_MAX: u64 = 1_000;

fn images() -> usize {
    std::env::var("PORTCULLIS_POWER_LOSSES").map_or(IMAGES, |count| count.parse().expect("a number"))
}

fn settings(path: PathBuf) -> Settings {
    Settings { path, ..Settings::default() }
}

/// Makes a store of several segments, in which keys were made, changed and deleted.
fn made(folder: &Path) -> State {
    let data = folder.join("data");
    sled::Config::new().path(&data).segment_size(SHORT_SEGMENT_BYTES).open().expect("an empty store");
    let changes_max = NonZeroU32::new(20).expect("is not zero");
    let store = unlocked(|| SledStore::create(&Settings { changes_max, ..settings(data.clone()) })).expect("a store");
    let mut records: Vec<KeyRecord> = Vec::new();
    for revision in 1..=u64::try_from(4 * KEYS).expect("fits") {
        let index = usize::try_from(revision).expect("fits") * 7 % (records.len() + 1);
        let operation = if records.len() < KEYS && (index == records.len() || revision.is_multiple_of(2)) {
            let secret = KeySecret::generate().expect("randomness");
            let scopes: &[&str] = if revision == 1 { &["*"] } else { &["monitor:read", "issue:read"] };
            records.push(recording::record(&secret, &format!("made {revision}"), scopes, revision));
            Operation::Create(records[records.len() - 1].clone())
        } else if records.len() > KEYS / 2 && index > 0 && revision.is_multiple_of(5) {
            Operation::Delete(records.swap_remove(index % records.len()))
        } else {
            let at = index % records.len();
            let to = KeyRecord { revision, ..records[at].clone() };
            let from = std::mem::replace(&mut records[at], to.clone());
            Operation::Update { from, to }
        };
        store.commit(&recording::change(operation, revision)).expect("a change that fits");
    }
    drop(store);
    held(&data).expect("readable").expect("a store")
}

/// The keys of a store, and `None` where there is none.
fn held(data: &Path) -> Result<Option<State>, StoreError> {
    let store = match unlocked(|| SledStore::open(&settings(data.to_owned()))) {
        Err(StoreError::Missing { .. }) => return Ok(None),
        opened => opened?,
    };
    let mut state = State::new();
    let keep = &mut |record: KeyRecord| {
        state.insert(record.id.to_string(), recording::facts(&record));
    };
    store.scan(keep)?;
    Ok(Some(state))
}

/// Writes a file of what a store holds, and returns its place.
fn written(folder: &Path, content: Content) -> PathBuf {
    let path = folder.join("keys.jsonl");
    let store = unlocked(|| SledStore::open(&settings(folder.join("data")))).expect("a store");
    write_store(&store, content, Clock::System.now(), File::create(&path).expect("writable")).expect("a file");
    path
}

fn read(path: &Path) -> BufReader<File> {
    BufReader::new(File::open(path).expect("readable"))
}

/// A command that was recorded, and what it said on stdout.
struct Commanded {
    installation: Installation,
    recording: Recording,
    said: Vec<u8>,
}

impl Commanded {
    /// Runs a command on what is in the installation's folder, and asserts how it ends.
    #[track_caller]
    fn run(installation: Installation, command: &[&str], more: &[&Path], code: i32) -> Self {
        let config = installation.config();
        let mut program = vec![env!("CARGO_BIN_EXE_portcullis").to_owned()];
        program.extend(command.iter().map(|word| (*word).to_owned()));
        let more = [Path::new("--config"), &config].into_iter().chain(more.iter().copied());
        program.extend(more.map(|path| path.to_str().expect("UTF-8").to_owned()));
        let (recording, exit) = Recording::of_command(&installation, &program);
        assert_eq!(exit.code, Some(code), "{exit:?}");
        Self { installation, recording, said: exit.stdout.into_bytes() }
    }

    /// Tries images of moments all over the recording. `fits` is told whether the command had said that it was done.
    #[track_caller]
    fn check(&self, fits: impl Fn(&Path, bool) -> Result<(), String>) {
        let failures = self.failures(images(), &|_| true, &fits);
        assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
    }

    fn failures(
        &self,
        images: usize,
        counts: &dyn Fn(&Path) -> bool,
        fits: &dyn Fn(&Path, bool) -> Result<(), String>,
    ) -> Vec<String> {
        let seed = Dice::seed_from("PORTCULLIS_SEED");
        println!("PORTCULLIS_SEED={seed}, {images} images of {} calls", self.recording.calls.len());
        let moments = self.recording.moments();
        let mut cuts: Vec<(usize, Dice)> = (0..images)
            .map(|number| {
                let mut dice = Dice::new(seed.wrapping_add(u64::try_from(number).expect("fits") << 32));
                // The end is one of them: after it everything must be there.
                let end = number % 4 == 0;
                (if end { moments.len() } else { self.recording.cut(&moments, &mut dice) }, dice)
            })
            .collect();
        cuts.sort_by_key(|(cut, _)| std::cmp::Reverse(*cut));
        let (mut disk, mut told, mut failures) = (self.recording.start.clone(), false, Vec::new());
        let target = scratch();
        for index in 0..=moments.len() {
            while cuts.last().is_some_and(|(cut, _)| *cut == index) {
                let (_, mut dice) = cuts.pop().expect("there is one");
                let image = target.path().join("image");
                disk.write_image(self.installation.folder(), &mut dice, &image);
                if let Err(what) = fits(&image, told || index == moments.len()) {
                    failures.push(format!("seed {seed} at moment {index} of {}: {what}", moments.len()));
                }
                let _ = fs::remove_dir_all(&image);
            }
            match moments.get(index) {
                Some(Moment::Synced(call)) if matches!(&call.effect, Effect::Sync { path } if !counts(path)) => {}
                Some(moment) => {
                    told |= matches!(moment, Moment::Began(call) if self.says(&call.effect));
                    disk.pass(moment);
                }
                None => {}
            }
        }
        failures
    }

    fn says(&self, effect: &Effect) -> bool {
        matches!(effect, Effect::Say { bytes } if !self.said.is_empty() && self.said.starts_with(bytes) && bytes.len() > 8)
    }
}

/// The image's store holds one of these states; the last once that was told.
fn holds(image: &Path, told: bool, states: &[Option<&State>]) -> Result<(), String> {
    let found = held(&image.join("data")).map_err(|error| format!("does not open: {error:?}"))?;
    let allowed = if told { &states[states.len() - 1..] } else { states };
    if allowed.contains(&found.as_ref()) {
        return Ok(());
    }
    let (found, expected) = (found.map(|found| found.len()), states.iter().map(|state| state.map(State::len)));
    Err(format!("has {found:?} keys, told {told}, for {:?}", expected.collect::<Vec<_>>()))
}

#[test]
fn a_compaction_that_loses_power_leaves_every_key() {
    if !is_installed("strace") {
        return;
    }
    let installation = Installation::new();
    let state = made(installation.folder());
    let done = Commanded::run(installation, &["store", "compact"], &[], 0);
    done.check(|image, told| holds(image, told, &[Some(&state)]));
}

#[test]
fn an_upgrade_that_loses_power_leaves_every_key() {
    if !is_installed("strace") {
        return;
    }
    let installation = Installation::new();
    let old = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/stores/format-1/data");
    let copied = |to: &Path| {
        fs::create_dir_all(to.join("blobs")).expect("a folder");
        for path in fs::read_dir(&old).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            if path.is_file() {
                fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("copied");
            }
        }
    };
    copied(&installation.folder().join("data"));
    let other = tempfile::tempdir().expect("a folder");
    copied(other.path());
    let state = held(other.path()).expect("readable").expect("a store");
    let done = Commanded::run(installation, &["store", "compact"], &[], 0);
    done.check(|image, told| holds(image, told, &[Some(&state)]));
}

struct Damaged {
    installation: Installation,
    /// What the store held before.
    undamaged: State,
    /// What a repair makes of it.
    state: State,
}

/// An installation whose store is damaged where that matters.
fn damaged() -> Damaged {
    // Keys are random, and with them what lies where. One store in fifty has no such place.
    (0..10).find_map(|_| damaged_if_it_matters()).expect("damage matters in one of ten stores")
}

fn damaged_if_it_matters() -> Option<Damaged> {
    let installation = Installation::new();
    let data = installation.folder().join("data");
    let undamaged = made(installation.folder());
    let whole = fs::read(data.join("db")).expect("the database");
    let used = whole.iter().rposition(|byte| *byte != 0).expect("something");
    // In much of the log is what later parts have replaced.
    for part in (1..32).rev() {
        let mut bytes = whole.clone();
        bytes[used / 32 * part..][..200].fill(0);
        fs::write(data.join("db"), bytes).expect("written");
        let copies = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
        copies.iter().for_each(|copy| crate::store_files::copied(&data, &copy.path().join("data")));
        let is_refused = held(&copies[0].path().join("data")).is_err();
        match repaired(copies[1].path()) {
            Ok(state) if is_refused && state.len() > KEYS / 3 => {
                return Some(Damaged { installation, undamaged, state });
            }
            _ => {}
        }
    }
    None
}

/// What the store holds once it is repaired.
fn repaired(folder: &Path) -> Result<State, String> {
    let settings = settings(folder.join("data"));
    unlocked(|| portcullis::store::repair(&settings, Doubtful::Drop)).map_err(|error| format!("{error:?}"))?;
    held(&settings.path).map_err(|error| format!("{error:?}"))?.ok_or_else(|| "no store".to_owned())
}

#[test]
fn a_repair_that_loses_power_can_be_made_again_with_the_same_end() {
    if !is_installed("strace") {
        return;
    }
    let Damaged { installation, state, .. } = damaged();
    let done = Commanded::run(installation, &["store", "repair"], &[], 0);
    done.check(|image, told| {
        if told {
            return holds(image, told, &[Some(&state)]);
        }
        match repaired(image)? {
            found if found == state => Ok(()),
            found => Err(format!("{} keys are left of {}", found.len(), state.len())),
        }
    });
}

/// The start is refused, and may lose power while it keeps a copy of what the database is about to take away. What it has
/// moved a repair may find where it found less before, but nothing that was not there.
#[test]
fn a_start_on_a_damaged_store_that_loses_power_takes_nothing_from_its_repair() {
    if !is_installed("strace") {
        return;
    }
    let Damaged { installation, undamaged, state } = damaged();
    let done = Commanded::run(installation, &["serve"], &[], 1);
    let are_in = |some: &State, all: &State| some.iter().all(|(id, facts)| all.get(id) == Some(facts));
    done.check(|image, _| match repaired(image)? {
        found if !are_in(&state, &found) => Err(format!("{} keys are left of {}", found.len(), state.len())),
        found if !are_in(&found, &undamaged) => Err("a key is there that was not, or was another".to_owned()),
        _ => Ok(()),
    });
}

/// A store's file in an installation without one, and the keys in it.
fn moved(content: Content) -> (Installation, PathBuf, State) {
    let installation = Installation::new();
    let state = made(installation.folder());
    let file = written(installation.folder(), content);
    fs::remove_dir_all(installation.folder().join("data")).expect("removed");
    (installation, file, state)
}

#[test]
fn a_restore_that_loses_power_leaves_no_store_or_the_whole_one() {
    if !is_installed("strace") {
        return;
    }
    let (installation, file, state) = moved(Content::Backup);
    let done = Commanded::run(installation, &["store", "restore"], &[&file], 0);
    done.check(|image, told| {
        holds(image, told, &[None, Some(&state)])?;
        let own = settings(image.join("data"));
        if held(&own.path).is_ok_and(|found| found.is_none()) {
            unlocked_restore(&image.join("keys.jsonl"), &own)?;
        }
        holds(image, true, &[Some(&state)])
    });
}

fn unlocked_restore(file: &Path, settings: &Settings) -> Result<(), String> {
    let again = portcullis::store::restore(read(file), settings, KEYS_MAX);
    again.map(drop).map_err(|error| format!("cannot be restored again: {error:?}"))
}

#[test]
fn an_import_that_loses_power_leaves_no_store_or_the_whole_one() {
    if !is_installed("strace") {
        return;
    }
    let (installation, file, state) = moved(Content::Export);
    let done = Commanded::run(installation, &["store", "import"], &[&file], 0);
    let names = |state: &State| state.keys().cloned().collect::<Vec<_>>();
    done.check(|image, told| {
        let own = settings(image.join("data"));
        let found = held(&own.path).map_err(|error| format!("does not open: {error:?}"))?;
        match found {
            None if told => Err("there is no store".to_owned()),
            None => imported(&image.join("keys.jsonl"), &own),
            Some(found) if names(&found) == names(&state) => Ok(()),
            Some(found) => Err(format!("{} keys of {}", found.len(), state.len())),
        }
    });
}

fn imported(file: &Path, settings: &Settings) -> Result<(), String> {
    let (scopes, on_conflict, keys_max, now) = (None, OnConflict::Refuse, KEYS_MAX, Clock::System.now());
    let again = Import { settings, scopes, on_conflict, keys_max, now }.run(read(file));
    again.map(drop).map_err(|error| format!("cannot be imported again: {error:?}"))
}

#[test]
fn an_import_into_a_store_that_loses_power_keeps_its_keys_and_can_be_made_again() {
    if !is_installed("strace") {
        return;
    }
    let (installation, file, state) = moved(Content::Export);
    let own = made(installation.folder());
    let done = Commanded::run(installation, &["store", "import"], &[&file], 0);
    done.check(|image, told| {
        let data = settings(image.join("data"));
        let keys = || {
            let found = held(&data.path).map_err(|error| format!("does not open: {error:?}"))?;
            found.ok_or_else(|| "there is no store".to_owned())
        };
        let found = keys()?;
        if !own.iter().all(|(id, facts)| found.get(id) == Some(facts)) {
            return Err("a key of the store's own is gone".to_owned());
        }
        if told && !state.iter().all(|(id, facts)| found.get(id) == Some(facts)) {
            return Err("a key that was imported is gone".to_owned());
        }
        imported(&image.join("keys.jsonl"), &data)?;
        let found = keys()?.len();
        if found == own.len() + state.len() { Ok(()) } else { Err(format!("{found} keys in the end")) }
    });
}

#[test]
fn a_backup_that_loses_power_leaves_the_file_that_was_there_or_the_whole_new_one() {
    if !is_installed("strace") {
        return;
    }
    let installation = Installation::new();
    let state = made(installation.folder());
    let path = installation.folder().join("backup.jsonl");
    fs::write(&path, "an older one").expect("writable");
    let done = Commanded::run(installation, &["store", "backup"], &[Path::new("--output"), &path], 0);
    done.check(|image, told| {
        holds(image, told, &[Some(&state)])?;
        let path = image.join("backup.jsonl");
        match fs::read(&path).map_err(|error| error.to_string())?.as_slice() {
            b"an older one" if !told => Ok(()),
            new => whole(new, state.len()),
        }
    });
}

fn whole(file: &[u8], keys: usize) -> Result<(), String> {
    let mut reader = Reader::open(file, KEYS_MAX).map_err(|error| error.to_string())?;
    while reader.next().map_err(|error| error.to_string())?.is_some() {}
    if reader.header().keys == keys as u64 { Ok(()) } else { Err("other keys".to_owned()) }
}

#[test]
fn a_power_loss_is_noticed_to_lose_keys_when_no_fsync_of_a_command_counts() {
    if !is_installed("strace") {
        return;
    }
    let (installation, file, state) = moved(Content::Backup);
    let done = Commanded::run(installation, &["store", "restore"], &[&file], 0);
    let failures = done.failures(40, &|_| false, &|image, told| holds(image, told, &[None, Some(&state)]));
    assert!(!failures.is_empty());
}
