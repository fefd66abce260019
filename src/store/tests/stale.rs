//! Rows that are whole and yet wrong: old ones, ones that should be gone, ones that are missing.

use super::damage::{files_of, keys_of, narrow};
use super::*;

/// A store with a key that was narrowed, one that was deleted and one that stays as it was made, and their rows before.
struct Aged {
    _folder: tempfile::TempDir,
    settings: Settings,
    narrowed: KeyRecord,
    wide_row: Vec<u8>,
    deleted: KeyRecord,
    deleted_row: Vec<u8>,
    other: KeyRecord,
}

fn aged() -> Aged {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { path: folder.path().join("data"), ..Settings::default() };
    let store = SledStore::create(&settings).unwrap();
    let (wide, deleted, other) = (create(&store), create(&store), create(&store));
    let narrowed = narrow(&store, &wide);
    delete(&store, &deleted);
    drop(store);
    let row = |record: &KeyRecord| record::encode_record(record).unwrap();
    let (wide_row, deleted_row) = (row(&wide), row(&deleted));
    Aged { _folder: folder, settings, narrowed, wide_row, deleted, deleted_row, other }
}

impl Aged {
    /// Changes rows behind the store's back.
    fn tamper(&self, tree: &str, change: impl FnOnce(&::sled::Tree)) {
        let database = bare_database(&self.settings);
        change(&database.open_tree(tree).unwrap());
        database.flush().unwrap();
    }

    fn scanned(&self) -> Result<BTreeMap<KeyId, String>, StoreError> {
        keys_of(&SledStore::open(&self.settings).unwrap())
    }

    #[track_caller]
    fn check_verify(&self, expected: &str) {
        let problems = verify(&self.settings).unwrap().problems;
        assert!(problems.iter().any(|problem| problem.contains(expected)), "{problems:?}");
    }

    /// Repairs and returns the ids that are gone, having checked that all others are as they should be.
    #[track_caller]
    fn repaired(&self, expected: &[&KeyRecord]) -> Vec<KeyId> {
        let done = repair(&self.settings, Doubtful::Drop).unwrap();
        let expected: BTreeMap<_, _> = expected.iter().map(|record| (record.id, (*record).clone())).collect();
        let mut found = BTreeMap::new();
        let store = SledStore::open(&self.settings).unwrap();
        store.scan(&mut |record| drop(found.insert(record.id, record))).unwrap();
        assert_eq!(format!("{found:?}"), format!("{expected:?}"), "{done:?}");
        for dropped in &done.dropped {
            let line = store.changes(0, 1_000).unwrap().into_iter().rfind(|line| line.key == dropped.id).unwrap();
            assert_eq!((line.after, line.actor), (None, Actor::OPERATOR));
        }
        drop(store);
        assert_eq!(verify(&self.settings).unwrap().problems, Vec::<String>::new());
        assert!(files_of(&done.aside.unwrap()).iter().any(|(path, _)| path.ends_with("db")));
        done.dropped.iter().map(|dropped| dropped.id).collect()
    }
}

#[test]
fn older_record_that_is_back_is_refused_and_not_repaired_into_a_wider_key() {
    let aged = aged();
    aged.tamper("keys", |keys| drop(keys.insert(aged.narrowed.id.as_bytes(), aged.wide_row.as_slice()).unwrap()));
    assert!(matches!(aged.scanned(), Err(StoreError::Altered)));
    aged.check_verify("it is not as change 4 left it");
    assert_eq!(aged.repaired(&[&aged.other]), [aged.narrowed.id]);
}

#[test]
fn deleted_record_that_is_back_is_refused_and_stays_deleted() {
    let aged = aged();
    aged.tamper("keys", |keys| drop(keys.insert(aged.deleted.id.as_bytes(), aged.deleted_row.as_slice()).unwrap()));
    assert!(matches!(aged.scanned(), Err(StoreError::Miscounted { expected: 2, found: 3 })));
    aged.check_verify("it is not as change 5 left it");
    assert!(aged.repaired(&[&aged.other, &aged.narrowed]).is_empty());
}

#[test]
fn deleted_record_that_took_the_place_of_another_is_refused() {
    let aged = aged();
    aged.tamper("keys", |keys| {
        keys.remove(aged.other.id.as_bytes()).unwrap();
        keys.insert(aged.deleted.id.as_bytes(), aged.deleted_row.as_slice()).unwrap();
    });
    assert!(matches!(aged.scanned(), Err(StoreError::Altered)));
    aged.check_verify("it is missing since change 3");
    assert_eq!(aged.repaired(&[&aged.narrowed]), [aged.other.id]);
}

