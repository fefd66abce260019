//! `demo`: a whole gate with nothing to set up, and what to try on it.

mod guide;
mod sample;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use zeroize::Zeroizing;

use crate::app::{self, Running, Start};
use crate::config::Config;
use crate::key::KeySecret;
use crate::log;
use crate::settings::Source;
use crate::store::SledStore;

use super::{Exit, output};

const PUBLIC_PORT: u16 = 8080;
const OPS_PORT: u16 = 9900;

/// Run a demonstration gate and print what to try
///
/// Starts a gate with a temporary store, a fresh root key and a small sample upstream, and prints curl lines that work
/// when pasted. Runs until Ctrl-C and leaves nothing behind.
#[derive(Args)]
#[command(after_help = "Example: portcullis demo")]
pub(super) struct Arguments {
    /// Where clients connect [default: 127.0.0.1:8080, or a free port when that one is taken]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Where metrics and health are served [default: 127.0.0.1:9900, or a free port when that one is taken]
    #[arg(long, value_name = "ADDRESS")]
    ops: Option<SocketAddr>,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start a runtime")?;
    // First of all: a Ctrl-C while the gate starts must not leave the folder behind.
    let mut signals = runtime.block_on(Signals::listen()).context("cannot listen for signals")?;
    let folder =
        tempfile::Builder::new().prefix("portcullis-demo-").tempdir().context("cannot make a temporary folder")?;
    let sample = runtime.block_on(sample::Sample::bind()).context("cannot start the sample upstream")?;
    let public = choose(arguments.listen, PUBLIC_PORT)?;
    let ops = choose(arguments.ops, OPS_PORT)?;
    let config = config(folder.path(), public, ops, sample.address())?;
    let (_, _flush) = log::init(&config.log).context("cannot start logging")?;
    let (running, root) = start(config)?;
    let printed = output::print(&guide::text(running.public(), running.ops(), &root));
    runtime.spawn(sample.serve());
    if printed.is_ok() {
        runtime.block_on(signals.next());
    }
    stop(&runtime, running)?;
    folder.close().context("cannot remove the temporary folder")?;
    printed?;
    Ok(Exit::Success)
}

fn start(config: Config) -> anyhow::Result<(Running, Zeroizing<String>)> {
    let store = SledStore::create(&config.store)?;
    let root = KeySecret::generate().context("the operating system has no randomness to give")?;
    let text = Zeroizing::new(root.expose().to_owned());
    let start = Start { store: Some(Arc::new(store)), root: Some(root), ..Start::default() };
    Ok((app::start(config, start)?, text))
}

/// The sample upstream goes on until the last request has ended.
fn stop(runtime: &Runtime, running: Running) -> anyhow::Result<()> {
    let stopping = runtime.spawn_blocking(move || running.shutdown());
    runtime.block_on(stopping).context("the gate did not end well")
}

/// The address to listen on. Only the default one gives way to a free port.
fn choose(wanted: Option<SocketAddr>, default_port: u16) -> anyhow::Result<SocketAddr> {
    let default = SocketAddr::from((Ipv4Addr::LOCALHOST, default_port));
    let address = wanted.unwrap_or(default);
    // Bound without SO_REUSEPORT, so that another gate on this machine counts as taken.
    match (TcpListener::bind(address), wanted) {
        (Ok(_free), _) => Ok(address),
        (Err(_taken), None) => Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
        (Err(error), Some(_)) => Err(error).with_context(|| format!("cannot listen on {address}")),
    }
}

fn config(folder: &Path, public: SocketAddr, ops: SocketAddr, sample: SocketAddr) -> anyhow::Result<Config> {
    let text = include_str!("demo.toml")
        .replace("PUBLIC", &public.to_string())
        .replace("OPS", &ops.to_string())
        .replace("SAMPLE", &sample.to_string());
    // The paths in it start at this folder; the file itself is never written.
    Ok(Config::parse(&Source { path: folder.join("demo.toml"), text })?)
}

struct Signals {
    /// The terminal was closed.
    hangup: Signal,
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    async fn listen() -> std::io::Result<Self> {
        let (interrupt, terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        Ok(Self { hangup: signal(SignalKind::hangup())?, interrupt, terminate })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.hangup.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
