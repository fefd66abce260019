//! What the store holds after the power went, at any moment: played through on recordings of the real program.
//!
//! A recording is every call that changed a file of the store or answered somebody. From it come images of the disk as it
//! may look when power is lost (`harness::Disk` has the rules), and each must hold what had been acknowledged by then.

mod commands;
mod recording;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Instant;

use portcullis::key::{KeyRecord, KeySecret};
use portcullis::store::{Operation, Settings, SledStore, Store, StoreError};

pub use self::recording::record;
use self::recording::{Plan, Recording, SCOPES, SHORT_SEGMENT_BYTES, SHORT_SEGMENT_SCOPES, State};
use crate::harness::{DEADLINE, Dice, Effect, Moment, is_installed};

/// How many images are tried of each recording; `PORTCULLIS_POWER_LOSSES` sets another number, `PORTCULLIS_SEED` the seed.
const IMAGES: usize = 40;

/// Keys enough that cleaning up after them fills several segments.
const CLEANED_KEYS: usize = 1_000;

fn images() -> usize {
    std::env::var("PORTCULLIS_POWER_LOSSES").map_or(IMAGES, |count| count.parse().expect("a number"))
}

/// What an image shows when it is opened.
#[derive(Debug)]
enum Found {
    /// Something else than all changes up to a revision, which must be one of these.
    Lost(String),
    NoStore,
    Revision(u64),
}

/// What a store of a recording may hold.
struct Expected<'r> {
    states: &'r [State],
    /// Of all keys that there ever were.
    ids: BTreeSet<&'r String>,
}

impl<'r> Expected<'r> {
    fn of(recording: &'r Recording) -> Self {
        Self { states: &recording.states, ids: recording.states.iter().flat_map(State::keys).collect() }
    }
}

#[test]
fn every_acknowledged_change_is_there_after_the_power_went() {
    if !is_installed("strace") {
        return;
    }
    let changes = 16 + images() / 100;
    check_all(&Recording::make(&Plan { segment_bytes: None, scopes: SCOPES, sessions: 2, changes }));
}

#[test]
fn segments_are_not_used_again_before_what_they_held_is_on_disk_elsewhere() {
    if !is_installed("strace") {
        return;
    }
    assert!(SHORT_SEGMENTS.reached().segments_used_again > 0, "{:?}", SHORT_SEGMENTS.reached());
    check_all(&SHORT_SEGMENTS);
}

/// At its start the database moves what is left in segments that are mostly garbage, many of them at once.
#[test]
fn segments_that_a_start_empties_are_not_used_again_before_what_they_held_is_on_disk() {
    if !is_installed("strace") {
        return;
    }
    let recording = Recording::of_cleaning(CLEANED_KEYS);
    assert!(recording.reached().segments_used_again > 0, "{:?}", recording.reached());
    check_all(&recording);
}

/// What is lost may be lost while a start repairs what was lost before.
#[test]
fn every_acknowledged_change_is_there_after_the_power_went_again_during_the_next_start() {
    if !is_installed("strace") {
        return;
    }
    let recording = &*SHORT_SEGMENTS;
    let moments = recording.moments();
    let mut dice = Dice::new(Dice::seed_from("PORTCULLIS_SEED"));
    for _ in 0..2 + images() / 1_000 {
        let cut = recording.cut(&moments[moments.len() / 4..], &mut dice) + moments.len() / 4;
        let revision_of = |image: &Path| match check(image, &Expected::of(recording), 0) {
            Ok(Found::Revision(revision)) => revision,
            found => panic!("image of moment {cut}: {found:?}"),
        };
        check_all(&Recording::of_start_after(recording, cut, &mut dice, &revision_of));
    }
}

/// A run in which segments are filled, cleaned and used again.
static SHORT_SEGMENTS: LazyLock<Recording> = LazyLock::new(|| {
    let changes = 50 + images() / 50;
    let (segment_bytes, scopes) = (Some(SHORT_SEGMENT_BYTES), SHORT_SEGMENT_SCOPES);
    Recording::make(&Plan { segment_bytes, scopes, sessions: 4, changes })
});

