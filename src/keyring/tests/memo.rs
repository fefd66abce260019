//! What a thread remembers of the cache: never a key that was deleted, narrowed, in doubt, or let go by the cache.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;

use super::harness::{Fault, Ring, copy, forged};
use crate::key::KeySecret;
use crate::keyring::{Holder, Settings};
use crate::store::Store;

/// Finds the key often enough that this thread remembers it.
async fn remembered(ring: &Ring, key: &KeySecret) -> Arc<Holder> {
    for _ in 0..3 {
        ring.holder(key).await.unwrap();
    }
    ring.holder(key).await.unwrap()
}

/// What a thread finds that remembers nothing.
async fn found_elsewhere(ring: &Ring, key: &KeySecret) -> Option<Arc<Holder>> {
    let (keyring, key, runtime) = (Arc::clone(&ring.keyring), copy(key), Handle::current());
    let look = move || runtime.block_on(keyring.holder(&key)).unwrap();
    tokio::task::spawn_blocking(move || std::thread::spawn(look).join().unwrap()).await.unwrap()
}

fn caching(keys: u32) -> Settings {
    Settings { keys_cached_max: NonZeroU32::new(keys).unwrap(), ..Settings::default() }
}

#[tokio::test]
async fn remembered_key_is_refused_from_the_delete_on() {
    let ring = Ring::start().await;
    let (key, other) = (ring.key(&["monitor:read"]).await, ring.key(&["monitor:read"]).await);
    remembered(&ring, &key).await;
    remembered(&ring, &other).await;
    ring.delete(ring.by_root(), &key).await.unwrap();
    assert!(ring.holder(&key).await.is_none());
    assert!(ring.holder(&other).await.is_some());
}

#[tokio::test]
async fn remembered_key_is_narrow_from_the_update_on() {
    let ring = Ring::start().await;
    let key = ring.key(&["monitor:read", "monitor:write"]).await;
    remembered(&ring, &key).await;
    ring.rescope(&key, &["monitor:read"]).await.unwrap();
    for _ in 0..3 {
        assert_eq!(ring.holder(&key).await.unwrap().record().scopes.names(), ["monitor:read"]);
    }
}

#[tokio::test]
async fn remembered_key_in_doubt_is_neither_admitted_nor_called_invalid() {
    let settings = Settings { lookup_timeout: Duration::from_millis(300), ..Settings::default() };
    let ring = Ring::with(settings).await;
    let (narrowed, deleted) = (ring.key(&["monitor:read", "issue:read"]).await, ring.key(&["monitor:read"]).await);
    remembered(&ring, &narrowed).await;
    remembered(&ring, &deleted).await;
    ring.store.break_with(Fault::Uncertain);
    ring.rescope(&narrowed, &["issue:read"]).await.unwrap_err();
    assert!(ring.keyring.holder(&narrowed).await.is_err());
    ring.store.break_with(Fault::None);
    ring.key(&["monitor:read"]).await;
    ring.store.break_with(Fault::Uncertain);
    ring.delete(ring.by_root(), &deleted).await.unwrap_err();
    assert!(ring.keyring.holder(&deleted).await.is_err());

    ring.store.break_with(Fault::None);
    ring.key(&["monitor:read"]).await;
    assert_eq!(ring.holder(&narrowed).await.unwrap().record().scopes.names(), ["issue:read"]);
    assert!(ring.holder(&deleted).await.is_none());
}

#[tokio::test]
async fn wrong_secret_opens_no_remembered_key() {
    let ring = Ring::start().await;
    let key = ring.key(&["monitor:read"]).await;
    remembered(&ring, &key).await;
    assert!(ring.holder(&forged(&key)).await.is_none());
    assert!(ring.holder(&key).await.is_some());
}

#[tokio::test]
async fn keyrings_with_the_same_key_in_one_thread_keep_to_their_own() {
    let key = KeySecret::generate().unwrap();
    let ring = async || {
        let key = copy(&key);
        Ring::generating(Settings::default(), Box::new(move || Some(copy(&key)))).await
    };
    let (first, second) = (ring().await, ring().await);
    first.key(&["monitor:read"]).await;
    second.key(&["monitor:write"]).await;
    for _ in 0..4 {
        assert_eq!(first.holder(&key).await.unwrap().record().scopes.names(), ["monitor:read"]);
        assert_eq!(second.holder(&key).await.unwrap().record().scopes.names(), ["monitor:write"]);
    }

    first.delete(first.by_root(), &key).await.unwrap();
    assert!(first.holder(&key).await.is_none());
    assert!(second.holder(&key).await.is_some());
    drop(second);
    let third = ring().await;
    assert!(third.holder(&key).await.is_none());
}

#[tokio::test]
async fn key_that_the_cache_let_go_has_one_holder_in_all_threads() {
    let ring = Ring::with(caching(1)).await;
    let (key, other) = (ring.key(&["monitor:read"]).await, ring.key(&["monitor:read"]).await);
    let before = remembered(&ring, &key).await;
    found_elsewhere(&ring, &other).await.unwrap();
    ring.keyring.known.evict();

    let elsewhere = found_elsewhere(&ring, &key).await.unwrap();
    let here = ring.holder(&key).await.unwrap();
    assert!(!Arc::ptr_eq(&before, &here));
    assert!(Arc::ptr_eq(&elsewhere, &here));
}

