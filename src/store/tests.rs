//! One suite over both stores, then what only the one on disk can get wrong.

mod damage;
mod recovery;
mod stale;
mod swapped;
mod twice;

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroU32;
use std::path::Path;

use super::portable::Ported;
use super::staging::Staging;
use super::*;
use crate::key::{KeySecret, Scope};

fn scopes(names: &[&str]) -> ScopeSet {
    ScopeSet::new(names.iter().map(|name| Scope::parse(name).unwrap()))
}

fn fresh(revision: u64) -> KeyRecord {
    let secret = KeySecret::generate().unwrap();
    KeyRecord {
        id: secret.id(),
        digest: secret.digest(),
        name: KeyName::parse("Größe ✓").unwrap(),
        kind: Kind::Custom,
        scopes: scopes(&["monitor:read", "team:retired"]),
        created: Timestamp::from_unix(1_700_000_000),
        updated: Timestamp::from_unix(1_700_000_001),
        created_revision: revision,
        revision,
    }
}

fn change(revision: u64, operation: Operation) -> Change {
    let actor = Actor { who: Who::Operator, address: "192.0.2.7".parse().ok() };
    Change { revision, at: Timestamp::from_unix(1_700_000_002), actor, operation, expiry: Expiry::Due }
}

fn create(store: &dyn Store) -> KeyRecord {
    let record = fresh(store.revision().unwrap() + 1);
    store.commit(&change(record.revision, Operation::Create(record.clone()))).unwrap();
    record
}

fn rename(store: &dyn Store, from: &KeyRecord) -> KeyRecord {
    let revision = store.revision().unwrap() + 1;
    let to = KeyRecord { name: KeyName::parse("renamed").unwrap(), revision, ..from.clone() };
    store.commit(&change(revision, Operation::Update { from: from.clone(), to: to.clone() })).unwrap();
    to
}

fn delete(store: &dyn Store, record: &KeyRecord) {
    let revision = store.revision().unwrap() + 1;
    store.commit(&change(revision, Operation::Delete(record.clone()))).unwrap();
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix(seconds)
}

#[track_caller]
fn same(found: Option<&KeyRecord>, expected: Option<&KeyRecord>) {
    assert_eq!(format!("{found:?}"), format!("{expected:?}"));
    let digest = |record: &KeyRecord| *record.digest.as_bytes();
    assert_eq!(found.map(digest), expected.map(digest));
}

fn settings(path: &Path) -> Settings {
    Settings { path: path.join("data"), changes_max: NonZeroU32::new(4).unwrap(), ..Settings::default() }
}

/// The database under the store. One that was closed a moment ago may still be held by its own threads.
fn bare_database(settings: &Settings) -> ::sled::Db {
    loop {
        match ::sled::Config::new()
            .path(&settings.path)
            .segment_size(folder::known_segment_bytes(&settings.path).unwrap_or(folder::SEGMENT_BYTES))
            .open()
        {
            Err(::sled::Error::Io(_)) => std::thread::yield_now(),
            opened => return opened.unwrap(),
        }
    }
}

fn on_each_store(test: impl Fn(&dyn Store)) {
    test(&MemoryStore::new(NonZeroU32::new(4).unwrap()));
    let directory = tempfile::tempdir().unwrap();
    test(&SledStore::create(&settings(directory.path())).unwrap());
}

#[test]
fn record_comes_back_as_it_was_written_undeclared_scopes_included() {
    on_each_store(|store| {
        let record = create(store);
        same(store.record(&record.id).unwrap().as_ref(), Some(&record));

        let renamed = rename(store, &record);
        same(store.record(&record.id).unwrap().as_ref(), Some(&renamed));

        delete(store, &renamed);
        same(store.record(&record.id).unwrap().as_ref(), None);
    });
}

#[test]
fn scan_shows_every_key_once() {
    on_each_store(|store| {
        let mut expected: Vec<KeyId> = (0..40).map(|_| create(store).id).collect();
        let mut found = Vec::new();
        store.scan(&mut |record| found.push(record.id)).unwrap();
        expected.sort();
        found.sort();
        assert_eq!(found, expected);
    });
}

#[test]
fn change_that_does_not_fit_what_is_there_changes_nothing() {
    on_each_store(|store| {
        let record = create(store);
        let absent = fresh(2);
        let newer = KeyRecord { revision: 2, ..record.clone() };
        let update = |from: &KeyRecord| Operation::Update { from: from.clone(), to: newer.clone() };
        for unfit in [
            change(2, Operation::Create(newer.clone())),
            change(2, Operation::Delete(absent.clone())),
            change(2, update(&newer)),
            change(1, update(&record)),
            change(3, update(&record)),
        ] {
            assert!(matches!(store.commit(&unfit), Err(StoreError::Conflict)), "{unfit:?}");
        }
        same(store.record(&record.id).unwrap().as_ref(), Some(&record));
        assert_eq!(store.revision().unwrap(), 1);
        assert_eq!(store.changes(0, 10).unwrap().len(), 1);
    });
}

