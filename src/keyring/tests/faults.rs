//! A store that fails: what the cache knows goes on, the rest is unavailable, and nothing is half made.

use std::time::Duration;

use super::harness::{Fault, Ring, by, copy, custom};
use crate::key::{KeyReference, KeySecret};
use crate::keyring::queue::CHANGES_QUEUED_MAX;
use crate::keyring::{ChangeError, Settings};
use crate::store::Store;

#[tokio::test]
async fn store_that_fails_leaves_cached_keys_alone_and_makes_the_rest_unavailable() {
    let ring = Ring::start().await;
    let (warm, cold) = (ring.key(&["monitor:read"]).await, ring.key(&["monitor:read"]).await);
    ring.holder(&warm).await.unwrap();
    ring.store.break_with(Fault::Everything);

    assert!(ring.holder(&warm).await.is_some());
    assert!(ring.keyring.holder(&cold).await.is_err());
    assert!(ring.keyring.list(0, 10).await.is_err());
    assert!(ring.keyring.get(&KeyReference::Id(cold.id())).await.is_err());
    let created = ring.keyring.create(ring.by_root(), custom(&["monitor:read"])).await;
    assert_eq!(created.unwrap_err(), ChangeError::Unavailable);
    assert_eq!(ring.rescope(&cold, &["issue:read"]).await.unwrap_err(), ChangeError::Unavailable);
    assert_eq!(ring.delete(ring.by_root(), &cold).await.unwrap_err(), ChangeError::Unavailable);

    ring.store.break_with(Fault::None);
    assert!(ring.holder(&cold).await.is_some());
    ring.delete(ring.by_root(), &cold).await.unwrap();
}

#[tokio::test]
async fn change_that_could_not_be_written_is_not_visible() {
    let ring = Ring::start().await;
    let key = ring.key(&["monitor:read"]).await;
    ring.holder(&key).await.unwrap();
    let (keys, revision) = (ring.keyring.keys(), ring.store.revision().unwrap());
    ring.store.break_with(Fault::Writes);

    assert!(ring.keyring.create(ring.by_root(), custom(&["monitor:read"])).await.is_err());
    assert_eq!(ring.rescope(&key, &["issue:read"]).await.unwrap_err(), ChangeError::Unavailable);
    assert_eq!(ring.delete(ring.by_root(), &key).await.unwrap_err(), ChangeError::Unavailable);

    assert_eq!((ring.keyring.keys(), ring.store.revision().unwrap()), (keys, revision));
    assert_eq!(ring.holder(&key).await.unwrap().record().scopes.names(), ["monitor:read"]);
}

#[tokio::test]
async fn uncertain_change_is_seen_by_nobody_before_it_is_on_disk_and_then_by_all_without_another() {
    // Long enough for the change to be settled.
    let ring = Ring::with(Settings { lookup_timeout: Duration::from_secs(10), ..Settings::default() }).await;
    let (narrowed, deleted) = (ring.key(&["monitor:read", "issue:read"]).await, ring.key(&["monitor:read"]).await);
    for key in [&narrowed, &deleted] {
        ring.holder(key).await.unwrap();
        ring.store.break_with(Fault::Uncertain);
        let changed = match key.id() == narrowed.id() {
            true => ring.rescope(key, &["issue:read"]).await,
            false => ring.delete(ring.by_root(), key).await,
        };
        assert_eq!(changed.unwrap_err(), ChangeError::Unavailable);

        // Neither as before nor as after: what is on disk is not known. Nor does another change build upon it.
        let looking = ring.looking(key);
        assert_eq!(ring.delete(ring.by_root(), key).await.unwrap_err(), ChangeError::Unavailable);
        let created = ring.keyring.create(ring.by_root(), custom(&["monitor:read"])).await;
        assert_eq!(created.unwrap_err(), ChangeError::Unavailable);
        assert!(!looking.is_finished());
        ring.store.break_with(Fault::None);

        let found = looking.await.unwrap().unwrap();
        assert_eq!(
            found.map(|holder| holder.record().scopes.names().join(" ")),
            match key.id() == narrowed.id() {
                true => Some("issue:read".to_owned()),
                false => None,
            }
        );
    }
    ring.key(&["monitor:read"]).await;
    let log = ring.store.changes(0, 100).unwrap();
    assert!(log.windows(2).all(|pair| pair[0].revision + 1 == pair[1].revision));
}

