//! From a configuration to its parts: the store, the root key, one gate.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use tokio::runtime::Handle;

use crate::admin::Admin;
use crate::clock::Clock;
use crate::config::{Config, RouteConfig, UpstreamConfig};
use crate::http::Challenge;
use crate::key::KeySecret;
use crate::keyring::Keyring;
use crate::limit::Bucket;
use crate::metrics::{LOCAL, Metrics, NO_ROUTE};
use crate::proxy::{Gate, RequestBody, Route, RouteSettings};
use crate::route::{Pattern, Table};
use crate::store::{SledStore, Store, StoreError};
use crate::upstream::{Environment, Upstream};

use super::control::Control;

/// Why a new configuration is not taken while the gate runs.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    #[error("{0:#}")]
    Invalid(anyhow::Error),
    #[error("[{section}] cannot change while the gate runs; restart it")]
    NeedsRestart { section: &'static str },
    #[error("[{section}] cannot be added or removed while the gate runs; restart it")]
    TlsSwitched { section: &'static str },
}

/// The key in `keys.root_key_file`, if that is set.
pub(super) fn root_key(config: &Config) -> anyhow::Result<Option<KeySecret>> {
    let Some(path) = &config.keys.root_key_file else { return Ok(None) };
    let text = std::fs::read(path).with_context(|| format!("cannot read keys.root_key_file {}", path.display()))?;
    let text = zeroize::Zeroizing::new(text);
    match KeySecret::parse(text.trim_ascii()) {
        Ok(secret) => Ok(Some(secret)),
        Err(_) => bail!("{} holds no key; make one with: portcullis keygen", path.display()),
    }
}

/// Opens the store, or creates it when a root key file says that this is wanted. Never mints a key.
pub(super) fn open_store(config: &Config, has_root_key: bool) -> anyhow::Result<Arc<dyn Store>> {
    let path = config.store.path.display();
    let opened = match SledStore::open(&config.store) {
        Err(StoreError::Missing { .. }) if has_root_key => SledStore::create(&config.store),
        opened => opened,
    };
    match opened {
        Ok(store) => Ok(Arc::new(store)),
        Err(StoreError::Missing { .. }) => bail!(
            "there is no key store at {path}. A first one is made by: portcullis init --config FILE. \
             If there was one before, its volume is not mounted. Or set keys.root_key_file."
        ),
        Err(error) => Err(error).with_context(|| format!("cannot open the key store at {path}")),
    }
}

/// Makes the store and its first key, which holds all scopes. Blocking.
///
/// # Errors
/// When there is a store with keys already, or none can be made.
pub fn initialise(config: &Config) -> anyhow::Result<KeySecret> {
    let store = SledStore::create(&config.store)?;
    let secret = KeySecret::generate().context("the operating system has no randomness to give")?;
    let control = Control::start()?;
    let (clock, limits) = (Clock::System, &config.limits.key);
    let metrics = Metrics::new(1, clock.clone());
    let keyring = Keyring::open(Arc::new(store), &config.keys, limits, clock, metrics, control.handle())?;
    let stored = control.block_on(keyring.ensure_root(&secret));
    control.block_on(keyring.close());
    control.stop();
    stored.context("cannot store the root key")?;
    Ok(secret)
}

/// Everything that requests are judged by.
///
/// `previous` are the upstreams of the gate whose place this one takes.
pub(super) fn gate(
    config: &Config,
    keyring: &Arc<Keyring>,
    metrics: &Metrics,
    control: &Handle,
    previous: &[Arc<Upstream<RequestBody>>],
) -> anyhow::Result<Gate> {
    let environment = Environment { workers: config.listen.workers.get(), metrics, control };
    let succeed = |UpstreamConfig { name, urls, settings }: &UpstreamConfig| {
        Upstream::succeed(previous, name, urls, settings, &environment)
    };
    let upstreams: Vec<Arc<Upstream<RequestBody>>> = config.upstreams.iter().map(succeed).collect();
    let route = |(pattern, line): (&Pattern, &RouteConfig)| {
        let upstream = Arc::clone(&upstreams[line.upstream]);
        let name: Arc<str> = pattern.to_string().into();
        let metrics = metrics.route(&name, &upstream.name);
        let bucket = route_bucket(&line.settings);
        let settings = line.settings.clone();
        let requirement = Arc::new(settings.requirement.clone());
        (pattern.clone(), Route { name, settings, requirement, upstream, metrics, bucket })
    };
    let Ok(table) = Table::build(config.routes.lines().map(route).collect()) else {
        bail!("the routes contradict each other, which the configuration's reader should have told");
    };
    Ok(Gate {
        table,
        upstreams,
        requests: config.requests.clone(),
        sources: config.credentials.from.clone(),
        challenge: Challenge::basic(config.credentials.realm.as_str()),
        trusted_proxies: config.forwarding.trusted_proxies.clone(),
        admin: Arc::new(Admin::new(&config.admin, config.scopes.clone(), Arc::clone(keyring))),
        unmatched: metrics.route(NO_ROUTE, LOCAL),
        mount: config.admin.path.as_str().into(),
        managed: metrics.route(config.admin.path.as_str(), LOCAL),
        access_log: config.log.access,
    })
}

fn route_bucket(settings: &RouteSettings) -> Option<Bucket> {
    let rate = settings.rate?;
    Some(Bucket::new(rate, settings.burst.unwrap_or(rate.count)))
}

/// What the threads and the store were started with stays as it is.
pub(super) fn check_reloadable(old: &Config, new: &Config) -> Result<(), ReloadError> {
    let fixed = [
        ("listen", old.listen == new.listen),
        ("client", old.client == new.client),
        ("shutdown", old.shutdown == new.shutdown),
        ("store", old.store == new.store),
        ("keys", old.keys == new.keys),
        ("limits", old.limits == new.limits),
        ("log", old.log == new.log),
        ("admin", old.admin == new.admin),
    ];
    match fixed.into_iter().find(|(_, same)| !same) {
        Some((section, _)) => Err(ReloadError::NeedsRestart { section }),
        None => Ok(()),
    }
}