#[test]
fn a_first_start_that_lost_power_can_be_made_again_until_it_was_acknowledged() {
    if !is_installed("strace") {
        return;
    }
    check_all(&Recording::make(&Plan { segment_bytes: None, scopes: SCOPES, sessions: 0, changes: 0 }));
    check_all(&Recording::first_start());
}

#[track_caller]
fn check_all(recording: &Recording) {
    let tally = try_images(recording, images(), &|_| true);
    let (calls, revisions) = (recording.calls.len(), recording.states.len() - 1);
    println!(
        "{} images of {calls} calls and {revisions} revisions, {:?}: {} without a store, {} ahead, {} failures",
        tally.images,
        recording.reached(),
        tally.without_store,
        tally.ahead,
        tally.failures.len()
    );
    assert_eq!(recording.reached().pages_apart, 0, "a page was too large for a segment");
    assert!(tally.failures.is_empty(), "{} failures\n{}", tally.failures.len(), tally.failures.join("\n"));
}

#[test]
fn power_loss_is_noticed_to_lose_changes_when_no_fsync_counts() {
    if !is_installed("strace") {
        return;
    }
    let recording = Recording::make(&Plan { segment_bytes: None, scopes: 8, sessions: 1, changes: 12 });
    let tally = try_images(&recording, 40, &|path| !path.ends_with("db"));
    assert!(!tally.failures.is_empty(), "{tally:?}");
}

#[derive(Debug, Default)]
struct Tally {
    images: usize,
    without_store: usize,
    ahead: usize,
    failures: Vec<String>,
}

/// Opens images of moments all over the recording, half of them in another thread. `counts` says whose syncs do.
fn try_images(recording: &Recording, images: usize, counts: &(dyn Fn(&Path) -> bool + Sync)) -> Tally {
    let seed = Dice::seed_from("PORTCULLIS_SEED");
    println!("PORTCULLIS_SEED={seed}");
    let mut total = Tally::default();
    std::thread::scope(|scope| {
        let half =
            |first: usize| scope.spawn(move || try_some(recording, seed, (first..images).step_by(2).collect(), counts));
        for half in [half(0), half(1)] {
            let tally = half.join().expect("the images are tried");
            total.images += tally.images;
            total.without_store += tally.without_store;
            total.ahead += tally.ahead;
            total.failures.extend(tally.failures);
        }
    });
    total
}

fn try_some(recording: &Recording, seed: u64, numbers: Vec<usize>, counts: &dyn Fn(&Path) -> bool) -> Tally {
    let (moments, expected) = (recording.moments(), Expected::of(recording));
    let mut cuts: Vec<(usize, usize, Dice)> = numbers
        .into_iter()
        .map(|number| {
            let mut dice = Dice::new(seed.wrapping_add(u64::try_from(number).expect("fits") << 32));
            (recording.cut(&moments, &mut dice), number, dice)
        })
        .collect();
    cuts.sort_by_key(|(cut, ..)| std::cmp::Reverse(*cut));
    let (mut disk, mut acknowledged, mut tally) = (recording.start.clone(), recording.acknowledged, Tally::default());
    let target = scratch();
    for (index, moment) in moments.iter().enumerate() {
        while cuts.last().is_some_and(|(cut, ..)| *cut == index) {
            let (_, number, mut dice) = cuts.pop().expect("there is one");
            let image = target.path().join("data");
            disk.write_image(&recording.store, &mut dice, &image);
            tally.images += 1;
            let found = check(&image, &expected, acknowledged);
            let result = match found {
                Ok(Found::Revision(revision)) if number % 4 == 0 => goes_on(&image, revision).and(found),
                found => found,
            };
            match result {
                Ok(Found::NoStore) => tally.without_store += 1,
                Ok(Found::Revision(revision)) if revision == acknowledged => {}
                Ok(_) => tally.ahead += 1,
                Err(what) => {
                    let name = format!("image {number} of seed {seed} at moment {index}, {acknowledged} acknowledged");
                    keep(&image, number);
                    tally.failures.push(format!("{name}: {what}"));
                }
            }
            let _ = std::fs::remove_dir_all(&image);
        }
        if let Moment::Synced(call) = moment
            && let Effect::Sync { path } = &call.effect
            && !counts(path)
        {
            continue;
        }
        acknowledged = recording::acknowledged(moment, acknowledged);
        disk.pass(moment);
    }
    tally
}

