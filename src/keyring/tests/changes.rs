//! The rules of creating, changing and deleting keys, one by one.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};

use tokio::runtime::Handle;

use super::harness::{NOW, Ring, by, copy, custom, forged, of_kind, scopes};
use crate::clock::{Clock, Timestamp};
use crate::key::{KeyName, KeyReference, KeySecret, Kind};
use crate::keyring::{ChangeError, Changes, Draft, Keyring, Settings};
use crate::limit::KeyLimits;
use crate::metrics::Metrics;
use crate::policy::Deny;
use crate::store::{Actor, SledStore, Store, Who};

fn excess(names: &[&str]) -> ChangeError {
    ChangeError::Denied(Deny::ScopesExceedGrantor { excess: scopes(names) })
}

fn no_key_write() -> ChangeError {
    ChangeError::Denied(Deny::ScopeMissing { required: scopes(&["key:write"]), any: false })
}

#[tokio::test]
async fn created_key_is_what_was_asked_for() {
    let ring = Ring::start().await;
    let (secret, view) = ring.keyring.create(ring.by_root(), custom(&["issue:read", "monitor:read"])).await.unwrap();
    assert_eq!(view.record.id, secret.id());
    assert_eq!(view.record.scopes.names(), ["monitor:read", "issue:read"]);
    assert_eq!((view.record.created.unix(), view.record.updated.unix(), view.last_used), (NOW, NOW, None));
    assert_eq!(format!("{:?}", ring.view(&secret).await), format!("{:?}", Some(view)));
}

#[tokio::test]
async fn fixed_kinds_take_their_own_scopes_and_no_others() {
    let ring = Ring::start().await;
    let fixed: &[&str] = &["telemetry:write"];
    for wanted in [None, Some(fixed)] {
        let made = ring.keyring.create(ring.by_root(), of_kind(Kind::Telemetry, wanted)).await.unwrap();
        assert_eq!(made.1.record.scopes.names(), fixed);
        assert_eq!(
            ring.update(ring.by_root(), &made.0, None, Some(fixed)).await.unwrap().record.revision,
            made.1.record.revision
        );
        let wider: &[&str] = &["telemetry:write", "monitor:read"];
        assert_eq!(
            ring.update(ring.by_root(), &made.0, None, Some(wider)).await.unwrap_err(),
            ChangeError::ImmutableScopes
        );
        assert_eq!(ring.update(ring.by_root(), &made.0, Some("new"), None).await.unwrap().record.name.as_str(), "new");
    }
    let other = of_kind(Kind::SdkIntegration, Some(fixed));
    let refused = ring.keyring.create(ring.by_root(), other).await.unwrap_err();
    assert!(matches!(refused, ChangeError::FixedScopes { .. }));
}

#[tokio::test]
async fn custom_key_needs_scopes() {
    let ring = Ring::start().await;
    for wanted in [None, Some(&[] as &[&str])] {
        let refused = ring.keyring.create(ring.by_root(), of_kind(Kind::Custom, wanted)).await.unwrap_err();
        assert_eq!(refused, ChangeError::ScopesRequired);
    }
    let key = ring.key(&["monitor:read"]).await;
    assert_eq!(ring.rescope(&key, &[]).await.unwrap_err(), ChangeError::ScopesRequired);
}

#[tokio::test]
async fn caller_cannot_give_what_it_lacks_nor_touch_a_key_that_holds_more() {
    let ring = Ring::start().await;
    let manager = ring.key(&["key:write", "monitor:read"]).await;
    let actor = by(manager.id());
    let create = |draft| ring.keyring.create(actor, draft);
    assert_eq!(create(custom(&["monitor:read", "issue:read"])).await.unwrap_err(), excess(&["issue:read"]));
    assert_eq!(create(custom(&["*"])).await.unwrap_err(), excess(&["*"]));
    assert_eq!(create(of_kind(Kind::Telemetry, None)).await.unwrap_err(), excess(&["telemetry:write"]));

    let own = create(custom(&["monitor:read"])).await.unwrap().0;
    let wider: &[&str] = &["monitor:read", "issue:read"];
    assert_eq!(ring.update(actor, &own, None, Some(wider)).await.unwrap_err(), excess(&["issue:read"]));
    assert_eq!(ring.update(actor, &manager, None, Some(&["key:write", "*"])).await.unwrap_err(), excess(&["*"]));

    let above = ring.key(&["monitor:read", "issue:write"]).await;
    assert_eq!(ring.update(actor, &above, Some("mine"), None).await.unwrap_err(), excess(&["issue:write"]));
    assert_eq!(ring.update(actor, &above, None, Some(&["monitor:read"])).await.unwrap_err(), excess(&["issue:write"]));
    assert_eq!(ring.delete(actor, &above).await.unwrap_err(), excess(&["issue:write"]));
}

