//! Files that are read twice, once to check them and once to take them in, and are others the second time.

use std::io::{BufRead, Cursor, Read, Seek, SeekFrom};

use super::*;
use crate::store::portable::{Content, write_store};

/// One file until it is read from its start again, then another.
struct Changed {
    present: Cursor<Vec<u8>>,
    later: Vec<u8>,
}

impl Changed {
    fn new(first: &[u8], later: &[u8]) -> Self {
        Self { present: Cursor::new(first.to_vec()), later: later.to_vec() }
    }
}

impl Read for Changed {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.present.read(buffer)
    }
}

impl BufRead for Changed {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        self.present.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.present.consume(amount);
    }
}

impl Seek for Changed {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.present = Cursor::new(std::mem::take(&mut self.later));
        self.present.seek(to)
    }
}

/// A whole file of a store with so many keys.
fn file(content: Content, keys: u64) -> Vec<u8> {
    let store = MemoryStore::default();
    for revision in 1..=keys {
        store.commit(&change(revision, Operation::Create(fresh(revision)))).unwrap();
    }
    write_store(&store, content, at(0), Vec::new()).unwrap()
}

#[test]
fn a_file_that_changes_between_its_check_and_its_import_is_not_imported() {
    let folder = tempfile::tempdir().unwrap();
    let own = settings(folder.path());
    let import = Import {
        settings: &own,
        scopes: None,
        on_conflict: OnConflict::Refuse,
        keys_max: 1_000,
        now: at(1_800_000_000),
    };
    let (first, later) = (file(Content::Export, 300), file(Content::Export, 300));
    assert!(matches!(import.run(Changed::new(&first, &later)), Err(ImportError::FileChanged)));
    assert!(matches!(SledStore::open(&own), Err(StoreError::Missing { .. })));

    drop(create(&SledStore::create(&own).unwrap()));
    assert!(matches!(import.run(Changed::new(&first, &later)), Err(ImportError::FileChanged)));
    assert_eq!(SledStore::open(&own).unwrap().revision().unwrap(), 1, "keys were taken that nobody had checked");

    assert_eq!(import.run(Changed::new(&first, &first)).unwrap().created, 300);
}

#[test]
fn a_file_that_changes_between_its_check_and_its_restoring_is_not_restored() {
    let folder = tempfile::tempdir().unwrap();
    let own = settings(folder.path());
    let (first, later) = (file(Content::Backup, 3), file(Content::Backup, 3));
    let changed = restore(Changed::new(&first, &later), &own, 1_000);
    assert!(matches!(changed, Err(RestoreError::FileChanged)));
    assert!(matches!(SledStore::open(&own), Err(StoreError::Missing { .. })));
    restore(Changed::new(&first, &first), &own, 1_000).unwrap();
}
