//! Who is let in: the cache, the store behind it, and changes that come in between.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::harness::{Ring, copy, custom, forged};
use crate::key::{Digest, KeyRecord, KeyReference, KeySecret};
use crate::keyring::{KeyView, Settings, Standing};
use crate::limit::Quota;

#[tokio::test]
async fn key_is_read_once_and_cached_from_then_on() {
    let ring = Ring::start().await;
    let key = ring.key(&["monitor:read"]).await;
    let before = ring.store.reads();
    for _ in 0..3 {
        assert_eq!(ring.holder(&key).await.unwrap().record().id, key.id());
    }
    assert_eq!(ring.store.reads() - before, 1);
}

#[tokio::test]
async fn unknown_ids_never_reach_the_store() {
    let ring = Ring::start().await;
    let before = ring.store.reads();
    for _ in 0..100 {
        let unknown = KeySecret::generate().unwrap();
        assert!(ring.holder(&unknown).await.is_none());
        assert!(ring.view(&unknown).await.is_none());
    }
    assert_eq!(ring.store.reads(), before);
}

#[tokio::test]
async fn wrong_secrets_of_known_keys_never_reach_the_store() {
    let ring = Ring::start().await;
    let (cold, hot) = (ring.key(&["monitor:read"]).await, ring.key(&["monitor:read"]).await);
    assert!(ring.holder(&hot).await.is_some());
    let before = ring.store.reads();
    for _ in 0..100 {
        assert!(ring.holder(&forged(&cold)).await.is_none());
        assert!(ring.holder(&forged(&hot)).await.is_none());
    }
    assert_eq!(ring.store.reads(), before);
    assert!(ring.holder(&cold).await.is_some());
}

#[tokio::test]
async fn wrong_secret_of_a_known_key_opens_nothing_cached_or_not() {
    let ring = Ring::start().await;
    let key = ring.key(&["monitor:read"]).await;
    let wrong = forged(&key);
    assert_eq!(wrong.id(), key.id());

    assert!(ring.holder(&wrong).await.is_none());
    assert!(ring.keyring.known.holder(&key.digest().tag()).is_none());
    assert!(ring.holder(&key).await.is_some());
    assert!(ring.holder(&wrong).await.is_none());
    assert!(ring.keyring.get(&KeyReference::Secret(wrong)).await.unwrap().is_none());
    assert!(ring.keyring.get(&KeyReference::Secret(key)).await.unwrap().is_some());
}

#[tokio::test]
async fn one_read_serves_all_who_look_the_same_key_up() {
    let ring = Ring::start().await;
    let key = ring.key(&["monitor:read"]).await;
    let before = ring.store.reads();
    let hold = ring.store.hold_next_read();
    let first = ring.looking(&key);
    hold.reached.await.unwrap();
    let others: Vec<_> = (0..20).map(|_| ring.looking(&key)).collect();
    let wrong = ring.looking(&forged(&key));
    tokio::task::yield_now().await;
    hold.release.send(()).unwrap();

    let first = first.await.unwrap().unwrap().unwrap();
    for other in others {
        assert!(Arc::ptr_eq(&first, &other.await.unwrap().unwrap().unwrap()));
    }
    assert!(wrong.await.unwrap().unwrap().is_none());
    assert_eq!(ring.store.reads() - before, 1);
}

#[tokio::test]
async fn deleted_key_is_refused_though_a_look_up_had_read_it_before() {
    let ring = Ring::start().await;
    let key = ring.key(&["monitor:read"]).await;
    let hold = ring.store.hold_next_read();
    let looking = ring.looking(&key);
    hold.reached.await.unwrap();
    ring.delete(ring.by_root(), &key).await.unwrap();
    let after = ring.looking(&key);
    hold.release.send(()).unwrap();

    assert!(looking.await.unwrap().unwrap().is_none());
    assert!(after.await.unwrap().unwrap().is_none());
    assert!(ring.keyring.known.holder(&key.digest().tag()).is_none());
}

#[tokio::test]
async fn narrowed_key_is_narrow_though_a_look_up_had_read_it_before() {
    let ring = Ring::start().await;
    let key = ring.key(&["monitor:read", "monitor:write"]).await;
    let hold = ring.store.hold_next_read();
    let looking = ring.looking(&key);
    hold.reached.await.unwrap();
    ring.rescope(&key, &["monitor:read"]).await.unwrap();
    hold.release.send(()).unwrap();

    let holder = looking.await.unwrap().unwrap().unwrap();
    assert_eq!(holder.record().scopes.names(), ["monitor:read"]);
    assert_eq!(ring.holder(&key).await.unwrap().record().scopes.names(), ["monitor:read"]);
}

#[tokio::test]
async fn record_read_before_a_change_is_not_put_into_the_cache_after_it() {
    let ring = Ring::start().await;
    let (narrowed, deleted) = (ring.key(&["monitor:read", "issue:read"]).await, ring.key(&["monitor:read"]).await);
    let (old_narrowed, old_deleted) = (ring.view(&narrowed).await.unwrap(), ring.view(&deleted).await.unwrap());
    ring.rescope(&narrowed, &["monitor:read"]).await.unwrap();
    ring.delete(ring.by_root(), &deleted).await.unwrap();

    assert!(ring.keyring.known.fill(&old_narrowed).is_none());
    assert!(ring.keyring.known.fill(&old_deleted).is_none());
}

