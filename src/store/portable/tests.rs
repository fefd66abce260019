//! Files that are whole, and files that are not.

use std::fmt::Write as _;
use std::num::NonZeroU32;

use super::*;
use crate::clock::Timestamp;
use crate::key::{KeyName, KeyRecord, KeySecret, Kind, Scope, ScopeSet};
use crate::store::{Actor, Change, Expiry, MemoryStore, Operation, Store, Who};

fn record(revision: u64) -> KeyRecord {
    let secret = KeySecret::generate().unwrap();
    let scopes = ["monitor:read", "team:retired"].map(|name| Scope::parse(name).unwrap());
    KeyRecord {
        id: secret.id(),
        digest: secret.digest(),
        name: KeyName::parse("Größe \\ \"✓\"").unwrap(),
        kind: Kind::Custom,
        scopes: ScopeSet::new(scopes),
        created: Timestamp::from_unix(1_700_000_000),
        updated: Timestamp::from_unix(1_700_000_001),
        created_revision: revision,
        revision,
    }
}

/// A store with keys, a log and times of last use, some of them gone again.
fn store() -> MemoryStore {
    let store = MemoryStore::new(NonZeroU32::new(4).unwrap());
    let commit = |revision: u64, operation: Operation| {
        let who = if revision.is_multiple_of(2) { Who::Operator } else { Who::Key(record(1).id) };
        let actor = Actor { who, address: (revision > 4).then(|| "2001:db8::7".parse().unwrap()) };
        let at = Timestamp::from_unix(1_700_000_002);
        store.commit(&Change { revision, at, actor, operation, expiry: Expiry::Due }).unwrap();
    };
    let records: Vec<KeyRecord> = (1..=4).map(record).collect();
    for record in &records {
        commit(record.revision, Operation::Create(record.clone()));
    }
    commit(5, Operation::Delete(records[1].clone()));
    let to = KeyRecord { name: KeyName::parse("renamed").unwrap(), revision: 6, ..records[0].clone() };
    commit(6, Operation::Update { from: records[0].clone(), to });
    store.touch(&[(records[2].id, Timestamp::from_unix(1_800_000_000))]).unwrap();
    store
}

fn written(content: Content) -> Vec<u8> {
    write_store(&store(), content, Timestamp::from_unix(1_750_000_000), Vec::new()).unwrap()
}

fn read(bytes: &[u8]) -> Result<Vec<Item>, FileError> {
    let mut reader = Reader::open(bytes, 100)?;
    let mut items = Vec::new();
    while let Some(item) = reader.next()? {
        items.push(item);
    }
    Ok(items)
}

#[test]
fn what_is_read_is_what_was_written() {
    let store = store();
    let bytes = write_store(&store, Content::Backup, Timestamp::from_unix(1_750_000_000), Vec::new()).unwrap();
    let header = *Reader::open(&bytes[..], 100).unwrap().header();
    assert_eq!((header.content, header.revision, header.keys), (Content::Backup, 6, 3));
    assert_eq!(header.created.unix(), 1_750_000_000);
    let (mut keys, mut changes) = (Vec::new(), Vec::new());
    for item in read(&bytes).unwrap() {
        match item {
            Item::Change(change) => changes.push(change),
            Item::Key(key) => keys.push(key),
        }
    }
    assert_eq!(changes, store.changes(0, 10).unwrap());
    // In order of creation.
    assert_eq!(keys.iter().map(|key| key.record.created_revision).collect::<Vec<_>>(), [1, 3, 4]);
    for Ported { record, last_used } in keys {
        let present = store.record(&record.id).unwrap().unwrap();
        assert_eq!(format!("{record:?}"), format!("{present:?}"));
        assert_eq!(record.digest.as_bytes(), present.digest.as_bytes());
        assert_eq!(last_used, store.last_used(&record.id).unwrap());
    }
}

#[test]
fn an_export_is_a_backup_without_its_log() {
    let items = read(&written(Content::Export)).unwrap();
    assert_eq!(items.len(), 3);
    assert!(items.iter().all(|item| matches!(item, Item::Key(_))));
}

#[test]
fn a_file_that_was_cut_anywhere_is_refused() {
    let bytes = written(Content::Backup);
    for end in 0..bytes.len() {
        assert!(read(&bytes[..end]).is_err(), "cut at {end}");
    }
}

#[test]
fn a_file_with_a_flipped_bit_anywhere_is_refused() {
    let bytes = written(Content::Backup);
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        // The end is covered by no checksum, and says nothing that is not compared.
        assert!(read(&flipped).is_err(), "bit {bit}");
    }
}

#[test]
fn a_file_that_lacks_or_repeats_a_line_is_refused() {
    let text = String::from_utf8(written(Content::Backup)).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    for at in 0..lines.len() {
        for times in [0, 2] {
            let mut changed = String::new();
            for (place, line) in lines.iter().enumerate() {
                (0..if place == at { times } else { 1 }).for_each(|_| writeln!(changed, "{line}").unwrap());
            }
            assert!(read(changed.as_bytes()).is_err(), "line {} {times} times", at + 1);
        }
    }
}

#[test]
fn a_key_that_went_or_came_while_it_was_written_spoils_the_file() {
    let created = Timestamp::from_unix(0);
    let header = |keys| Header { content: Content::Export, revision: 9, created, keys };
    for (told, written) in [(1, 0), (1, 2), (0, 1)] {
        let mut writer = Writer::begin(Vec::new(), header(told)).unwrap();
        (0..written).for_each(|_| writer.key(&Ported { record: record(1), last_used: None }).unwrap());
        assert!(matches!(writer.finish(), Err(WriteError::Changed)), "{told} {written}");
    }
}
