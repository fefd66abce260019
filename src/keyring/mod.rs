//! The one owner of the keys: the store, what is cached of it, and when keys were used last.
//!
//! Decides by `policy` who may change what; knows nothing of HTTP.
//!
//! Invariants: once a delete has returned, no look-up returns the key, whatever it had read before; nothing is returned
//! that is not on disk; a request with a cached key waits for nothing.

mod directory;
mod holder;
mod identity;
mod known;
mod last_used;
mod memo;
mod queue;
mod reader;
mod snapshot;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use self::directory::Entry;
use self::known::Known;
use self::last_used::LastUsed;
use self::queue::{Jobs, Queued};
use self::reader::Reader;
use self::snapshot::Pictures;
use self::writer::{Generate, Job, Target, Writer};
use crate::clock::{Clock, Timestamp};
use crate::key::{Digest, KeyId, KeyName, KeyRecord, KeyReference, KeySecret, Kind, ScopeSet};
use crate::log::Occasionally;
use crate::metrics::{Metrics, StoreOperation};
use crate::policy::Deny;
use crate::settings::settings;
use crate::store::{Actor, Store, StoreError};

pub use self::holder::Holder;
pub use self::identity::Identity;
pub use self::snapshot::Snapshot;

/// How long each step of closing may take: a store that hangs must not keep the process.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a look-up starts over when the key changes under it.
const LOOK_UPS_MAX: usize = 4;

settings! {
    /// `[keys]`
    pub struct Settings {
        /// A file with a key made by `portcullis keygen`: `serve` makes sure that it exists and holds all scopes.
        pub root_key_file: Option<PathBuf> = None,
        pub keys_max: NonZeroU32 = const { NonZeroU32::new(1_000_000).expect("is not zero") },
        /// How many keys are kept in memory with all that admits a request.
        pub keys_cached_max: NonZeroU32 = const { NonZeroU32::new(100_000).expect("is not zero") },
        /// How often times of last use are written.
        pub last_used_flush: Duration = Duration::from_secs(5),
        /// How long a request waits for a key that is not in memory.
        pub lookup_timeout: Duration = Duration::from_secs(2),
        /// How long a caller waits for its change of a key. One that has begun by then may still be made.
        pub change_timeout: Duration = Duration::from_secs(10),
    }
}

/// A key as an administrator sees it.
#[derive(Clone, Debug)]
pub struct KeyView {
    pub record: KeyRecord,
    pub last_used: Option<Timestamp>,
}

/// A key to be made.
#[derive(Clone, Debug)]
pub struct Draft {
    pub name: KeyName,
    pub kind: Kind,
    /// Needed for a custom key; for a fixed kind absent, or the scopes that it has anyway.
    pub scopes: Option<ScopeSet>,
}

/// What is to change in a key; `None` stays as it is.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    pub name: Option<KeyName>,
    pub scopes: Option<ScopeSet>,
}

/// What has become of a key that was looked up before.
pub enum Standing {
    /// As it is now.
    Changed(Arc<Holder>),
    Current,
    Gone,
    /// Changed, and not in memory: [`Keyring::present`] reads it.
    Unread,
}

/// The store cannot answer: neither that there is such a key nor that there is none.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the key store is unavailable")]
pub struct Unavailable;

/// Why a change was not made.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ChangeError {
    #[error("the calling key is gone")]
    ActorGone,
    #[error("the caller may not")]
    Denied(#[source] Deny),
    #[error("the kind has scopes of its own")]
    FixedScopes { fixed: ScopeSet },
    #[error("there is no room for another key")]
    Full,
    #[error("the scopes of this kind do not change")]
    ImmutableScopes,
    #[error("no other key can manage keys")]
    LastAdminKey,
    #[error("there is no such key")]
    NotFound,
    #[error("a custom key needs at least one scope")]
    ScopesRequired,
    #[error("the key has changed since")]
    Stale,
    #[error("the id belongs to another key")]
    Taken,
    #[error("the key store is unavailable; the change may or may not have been made")]
    Unavailable,
}

/// All keys. Shared by every worker; its own work runs on the control runtime and in the writer's thread.
pub struct Keyring {
    known: Arc<Known>,
    reader: Arc<Reader>,
    last_used: Arc<LastUsed>,
    metrics: Arc<Metrics>,
    store: Arc<dyn Store>,
    control: Handle,
    settings: watch::Sender<Settings>,
    /// Taken by [`Keyring::close`].
    background: Mutex<Option<Background>>,
}

