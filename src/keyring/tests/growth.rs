//! Times of last use on disk: how often they are written, and what becomes of the files.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::harness::{NOW, by, custom};
use crate::clock::{Clock, Timestamp};
use crate::key::{KeyId, KeyRecord, KeySecret};
use crate::keyring::{Holder, Keyring, Settings};
use crate::metrics::Metrics;
use crate::store::{self, Change, LoggedChange, SledStore, Store, StoreError};

/// A store on disk that counts the times it is told.
struct Counted {
    inner: SledStore,
    told: AtomicUsize,
    /// The most that one key was told of at once.
    twice: Mutex<bool>,
}

impl Store for Counted {
    fn revision(&self) -> Result<u64, StoreError> {
        self.inner.revision()
    }

    fn record(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.inner.record(id)
    }

    fn scan(&self, visit: &mut dyn FnMut(KeyRecord)) -> Result<(), StoreError> {
        self.inner.scan(visit)
    }

    fn commit(&self, change: &Change) -> Result<(), StoreError> {
        self.inner.commit(change)
    }

    fn last_used(&self, id: &KeyId) -> Result<Option<Timestamp>, StoreError> {
        self.inner.last_used(id)
    }

    fn touch(&self, uses: &[(KeyId, Timestamp)]) -> Result<(), StoreError> {
        self.told.fetch_add(uses.len(), Ordering::SeqCst);
        let mut ids: Vec<KeyId> = uses.iter().map(|(id, _)| *id).collect();
        ids.sort();
        *self.twice.lock().unwrap() |= ids.windows(2).any(|pair| pair[0] == pair[1]);
        self.inner.touch(uses)
    }

    fn changes(&self, after: u64, limit: usize) -> Result<Vec<LoggedChange>, StoreError> {
        self.inner.changes(after, limit)
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.inner.flush()
    }
}

fn bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { bytes(&path) } else { fs::metadata(path).map_or(0, |file| file.len()) }).sum()
}

const KEYS: usize = 50;
const USES_A_WINDOW: usize = 4;

/// `PORTCULLIS_LAST_USED=N` makes so many uses; a million takes a few minutes.
#[tokio::test]
async fn uses_are_written_once_a_key_and_window_into_files_that_stop_growing() {
    let uses: usize = std::env::var("PORTCULLIS_LAST_USED").map_or(20_000, |uses| uses.parse().unwrap());
    let windows = uses / (KEYS * USES_A_WINDOW);
    let folder = tempfile::tempdir().unwrap();
    let settings = store::Settings { path: folder.path().join("data"), ..store::Settings::default() };
    let inner = SledStore::create(&settings).unwrap();
    let store = Arc::new(Counted { inner, told: AtomicUsize::new(0), twice: Mutex::default() });
    let clock = Clock::manual(Timestamp::from_unix(NOW));
    let metrics = Metrics::new(1, clock.clone());
    let never = Settings { last_used_flush: Duration::from_secs(86_400), ..Settings::default() };
    let kept = Arc::clone(&store) as Arc<dyn Store>;
    let keyring = Keyring::open(kept, &never, clock.clone(), metrics, Handle::current()).unwrap();
    let root = KeySecret::generate().unwrap();
    keyring.ensure_root(&root).await.unwrap();
    let mut holders: Vec<Arc<Holder>> = Vec::new();
    for _ in 0..KEYS {
        let (secret, _) = keyring.create(by(root.id()), custom(&["monitor:read"])).await.unwrap();
        holders.push(keyring.holder(&secret).await.unwrap().unwrap());
    }
    let mut sizes = Vec::new();
    for _ in 0..windows {
        for _ in 0..USES_A_WINDOW {
            holders.iter().for_each(|holder| keyring.note_use(holder, Instant::now()));
        }
        keyring.last_used.flush().await;
        store.flush().unwrap();
        clock.advance(5);
        sizes.push(bytes(&settings.path));
    }
    assert_eq!(store.told.load(Ordering::SeqCst), KEYS * windows);
    assert!(!*store.twice.lock().unwrap());
    println!(
        "{uses} uses, {windows} windows, sizes {:?}",
        sizes.iter().step_by((windows / 20).max(1)).collect::<Vec<_>>()
    );
    let most = sizes.iter().max().unwrap();
    assert!(*most <= FILES_MAX, "{most} bytes after {windows} windows");

    let last = Timestamp::from_unix(NOW + 5 * (i64::try_from(windows).unwrap() - 1));
    for holder in &holders {
        assert_eq!(store.last_used(&holder.id()).unwrap(), Some(last));
        assert!(store.record(&holder.id()).unwrap().is_some());
    }
    keyring.close().await;
}

/// Some segments of the database, which are 4 MiB each, whatever the number of windows.
const FILES_MAX: u64 = 48 << 20;