#[test]
fn log_keeps_up_to_twice_as_much_while_it_is_read() {
    on_each_store(|store| {
        let lines = || store.changes(0, 100).unwrap().len();
        let create = |expiry| {
            let record = fresh(store.revision().unwrap() + 1);
            let change = change(record.revision, Operation::Create(record));
            store.commit(&Change { expiry, ..change }).unwrap();
        };
        (0..12).for_each(|_| create(Expiry::Deferred));
        assert_eq!(lines(), 8);
        create(Expiry::Due);
        assert_eq!(lines(), 4);
    });
}

#[test]
fn log_tells_what_changed_in_order_and_keeps_the_newest() {
    on_each_store(|store| {
        let record = create(store);
        let renamed = rename(store, &record);
        delete(store, &renamed);
        let log = store.changes(0, 10).unwrap();
        assert_eq!(log.iter().map(|change| change.revision).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!((&log[0].before, &log[0].after), (&None, &Some(Facts::from(&record))));
        assert_eq!((&log[1].before, &log[1].after), (&Some(Facts::from(&record)), &Some(Facts::from(&renamed))));
        assert_eq!((&log[2].before, &log[2].after), (&Some(Facts::from(&renamed)), &None));
        assert_eq!((log[0].key, log[0].actor), (record.id, change(1, Operation::Create(record)).actor));

        (0..6).for_each(|_| drop(create(store)));

        let revisions = |after, limit| -> Vec<u64> {
            store.changes(after, limit).unwrap().iter().map(|change| change.revision).collect()
        };
        assert_eq!(revisions(0, 10), [6, 7, 8, 9]);
        assert_eq!(revisions(7, 1), [8]);
        assert!(revisions(u64::MAX, 10).is_empty());
    });
}

#[test]
fn last_used_never_goes_backwards() {
    on_each_store(|store| {
        let id = create(store).id;
        assert_eq!(store.last_used(&id).unwrap(), None);
        store.touch(&[(id, at(50)), (id, at(40))]).unwrap();
        store.touch(&[(id, at(30))]).unwrap();
        assert_eq!(store.last_used(&id).unwrap(), Some(at(50)));
        store.touch(&[(id, at(60))]).unwrap();
        assert_eq!(store.last_used(&id).unwrap(), Some(at(60)));
    });
}

#[test]
fn last_used_of_a_deleted_or_unknown_key_leaves_nothing_behind() {
    on_each_store(|store| {
        let record = create(store);
        let other = create(store);
        store.touch(&[(record.id, at(50))]).unwrap();
        delete(store, &record);
        assert_eq!(store.last_used(&record.id).unwrap(), None);

        store.touch(&[(record.id, at(60)), (fresh(9).id, at(60)), (other.id, at(60))]).unwrap();

        assert_eq!(store.last_used(&record.id).unwrap(), None);
        same(store.record(&record.id).unwrap().as_ref(), None);
        assert_eq!(store.last_used(&other.id).unwrap(), Some(at(60)));
    });
}

#[test]
fn reopened_store_holds_everything_that_was_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path());
    let mut expected = BTreeMap::new();
    {
        let store = SledStore::create(&settings).unwrap();
        let records: Vec<KeyRecord> = (0..60).map(|_| create(&store)).collect();
        for (index, record) in records.iter().enumerate() {
            match index % 3 {
                0 => delete(&store, record),
                1 => drop(expected.insert(record.id, rename(&store, record))),
                _ => drop(expected.insert(record.id, record.clone())),
            }
        }
        store.touch(&[(records[1].id, at(70))]).unwrap();
        store.flush().unwrap();
    }
    let store = SledStore::open(&settings).unwrap();
    let mut found = BTreeMap::new();
    store.scan(&mut |record| drop(found.insert(record.id, record))).unwrap();
    assert_eq!(format!("{found:?}"), format!("{expected:?}"));
    assert_eq!(store.revision().unwrap(), 100);
    assert_eq!(expected.keys().filter_map(|id| store.last_used(id).unwrap()).collect::<Vec<_>>(), [at(70)]);
}