/// What ends when the keyring is closed, or dropped: dropping the two senders ends the two loops.
struct Background {
    jobs: Jobs,
    writer: JoinHandle<()>,
    stop_flushing: oneshot::Sender<()>,
    flushing: tokio::task::JoinHandle<()>,
}

impl Keyring {
    /// Reads the ids of all keys and starts what works in the background. Blocks for about 2 s for a million keys.
    ///
    /// # Errors
    /// [`StoreError`] when any record cannot be read or trusted, or there is no thread to be had.
    pub fn open(
        store: Arc<dyn Store>,
        settings: &Settings,
        clock: Clock,
        metrics: Arc<Metrics>,
        control: Handle,
    ) -> Result<Arc<Self>, StoreError> {
        Self::open_with(store, settings, clock, metrics, control, Box::new(KeySecret::generate))
    }

    fn open_with(
        store: Arc<dyn Store>,
        settings: &Settings,
        clock: Clock,
        metrics: Arc<Metrics>,
        control: Handle,
        generate: Generate,
    ) -> Result<Arc<Self>, StoreError> {
        let mut entries = Vec::new();
        let scan = || store.scan(&mut |record| entries.push(Entry::from(&record)));
        measured(&metrics, StoreOperation::KeyScan, scan)?;
        let cached_max = settings.keys_cached_max;
        let (settings, present) = watch::channel(settings.clone());
        let known = Arc::new(Known::new(entries, cached_max, Arc::clone(&metrics)));
        let writer = Writer {
            store: Arc::clone(&store),
            known: Arc::clone(&known),
            clock: clock.clone(),
            metrics: Arc::clone(&metrics),
            settings: present.clone(),
            revision: store.revision()?,
            generate,
            is_revision_known: true,
            unsettled: HashMap::new(),
            pictures: Pictures::default(),
        };
        let reader =
            Reader::new(Arc::clone(&store), Arc::clone(&known), Arc::clone(&metrics), control.clone(), present.clone());
        let last_used = Arc::new(LastUsed::new(
            cached_max,
            Arc::clone(&store),
            Arc::clone(&known),
            clock,
            Arc::clone(&metrics),
            control.clone(),
        ));
        let (jobs, writer) = queue::start(writer)?;
        let (stop_flushing, stopped) = oneshot::channel();
        let flushing = control.spawn(Arc::clone(&last_used).run(present, stopped));
        let background = Mutex::new(Some(Background { jobs, writer, stop_flushing, flushing }));
        Ok(Arc::new(Self { known, reader: Arc::new(reader), last_used, metrics, store, control, settings, background }))
    }

    /// Goes on with other settings. The size of the cache stays, and what is in it; who is root is [`Keyring::ensure_root`]'s.
    pub fn reconfigure(&self, settings: &Settings) {
        self.settings.send_if_modified(|present| {
            let differs = present != settings;
            present.clone_from(settings);
            differs
        });
    }

    /// Returns the key that `secret` opens. A key in the cache costs no lock and no await.
    ///
    /// `None` means no such key: unknown, deleted and a wrong secret look the same, and take the same time, since keys are
    /// found by their digest. None of them reaches the store.
    ///
    /// # Errors
    /// [`Unavailable`] when the store does not answer, or not in time. Then neither admit nor call the key invalid.
    pub async fn holder(&self, secret: &KeySecret) -> Result<Option<Arc<Holder>>, Unavailable> {
        let digest = secret.digest();
        match self.known.holder(&digest.tag()).filter(|holder| holder.record().digest.matches(&digest)) {
            Some(holder) => {
                self.metrics.cache_hit();
                Ok(Some(holder))
            }
            // In a place of its own: few look-ups need the room, and all would have it.
            None => Box::pin(self.look_up(secret.id(), digest)).await,
        }
    }

    /// Returns the key of `holder` as it is now; `None` when it is gone.
    ///
    /// # Errors
    /// As [`Keyring::holder`].
    pub async fn present(&self, holder: &Holder) -> Result<Option<Arc<Holder>>, Unavailable> {
        let record = holder.record();
        match self.cached(record) {
            Some(present) => Ok(Some(present)),
            None => self.look_up(record.id, record.digest).await,
        }
    }