#[tokio::test]
async fn caller_is_judged_as_it_is_when_the_change_is_made() {
    let ring = Ring::start().await;
    let manager = ring.key(&["key:write", "monitor:read"]).await;
    let actor = by(manager.id());
    ring.rescope(&manager, &["monitor:read"]).await.unwrap();
    assert_eq!(ring.keyring.create(actor, custom(&["monitor:read"])).await.unwrap_err(), no_key_write());
    ring.delete(ring.by_root(), &manager).await.unwrap();
    assert_eq!(ring.keyring.create(actor, custom(&["monitor:read"])).await.unwrap_err(), ChangeError::ActorGone);
    assert_eq!(ring.delete(actor, &manager).await.unwrap_err(), ChangeError::ActorGone);
}

#[tokio::test]
async fn key_without_rights_may_delete_itself_and_nothing_else() {
    let ring = Ring::start().await;
    let (key, other) = (ring.key(&["monitor:read"]).await, ring.key(&["monitor:read"]).await);
    assert_eq!(ring.delete(by(key.id()), &other).await.unwrap_err(), no_key_write());
    assert_eq!(ring.delete(by(key.id()), &KeySecret::generate().unwrap()).await.unwrap_err(), no_key_write());
    assert_eq!(ring.update(by(key.id()), &key, Some("me"), None).await.unwrap_err(), no_key_write());
    ring.delete(by(key.id()), &key).await.unwrap();
    assert!(ring.view(&key).await.is_none());
}

#[tokio::test]
async fn last_key_that_manages_keys_can_be_neither_deleted_nor_stripped() {
    let ring = Ring::start().await;
    let root = copy(&ring.root);
    assert_eq!(ring.delete(ring.by_root(), &root).await.unwrap_err(), ChangeError::LastAdminKey);
    assert_eq!(ring.rescope(&root, &["monitor:read"]).await.unwrap_err(), ChangeError::LastAdminKey);
    assert_eq!(ring.rescope(&root, &["key:write"]).await.unwrap().record.scopes.names(), ["key:write"]);

    let second = ring.key(&["key:write"]).await;
    ring.delete(by(second.id()), &root).await.unwrap();
    assert_eq!(ring.delete(by(second.id()), &second).await.unwrap_err(), ChangeError::LastAdminKey);
}

#[tokio::test]
async fn change_to_what_is_there_already_writes_nothing() {
    let ring = Ring::start().await;
    let key = ring.key(&["monitor:read", "issue:read"]).await;
    let before = ring.view(&key).await.unwrap();
    ring.clock.advance(60);
    let after =
        ring.update(ring.by_root(), &key, Some(" a key "), Some(&["issue:read", "monitor:read"])).await.unwrap();
    assert_eq!(format!("{after:?}"), format!("{before:?}"));
    assert_eq!(ring.store.revision().unwrap(), before.record.revision);
}

#[tokio::test]
async fn update_moves_updated_forward_alone() {
    let ring = Ring::start().await;
    let key = ring.key(&["monitor:read"]).await;
    ring.clock.advance(60);
    let later = ring.update(ring.by_root(), &key, Some("later"), None).await.unwrap().record;
    assert_eq!((later.created.unix(), later.updated.unix()), (NOW, NOW + 60));
    ring.clock.advance(-600);
    let back = ring.update(ring.by_root(), &key, Some("clock set back"), None).await.unwrap().record;
    assert_eq!(back.updated, later.updated);
    assert!(back.revision > later.revision && back.created_revision == later.created_revision);
}