#[test]
fn second_holder_of_a_directory_is_told_the_process_of_the_first() {
    let directory = tempfile::tempdir().unwrap();
    let first = SledStore::create(&settings(directory.path())).unwrap();
    for second in [SledStore::open(&settings(directory.path())), SledStore::create(&settings(directory.path()))] {
        let Err(StoreError::Locked { pid, .. }) = second else { panic!("two stores on one directory") };
        assert_eq!(pid, Some(std::process::id()));
    }
    create(&first);
}

#[test]
fn directory_without_a_store_is_not_taken_for_an_empty_one() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path());
    let missing = |settings: &Settings| matches!(SledStore::open(settings), Err(StoreError::Missing { .. }));
    assert!(missing(&settings));
    assert!(!settings.path.exists());
    fs::create_dir(&settings.path).unwrap();
    assert!(missing(&settings));
    assert_eq!(fs::read_dir(&settings.path).unwrap().count(), 0);

    // What a start that was cut off leaves: a database in which nothing was initialised.
    drop(bare_database(&settings));
    assert!(missing(&settings));

    drop(SledStore::create(&settings).unwrap());
    assert!(SledStore::open(&settings).is_ok());
}

#[test]
fn create_refuses_a_store_with_keys_and_takes_one_without() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path());
    drop(SledStore::create(&settings).unwrap());
    let store = SledStore::create(&settings).unwrap();
    create(&store);
    drop(store);
    assert!(matches!(SledStore::create(&settings), Err(StoreError::Initialised { keys: 1, .. })));
}

#[test]
fn store_that_ends_before_what_was_acknowledged_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path());
    let store = SledStore::create(&settings).unwrap();
    let record = create(&store);
    drop(store);
    let older = fs::read(settings.path.join("db")).unwrap();
    let store = SledStore::open(&settings).unwrap();
    rename(&store, &record);
    drop(store);
    for (database, found_revision) in [(older, 1), (Vec::new(), 0)] {
        for path in fs::read_dir(&settings.path).unwrap().map(|entry| entry.unwrap().path()) {
            if path.to_string_lossy().contains("/snap.") {
                fs::remove_file(path).unwrap();
            }
        }
        fs::write(settings.path.join("db"), database).unwrap();
        let Err(StoreError::Lost { acknowledged, found, .. }) = SledStore::open(&settings) else { panic!("taken") };
        assert_eq!((acknowledged, found), (2, found_revision));
    }
}

#[test]
fn half_written_snapshot_does_not_keep_the_store_from_opening() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path());
    let store = SledStore::create(&settings).unwrap();
    let record = create(&store);
    drop(store);
    fs::write(settings.path.join("snap.FFFFFFFFFFFFFFFF.generating"), b"cut").unwrap();
    let store = SledStore::open(&settings).unwrap();
    same(store.record(&record.id).unwrap().as_ref(), Some(&record));
}

#[test]
fn configuration_of_the_database_is_the_one_that_it_would_write() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path());
    drop(SledStore::create(&settings).unwrap());
    let config = ::sled::Config::new().path(directory.path().join("its own")).segment_size(4 * 1024 * 1024);
    drop(config.open().unwrap());
    let ours = fs::read(settings.path.join("conf")).unwrap();
    assert_eq!(ours, fs::read(directory.path().join("its own/conf")).unwrap());
}

#[test]
fn store_with_a_lost_or_altered_configuration_is_refused_and_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path());
    let record = create(&SledStore::create(&settings).unwrap());
    let path = settings.path.join("conf");
    let whole = fs::read(&path).unwrap();
    let refused = || {
        let opened = [SledStore::open(&settings), SledStore::create(&settings)];
        opened.into_iter().all(|opened| matches!(opened, Err(StoreError::Damaged { .. })))
    };
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, flipped).unwrap();
        assert!(refused(), "bit {bit}");
    }
    fs::remove_file(&path).unwrap();
    assert!(refused());

    fs::write(&path, whole).unwrap();
    same(SledStore::open(&settings).unwrap().record(&record.id).unwrap().as_ref(), Some(&record));
}

#[test]
fn store_with_the_segments_of_an_older_release_opens() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path());
    drop(::sled::Config::new().path(&settings.path).open().unwrap());
    let record = create(&SledStore::create(&settings).unwrap());
    let store = SledStore::open(&settings).unwrap();
    same(store.record(&record.id).unwrap().as_ref(), Some(&record));
}

#[test]
fn creation_that_was_cut_off_can_be_repeated() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path());
    fs::create_dir(&settings.path).unwrap();
    fs::write(settings.path.join("conf"), b"segment_size: 524288\nuse_compression: false\nvers").unwrap();
    assert!(SledStore::create(&settings).is_ok());
}