#[tokio::test]
async fn cached_key_is_refused_from_the_delete_on_and_narrow_from_the_update_on() {
    let ring = Ring::start().await;
    let key = ring.key(&["monitor:read", "issue:read"]).await;
    ring.holder(&key).await.unwrap();
    ring.rescope(&key, &["issue:read"]).await.unwrap();
    assert_eq!(ring.holder(&key).await.unwrap().record().scopes.names(), ["issue:read"]);
    ring.delete(ring.by_root(), &key).await.unwrap();
    assert!(ring.holder(&key).await.is_none());
}

#[tokio::test]
async fn no_look_up_admits_a_key_after_its_delete_in_many_tries() {
    let ring = Ring::start().await;
    for _ in 0..200 {
        let key = ring.key(&["monitor:read"]).await;
        let before: Vec<_> = (0..3).map(|_| ring.looking(&key)).collect();
        ring.delete(ring.by_root(), &key).await.unwrap();
        assert!(ring.holder(&key).await.is_none());
        for looking in before {
            looking.await.unwrap().unwrap();
        }
        assert!(ring.holder(&key).await.is_none());
    }
}

#[tokio::test]
async fn change_is_seen_by_nobody_before_it_is_on_disk() {
    let ring = Ring::start().await;
    let key = ring.key(&["monitor:read"]).await;
    let hold = ring.store.hold_next_commit();
    let (keyring, actor, id) = (Arc::clone(&ring.keyring), ring.by_root(), key.id());
    let changes = crate::keyring::Changes { scopes: custom(&["monitor:write"]).scopes, name: None };
    let update = tokio::spawn(async move { keyring.update(actor, KeyReference::Id(id), changes, None).await });
    hold.reached.await.unwrap();

    let before = ring.store.reads();
    let looking = ring.looking(&key);
    while ring.store.reads() == before {
        tokio::task::yield_now().await;
    }
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!looking.is_finished());

    hold.release.send(()).unwrap();
    update.await.unwrap().unwrap();
    assert_eq!(looking.await.unwrap().unwrap().unwrap().record().scopes.names(), ["monitor:write"]);
}

#[tokio::test]
async fn look_up_that_takes_too_long_is_unavailable_and_cached_keys_go_on() {
    let settings = Settings { lookup_timeout: Duration::from_millis(20), ..Settings::default() };
    let ring = Ring::with(settings).await;
    let (cold, warm) = (ring.key(&["monitor:read"]).await, ring.key(&["monitor:read"]).await);
    ring.holder(&warm).await.unwrap();
    let hold = ring.store.hold_next_read();

    assert!(ring.keyring.holder(&cold).await.is_err());
    assert!(ring.holder(&warm).await.is_some());
    drop(hold.release);
    assert!(ring.holder(&cold).await.is_some());
}

#[tokio::test]
async fn changed_key_goes_on_with_its_bucket_and_its_requests_in_flight() {
    let one = NonZeroU32::MIN;
    let quota = Quota::new(crate::settings::Rate { count: one, per: Duration::from_secs(1) }, one);
    let ring = Ring::start().await;
    let key = ring.key(&["monitor:read"]).await;
    let holder = ring.holder(&key).await.unwrap();
    let now = std::time::Instant::now();
    let slot = holder.concurrency().try_enter(one);
    assert!(slot.is_some() && holder.bucket().take(&quota, now).is_ok());

    ring.rescope(&key, &["issue:read"]).await.unwrap();

    let changed = ring.holder(&key).await.unwrap();
    assert!(changed.concurrency().try_enter(one).is_none());
    assert!(changed.bucket().take(&quota, now).is_err());
    let other = ring.holder(&copy(&ring.root)).await.unwrap();
    assert!(other.bucket().take(&quota, now).is_ok());
}

/// Digests of which two begin alike are not to be had; records are.
#[tokio::test]
async fn keys_whose_digests_begin_alike_are_told_apart() {
    let ring = Ring::start().await;
    let mut records = Vec::new();
    for last in [1, 2] {
        let key = ring.key(&["monitor:read"]).await;
        let mut record = ring.view(&key).await.unwrap().record;
        let mut digest = [7; 32];
        digest[31] = last;
        record.digest = Digest::from_bytes(digest);
        ring.keyring.known.publish(&key.id(), Some(&record));
        records.push(record);
    }
    let tag = records[0].digest.tag();
    assert_eq!(tag, records[1].digest.tag());
    let filled = |record: &KeyRecord| {
        let view = KeyView { record: record.clone(), last_used: None };
        ring.keyring.known.fill(&view).unwrap().record().id
    };
    assert_eq!([filled(&records[0]), filled(&records[1])], [records[0].id, records[1].id]);
    let holder = ring.keyring.known.holder(&tag).unwrap();
    assert!(matches!(ring.keyring.standing(&holder), Standing::Current));

    ring.keyring.known.publish(&records[0].id, None);
    assert!(ring.keyring.known.directory().holds(&tag));
    assert!(matches!(ring.keyring.standing(&holder), Standing::Gone));
    assert_eq!(filled(&records[1]), records[1].id);
    ring.keyring.known.publish(&records[1].id, None);
    assert!(!ring.keyring.known.directory().holds(&tag));
}
