//! The time of last use: fresh for those who ask, written once a window, never backwards, never after a delete.

use std::time::Duration;

use super::harness::{Fault, NOW, Ring};
use crate::clock::Timestamp;
use crate::keyring::Settings;
use crate::limit::KeyLimits;
use crate::store::Store;

fn at(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp::from_unix(seconds))
}

/// Flushes only when it is told to.
async fn ring() -> Ring {
    let settings = Settings { last_used_flush: Duration::from_secs(86_400), ..Settings::default() };
    Ring::with(settings, &KeyLimits::default()).await
}

#[tokio::test]
async fn use_is_seen_at_once_and_written_once_a_window() {
    let ring = ring().await;
    let key = ring.key(&["monitor:read"]).await;
    let holder = ring.holder(&key).await.unwrap();
    assert_eq!(ring.view(&key).await.unwrap().last_used, None);
    let written = *ring.store.touches.borrow();
    for second in 0..5 {
        (0..10).for_each(|_| ring.note_use(&holder));
        assert_eq!(ring.view(&key).await.unwrap().last_used, at(NOW + second));
        ring.clock.advance(1);
    }
    assert_eq!(ring.store.last_used(&key.id()).unwrap(), None);

    ring.keyring.last_used.flush().await;
    ring.keyring.last_used.flush().await;

    assert_eq!(ring.store.last_used(&key.id()).unwrap(), at(NOW + 4));
    assert_eq!(*ring.store.touches.borrow() - written, 1);
    assert_eq!(ring.view(&key).await.unwrap().record.updated.unix(), NOW);
}

#[tokio::test]
async fn use_noted_before_a_delete_does_not_bring_the_key_back() {
    let ring = ring().await;
    let key = ring.key(&["monitor:read"]).await;
    let holder = ring.holder(&key).await.unwrap();
    ring.note_use(&holder);
    ring.delete(ring.by_root(), &key).await.unwrap();
    ring.clock.advance(1);
    ring.note_use(&holder);
    ring.keyring.last_used.flush().await;

    assert!(ring.store.record(&key.id()).unwrap().is_none());
    assert_eq!(ring.store.last_used(&key.id()).unwrap(), None);
    assert!(ring.holder(&key).await.is_none());
}

#[tokio::test]
async fn clock_that_is_set_back_does_not_move_last_use_back() {
    let ring = ring().await;
    let key = ring.key(&["monitor:read"]).await;
    let holder = ring.holder(&key).await.unwrap();
    ring.note_use(&holder);
    ring.clock.advance(-1_000);
    ring.note_use(&holder);
    assert_eq!(ring.view(&key).await.unwrap().last_used, at(NOW));
}

#[tokio::test]
async fn times_that_were_not_written_are_kept_for_the_next_window() {
    let ring = ring().await;
    let (first, second) = (ring.key(&["monitor:read"]).await, ring.key(&["monitor:read"]).await);
    ring.note_use(&ring.holder(&first).await.unwrap());
    ring.store.break_with(Fault::Writes);
    ring.keyring.last_used.flush().await;
    ring.store.break_with(Fault::None);
    ring.clock.advance(7);
    ring.note_use(&ring.holder(&second).await.unwrap());
    ring.keyring.last_used.flush().await;

    assert_eq!(ring.store.last_used(&first.id()).unwrap(), at(NOW));
    assert_eq!(ring.store.last_used(&second.id()).unwrap(), at(NOW + 7));
}

#[tokio::test]
async fn update_keeps_a_use_that_is_not_written_yet() {
    let ring = ring().await;
    let key = ring.key(&["monitor:read"]).await;
    ring.note_use(&ring.holder(&key).await.unwrap());
    let view = ring.rescope(&key, &["issue:read"]).await.unwrap();
    assert_eq!(view.last_used, at(NOW));
    ring.keyring.last_used.flush().await;
    assert_eq!(ring.store.last_used(&key.id()).unwrap(), at(NOW));
}

#[tokio::test]
async fn windows_are_flushed_without_being_told() {
    let settings = Settings { last_used_flush: Duration::from_millis(1), ..Settings::default() };
    let ring = Ring::with(settings, &KeyLimits::default()).await;
    let key = ring.key(&["monitor:read"]).await;
    let mut touches = ring.store.touches.subscribe();
    touches.borrow_and_update();
    ring.note_use(&ring.holder(&key).await.unwrap());
    touches.changed().await.unwrap();
    assert_eq!(ring.store.last_used(&key.id()).unwrap(), at(NOW));
}

#[tokio::test]
async fn close_writes_what_was_noted() {
    let ring = ring().await;
    let key = ring.key(&["monitor:read"]).await;
    ring.note_use(&ring.holder(&key).await.unwrap());
    ring.keyring.close().await;
    assert_eq!(ring.store.last_used(&key.id()).unwrap(), at(NOW));
    ring.keyring.close().await;
}
