//! Backups of a keyring that goes on being changed.

use std::collections::BTreeMap;
use std::io::sink;

use super::harness::{CHANGES_MAX, Fault, NOW, Ring};
use crate::clock::Timestamp;
use crate::key::KeyId;
use crate::keyring::Snapshot;
use crate::store::Store;
use crate::store::portable::{Item, Ported, Reader, WriteError};

fn never() -> bool {
    false
}

/// Writes the snapshot out in a thread of its own.
fn backing_up(snapshot: Snapshot) -> tokio::task::JoinHandle<Vec<u8>> {
    let created = Timestamp::from_unix(NOW);
    tokio::task::spawn_blocking(move || snapshot.back_up(created, Vec::new(), &never).unwrap())
}

/// The revision, the keys, and the revisions of the log.
fn read(file: &[u8]) -> (u64, BTreeMap<KeyId, Ported>, Vec<u64>) {
    let mut reader = Reader::open(file, 100).unwrap();
    let (mut keys, mut log) = (BTreeMap::new(), Vec::new());
    while let Some(item) = reader.next().unwrap() {
        match item {
            Item::Change(change) => log.push(change.revision),
            Item::Key(key) => drop(keys.insert(key.record.id, key)),
        }
    }
    (reader.header().revision, keys, log)
}

#[tokio::test]
async fn changes_do_not_wait_for_a_backup_and_are_not_in_it() {
    let ring = Ring::start().await;
    let (narrowed, deleted) = (ring.key(&["monitor:read", "issue:read"]).await, ring.key(&["monitor:read"]).await);
    let snapshot = ring.keyring.snapshot().await.unwrap();
    // The first key is the root's: neither of the two is read yet.
    let hold = ring.store.hold_next_read();
    let writing = backing_up(snapshot);
    hold.reached.await.unwrap();

    ring.rescope(&narrowed, &["issue:read"]).await.unwrap();
    ring.rescope(&narrowed, &["monitor:read"]).await.unwrap();
    ring.delete(ring.by_root(), &deleted).await.unwrap();
    let created = ring.key(&["monitor:read"]).await;

    hold.release.send(()).unwrap();
    let (revision, keys, log) = read(&writing.await.unwrap());
    assert_eq!((revision, log), (3, vec![1, 2, 3]));
    assert_eq!(keys.len(), 3);
    assert_eq!(keys[&narrowed.id()].record.scopes.names(), ["monitor:read", "issue:read"]);
    assert_eq!(keys[&deleted.id()].record.revision, 3);
    assert!(!keys.contains_key(&created.id()));
    let snapshot = ring.keyring.snapshot().await.unwrap();
    let (revision, keys, _) = read(&backing_up(snapshot).await.unwrap());
    assert_eq!((revision, keys.len()), (7, 3));
    assert_eq!(keys[&narrowed.id()].record.scopes.names(), ["monitor:read"]);
}

#[tokio::test]
async fn a_key_that_is_changed_right_after_it_was_read_is_backed_up_as_it_was() {
    let ring = Ring::start().await;
    let snapshot = ring.keyring.snapshot().await.unwrap();
    let hold = ring.store.hold_next_read();
    let writing = backing_up(snapshot);
    hold.reached.await.unwrap();

    ring.update(ring.by_root(), &ring.root, Some("renamed"), None).await.unwrap();

    hold.release.send(()).unwrap();
    let (_, keys, _) = read(&writing.await.unwrap());
    assert_eq!(keys[&ring.root.id()].record.name.as_str(), "root");
}

#[tokio::test]
async fn a_last_use_that_is_not_yet_written_is_backed_up() {
    let ring = Ring::start().await;
    let key = ring.key(&["monitor:read"]).await;
    let holder = ring.holder(&key).await.unwrap();
    ring.clock.advance(60);
    ring.note_use(&holder);

    let snapshot = ring.keyring.snapshot().await.unwrap();
    let (_, keys, _) = read(&backing_up(snapshot).await.unwrap());

    assert_eq!(keys[&key.id()].last_used.map(Timestamp::unix), Some(NOW + 60));
}

#[tokio::test]
async fn a_backup_is_not_made_while_it_is_unknown_what_is_on_disk() {
    let ring = Ring::start().await;
    let key = ring.key(&["monitor:read"]).await;
    ring.store.break_with(Fault::Uncertain);
    assert!(ring.rescope(&key, &["issue:read"]).await.is_err());
    assert!(ring.keyring.snapshot().await.is_err());
    ring.store.break_with(Fault::None);
    ring.key(&["monitor:read"]).await;
    assert!(ring.keyring.snapshot().await.is_ok());
}

#[tokio::test]
async fn a_backup_ends_when_it_is_told_to_or_the_store_fails() {
    let ring = Ring::start().await;
    let snapshot = ring.keyring.snapshot().await.unwrap();
    let created = Timestamp::from_unix(NOW);
    assert!(matches!(snapshot.back_up(created, sink(), &|| true), Err(WriteError::Stopped)));
    ring.store.break_with(Fault::Everything);
    assert!(matches!(snapshot.back_up(created, sink(), &never), Err(WriteError::Store(_))));
    ring.store.break_with(Fault::None);
    snapshot.back_up(created, sink(), &never).unwrap();
}

/// Renames the root key so often, while a backup has read it and nothing else.
async fn backed_up_under(ring: &Ring, changes: u32) -> Result<Vec<u8>, WriteError> {
    let snapshot = ring.keyring.snapshot().await.unwrap();
    let hold = ring.store.hold_next_read();
    let created = Timestamp::from_unix(NOW);
    let writing = tokio::task::spawn_blocking(move || snapshot.back_up(created, Vec::new(), &never));
    hold.reached.await.unwrap();
    for change in 0..changes {
        ring.update(ring.by_root(), &ring.root, Some(&format!("renamed {change}")), None).await.unwrap();
    }
    hold.release.send(()).unwrap();
    writing.await.unwrap()
}

#[tokio::test]
async fn the_log_keeps_what_a_backup_has_still_to_read() {
    let ring = Ring::start().await;
    let kept = CHANGES_MAX.get();
    backed_up_under(&ring, kept).await.unwrap();
    let first = ring.store.changes(0, 1).unwrap()[0].revision;
    let (revision, _, log) = read(&backed_up_under(&ring, kept - 2).await.unwrap());
    assert_eq!((log.first(), log.last()), (Some(&first), Some(&revision)));
    assert!(ring.store.changes(0, 1_000).unwrap().len() > kept as usize);

    ring.key(&["monitor:read"]).await;

    assert_eq!(ring.store.changes(0, 1_000).unwrap().len(), kept as usize);
    assert!(matches!(backed_up_under(&ring, 2 * kept).await, Err(WriteError::Expired)));
    assert!(ring.store.changes(0, 1_000).unwrap().len() <= 2 * kept as usize);
}
