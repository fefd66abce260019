//! `serve`: a gate from its start to the signal that ends it.

use std::path::Path;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::Config;

use super::{Running, Start, assemble, listen};

/// Runs a gate until SIGTERM or SIGINT, reloading the file at `path` on SIGHUP. Blocking. A second signal during the
/// drain ends the process at once: everything acknowledged is on disk already.
///
/// # Errors
/// When the gate cannot start.
pub fn serve(config: Config, path: &Path, options: Start) -> anyhow::Result<()> {
    let assembled = assemble(config, options)?;
    // Before anybody can know that the gate listens: a signal from then on must find its handler.
    let mut signals = assembled.control.block_on(async { Signals::install() }).context("cannot listen for signals")?;
    let running = listen(assembled)?;
    tracing::info!(public = %running.public(), ops = %running.ops(), version = env!("CARGO_PKG_VERSION"), "listening");
    let control = running.control.handle();
    control.block_on(signals.until_end(&running, path));
    tracing::info!("draining");
    control.spawn(signals.end_at_once());
    running.shutdown();
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

    async fn until_end(&mut self, running: &Running, path: &Path) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => reload(running, path),
            }
        }
    }

    async fn end_at_once(mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        tracing::warn!("a second signal: stopping without waiting for running requests");
        std::process::exit(1);
    }
}

/// Runs on the main thread, which has nothing else to do.
fn reload(running: &Running, path: &Path) {
    let reloaded = match Config::load(path) {
        Ok(config) => running.reload(&config).map_err(|error| error.to_string()),
        Err(error) => {
            running.proxy.metrics.reload::<(), _>(&Err(&error));
            Err(format!("{:#}", anyhow::Error::new(error)))
        }
    };
    match reloaded {
        Ok(()) => tracing::info!(path = %path.display(), "configuration reloaded"),
        Err(error) => tracing::error!(path = %path.display(), error, "configuration not reloaded, the old one stays"),
    }
}
