//! Wiring: a configuration becomes a running gate, and ends as one.
//!
//! Decides nothing about requests. Owns every thread: the workers, the control runtime and, through the keyring, the
//! store's writer; all of them end in [`Running::shutdown`].

mod activation;
mod backups;
mod build;
mod control;
mod ops_door;
mod reload;
mod serve;
mod service;
mod tls;

use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use crate::admin::ListenerName;
use crate::clock::Clock;
use crate::config::Config;
use crate::key::{Digest, KeySecret};
use crate::keyring::Keyring;
use crate::log;
use crate::metrics::Metrics;
use crate::ops::Readiness;
use crate::proxy::{self, Door, Proxy};
use crate::server::{self, Addresses, Drain, Listeners, Shutdown, Slots, Workers};
use crate::store::Store;
use crate::upstream;

pub use activation::Inherited;
pub use build::initialise;
pub use reload::ReloadError;
pub use serve::serve;

use backups::Backups;
use control::Control;
use ops_door::OpsDoor;
use tls::TlsListeners;

const OPS_CONNECTIONS_MAX: NonZeroU32 = NonZeroU32::new(256).expect("not zero");

/// Whoever scrapes or asks for health at the end is answered at once or not at all.
const OPS_SHUTDOWN: Shutdown =
    Shutdown { delay: None, idle_timeout: Duration::from_millis(50), timeout: Duration::from_secs(1) };

/// What a start needs besides the configuration.
pub struct Start {
    /// Where keys are kept; `None`: the sled store at `store.path`.
    pub store: Option<Arc<dyn Store>>,
    pub clock: Clock,
    /// A key to make sure of, with scope `*`, beside that of `keys.root_key_file`.
    pub root: Option<KeySecret>,
    /// Sockets to accept from in place of those that the configuration says.
    pub sockets: Inherited,
    /// The log that `[log]` is about, when it is read again.
    pub log: Option<log::Control>,
}

impl Default for Start {
    fn default() -> Self {
        Self { store: None, clock: Clock::System, root: None, sockets: Inherited::default(), log: None }
    }
}

/// Everything of a gate but its sockets.
pub struct Assembled {
    pub proxy: Arc<Proxy>,
    clock: Clock,
    present: Present,
    sockets: Inherited,
    log: Option<log::Control>,
    control: Control,
}

/// The configuration in use.
struct Present {
    config: Config,
    /// Of the key in `keys.root_key_file`.
    root: Option<Digest>,
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
    present: Mutex<Present>,
    proxy: Arc<Proxy>,
    log: Option<log::Control>,
    client: Arc<ArcSwap<server::Client>>,
    http2: Arc<ArcSwap<server::Http2>>,
    slots: Slots,
    readiness: Arc<Readiness>,
    backups: Backups,
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
    assemble_on(Control::start()?, config, start)
}

fn assemble_on(control: Control, config: Config, start: Start) -> anyhow::Result<Assembled> {
    let metrics = Metrics::new(config.listen.workers.get(), start.clock.clone());
    let root = build::root_key(&config)?;
    let store = match start.store {
        Some(store) => store,
        None => build::open_store(&config, root.is_some())?,
    };
    let clock = start.clock;
    if let Some(health) = store.health() {
        metrics.watch_store(health);
    }
    let keyring = Keyring::open(store, &config.keys, clock.clone(), Arc::clone(&metrics), control.handle())
        .context("cannot open the key store")?;
    for secret in root.iter().chain(start.root.iter()) {
        control.block_on(build::ensure_root(&keyring, secret, &control.handle()))?;
    }
    if keyring.keys() == 0 {
        anyhow::bail!("the key store is empty; make a first key with: portcullis init, or set keys.root_key_file");
    }
    let gate = build::gate(&config, &keyring, &metrics, None)?;
    upstream::take_over(&[], &gate.upstreams, &control.handle());
    tls::tell_upstream_certificates(&gate.upstreams, &metrics);
    let gate = ArcSwap::from_pointee(gate);
    let workers = config.listen.workers.get();
    let running = proxy::Running::new(workers, Arc::clone(&keyring), Arc::clone(&metrics));
    let proxy = Arc::new(Proxy { gate, keyring, running, metrics, control: control.handle() });
    let present = Present { config, root: root.map(|root| root.digest()) };
    Ok(Assembled { proxy, clock, present, sockets: start.sockets, log: start.log, control })
}

