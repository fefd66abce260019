//! Wiring: a configuration becomes a running gate, and ends as one.
//!
//! Decides nothing about requests. Owns every thread: the workers, the control runtime and, through the keyring, the
//! store's writer; all of them end in [`Running::shutdown`].

mod build;
mod control;
mod ops_door;
mod serve;
mod tls;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::config::Config;
use crate::key::KeySecret;
use crate::keyring::Keyring;
use crate::limit::Failures;
use crate::metrics::Metrics;
use crate::ops::Readiness;
use crate::proxy::{self, Door, Proxy, Serves};
use crate::server::{self, Drain, Listeners, Slots, Workers};
use crate::store::Store;

pub use build::{ReloadError, initialise};
pub use serve::serve;

use control::Control;
use ops_door::OpsDoor;
use tls::TlsListeners;

const OPS_CONNECTIONS_MAX: NonZeroU32 = NonZeroU32::new(256).expect("not zero");

/// Whoever scrapes or asks for health at the end is answered at once or not at all.
const OPS_DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

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

/// Everything of a gate but its sockets.
pub struct Assembled {
    pub proxy: Arc<Proxy>,
    config: Config,
    control: Control,
}

impl Assembled {
    /// Waits for `future` while the control runtime runs; for callers that are on no runtime.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.control.block_on(future)
    }
}

/// A gate that accepts requests. Dropped without [`Running::shutdown`], its threads go on until the process ends.
pub struct Running {
    public: SocketAddr,
    ops: SocketAddr,
    config: Config,
    proxy: Arc<Proxy>,
    readiness: Arc<Readiness>,
    drain: Drain,
    workers: Workers,
    ops_drain: Drain,
    ops_task: JoinHandle<std::io::Result<()>>,
    tls: TlsListeners,
    control: Control,
}

/// Starts a gate. Blocking; returns once both listeners are bound.
///
/// # Errors
/// What stands in the way, and what to do about it: the store, the root key file, an address.
pub fn start(config: Config, start: Start) -> anyhow::Result<Running> {
    listen(assemble(config, start)?)
}

/// Each connection takes a descriptor, two while it waits for an upstream: the soft limit of 1,024 that shells and
/// service managers give is meant for programs that use `select`.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    if let Err(error) = raised {
        tracing::warn!(error = %error, current = limit.current, "cannot raise the limit of open files");
    }
}

/// Opens the store and builds what requests are judged by. Blocking.
///
/// # Errors
/// As [`start`], but for addresses.
pub fn assemble(config: Config, start: Start) -> anyhow::Result<Assembled> {
    let metrics = Metrics::new(config.listen.workers.get(), start.clock.clone());
    let control = Control::start()?;
    let root = build::root_key(&config)?;
    let store = match start.store {
        Some(store) => store,
        None => build::open_store(&config, root.is_some())?,
    };
    let (limits, handle) = (&config.limits.key, control.handle());
    let keyring = Keyring::open(store, &config.keys, limits, start.clock, Arc::clone(&metrics), handle)
        .context("cannot open the key store")?;
    for secret in root.iter().chain(start.root.iter()) {
        control.block_on(keyring.ensure_root(secret)).context("cannot store the root key")?;
    }
    if keyring.keys() == 0 {
        anyhow::bail!("the key store is empty; make a first key with: portcullis init, or set keys.root_key_file");
    }
    let gate = build::gate(&config, &keyring, &metrics, &control.handle(), &[])?;
    let workers = config.listen.workers.get();
    let running = proxy::Running::new(workers, Arc::clone(&keyring), Arc::clone(&metrics));
    let proxy = Arc::new(Proxy {
        gate: arc_swap::ArcSwap::from_pointee(gate),
        keyring,
        running,
        failures: Failures::new(&config.limits.failures),
        metrics,
        control: control.handle(),
    });
    Ok(Assembled { proxy, config, control })
}

fn listen(assembled: Assembled) -> anyhow::Result<Running> {
    raise_open_files();
    let Assembled { proxy, config, control } = assembled;
    let listen = &config.listen;
    let tls = TlsListeners::new(&config.tls, &proxy.metrics, control.handle())?;
    let public = Listeners::bind(listen.public, listen.workers.get(), listen.backlog)?;
    let ops = Listeners::bind(listen.ops, 1, listen.backlog)?;
    let (public_address, ops_address) = (public.address(), ops.address());

    let (drain, draining) = server::drain();
    let context = server::Context {
        client: config.client.clone(),
        slots: Slots::new(config.client.connections_max),
        draining,
        drain_timeout: config.shutdown.timeout,
        metrics: Arc::clone(&proxy.metrics),
        tls: tls.public.clone(),
        proxy_protocol: listen.proxy_protocol,
    };
    let serves = if config.admin.is_on_public() { Serves::RoutesAndKeys } else { Serves::Routes };
    let worker_proxy = Arc::clone(&proxy);
    let workers =
        server::run_workers(public, &context, move |worker| Door::new(Arc::clone(&worker_proxy), worker, serves))
            .context("cannot start the workers")?;

    // Ends with the control runtime.
    control.handle().spawn(Arc::clone(&proxy.running).watch());

    let readiness = Arc::new(Readiness::default());
    readiness.store_opened();
    let keys = config.admin.is_on_ops().then(|| Door::new(Arc::clone(&proxy), 0, Serves::KeysOnly));
    let door = OpsDoor { metrics: Arc::clone(&proxy.metrics), readiness: Arc::clone(&readiness), keys };
    let (ops_drain, draining) = server::drain();
    let slots = Slots::new(OPS_CONNECTIONS_MAX);
    let ops_socket = ops.into_first().context("the ops listener has no socket")?;
    let serving = server::serve(
        ops_socket,
        door,
        server::Context {
            draining,
            slots,
            drain_timeout: OPS_DRAIN_TIMEOUT,
            tls: tls.ops.clone(),
            proxy_protocol: false,
            ..context
        },
    );
    let ops_task = control.handle().spawn(serving);
    readiness.listeners_bound();
    let (public, ops) = (public_address, ops_address);
    Ok(Running { public, ops, config, proxy, readiness, drain, workers, ops_drain, ops_task, tls, control })
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
        let Proxy { keyring, metrics, control, gate, .. } = &*self.proxy;
        let previous = gate.load();
        let reloaded = build::check_reloadable(&self.config, config)
            .and_then(|()| self.tls.prepare(&config.tls))
            .and_then(|tls| {
                let next = build::gate(config, keyring, metrics, control, &previous.upstreams);
                next.map(|next| (tls, next)).map_err(ReloadError::Invalid)
            })
            .map(|(tls, next)| {
                self.tls.install(tls);
                gate.store(Arc::new(next));
            });
        self.proxy.metrics.reload(&reloaded);
        reloaded
    }

    /// Ends the gate in order: not ready, the configured delay, no new connections, running requests to their end or
    /// `shutdown.timeout`, `last_used` and the store, the ops listener last. Blocking.
    pub fn shutdown(self) {
        let Self { config, proxy, readiness, drain, workers, ops_drain, ops_task, control, .. } = self;
        readiness.draining();
        if let Some(delay) = config.shutdown.delay {
            std::thread::sleep(delay);
        }
        drain.start();
        workers.join();
        control.block_on(proxy.keyring.close());
        ops_drain.start();
        match control.block_on(ops_task) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(error = %error, "the ops listener failed"),
            Err(panic) => tracing::error!(error = %panic, "the ops listener panicked"),
        }
        control.stop();
    }
}