#[tokio::test]
async fn change_of_another_revision_than_expected_is_stale() {
    let ring = Ring::start().await;
    let key = ring.key(&["monitor:read"]).await;
    let seen = ring.view(&key).await.unwrap().record.revision;
    let reference = || KeyReference::Id(key.id());
    let rename = |name: &str| Changes { name: KeyName::parse(name).ok(), scopes: None };
    let first = ring.keyring.update(ring.by_root(), reference(), rename("one"), Some(seen)).await.unwrap();
    let second = ring.keyring.update(ring.by_root(), reference(), rename("two"), Some(seen)).await;
    assert_eq!(second.unwrap_err(), ChangeError::Stale);
    let delete = ring.keyring.delete(ring.by_root(), reference(), Some(seen)).await;
    assert_eq!(delete.unwrap_err(), ChangeError::Stale);
    ring.keyring.delete(ring.by_root(), reference(), Some(first.record.revision)).await.unwrap();
}

#[tokio::test]
async fn full_text_names_a_key_only_with_the_right_secret() {
    let ring = Ring::start().await;
    let key = ring.key(&["monitor:read"]).await;
    let wrong = ring.keyring.delete(ring.by_root(), KeyReference::Secret(forged(&key)), None).await;
    assert_eq!(wrong.unwrap_err(), ChangeError::NotFound);
    ring.keyring.delete(ring.by_root(), KeyReference::Secret(copy(&key)), None).await.unwrap();
    assert_eq!(ring.delete(ring.by_root(), &key).await.unwrap_err(), ChangeError::NotFound);
}

#[tokio::test]
async fn taken_id_is_passed_over_and_never_overwritten() {
    let first = KeySecret::generate().unwrap();
    let fresh = KeySecret::generate().unwrap();
    let ids = [copy(&first), forged(&first), forged(&first), copy(&fresh)];
    let given = Mutex::new(ids.into_iter());
    let generate = Box::new(move || given.lock().unwrap().next());
    let ring = Ring::generating(Settings::default(), &KeyLimits::default(), generate).await;

    assert_eq!(ring.key(&["monitor:read"]).await.id(), first.id());
    assert_eq!(ring.key(&["issue:read"]).await.id(), fresh.id());
    assert_eq!(ring.holder(&first).await.unwrap().record().scopes.names(), ["monitor:read"]);
    assert!(ring.holder(&forged(&first)).await.is_none());
    let out_of_randomness = ring.keyring.create(ring.by_root(), custom(&["issue:read"])).await;
    assert_eq!(out_of_randomness.unwrap_err(), ChangeError::Unavailable);
}

#[tokio::test]
async fn full_store_takes_no_more_and_serves_what_it_has() {
    let settings = Settings { keys_max: NonZeroU32::new(2).unwrap(), ..Settings::default() };
    let ring = Ring::with(settings, &KeyLimits::default()).await;
    let key = ring.key(&["monitor:read"]).await;
    let refused = ring.keyring.create(ring.by_root(), custom(&["monitor:read"])).await;
    assert_eq!(refused.unwrap_err(), ChangeError::Full);
    assert!(ring.holder(&key).await.is_some());
    ring.delete(ring.by_root(), &key).await.unwrap();
    ring.key(&["monitor:read"]).await;
}

#[tokio::test]
async fn root_is_made_once_and_gets_its_scopes_back() {
    let ring = Ring::start().await;
    let root = copy(&ring.root);
    let made = ring.view(&root).await.unwrap().record;
    assert_eq!((made.name.as_str(), made.scopes.names()), ("root", vec!["*"]));
    assert_eq!(ring.keyring.ensure_root(&root).await.unwrap().record.revision, made.revision);
    ring.rescope(&root, &["key:write"]).await.unwrap();
    assert_eq!(ring.keyring.ensure_root(&root).await.unwrap().record.scopes.names(), ["*"]);
    assert_eq!(ring.keyring.ensure_root(&forged(&root)).await.unwrap_err(), ChangeError::Taken);
    assert_eq!(ring.keyring.keys(), 1);
}