#[test]
fn older_record_and_the_older_sums_that_fit_it_are_refused() {
    let aged = aged();
    aged.tamper("keys", |keys| drop(keys.insert(aged.narrowed.id.as_bytes(), aged.wide_row.as_slice()).unwrap()));
    aged.tamper("meta", |meta| {
        let bucket = sums::Bucket::of(aged.narrowed.id.as_bytes());
        let row = meta.get(bucket.row_key()).unwrap().unwrap();
        let mut set = record::decode_bucket(bucket, &row).unwrap();
        set.remove(aged.narrowed.id.as_bytes(), &record::encode_record(&aged.narrowed).unwrap());
        set.insert(aged.narrowed.id.as_bytes(), &aged.wide_row);
        meta.insert(bucket.row_key(), record::encode_bucket(bucket, set).unwrap()).unwrap();
    });
    assert!(matches!(aged.scanned(), Err(StoreError::Altered)));
    aged.check_verify("do not add up");
    assert_eq!(aged.repaired(&[&aged.other]), [aged.narrowed.id]);
}

#[test]
fn record_is_dropped_when_the_log_has_lost_who_was_changed_since() {
    let aged = aged();
    aged.tamper("keys", |keys| {
        keys.insert(aged.narrowed.id.as_bytes(), aged.wide_row.as_slice()).unwrap();
    });
    // Change 4 has narrowed the key; with its line gone, keys that were changed before it may be any of them.
    aged.tamper("changes", |changes| drop(changes.remove(4_u64.to_be_bytes()).unwrap()));
    aged.tamper("meta", |meta| (0..=255).for_each(|bucket| drop(meta.remove([b's', b'u', b'm', bucket]).unwrap())));
    assert!(matches!(aged.scanned(), Err(StoreError::Altered)));
    aged.check_verify("change 4: it is missing");
    assert!(matches!(repair(&aged.settings, Doubtful::Drop), Err(StoreError::Unrepairable { .. })));
    // At the operator's word they are kept, and named.
    let done = repair(&aged.settings, Doubtful::Keep).unwrap();
    let doubtful: Vec<KeyId> = done.doubtful.iter().map(|key| key.id).collect();
    let mut expected = [aged.narrowed.id, aged.other.id];
    expected.sort();
    assert_eq!(doubtful, expected);
}

#[test]
fn lost_line_of_the_log_costs_no_key() {
    let aged = aged();
    aged.tamper("changes", |changes| drop(changes.remove(4_u64.to_be_bytes()).unwrap()));
    assert_eq!(aged.scanned().unwrap().len(), 2);
    aged.check_verify("change 4: it is missing");
    let done = repair(&aged.settings, Doubtful::Drop).unwrap();
    assert_eq!((done.kept, done.dropped.len(), done.changes_lost), (2, 0, 1));
}

#[test]
fn damaged_time_of_last_use_is_unknown_until_the_next_use() {
    let aged = aged();
    let id = aged.other.id;
    let store = SledStore::open(&aged.settings).unwrap();
    store.touch(&[(id, at(50))]).unwrap();
    drop(store);
    aged.tamper("last_used", |times| {
        let mut row = times.get(id.as_bytes()).unwrap().unwrap().to_vec();
        *row.last_mut().unwrap() ^= 0x40;
        times.insert(id.as_bytes(), row).unwrap();
    });
    aged.check_verify("last use");
    let store = SledStore::open(&aged.settings).unwrap();
    assert_eq!(store.last_used(&id).unwrap(), None);
    store.touch(&[(id, at(60))]).unwrap();
    assert_eq!(store.last_used(&id).unwrap(), Some(at(60)));
}

#[test]
fn damaged_mark_is_told_and_keeps_nothing_from_opening() {
    let aged = aged();
    let mark = aged.settings.path.join("portcullis.mark");
    let whole = fs::read(&mark).unwrap();
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(&mark, flipped).unwrap();
        let folder = folder::Folder::existing(&aged.settings.path).unwrap();
        assert_eq!(folder.mark().unwrap(), folder::Mark::Damaged, "bit {bit}");
    }
    assert_eq!(aged.scanned().unwrap().len(), 2);
    aged.check_verify("mark: it is damaged");
}

#[test]
fn sound_store_is_said_to_be_sound_and_left_alone() {
    let aged = aged();
    let before = files_of(&aged.settings.path);
    let found = verify(&aged.settings).unwrap();
    assert_eq!((found.problems, found.keys, found.revision), (Vec::new(), 2, 5));
    assert!(repair(&aged.settings, Doubtful::Drop).unwrap().problems.is_empty());
    assert_eq!(stats(&aged.settings).unwrap().changes, 5);
    assert_eq!(files_of(&aged.settings.path), before);
}