#[test]
fn altered_row_is_refused_and_names_its_key_alone() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path());
    let store = SledStore::create(&settings).unwrap();
    let (altered, other) = (create(&store), create(&store));
    drop(store);
    {
        let database = bare_database(&settings);
        let keys = database.open_tree("keys").unwrap();
        let mut row = keys.get(altered.id.as_bytes()).unwrap().unwrap().to_vec();
        let last = row.len() - 1;
        row[last] ^= 1;
        keys.insert(altered.id.as_bytes(), row).unwrap();
    }
    let store = SledStore::open(&settings).unwrap();
    assert!(matches!(
        store.record(&altered.id),
        Err(StoreError::Corrupt { key, source: RecordError::Checksum }) if key == altered.id
    ));
    assert!(matches!(store.scan(&mut |_| {}), Err(StoreError::Corrupt { key, .. }) if key == altered.id));
    same(store.record(&other.id).unwrap().as_ref(), Some(&other));
}

#[test]
fn no_flipped_bit_of_a_row_is_accepted() {
    let record = fresh(7);
    let row = record::encode_record(&record).unwrap();
    for bit in 0..row.len() * 8 {
        let mut flipped = row.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(record::decode_record(&record.id, &flipped).is_err(), "bit {bit}");
    }
    for end in 0..row.len() {
        assert!(record::decode_record(&record.id, &row[..end]).is_err(), "cut at {end}");
    }
    assert_eq!(record::decode_record(&fresh(7).id, &row).unwrap_err(), RecordError::Checksum);
    let mut newer = row;
    newer[0] = record::VERSION + 1;
    assert_eq!(record::decode_record(&record.id, &newer).unwrap_err(), RecordError::NewerVersion(record::VERSION + 1));
}

#[test]
fn files_are_for_the_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path());
    let _store = SledStore::create(&settings).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&settings.path), 0o700);
    for file in ["db", "portcullis.lock", "portcullis.mark"] {
        assert_eq!(mode(&settings.path.join(file)), 0o600, "{file}");
    }
}

#[test]
fn first_start_that_was_cut_off_is_no_store_and_can_begin_again() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path());
    drop(bare_database(&settings));
    // The mark is made before the first state is on disk, and may be left empty.
    fs::write(folder.path().join("portcullis.mark"), "").unwrap();

    assert!(matches!(SledStore::open(&settings), Err(StoreError::Missing { .. })));
    let store = SledStore::create(&settings).unwrap();
    create(&store);
}

fn ported(revision: u64) -> Ported {
    Ported { record: fresh(revision), last_used: Some(at(90)) }
}

#[test]
fn rows_from_elsewhere_are_taken_over_whole_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path());
    let store = SledStore::create(&settings).unwrap();
    let (first, second) = (ported(5), ported(9));
    let logged = LoggedChange::from(&change(9, Operation::Create(second.record.clone())));
    store.load(9, std::slice::from_ref(&first), std::slice::from_ref(&logged)).unwrap();

    for (revision, key) in [(10, &first), (8, &second)] {
        let keys = [second.clone(), key.clone()];
        assert!(matches!(store.load(revision, &keys, &[]), Err(StoreError::Conflict)), "{revision}");
        same(store.record(&second.record.id).unwrap().as_ref(), None);
    }

    store.load(9, std::slice::from_ref(&second), &[]).unwrap();
    drop(store);
    let store = SledStore::open(&settings).unwrap();
    for key in [&first, &second] {
        same(store.record(&key.record.id).unwrap().as_ref(), Some(&key.record));
        assert_eq!(store.last_used(&key.record.id).unwrap(), key.last_used);
    }
    assert_eq!((store.revision().unwrap(), store.changes(0, 10).unwrap()), (9, vec![logged]));
    let mut found = 0;
    store.scan(&mut |_| found += 1).unwrap();
    assert_eq!(found, 2);
    create(&store);
}

#[test]
fn store_that_was_made_elsewhere_takes_its_place_whole() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path());
    // One without keys is no obstacle.
    drop(SledStore::create(&settings).unwrap());
    let (staging, new) = Staging::begin(&settings).unwrap();
    assert!(matches!(SledStore::open(&settings), Err(StoreError::Missing { .. })));
    let key = ported(5);
    new.load(7, std::slice::from_ref(&key), &[]).unwrap();

    staging.publish(new).unwrap();

    let store = SledStore::open(&settings).unwrap();
    same(store.record(&key.record.id).unwrap().as_ref(), Some(&key.record));
    drop(store);
    assert!(!settings.path.join("portcullis.new").exists());
    assert!(matches!(Staging::begin(&settings), Err(StoreError::Initialised { keys: 1, .. })));
}