    /// How the key of `holder` stands now. Reads no disk and waits for none; `Gone` is told as soon as a deletion is
    /// answered.
    pub fn standing(&self, holder: &Holder) -> Standing {
        let record = holder.record();
        let revision = match self.cached(record) {
            Some(present) if present.record().revision == record.revision => return Standing::Current,
            Some(present) => return Standing::Changed(present),
            None => self.known.directory().revision(&record.id),
        };
        match revision {
            None => Standing::Gone,
            Some(revision) if revision == record.revision => Standing::Current,
            Some(_) => Standing::Unread,
        }
    }

    /// Grows with every change of a key. While it stays the same, a holder that was looked up since is current.
    pub fn epoch(&self) -> u64 {
        self.known.epoch()
    }

    /// Tells of every change of a key, after it counts for look-ups, [`Keyring::standing`] and [`Keyring::epoch`].
    pub fn changes(&self) -> watch::Receiver<()> {
        self.known.changes()
    }

    fn cached(&self, record: &KeyRecord) -> Option<Arc<Holder>> {
        self.known.holder(&record.digest.tag()).filter(|holder| holder.record().digest.matches(&record.digest))
    }

    async fn look_up(&self, id: KeyId, digest: Digest) -> Result<Option<Arc<Holder>>, Unavailable> {
        self.metrics.cache_miss();
        for _ in 0..LOOK_UPS_MAX {
            {
                let directory = self.known.directory();
                if !directory.holds(&digest.tag()) {
                    return if directory.doubts(&digest.tag()) { Err(Unavailable) } else { Ok(None) };
                }
            }
            let Some(view) = self.reader.view(id).await? else { return Ok(None) };
            // The tag is of some key, and may be of another.
            if !view.record.digest.matches(&digest) {
                return Ok(None);
            }
            if let Some(holder) = self.known.fill(&view) {
                return Ok(Some(holder));
            }
        }
        Err(Unavailable)
    }

    /// Notes that the key was used for a request that came at `moment`. Never waits.
    pub fn note_use(&self, holder: &Arc<Holder>, moment: Instant) {
        self.last_used.note(holder, moment);
    }

    /// Makes a key, with scopes within the actor's own. The secret is in this answer and nowhere else.
    ///
    /// # Errors
    /// [`ChangeError`]; nothing was made, but for `Unavailable`.
    pub async fn create(&self, actor: Actor, draft: Draft) -> Result<(KeySecret, KeyView), ChangeError> {
        self.change(move |writer| writer.create(actor, &draft)).await
    }

    /// Changes what `changes` names, if the key's present scopes and the new ones are within the actor's own, and the key
    /// is at the revision `if_match`, if given. A change to what is there already is none.
    ///
    /// # Errors
    /// [`ChangeError`]; nothing was changed, but for `Unavailable`.
    pub async fn update(
        &self,
        actor: Actor,
        target: KeyReference,
        changes: Changes,
        if_match: Option<u64>,
    ) -> Result<KeyView, ChangeError> {
        let target = Target::from(&target);
        let view = self.change(move |writer| writer.update(actor, &target, &changes, if_match)).await?;
        Ok(self.overlaid(view))
    }

    /// Deletes a key whose scopes are within the actor's own, and returns what it was. Every key may delete itself.
    ///
    /// # Errors
    /// [`ChangeError`]; nothing was deleted, but for `Unavailable`.
    pub async fn delete(
        &self,
        actor: Actor,
        target: KeyReference,
        if_match: Option<u64>,
    ) -> Result<KeyView, ChangeError> {
        let target = Target::from(&target);
        self.change(move |writer| writer.delete(actor, &target, if_match)).await
    }

    /// Makes sure that the operator's key is there, called `root`, and holds all scopes.
    ///
    /// # Errors
    /// [`ChangeError::Taken`] when its id belongs to a key with another secret; others as [`Keyring::create`].
    pub async fn ensure_root(&self, secret: &KeySecret) -> Result<KeyView, ChangeError> {
        let (id, digest) = (secret.id(), secret.digest());
        self.change(move |writer| writer.ensure_root(id, digest)).await
    }

    /// # Errors
    /// [`Unavailable`] when the store does not answer, or not in time.
    pub async fn get(&self, target: &KeyReference) -> Result<Option<KeyView>, Unavailable> {
        let target = Target::from(target);
        if !self.known.directory().contains(&target.id()) {
            return Ok(None);
        }
        let view = self.reader.views(vec![target.id()]).await?.pop();
        Ok(view.filter(|view| target.is(&view.record)).map(|view| self.overlaid(view)))
    }

