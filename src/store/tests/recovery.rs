//! What an opening would take away of a damaged store, and a repair can still use.

use super::damage::{files_of, keys_of, narrow};
use super::swapped::{copied, named};
use super::*;
use crate::store::recovery::is_in_order;

const KEPT: &str = "portcullis.before-recovery";

/// A store of several segments, some of them used again, and what is in it.
fn used(folder: &Path) -> (Settings, BTreeMap<KeyId, String>) {
    let settings = Settings { path: folder.join("data"), ..Settings::default() };
    drop(::sled::Config::new().path(&settings.path).segment_size(8 * 1024).open().unwrap());
    let store = SledStore::create(&settings).unwrap();
    let mut records: Vec<KeyRecord> = (0..20).map(|_| create(&store)).collect();
    for round in 0..160 {
        let record = &mut records[round % 20];
        *record = if round < 20 { narrow(&store, record) } else { rename(&store, record) };
    }
    let keys = keys_of(&store).unwrap();
    (settings, keys)
}

fn is_kept(settings: &Settings) -> bool {
    settings.path.join(KEPT).exists()
}

/// Files as they are at the kill of a process at any moment.
#[test]
fn the_files_of_a_store_that_nothing_has_damaged_are_copied_by_no_opening() {
    let folder = tempfile::tempdir().unwrap();
    let (settings, keys) = used(folder.path());
    assert!(is_in_order(&settings.path).unwrap());
    let store = SledStore::open(&settings).unwrap();
    assert!(!is_kept(&settings));
    for round in 0..40 {
        create(&store);
        let killed = Settings { path: folder.path().join(format!("killed-{round}")), ..settings.clone() };
        copied(&settings.path, &killed.path);
        assert!(is_in_order(&killed.path).unwrap(), "after {round} changes");
        if round % 10 == 0 {
            assert_eq!(keys_of(&SledStore::open(&killed).unwrap()).unwrap().len(), keys.len() + round + 1);
            assert!(!is_kept(&killed));
        }
    }
}

#[test]
fn a_copy_is_kept_until_the_store_is_known_to_be_whole() {
    let folder = tempfile::tempdir().unwrap();
    let (settings, keys) = used(folder.path());
    let database = settings.path.join("db");
    // Behind all segments, where the database looks at nothing.
    let mut bytes = fs::read(&database).unwrap();
    bytes.resize(bytes.len().next_multiple_of(8 * 1024), 0);
    bytes.extend([7; 512]);
    fs::write(&database, &bytes).unwrap();

    let store = SledStore::open(&settings).unwrap();

    assert_eq!(fs::read(settings.path.join(KEPT).join("db")).unwrap(), bytes);
    assert_eq!(keys_of(&store).unwrap(), keys);
    assert!(!is_kept(&settings));
    assert!(named(&settings.path, "portcullis.").iter().all(|path| path.is_file()));
}

/// A gate that does not start is started again and again.
#[test]
fn openings_of_a_damaged_store_take_nothing_from_its_repair() {
    let folder = tempfile::tempdir().unwrap();
    let (settings, keys) = used(folder.path());
    let (mut refused, mut taken, mut kept) = (0, 0, 0);
    let length = fs::metadata(settings.path.join("db")).unwrap().len();
    for round in 0..12 {
        let damage = |path: &Path| {
            copied(&settings.path, path);
            let mut bytes = fs::read(path.join("db")).unwrap();
            let at = usize::try_from(length * (2 * round + 1) / 24).unwrap();
            bytes[at..at + 200].fill(0);
            fs::write(path.join("db"), bytes).unwrap();
        };
        let [untouched, opened] = ["untouched", "opened"].map(|name| {
            let path = folder.path().join(format!("{name}-{round}"));
            damage(&path);
            Settings { path, ..settings.clone() }
        });
        let before = files_of(&opened.path);
        if verify(&untouched).unwrap().problems.is_empty() {
            assert_eq!(keys_of(&SledStore::open(&opened).unwrap()).unwrap(), keys);
            assert!(!is_kept(&opened));
            continue;
        }
        for _ in 0..2 {
            // Where lines of the log alone are lost, it is not.
            refused += usize::from(SledStore::open(&opened).and_then(|store| keys_of(&store)).is_err());
        }
        let of_database = |path: &Path| fs::read(path.join("db")).unwrap();
        if before.iter().any(|(path, bytes)| path.ends_with("db") && *bytes != of_database(&opened.path)) {
            taken += 1;
        }
        let was_kept = is_kept(&opened);
        match (repair(&untouched, Doubtful::Drop), repair(&opened, Doubtful::Drop)) {
            (Ok(expected), Ok(done)) => {
                // Of the log's lines fewer may be found: the database may have written the damaged page anew by then.
                let told = |done: &Repaired| (done.kept, done.revision);
                assert_eq!(told(&done), told(&expected), "round {round}");
                assert_eq!(keys_of(&SledStore::open(&opened).unwrap()).unwrap().len(), done.kept);
                kept += done.kept;
                let aside = done.aside.unwrap().join(KEPT);
                assert_eq!((is_kept(&opened), aside.join("db").exists()), (false, was_kept));
            }
            (Err(StoreError::Unrepairable { .. }), Err(StoreError::Unrepairable { .. })) => {}
            (expected, done) => panic!("round {round}: {expected:?}, {done:?}"),
        }
    }
    assert!(refused > 3 && taken > 0 && kept > 0, "{refused} refused, {taken} changed, {kept} kept");
}

#[test]
fn a_damaged_mark_beside_a_damaged_log_lets_nothing_be_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let (settings, keys) = used(folder.path());
    let mark = settings.path.join("portcullis.mark");
    let mut text = fs::read(&mark).unwrap();
    text[12] ^= 1;
    fs::write(&mark, text).unwrap();
    // The last change is gone, and what is before it is whole.
    let database = settings.path.join("db");
    let mut bytes = fs::read(&database).unwrap();
    bytes.resize(bytes.len().next_multiple_of(8 * 1024), 0);
    bytes.extend([7; 512]);
    fs::write(&database, bytes).unwrap();

    for _ in 0..2 {
        assert!(matches!(SledStore::open(&settings), Err(StoreError::Damaged { .. })));
        assert!(matches!(compact(&settings), Err(StoreError::Damaged { .. })));
    }
    assert!(matches!(repair(&settings, Doubtful::Drop), Err(StoreError::Unrepairable { .. })));
    let done = repair(&settings, Doubtful::Keep).unwrap();
    assert_eq!((done.kept, done.doubtful.len(), done.is_end_unknown), (keys.len(), keys.len(), true));
    assert_eq!(keys_of(&SledStore::open(&settings).unwrap()).unwrap().len(), keys.len());
}

#[test]
fn a_damaged_mark_alone_is_repaired_and_told() {
    let folder = tempfile::tempdir().unwrap();
    let (settings, keys) = used(folder.path());
    fs::write(settings.path.join("portcullis.mark"), "revision 00000000000000000001 00000000\n").unwrap();
    let done = repair(&settings, Doubtful::Drop).unwrap();
    assert_eq!((done.kept, done.doubtful.len(), done.is_end_unknown), (keys.len(), 0, true));
    assert!(!repair(&settings, Doubtful::Drop).unwrap().is_end_unknown);
}
