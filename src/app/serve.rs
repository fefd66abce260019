//! `serve`: a gate from its start to the signal that ends it.

use std::path::Path;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::Config;

use super::{Running, Start, start};

/// Runs a gate until SIGTERM or SIGINT, reloading the file at `path` on SIGHUP. Blocking. A second signal during the
/// drain ends the process at once: everything acknowledged is on disk already.
///
/// # Errors
/// When the gate cannot start.
pub fn serve(config: Config, path: &Path, options: Start) -> anyhow::Result<()> {
    let running = start(config, options)?;
    tracing::info!(public = %running.public(), ops = %running.ops(), version = env!("CARGO_PKG_VERSION"), "listening");
    let control = running.control.handle();
    control.block_on(wait(&running, path)).context("cannot listen for signals")?;
    tracing::info!("draining");
    control.spawn(end_on_second_signal());
    running.shutdown();
    tracing::info!("stopped");
    Ok(())
}

async fn wait(running: &Running, path: &Path) -> std::io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut hangup = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hangup.recv() => reload(running, path),
        }
    }
}

/// Runs on the main thread, which has nothing else to do.
fn reload(running: &Running, path: &Path) {
    let reloaded = match Config::load(path) {
        Ok(config) => running.reload(&config).map_err(|error| error.to_string()),
        Err(error) => {
            running.proxy.metrics.reload::<(), _>(&Err(&error));
            Err(error.to_string())
        }
    };
    match reloaded {
        Ok(()) => tracing::info!(path = %path.display(), "configuration reloaded"),
        Err(error) => tracing::error!(path = %path.display(), error, "configuration not reloaded, the old one stays"),
    }
}

async fn end_on_second_signal() {
    let signals: std::io::Result<(Signal, Signal)> =
        signal(SignalKind::terminate()).and_then(|terminate| Ok((terminate, signal(SignalKind::interrupt())?)));
    let Ok((mut terminate, mut interrupt)) = signals else { return };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::warn!("a second signal: stopping without waiting for running requests");
    std::process::exit(1);
}
