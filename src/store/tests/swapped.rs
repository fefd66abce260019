//! A database that takes the place of another: upgraded, compacted or repaired, and cut off at each step.

use super::damage::keys_of;
use super::*;

pub(super) fn copied(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for path in fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()) {
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copied(&path, &target);
        } else {
            fs::copy(&path, target).unwrap();
        }
    }
}

pub(super) fn named(folder: &Path, start: &str) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(start)).collect()
}

fn old_store(folder: &Path) -> Settings {
    let settings = Settings { path: folder.join("data"), ..Settings::default() };
    copied(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/stores/format-1/data"), &settings.path);
    settings
}

#[test]
fn store_of_the_first_format_is_upgraded_once_and_kept_beside() {
    let folder = tempfile::tempdir().unwrap();
    let settings = old_store(folder.path());
    let before = fs::read(settings.path.join("db")).unwrap();
    let store = SledStore::open(&settings).unwrap();
    let keys = keys_of(&store).unwrap();
    assert_eq!((keys.len(), store.revision().unwrap(), store.changes(0, 100).unwrap().len()), (9, 12, 12));
    assert_eq!(keys.keys().filter(|id| store.last_used(id).unwrap().is_some()).count(), 4);
    create(&store);
    drop(store);
    let kept = named(&settings.path, "portcullis.before-upgrade");
    let [kept] = kept.as_slice() else { panic!("{kept:?}") };
    // Opening it the first time has marked its end, and no more.
    let kept = fs::read(kept.join("db")).unwrap();
    let end = before.iter().rposition(|byte| *byte != 0).unwrap();
    assert_eq!(kept[..end], before[..end]);

    assert_eq!(keys_of(&SledStore::open(&settings).unwrap()).unwrap().len(), 10);
    assert_eq!(named(&settings.path, "portcullis.before").len(), 1);
    assert_eq!(verify(&settings).unwrap().problems, Vec::<String>::new());
}

#[test]
fn store_of_the_first_format_that_ends_too_early_is_not_upgraded() {
    let folder = tempfile::tempdir().unwrap();
    let settings = old_store(folder.path());
    fs::write(settings.path.join("portcullis.mark"), "revision 00000000000000000013\n").unwrap();
    assert!(matches!(SledStore::open(&settings), Err(StoreError::Lost { acknowledged: 13, found: 12, .. })));
    assert!(named(&settings.path, "portcullis.before").is_empty());
}

#[test]
fn store_of_a_newer_format_is_refused_by_everything_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path());
    create(&SledStore::create(&settings).unwrap());
    {
        let meta = bare_database(&settings).open_tree("meta").unwrap();
        let mut state = meta.get(record::STATE).unwrap().unwrap().to_vec();
        state[0] = record::VERSION + 1;
        meta.insert(record::STATE, state).unwrap();
    }
    let newer = |error: StoreError| match error {
        StoreError::Newer { format, .. } => assert_eq!(format, record::VERSION + 1),
        error => panic!("{error:?}"),
    };
    newer(SledStore::open(&settings).err().unwrap());
    newer(SledStore::create(&settings).err().unwrap());
    newer(compact(&settings).unwrap_err());
    newer(repair(&settings, Doubtful::Drop).unwrap_err());
    let found = verify(&settings).unwrap();
    assert!(found.problems[0].contains("newer portcullis (format 3)"), "{found:?}");
}

#[test]
fn compacted_store_has_everything_in_one_segment_again() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { path: folder.path().join("data"), ..Settings::default() };
    let store = SledStore::create(&settings).unwrap();
    let mut records: Vec<KeyRecord> = (0..50).map(|_| create(&store)).collect();
    for round in 0..1_500_i64 {
        let index = usize::try_from(round).unwrap() % 50;
        records[index] = rename(&store, &records[index]);
        store.touch(&[(records[index].id, at(round))]).unwrap();
    }
    store.flush().unwrap();
    let told = |store: &SledStore| {
        let used: Vec<_> = records.iter().map(|record| store.last_used(&record.id).unwrap()).collect();
        (keys_of(store).unwrap(), used, store.changes(0, 10_000).unwrap(), store.revision().unwrap())
    };
    let before = told(&store);
    drop(store);
    let done = compact(&settings).unwrap();
    assert_eq!(done.keys, 50);
    assert!(done.bytes_after < folder::SEGMENT_BYTES as u64 + 65_536, "{done:?}");
    assert_eq!(told(&SledStore::open(&settings).unwrap()), before);
    assert!(named(&settings.path, "portcullis.").iter().all(|path| path.is_file()));
}

#[test]
fn damaged_store_is_not_compacted() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path());
    let store = SledStore::create(&settings).unwrap();
    let (first, _second) = (create(&store), create(&store));
    drop(store);
    bare_database(&settings).open_tree("keys").unwrap().remove(first.id.as_bytes()).unwrap();
    assert!(matches!(compact(&settings), Err(StoreError::Miscounted { expected: 2, found: 1 })));
    assert!(named(&settings.path, "portcullis.before").is_empty());
}

/// The names of the steps are those of `swap`: each is a state of the directory in which a process can end.
#[test]
fn replacement_that_is_cut_off_at_any_step_leaves_one_whole_database() {
    let folder = tempfile::tempdir().unwrap();
    let old = old_store(folder.path());
    let new = Settings { path: folder.path().join("new"), ..old.clone() };
    copied(&old.path, &new.path);
    let expected = keys_of(&SledStore::open(&new).unwrap()).unwrap();
    let moved = |paths: &[std::path::PathBuf], to: &Path, count: usize| {
        fs::create_dir_all(to).unwrap();
        for path in &paths[..count] {
            fs::rename(path, to.join(path.file_name().unwrap())).unwrap();
        }
    };
    let database = |folder: &Path| {
        let mut files = swap::database_files(folder).unwrap();
        files.sort();
        files
    };
    let files = database(&new.path).len().max(database(&old.path).len());
    for step in 0..3 + 2 * files {
        let settings = Settings { path: folder.path().join(format!("step-{step}")), ..old.clone() };
        copied(&old.path, &settings.path);
        let (building, fresh, next) = (
            settings.path.join("portcullis.building"),
            settings.path.join("portcullis.fresh"),
            settings.path.join("portcullis.next"),
        );
        let aside = settings.path.join("portcullis.before-upgrade-1");
        let made = if step == 0 { &building } else { &fresh };
        moved(&[], made, 0);
        for file in database(&new.path) {
            let target = made.join(file.file_name().unwrap());
            if file.is_dir() {
                copied(&file, &target);
            } else {
                fs::copy(&file, target).unwrap();
            }
        }
        if step == 0 {
            fs::write(building.join("db"), b"half").unwrap();
        } else {
            fs::write(fresh.join("aside"), "portcullis.before-upgrade-1").unwrap();
            let olds = database(&settings.path);
            moved(&olds, &aside, (step - 1).min(olds.len()));
            if step > files {
                fs::rename(&fresh, &next).unwrap();
                let news = database(&next);
                moved(&news, &settings.path, (step - 1 - files).min(news.len()));
            }
        }
        let store = SledStore::open(&settings).unwrap_or_else(|error| panic!("step {step}: {error:?}"));
        assert_eq!(keys_of(&store).unwrap(), expected, "step {step}");
        drop(store);
        assert_eq!(verify(&settings).unwrap().problems, Vec::<String>::new(), "step {step}");
        assert!(aside.join("db").exists(), "step {step}");
        let left = [building, fresh, next];
        assert!(left.iter().all(|folder| !folder.exists()), "step {step}");
    }
}