fn listen(assembled: Assembled) -> anyhow::Result<Running> {
    raise_open_files();
    let Assembled { proxy, clock, present, sockets, log, control } = assembled;
    let config = &present.config;
    let listen = &config.listen;
    let tls = TlsListeners::new(&config.tls, &proxy.metrics, control.handle())?;
    let public = listeners(sockets.public, listen.public, listen.workers.get(), listen.backlog)?;
    let ops = listeners(sockets.ops, listen.ops, 1, listen.backlog)?;
    let (public_address, ops_address) = (public.address(), ops.address());

    let (drain, draining) = server::drain();
    let client = Arc::new(ArcSwap::from_pointee(config.client.clone()));
    let http2 = Arc::new(ArcSwap::from_pointee(config.http2.clone()));
    let slots = Slots::new(config.client.connections_max);
    let context = server::Context {
        client: Arc::clone(&client),
        http2: Arc::clone(&http2),
        slots: slots.clone(),
        addresses: Some(Addresses::default()),
        draining,
        metrics: Arc::clone(&proxy.metrics),
        tls: tls.public.clone(),
        proxy_protocol: listen.proxy_protocol,
    };
    let door = |worker: usize, listener: ListenerName| Door::new(Arc::clone(&proxy), worker, listener);
    let public_door = door(0, ListenerName::Public);
    let workers = server::run_workers(public, &context, move |worker| public_door.of_worker(worker))
        .context("cannot start the workers")?;

    // Ends with the control runtime.
    control.handle().spawn(Arc::clone(&proxy.running).watch());
    let backups = Backups::start(&config.store.backup, &proxy, clock);

    let readiness = Arc::new(Readiness::default());
    readiness.store_opened();
    let metrics = Arc::clone(&proxy.metrics);
    let ops_door = OpsDoor { metrics, readiness: Arc::clone(&readiness), keys: door(0, ListenerName::Ops) };
    let (ops_drain, draining) = server::drain();
    let ops_context = server::Context {
        draining,
        slots: Slots::new(OPS_CONNECTIONS_MAX),
        addresses: None,
        tls: tls.ops.clone(),
        proxy_protocol: false,
        ..context
    };
    let ops_socket = ops.into_first().context("the ops listener has no socket")?;
    let ops_task = control.handle().spawn(server::serve(ops_socket, ops_door, ops_context));
    readiness.listeners_bound();
    let (public, ops, present) = (public_address, ops_address, Mutex::new(present));
    Ok(Running {
        public,
        ops,
        present,
        proxy,
        log,
        client,
        http2,
        slots,
        readiness,
        backups,
        drain,
        workers,
        ops_drain,
        ops_task,
        tls,
        control,
    })
}

/// An inherited socket listens where whoever made it said, which the configuration has no say in.
fn listeners(
    inherited: Option<TcpListener>,
    address: SocketAddr,
    workers: usize,
    backlog: NonZeroU32,
) -> anyhow::Result<Listeners> {
    let Some(socket) = inherited else { return Ok(Listeners::bind(address, workers, backlog)?) };
    let listeners = Listeners::inherit(socket, workers).context("cannot use the socket that was passed")?;
    if listeners.address() != address {
        tracing::warn!(configured = %address, passed = %listeners.address(), "listening on the socket that was passed");
    }
    Ok(listeners)
}

impl Running {
    pub fn public(&self) -> SocketAddr {
        self.public
    }

    pub fn ops(&self) -> SocketAddr {
        self.ops
    }

    /// Ends the gate in order: not ready, the configured delay, no new connections, running requests to their end or
    /// `shutdown.timeout`, `last_used` and the store, the ops listener last. Blocking.
    pub fn shutdown(mut self) {
        let shutdown = self.leave();
        if let Some(delay) = shutdown.delay {
            std::thread::sleep(delay);
        }
        self.finish(&shutdown);
    }

    /// Is not ready any more and tells clients to go, while new ones are still served.
    fn leave(&mut self) -> Shutdown {
        self.readiness.draining();
        self.drain.leave();
        self.ops_drain.leave();
        self.present.get_mut().config.shutdown.clone()
    }

    fn finish(self, shutdown: &Shutdown) {
        let Self { proxy, backups, drain, workers, ops_drain, ops_task, control, .. } = self;
        drop(backups);
        drain.start(shutdown);
        workers.join();
        control.block_on(proxy.keyring.close());
        ops_drain.start(&OPS_SHUTDOWN);
        match control.block_on(ops_task) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(error = %error, "the ops listener failed"),
            Err(panic) => tracing::error!(error = %panic, "the ops listener panicked"),
        }
        control.stop();
    }
}
