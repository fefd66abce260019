//! `serve`: a gate from its start to the signal that ends it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::config::{Config, ConfigError};
use crate::log;
use crate::reload::FileWatch;
use crate::settings::FileState;

use super::control::Control;
use super::{Running, Start, assemble_on, listen, service};

/// Runs a gate until SIGTERM or SIGINT, reading the file at `path` again on SIGHUP, and as `[reload]` says when one of
/// `files` changes, which the configuration was read from. Blocking.
///
/// A second signal ends `shutdown.delay`, and during the drain the process: everything acknowledged is on disk already.
///
/// # Errors
/// When the gate cannot start.
pub fn serve(config: Config, path: &Path, files: Vec<FileState>, options: Start) -> anyhow::Result<()> {
    let log = options.log.clone();
    let control = Control::start()?;
    // Before the store is opened, which may take a while. Without a handler SIGHUP would end the process, and SIGTERM
    // would be lost on the first process of a container.
    let installed = control.block_on(async { Ok::<_, std::io::Error>((Signals::install()?, Signals::install()?)) });
    let (mut signals, early) = installed.context("cannot listen for signals")?;
    let starting = control.handle().spawn(early.end_start(log.clone()));
    let mut running = listen(assemble_on(control, config, options)?)?;
    starting.abort();
    tracing::info!(public = %running.public(), ops = %running.ops(), version = env!("CARGO_PKG_VERSION"), "listening");
    let control = running.control.handle();
    service::ready(&format!("serving on {}", running.public()));
    service::start_watchdog(&control);
    let mut source = ConfigSource { path: path.to_owned(), watch: FileWatch::new(files) };
    control.block_on(signals.until_end(&running, &mut source));
    let shutdown = running.leave();
    service::stopping(shutdown.delay.unwrap_or_default() + shutdown.timeout);
    if let Some(delay) = shutdown.delay {
        tracing::info!(?delay, "not ready any more; still accepting");
        control.block_on(signals.end_within(delay));
    }
    tracing::info!("draining");
    control.spawn(signals.end_at_once(log));
    running.finish(&shutdown);
    tracing::info!("stopped");
    Ok(())
}

/// The signals that mean something to a running gate. Installed once: none that arrives in between is lost.
struct Signals {
    /// Caught, so that a write beyond the limit of file sizes fails and does not end the process.
    _file_too_large: Signal,
    hangup: Signal,
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn install() -> std::io::Result<Self> {
        Ok(Self {
            _file_too_large: signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?,
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn until_end(&mut self, running: &Running, source: &mut ConfigSource) {
        let Self { hangup, interrupt, terminate, .. } = self;
        // Dropped wherever it waits, so that a store that hangs keeps no gate from its end.
        tokio::select! {
            biased;
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = source.keep_current(running, hangup) => {}
        }
    }

    /// Nothing is served yet, and what is on disk may be cut off at any time.
    async fn end_start(mut self, log: Option<log::Control>) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        tracing::info!("stopped before it was ready");
        if let Some(log) = log {
            log.flush();
        }
        std::process::exit(0);
    }

    /// Waits for a signal to end, or until the time is up.
    async fn end_within(&mut self, time: Duration) {
        tokio::select! {
            _ = self.terminate.recv() => tracing::info!("a second signal: not waiting for the end of shutdown.delay"),
            _ = self.interrupt.recv() => tracing::info!("a second signal: not waiting for the end of shutdown.delay"),
            () = tokio::time::sleep(time) => {}
        }
    }

    async fn end_at_once(mut self, log: Option<log::Control>) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        tracing::warn!("a second signal: stopping without waiting for running requests");
        if let Some(log) = log {
            log.flush();
        }
        std::process::exit(1);
    }
}

async fn waited(interval: Option<Duration>) {
    match interval {
        Some(interval) => tokio::time::sleep(interval).await,
        None => std::future::pending().await,
    }
}

/// Where the configuration comes from, and what it looked like when it was read last.
struct ConfigSource {
    path: PathBuf,
    watch: FileWatch,
}

impl ConfigSource {
    /// Never ends of itself. Polled on the main thread, which has nothing else to do: what blocks in it holds up nobody.
    async fn keep_current(&mut self, running: &Running, hangup: &mut Signal) {
        loop {
            let interval = running.watch_interval().await;
            tokio::select! {
                _ = hangup.recv() => self.reload(running).await,
                () = waited(interval) => {
                    if self.watch.look() {
                        self.reload(running).await;
                    }
                }
            }
        }
    }

    async fn reload(&mut self, running: &Running) {
        service::reloading();
        let Loaded { config, mut files, of_listeners } = self.load().await.unwrap_or_else(|error| {
            let unreadable = ConfigError::Unreadable { path: self.path.display().to_string(), source: error };
            Loaded { config: Err(unreadable), files: vec![FileState::of(&self.path)], of_listeners: Vec::new() }
        });
        let reloaded = match config {
            Ok(config) => running.reload(config).await.map_err(|error| error.to_string()),
            Err(error) => {
                running.proxy.metrics.reload::<(), _>(&Err(&error));
                Err(format!("{:#}", anyhow::Error::new(error)))
            }
        };
        // What is not taken is tried again when it has changed. Listeners look at the files that they use themselves.
        files.extend(of_listeners.into_iter().filter(|_| reloaded.is_err()));
        self.watch = FileWatch::new(files);
        let path = self.path.display();
        match reloaded {
            Ok(()) => {
                tracing::info!(%path, "configuration reloaded");
                service::ready(&format!("serving on {}; configuration reloaded", running.public()));
            }
            Err(error) => {
                tracing::error!(%path, error, "configuration not reloaded, the old one stays");
                service::ready(&format!("serving on {}; configuration not reloaded, see the log", running.public()));
            }
        }
    }

    /// On a thread that nobody waits for: a file that is a pipe, or on a disk that hangs, must not keep the gate from its
    /// end.
    async fn load(&self) -> std::io::Result<Loaded> {
        let (path, (sender, loaded)) = (self.path.clone(), oneshot::channel());
        std::thread::Builder::new().name("reload".to_owned()).spawn(move || {
            let loaded = Loaded::load(&path);
            // Those that are read later on: what hangs is to hang here.
            for file in loaded.files.iter().chain(&loaded.of_listeners) {
                let _ = std::fs::File::open(&file.path);
            }
            let _ = sender.send(loaded);
        })?;
        loaded.await.map_err(std::io::Error::other)
    }
}

struct Loaded {
    config: Result<Config, ConfigError>,
    files: Vec<FileState>,
    /// The certificates and keys of listeners.
    of_listeners: Vec<FileState>,
}

impl Loaded {
    fn load(path: &Path) -> Self {
        let (config, files) = Config::load_noting_files(path);
        let of_listeners = config.iter().flat_map(|config| config.tls.files()).map(FileState::of).collect();
        Self { config, files, of_listeners }
    }
}
