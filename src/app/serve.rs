//! `serve`: a gate from its start to the signal that ends it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::Config;
use crate::log;
use crate::reload::FileWatch;
use crate::settings::FileState;

use super::{Running, Start, assemble, listen, service};

/// Runs a gate until SIGTERM or SIGINT, reading the file at `path` again on SIGHUP, and as `[reload]` says when one of
/// `files` changes, which the configuration was read from. Blocking.
///
/// A second signal ends `shutdown.delay`, and during the drain the process: everything acknowledged is on disk already.
///
/// # Errors
/// When the gate cannot start.
pub fn serve(config: Config, path: &Path, files: Vec<FileState>, options: Start) -> anyhow::Result<()> {
    let log = options.log.clone();
    let assembled = assemble(config, options)?;
    // Before anybody can know that the gate listens: a signal from then on must find its handler.
    let mut signals = assembled.control.block_on(async { Signals::install() }).context("cannot listen for signals")?;
    let mut running = listen(assembled)?;
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
    hangup: Signal,
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn install() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Polled on the main thread, which has nothing else to do: what blocks in it holds up nobody.
    async fn until_end(&mut self, running: &Running, source: &mut ConfigSource) {
        loop {
            let interval = running.watch_interval().await;
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => source.reload(running).await,
                () = waited(interval) => {
                    if source.watch.look() {
                        source.reload(running).await;
                    }
                }
            }
        }
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
    async fn reload(&mut self, running: &Running) {
        service::reloading();
        let (config, files) = Config::load_noting_files(&self.path);
        // Also for a file that is not taken: it is tried again when it has changed.
        self.watch = FileWatch::new(files);
        let reloaded = match config {
            Ok(config) => running.reload(config).await.map_err(|error| error.to_string()),
            Err(error) => {
                running.proxy.metrics.reload::<(), _>(&Err(&error));
                Err(format!("{:#}", anyhow::Error::new(error)))
            }
        };
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
}
