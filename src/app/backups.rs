//! `[store.backup]`: a backup of the store every so often, made while the gate runs.
//!
//! Runs on the control runtime and in one blocking thread. A failure is told and counted, and hurts nobody.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::clock::{Clock, Timestamp};
use crate::keyring::{Keyring, Snapshot};
use crate::metrics::Metrics;
use crate::proxy::Proxy;
use crate::store::WholeFile;
use crate::store::backup::{self, Settings};

/// How often it is asked what time it is: the clock may be set.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// After a failure; sooner where backups are more frequent.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// The running task. Dropped, it ends, and so does the backup that is being written.
pub(super) struct Backups {
    settings: watch::Sender<Settings>,
    stopped: Arc<AtomicBool>,
}

impl Backups {
    pub(super) fn start(settings: &Settings, proxy: &Proxy, clock: Clock) -> Self {
        let (settings, present) = watch::channel(settings.clone());
        let stopped = Arc::<AtomicBool>::default();
        let task = Task {
            keyring: Arc::clone(&proxy.keyring),
            metrics: Arc::clone(&proxy.metrics),
            clock,
            stopped: Arc::clone(&stopped),
        };
        proxy.control.spawn(task.run(present));
        Self { settings, stopped }
    }

    /// Goes on with other settings; a backup that is being written is finished as it was begun.
    pub(super) fn reconfigure(&self, settings: &Settings) {
        self.settings.send_if_modified(|present| {
            let differs = present != settings;
            present.clone_from(settings);
            differs
        });
    }
}

impl Drop for Backups {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}

struct Task {
    keyring: Arc<Keyring>,
    metrics: Arc<Metrics>,
    clock: Clock,
    stopped: Arc<AtomicBool>,
}

impl Task {
    async fn run(self, mut settings: watch::Receiver<Settings>) {
        loop {
            let present = settings.borrow_and_update().clone();
            // A backup that was begun is finished first, whatever the settings become.
            let pause = self.make_due(&present).await;
            tokio::select! {
                changed = settings.changed() => if changed.is_err() { return },
                () = waited(pause) => {}
            }
        }
    }

    /// Makes a backup if one is due. How long until it is to be looked again; `None`: not with these settings.
    async fn make_due(&self, settings: &Settings) -> Option<Duration> {
        let directory = settings.directory.as_deref()?;
        let every = settings.every.duration();
        let newest = match self.newest(directory).await {
            Ok(newest) => newest,
            Err(error) => {
                self.failed(directory, &error);
                return Some(every.min(RETRY_AFTER));
            }
        };
        match self.left(newest, every) {
            Some(left) => Some(left.min(LOOK_EVERY)),
            None if self.back_up(directory, settings).await => Some(Duration::ZERO),
            None => Some(every.min(RETRY_AFTER)),
        }
    }

    /// How long until a backup is due; `None`: it is.
    fn left(&self, newest: Option<Timestamp>, every: Duration) -> Option<Duration> {
        let since = u64::try_from(self.clock.now().unix() - newest?.unix()).ok()?;
        every.checked_sub(Duration::from_secs(since)).filter(|left| !left.is_zero())
    }

    async fn newest(&self, directory: &Path) -> anyhow::Result<Option<Timestamp>> {
        let (path, now) = (directory.to_owned(), self.clock.now());
        let newest = self.blocking(move || backup::newest(&path, now)).await?.context("cannot be read")?;
        if let Some(at) = newest {
            self.metrics.backed_up(at);
        }
        Ok(newest)
    }

    /// Whether there is a new backup.
    async fn back_up(&self, directory: &Path, settings: &Settings) -> bool {
        let (path, keep, now) = (directory.to_owned(), settings.keep, self.clock.now());
        let stopped = Arc::clone(&self.stopped);
        let written = async {
            let snapshot = self.keyring.snapshot().await?;
            let revision = snapshot.revision();
            self.blocking(move || write(&snapshot, &path, now, &stopped)).await??;
            anyhow::Ok(revision)
        };
        match written.await {
            Ok(revision) => tracing::info!(directory = %directory.display(), revision, "backed up"),
            Err(_) if self.stopped.load(Ordering::Relaxed) => return false,
            Err(error) => {
                self.failed(directory, &error);
                return false;
            }
        }
        self.metrics.backed_up(now);
        let path = directory.to_owned();
        let pruned = self.blocking(move || backup::prune(&path, keep, now)).await;
        if let Err(error) = pruned.and_then(|pruned| Ok(pruned?)) {
            tracing::error!(directory = %directory.display(), error = format!("{error:#}"), "old backups were not removed");
        }
        true
    }

    fn failed(&self, directory: &Path, error: &anyhow::Error) {
        self.metrics.backup_failed();
        tracing::error!(directory = %directory.display(), error = format!("{error:#}"), "no backup was made");
    }

    async fn blocking<T: Send + 'static>(&self, call: impl FnOnce() -> T + Send + 'static) -> anyhow::Result<T> {
        tokio::task::spawn_blocking(call).await.context("the thread ended")
    }
}

async fn waited(pause: Option<Duration>) {
    match pause {
        Some(pause) => sleep(pause).await,
        None => std::future::pending().await,
    }
}

fn write(snapshot: &Snapshot, directory: &Path, now: Timestamp, stopped: &AtomicBool) -> anyhow::Result<()> {
    backup::prepare(directory).context("the folder cannot be written to")?;
    let file = WholeFile::create(&directory.join(backup::file_name(now)))?;
    let file = snapshot.back_up(now, file, &|| stopped.load(Ordering::Relaxed))?;
    Ok(file.publish()?)
}
