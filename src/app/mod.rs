//! Wiring: a configuration becomes a running gate, and ends as one.
//!
//! Decides nothing about requests. Owns every thread: the workers, the control runtime and, through the keyring, the
//! store's writer; all of them end in [`Running::shutdown`].

mod build;
mod control;
mod ops_door;
mod serve;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;

use crate::clock::Clock;
use crate::config::Config;
use crate::key::{KeyName, KeySecret};
use crate::keyring::Keyring;
use crate::limit::Failures;
use crate::metrics::Metrics;
use crate::ops::{Ops, Readiness};
use crate::proxy::{Door, Proxy, Serves};
use crate::server::{self, Listeners};
use crate::store::Store;

pub use build::ReloadError;
pub use serve::serve;

use control::Control;
use ops_door::OpsDoor;

/// What a start needs besides the configuration.
pub struct Start {
    /// Where keys are kept; `None`: the sled store at `store.path`.
    pub store: Option<Arc<dyn Store>>,
    pub clock: Clock,
    /// A key to make sure of, with scope `*`, beside that of `keys.root_key_file`.
    pub root: Option<KeySecret>,
}

impl Default for Start {
    fn default() -> Self {
        Self { store: None, clock: Clock::System, root: None }
    }
}

/// A gate that accepts requests. Dropped without [`Running::shutdown`], its threads go on until the process ends.
pub struct Running {
    public: SocketAddr,
    ops: SocketAddr,
    config: Config,
    proxy: Arc<Proxy>,
    readiness: Arc<Readiness>,
    workers: server::Workers,
    ops_server: server::OpsServer,
    control: Control,
}

/// Starts a gate. Blocking; returns once both listeners are bound.
///
/// # Errors
/// What stands in the way, and what to do about it: the store, the root key file, an address.
pub fn start(config: Config, start: Start) -> anyhow::Result<Running> {
    let workers = config.listen.workers.count();
    let metrics = Metrics::new(workers, start.clock.clone());
    let control = Control::start()?;
    let root = build::root_key(&config)?;
    let store = match start.store {
        Some(store) => store,
        None => build::open_store(&config, root.is_some())?,
    };
    let keyring = Keyring::open(
        store,
        &config.keys,
        &config.limits.key,
        start.clock,
        Arc::clone(&metrics),
        control.handle(),
    )
    .context("cannot open the key store")?;
    for secret in root.iter().chain(start.root.iter()) {
        let name = KeyName::parse("root").context("a fixed name")?;
        control.block_on(keyring.ensure_root(secret, name)).context("cannot store the root key")?;
    }
    let gate = build::gate(&config, &keyring, &metrics)?;
    let proxy = Arc::new(Proxy {
        gate: arc_swap::ArcSwap::from_pointee(gate),
        keyring,
        failures: Failures::new(&config.limits.failures),
        metrics,
        control: control.handle(),
    });
    listen(config, proxy, control)
}

fn listen(config: Config, proxy: Arc<Proxy>, control: Control) -> anyhow::Result<Running> {
    let readiness = Arc::new(Readiness::default());
    let listeners = Listeners::bind(&config.listen)?;
    let (public, ops) = (listeners.public_address(), listeners.ops_address());
    let serves = if config.admin.is_on_public() { Serves::RoutesAndKeys } else { Serves::Routes };
    let worker_proxy = Arc::clone(&proxy);
    let door = move |worker| Door::new(Arc::clone(&worker_proxy), worker, serves);
    let keys = config.admin.is_on_ops().then(|| Door::new(Arc::clone(&proxy), 0, Serves::KeysOnly));
    let ops_handler = OpsDoor::new(Ops::new(Arc::clone(&proxy.metrics), Arc::clone(&readiness)), keys);
    let ops_server = listeners.ops.serve(&control.handle(), ops_handler, &config.client, Arc::clone(&proxy.metrics));
    let workers = listeners.public.run(door, &config.client, Arc::clone(&proxy.metrics))?;
    readiness.set_ready();
    Ok(Running { public, ops, config, proxy, readiness, workers, ops_server, control })
}

impl Running {
    pub fn public(&self) -> SocketAddr {
        self.public
    }

    pub fn ops(&self) -> SocketAddr {
        self.ops
    }

    /// Replaces routes, scopes, upstreams and everything else that a request is judged by, atomically: a request that
    /// has begun keeps what it began with.
    ///
    /// # Errors
    /// [`ReloadError`]; nothing has changed then.
    pub fn reload(&self, config: &Config) -> Result<(), ReloadError> {
        let reloaded = build::check_reloadable(&self.config, config)
            .and_then(|()| build::gate(config, &self.proxy.keyring, &self.proxy.metrics).map_err(ReloadError::Invalid))
            .map(|gate| self.proxy.gate.store(Arc::new(gate)));
        self.proxy.metrics.reload(&reloaded);
        reloaded
    }

    /// Ends the gate in order: not ready, the configured delay, no new connections, running requests to their end or
    /// `shutdown.timeout`, `last_used` and the store, the ops listener last. Blocking.
    ///
    /// # Errors
    /// When the store could not be flushed.
    pub fn shutdown(self) -> anyhow::Result<()> {
        let Self { config, proxy, readiness, workers, ops_server, control, .. } = self;
        readiness.set_draining();
        if let Some(delay) = config.shutdown.delay {
            std::thread::sleep(delay);
        }
        workers.drain(config.shutdown.timeout);
        let closed = control.block_on(proxy.keyring.close());
        control.block_on(ops_server.drain(config.shutdown.timeout));
        control.stop();
        closed.context("the key store was not closed cleanly")
    }
}