    /// Returns a page of the keys in order of creation, and how many there are.
    ///
    /// A key that is deleted meanwhile is left out of its page; the pages after it move up by one.
    ///
    /// # Errors
    /// [`Unavailable`] when the store does not answer, or not in time.
    pub async fn list(&self, offset: usize, limit: usize) -> Result<(Vec<KeyView>, usize), Unavailable> {
        let (ids, total) = {
            let directory = self.known.directory();
            (directory.page(offset, limit), directory.len())
        };
        let views = self.reader.views(ids).await?;
        Ok((views.into_iter().map(|view| self.overlaid(view)).collect(), total))
    }

    /// All keys as they are now, to be read while they go on being changed.
    ///
    /// # Errors
    /// As [`Keyring::create`]; also while it is not known whether an earlier change was made.
    pub async fn snapshot(&self) -> Result<Snapshot, ChangeError> {
        self.change(Writer::snapshot).await
    }

    /// How many keys there are.
    pub fn keys(&self) -> usize {
        self.known.directory().len()
    }

    /// Makes the waiting changes, refuses later ones, and brings everything to disk, or gives up after some seconds.
    ///
    /// Keys in the cache still admit, and uses that are noted later are lost: call it after the drain.
    pub async fn close(&self) {
        let background = self.background.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Background { jobs, writer, stop_flushing, flushing }) = background else { return };
        drop((jobs, stop_flushing));
        let (last_used, store) = (Arc::clone(&self.last_used), Arc::clone(&self.store));
        let control = self.control.clone();
        let closing = self.control.spawn(async move {
            closed("last_used", async { drop(flushing.await) }).await;
            closed("last_used", last_used.flush()).await;
            closed("changes", async { drop(control.spawn_blocking(move || writer.join()).await) }).await;
            closed("store", async {
                if let Ok(Err(error)) = control.spawn_blocking(move || store.flush()).await {
                    tracing::error!(?error, "store was not flushed");
                }
            })
            .await;
        });
        if closing.await.is_err() {
            tracing::error!("the control runtime ended before the keyring was closed");
        }
    }

    async fn change<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Writer) -> Result<T, ChangeError> + Send + 'static,
    ) -> Result<T, ChangeError> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |writer| {
            // A caller that has given up was told so: a change that waited too long is not made after all.
            if !answer.is_closed() {
                drop(answer.send(job(writer)));
            }
        });
        let jobs = {
            let background = self.background.lock().unwrap_or_else(PoisonError::into_inner);
            background.as_ref().map(|background| background.jobs.clone()).ok_or(ChangeError::Unavailable)?
        };
        let change_timeout = self.settings.borrow().change_timeout;
        let Queued::Waiting = jobs.send(job, change_timeout) else { return Err(ChangeError::Unavailable) };
        drop(jobs);
        // The clock is the control runtime's: whoever calls may have none.
        let bounded = self.control.spawn(async move { timeout(change_timeout, answered).await });
        let Ok(Ok(Ok(done))) = bounded.await else { return Err(ChangeError::Unavailable) };
        done
    }

    fn overlaid(&self, view: KeyView) -> KeyView {
        let last_used = self.known.last_used(&view);
        KeyView { last_used, ..view }
    }
}

/// At most once a second: every request for a key that is not in memory may find a store that has failed.
fn tell_unread(error: &StoreError) {
    static UNREAD: Occasionally = Occasionally::new();
    if let Some(suppressed) = UNREAD.due(Instant::now()) {
        tracing::error!(?error, suppressed, "store was not read");
    }
}

/// The store holds another record of a key than was acknowledged.
fn tell_foreign(id: &KeyId) {
    static FOREIGN: Occasionally = Occasionally::new();
    if let Some(suppressed) = FOREIGN.due(Instant::now()) {
        tracing::error!(key.id = %id, suppressed, "store holds another record than was acknowledged");
    }
}

async fn closed(what: &'static str, step: impl Future<Output = ()>) {
    if timeout(CLOSE_TIMEOUT, step).await.is_err() {
        tracing::error!(what, "gave up closing");
    }
}

fn measured<T>(
    metrics: &Metrics,
    operation: StoreOperation,
    call: impl FnOnce() -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let started = Instant::now();
    let result = call();
    metrics.store_operation(operation, started.elapsed(), &result);
    result
}