#[tokio::test]
async fn changes_at_once_are_made_one_after_the_other() {
    let ring = Ring::start().await;
    let key = ring.key(&["monitor:read", "issue:read"]).await;
    let before = ring.store.revision().unwrap();
    let update = |name: String| {
        let (keyring, actor, id) = (Arc::clone(&ring.keyring), ring.by_root(), key.id());
        let changes = Changes { name: KeyName::parse(&name).ok(), scopes: None };
        tokio::spawn(async move { keyring.update(actor, KeyReference::Id(id), changes, None).await })
    };
    let mut updates: Vec<_> = (0..20).map(|number| update(format!("name {number}"))).collect();
    let (keyring, actor, id) = (Arc::clone(&ring.keyring), ring.by_root(), key.id());
    let delete = tokio::spawn(async move { keyring.delete(actor, KeyReference::Id(id), None).await });
    updates.extend((20..30).map(|number| update(format!("name {number}"))));

    let mut made = 0;
    for update in updates {
        match update.await.unwrap() {
            Ok(_) => made += 1,
            Err(error) => assert_eq!(error, ChangeError::NotFound),
        }
    }
    delete.await.unwrap().unwrap();
    assert!(ring.view(&key).await.is_none());
    let log = ring.store.changes(before, 100).unwrap();
    assert_eq!(log.len(), made + 1);
    assert!(log.windows(2).all(|pair| pair[0].after == pair[1].before));
}

#[tokio::test]
async fn log_names_actor_and_address() {
    let ring = Ring::start().await;
    ring.key(&["monitor:read"]).await;
    let log = ring.store.changes(0, 10).unwrap();
    let actors: Vec<Actor> = log.iter().map(|change| change.actor).collect();
    assert_eq!(actors, [Actor { who: Who::Operator, address: None }, ring.by_root()]);
}

#[tokio::test]
async fn listing_is_in_order_of_creation_with_the_total() {
    let ring = Ring::start().await;
    let mut ids = vec![ring.root.id()];
    for _ in 0..6 {
        ids.push(ring.key(&["monitor:read"]).await.id());
    }
    let gone = ids.remove(3);
    ring.keyring.delete(ring.by_root(), KeyReference::Id(gone), None).await.unwrap();
    ring.keyring
        .update(
            ring.by_root(),
            KeyReference::Id(ids[1]),
            Changes { name: KeyName::parse("x").ok(), scopes: None },
            None,
        )
        .await
        .unwrap();
    let page = async |offset, limit| {
        let (views, total) = ring.keyring.list(offset, limit).await.unwrap();
        assert_eq!(total, 6);
        views.iter().map(|view| view.record.id).collect::<Vec<_>>()
    };
    assert_eq!(page(0, 50).await, ids);
    assert_eq!(page(2, 3).await, ids[2..5]);
    assert_eq!(page(5, 3).await, ids[5..]);
    assert_eq!(page(6, 3).await, []);
    assert_eq!(page(usize::MAX, usize::MAX).await, []);
}

#[tokio::test]
async fn reopened_keyring_knows_what_the_first_one_made() {
    let directory = tempfile::tempdir().unwrap();
    let on_disk = crate::store::Settings { path: directory.path().join("data"), ..crate::store::Settings::default() };
    let open = |store: SledStore| {
        let clock = Clock::manual(Timestamp::from_unix(NOW));
        let metrics = Metrics::new(1, clock.clone());
        let (settings, limits) = (Settings::default(), KeyLimits::default());
        Keyring::open(Arc::new(store), &settings, &limits, clock, metrics, Handle::current()).unwrap()
    };
    let first = open(SledStore::create(&on_disk).unwrap());
    let root = KeySecret::generate().unwrap();
    first.ensure_root(&root).await.unwrap();
    let draft = Draft { name: KeyName::parse("kept").unwrap(), kind: Kind::SdkIntegration, scopes: None };
    let (kept, _) = first.create(by(root.id()), draft).await.unwrap();
    first.note_use(&first.holder(&kept).await.unwrap().unwrap(), std::time::Instant::now());
    first.close().await;
    assert_eq!(first.create(by(root.id()), custom(&["*"])).await.unwrap_err(), ChangeError::Unavailable);
    drop(first);

    let second = open(SledStore::open(&on_disk).unwrap());
    assert_eq!(second.keys(), 2);
    let view = second.get(&KeyReference::Id(kept.id())).await.unwrap().unwrap();
    assert_eq!((view.record.kind, view.last_used), (Kind::SdkIntegration, Some(Timestamp::from_unix(NOW))));
    assert_eq!(second.holder(&kept).await.unwrap().unwrap().record().name.as_str(), "kept");
    assert!(second.create(by(root.id()), custom(&["*"])).await.is_ok());
}