fn keep(image: &Path, number: usize) {
    if let Some(folder) = std::env::var_os("PORTCULLIS_KEEP") {
        let _ = std::process::Command::new("cp")
            .arg("-a")
            .arg(image)
            .arg(Path::new(&folder).join(number.to_string()))
            .status();
    }
}

/// A folder in memory where there is one: opening a store syncs, which takes its time on a disk.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.expect("a temporary folder")
}

fn check(image: &Path, expected: &Expected<'_>, acknowledged: u64) -> Result<Found, String> {
    let settings = Settings { path: image.to_owned(), ..Settings::default() };
    let found = match unlocked(|| SledStore::open(&settings)) {
        Ok(store) => held(&store, expected)?,
        Err(StoreError::Missing { .. }) => Found::NoStore,
        Err(error) => return Err(format!("does not open: {error:?}")),
    };
    match found {
        Found::NoStore if acknowledged == 0 => match unlocked(|| SledStore::create(&settings)) {
            Ok(_) | Err(StoreError::Initialised { .. }) => Ok(found),
            Err(error) => Err(format!("cannot be made again: {error:?}")),
        },
        Found::NoStore => Err("there is no store".to_owned()),
        Found::Revision(revision) if revision < acknowledged => Err(format!("ends at {revision}")),
        Found::Revision(revision) if acknowledged > 0 && revision > acknowledged + 1 => {
            Err(format!("is ahead at {revision}"))
        }
        Found::Revision(_) => Ok(found),
        Found::Lost(what) => Err(what),
    }
}

/// A store that was opened takes another change, and has it when it is opened again.
fn goes_on(image: &Path, revision: u64) -> Result<(), String> {
    let settings = Settings { path: image.to_owned(), ..Settings::default() };
    let told = |error: StoreError| format!("does not go on: {error:?}");
    let (secret, revision) = (KeySecret::generate().expect("randomness"), revision + 1);
    let record = recording::record(&secret, "later", &["monitor:read"], revision);
    let change = recording::change(Operation::Create(record), revision);
    unlocked(|| SledStore::open(&settings)).and_then(|store| store.commit(&change)).map_err(told)?;
    let store = unlocked(|| SledStore::open(&settings)).map_err(told)?;
    match store.record(&secret.id()).map_err(told)? {
        Some(record) if record.revision == revision && store.revision().map_err(told)? == revision => Ok(()),
        record => Err(format!("has {record:?} of a later change")),
    }
}

/// Tries again while the directory is held: by a child of another test, for the moment between its fork and its exec.
fn unlocked<T>(open: impl Fn() -> Result<T, StoreError>) -> Result<T, StoreError> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match open() {
            Err(StoreError::Locked { .. }) if Instant::now() < deadline => std::thread::yield_now(),
            opened => return opened,
        }
    }
}

/// What a store holds must be all changes up to its revision and nothing of later ones.
fn held(store: &SledStore, expected: &Expected<'_>) -> Result<Found, String> {
    let told = |error: StoreError| format!("cannot be read: {error:?}");
    let revision = store.revision().map_err(told)?;
    let Some(state) = usize::try_from(revision).ok().and_then(|revision| expected.states.get(revision)) else {
        return Err(format!("revision {revision} was never made"));
    };
    let mut found = State::new();
    let keep = &mut |record: KeyRecord| {
        found.insert(record.id.to_string(), recording::facts(&record));
    };
    store.scan(keep).map_err(told)?;
    if found != *state {
        return Ok(Found::Lost(format!("revision {revision} has {found:?} for {state:?}")));
    }
    let logged = store.changes(revision.saturating_sub(1), 2).map_err(told)?;
    if revision > 0 && logged.iter().map(|change| change.revision).ne([revision]) {
        return Ok(Found::Lost(format!("the log of revision {revision} has {logged:?}")));
    }
    for id in expected.ids.iter().filter(|id| !found.contains_key(**id)) {
        if store.last_used(&id.parse().expect("an id")).map_err(told)?.is_some() {
            return Ok(Found::Lost(format!("a time of last use without its key {id}")));
        }
    }
    Ok(Found::Revision(revision))
}