#[test]
fn place_that_was_left_half_filled_is_an_empty_one() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path());
    let pieces = ["conf", "blobs", "db", "portcullis.mark"];
    for moved in 0..=2 {
        for starts_anew in [false, true] {
            let (staging, new) = Staging::begin(&settings).unwrap();
            new.load(7, &[ported(5)], &[]).unwrap();
            drop(new);
            // As publishing does it, and cut off before the database was in its place.
            for piece in &pieces[..moved] {
                fs::rename(settings.path.join("portcullis.new").join(piece), settings.path.join(piece)).unwrap();
            }
            drop(staging);
            assert!(matches!(SledStore::open(&settings), Err(StoreError::Missing { .. })));
            if starts_anew {
                let store = SledStore::create(&settings).unwrap();
                let record = create(&store);
                drop(store);
                same(SledStore::open(&settings).unwrap().record(&record.id).unwrap().as_ref(), Some(&record));
                fs::remove_dir_all(&settings.path).unwrap();
            }
        }
    }
}

fn opened_anew(store: &SledStore, settings: &Settings, extent: Extent) -> Result<Box<dyn Store>, StoreError> {
    reopening::Reopening::of(store, settings).reopen(extent)
}

fn ending_at(revision: u64) -> Extent {
    Extent { acknowledged: revision, attempted: revision }
}

#[test]
fn store_that_does_not_close_is_left_behind_and_writes_no_more() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path());
    let stuck = SledStore::create(&settings).unwrap();
    let record = create(&stuck);

    let opened = opened_anew(&stuck, &settings, ending_at(1)).unwrap();

    same(opened.record(&record.id).unwrap().as_ref(), Some(&record));
    let second = create(&*opened);
    let late = fresh(2);
    // Nothing that it says is acknowledged, and nothing of it reaches the files.
    assert!(stuck.commit(&change(2, Operation::Create(late.clone()))).is_err());
    assert!(matches!(stuck.check(), Err(StoreError::Failed)));
    drop((stuck, opened));
    let store = SledStore::open(&settings).unwrap();
    assert_eq!(store.revision().unwrap(), 2);
    same(store.record(&second.id).unwrap().as_ref(), Some(&second));
    same(store.record(&late.id).unwrap().as_ref(), None);
}

#[test]
fn only_so_many_stores_are_left_behind() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path());
    let first = SledStore::create(&settings).unwrap();
    let reopening = reopening::Reopening::of(&first, &settings);
    let mut stuck: Vec<Box<dyn Store>> = Vec::new();
    let refused = loop {
        match reopening.reopen(ending_at(0)) {
            Ok(store) => stuck.push(store),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, StoreError::Wedged { .. }), "{refused:?}");
    assert_eq!(stuck.len(), 4);
}

#[test]
fn store_is_opened_anew_only_where_this_process_left_it() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path());
    let store = SledStore::create(&settings).unwrap();
    (0..3).for_each(|_| drop(create(&store)));
    let opened = |acknowledged, attempted| opened_anew(&store, &settings, Extent { acknowledged, attempted });
    assert!(matches!(opened(4, 4), Err(StoreError::Lost { acknowledged: 4, found: 3, .. })));
    assert!(matches!(opened(1, 2), Err(StoreError::Foreign { found: 3, .. })));
    assert!(opened(2, 3).is_ok());
}

#[test]
fn store_whose_files_were_taken_away_makes_no_change_and_no_files() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path());
    let store = SledStore::create(&settings).unwrap();
    let record = create(&store);
    let away = directory.path().join("away");
    fs::rename(&settings.path, &away).unwrap();

    assert!(matches!(store.commit(&change(2, Operation::Delete(record.clone()))), Err(StoreError::Gone { .. })));
    assert!(matches!(opened_anew(&store, &settings, ending_at(1)), Err(StoreError::Gone { .. })));
    assert!(!settings.path.exists());
    fs::create_dir(&settings.path).unwrap();
    assert!(matches!(opened_anew(&store, &settings, ending_at(1)), Err(StoreError::Gone { .. })));
    assert_eq!(fs::read_dir(&settings.path).unwrap().count(), 0);

    fs::remove_dir(&settings.path).unwrap();
    fs::rename(&away, &settings.path).unwrap();
    let reopening = reopening::Reopening::of(&store, &settings);
    drop(store);
    let opened = reopening.reopen(ending_at(1)).unwrap();
    same(opened.record(&record.id).unwrap().as_ref(), Some(&record));
}