#[tokio::test]
async fn use_of_a_key_that_the_cache_let_go_is_written() {
    let settings = Settings { last_used_flush: Duration::from_secs(86_400), ..caching(1) };
    let ring = Ring::with(settings).await;
    let (key, other) = (ring.key(&["monitor:read"]).await, ring.key(&["monitor:read"]).await);
    ring.note_use(&remembered(&ring, &key).await);
    ring.keyring.last_used.flush().await;
    found_elsewhere(&ring, &other).await.unwrap();
    ring.keyring.known.evict();
    ring.clock.advance(1);
    ring.note_use(&ring.holder(&key).await.unwrap());
    assert_eq!(ring.view(&key).await.unwrap().last_used, Some(ring.clock.now()));
    ring.keyring.last_used.flush().await;
    assert_eq!(ring.store.last_used(&key.id()).unwrap(), Some(ring.clock.now()));
}

#[tokio::test]
async fn cache_lets_go_the_key_that_was_not_used_for_longest_not_the_one_remembered() {
    let ring = Ring::with(caching(2)).await;
    let (used, idle) = (ring.key(&["monitor:read"]).await, ring.key(&["monitor:read"]).await);
    let third = ring.key(&["monitor:read"]).await;
    remembered(&ring, &used).await;
    remembered(&ring, &idle).await;
    ring.keyring.known.evict();
    for _ in 0..1_000 {
        ring.holder(&used).await.unwrap();
    }
    ring.keyring.known.evict();
    ring.holder(&third).await.unwrap();
    ring.keyring.known.evict();

    let before = ring.store.reads();
    ring.holder(&used).await.unwrap();
    assert_eq!(ring.store.reads() - before, 0);
    ring.holder(&idle).await.unwrap();
    assert_eq!(ring.store.reads() - before, 1);
}

#[tokio::test]
async fn more_keys_than_a_thread_remembers_are_found_all_the_same() {
    let ring = Ring::start().await;
    let mut keys = Vec::new();
    for _ in 0..6_000 {
        keys.push(ring.key(&["monitor:read"]).await);
    }
    for _ in 0..3 {
        for key in &keys {
            assert_eq!(ring.holder(key).await.unwrap().record().id, key.id());
        }
    }
    let reads = ring.store.reads();
    ring.delete(ring.by_root(), &keys[0]).await.unwrap();
    for key in &keys[1..] {
        assert!(ring.holder(key).await.is_some());
    }
    assert!(ring.holder(&keys[0]).await.is_none());
    assert!(ring.store.reads() - reads < 10);
}

/// A key that several threads ask for without a pause, and what they must see once a change of it is acknowledged.
struct Hammer {
    acknowledged: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
    asked: Vec<tokio::sync::oneshot::Receiver<()>>,
}

impl Hammer {
    /// `settled` judges what is found after the acknowledgement.
    fn start(ring: &Ring, key: &KeySecret, settled: fn(Option<Arc<Holder>>) -> bool) -> Self {
        let acknowledged = Arc::new(AtomicBool::new(false));
        let (mut threads, mut asked) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let (keyring, key, runtime) = (Arc::clone(&ring.keyring), copy(key), Handle::current());
            let acknowledged = Arc::clone(&acknowledged);
            let (first, was_first) = tokio::sync::oneshot::channel();
            asked.push(was_first);
            threads.push(std::thread::spawn(move || {
                let find = || runtime.block_on(keyring.holder(&key)).unwrap();
                (0..3).for_each(|_| drop(find()));
                first.send(()).unwrap();
                loop {
                    // Before the look-up: one that began earlier may find the key as it was.
                    let after = acknowledged.load(Ordering::SeqCst);
                    let found = find();
                    if after {
                        assert!(settled(found));
                        return;
                    }
                }
            }));
        }
        Self { acknowledged, threads, asked }
    }

    /// Waits until every thread remembers the key.
    async fn in_swing(&mut self) {
        for asked in self.asked.drain(..) {
            asked.await.unwrap();
        }
    }

    async fn acknowledge(self) {
        self.acknowledged.store(true, Ordering::SeqCst);
        let join = || self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        tokio::task::spawn_blocking(join).await.unwrap();
    }
}

#[tokio::test]
async fn no_thread_finds_a_key_after_its_delete_was_acknowledged() {
    let ring = Ring::start().await;
    for _ in 0..100 {
        let key = ring.key(&["monitor:read"]).await;
        let mut hammer = Hammer::start(&ring, &key, |found| found.is_none());
        hammer.in_swing().await;
        ring.delete(ring.by_root(), &key).await.unwrap();
        hammer.acknowledge().await;
    }
}

#[tokio::test]
async fn no_thread_finds_a_key_wide_after_its_narrowing_was_acknowledged() {
    let ring = Ring::start().await;
    for _ in 0..100 {
        let key = ring.key(&["monitor:read", "monitor:write"]).await;
        let narrow = |found: Option<Arc<Holder>>| found.unwrap().record().scopes.names() == ["monitor:read"];
        let mut hammer = Hammer::start(&ring, &key, narrow);
        hammer.in_swing().await;
        ring.rescope(&key, &["monitor:read"]).await.unwrap();
        hammer.acknowledge().await;
    }
}