#[tokio::test]
async fn key_whose_change_is_uncertain_and_unreadable_is_neither_admitted_nor_called_invalid() {
    let ring = Ring::start().await;
    let key = ring.key(&["monitor:read"]).await;
    ring.holder(&key).await.unwrap();
    let hold = ring.store.hold_next_commit();
    let (keyring, actor, id) = (std::sync::Arc::clone(&ring.keyring), ring.by_root(), key.id());
    let delete = tokio::spawn(async move { keyring.delete(actor, KeyReference::Id(id), None).await });
    hold.reached.await.unwrap();
    ring.store.break_with(Fault::Everything);
    hold.release.send(()).unwrap();

    assert_eq!(delete.await.unwrap().unwrap_err(), ChangeError::Unavailable);
    assert!(ring.keyring.holder(&copy(&key)).await.is_err());
}

#[tokio::test]
async fn changes_beyond_the_queue_are_refused_at_once() {
    let ring = Ring::start().await;
    let create = || {
        let (keyring, actor) = (std::sync::Arc::clone(&ring.keyring), ring.by_root());
        tokio::spawn(async move { keyring.create(actor, custom(&["monitor:read"])).await })
    };
    let hold = ring.store.hold_next_commit();
    let first = create();
    hold.reached.await.unwrap();
    let waiting: Vec<_> = (0..CHANGES_QUEUED_MAX).map(|_| create()).collect();
    for refused in (0..10).map(|_| create()).collect::<Vec<_>>() {
        assert_eq!(refused.await.unwrap().unwrap_err(), ChangeError::Unavailable);
    }
    hold.release.send(()).unwrap();
    first.await.unwrap().unwrap();
    for made in waiting {
        made.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn older_record_that_comes_back_while_the_gate_runs_is_neither_admitted_nor_built_upon() {
    let settings = Settings { lookup_timeout: Duration::from_millis(20), ..Settings::default() };
    let ring = Ring::with(settings).await;
    let (key, gone) = (ring.key(&["monitor:read", "key:write"]).await, ring.key(&["monitor:read"]).await);
    let stale = [ring.store.record(&key.id()).unwrap().unwrap(), ring.store.record(&gone.id()).unwrap().unwrap()];
    ring.rescope(&key, &["monitor:read"]).await.unwrap();
    ring.delete(ring.by_root(), &gone).await.unwrap();
    ring.store.stale.lock().unwrap().extend(stale);

    assert!(ring.keyring.holder(&key).await.is_err());
    assert!(ring.keyring.get(&KeyReference::Id(key.id())).await.is_err());
    assert!(ring.holder(&gone).await.is_none());
    let renamed = ring.update(ring.by_root(), &key, Some("renamed"), None).await;
    assert_eq!(renamed.unwrap_err(), ChangeError::Unavailable);
    let made = ring.keyring.create(by(key.id()), custom(&["monitor:read"])).await;
    assert_eq!(made.unwrap_err(), ChangeError::Unavailable);
}

#[tokio::test]
async fn uncertain_change_is_not_settled_by_an_older_record_that_has_come_back() {
    let settings = Settings { lookup_timeout: Duration::from_millis(20), ..Settings::default() };
    let ring = Ring::with(settings).await;
    let key = ring.key(&["monitor:read", "key:write"]).await;
    let stale = ring.store.record(&key.id()).unwrap().unwrap();
    ring.rescope(&key, &["monitor:read"]).await.unwrap();
    ring.store.break_with(Fault::Uncertain);
    ring.rescope(&key, &["issue:read"]).await.unwrap_err();
    ring.store.stale.lock().unwrap().extend([stale]);
    ring.store.break_with(Fault::None);

    let made = ring.keyring.create(ring.by_root(), custom(&["monitor:read"])).await;

    assert_eq!(made.unwrap_err(), ChangeError::Unavailable);
    assert!(ring.keyring.holder(&key).await.is_err());
}

#[tokio::test]
async fn root_key_whose_creation_is_uncertain_is_neither_admitted_nor_called_invalid() {
    let ring = Ring::start().await;
    let (root, stranger) = (KeySecret::generate().unwrap(), KeySecret::generate().unwrap());
    ring.store.break_with(Fault::Uncertain);

    assert_eq!(ring.keyring.ensure_root(&root).await.unwrap_err(), ChangeError::Unavailable);

    assert!(ring.keyring.holder(&root).await.is_err());
    assert!(ring.holder(&stranger).await.is_none());
    ring.store.break_with(Fault::None);
    assert_eq!(ring.keyring.ensure_root(&root).await.unwrap().record.scopes.names(), ["*"]);
    assert!(ring.holder(&root).await.is_some());
}

#[tokio::test]
async fn change_that_panics_is_the_only_one_that_fails() {
    let mut is_first = true;
    let generate = move || {
        assert!(!std::mem::take(&mut is_first), "told to panic");
        KeySecret::generate()
    };
    let ring = Ring::generating(Settings::default(), Box::new(generate)).await;

    let panicked = ring.keyring.create(ring.by_root(), custom(&["monitor:read"])).await;

    assert_eq!(panicked.unwrap_err(), ChangeError::Unavailable);
    ring.key(&["monitor:read"]).await;
}
