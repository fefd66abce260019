//! From a configuration to its parts: the store, the root key, one gate.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::runtime::Handle;

use crate::admin::Admin;
use crate::clock::Clock;
use crate::config::{Config, RouteConfig, UpstreamConfig};
use crate::http::Challenge;
use crate::key::KeySecret;
use crate::keyring::{ChangeError, Keyring};
use crate::limit::{Bucket, Failures, Quota};
use crate::metrics::{LOCAL, Metrics, NO_ROUTE};
use crate::proxy::{Gate, HostName, Route, RouteLimit, RouteSettings};
use crate::route::{Pattern, Table};
use crate::settings::read_file;
use crate::store::{self, SledStore, Store, StoreError};
use crate::upstream::Upstream;

use super::control::Control;

/// How long a store that has failed may take to work again.
const HEALING_MAX: Duration = Duration::from_secs(5);
const HEALING_POLL: Duration = Duration::from_millis(100);

/// The key in `keys.root_key_file`, if that is set.
pub(super) fn root_key(config: &Config) -> anyhow::Result<Option<KeySecret>> {
    let Some(path) = &config.keys.root_key_file else { return Ok(None) };
    let text = read_file(path).with_context(|| format!("cannot read keys.root_key_file {}", path.display()))?;
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
        Ok(store) => {
            let healing = store::open(store, &config.store);
            Ok(Arc::new(healing.with_context(|| format!("cannot open the key store at {path}"))?))
        }
        Err(StoreError::Missing { .. }) => bail!(
            "there is no key store at {path}. A first one is made by: portcullis init --config FILE. \
             If there was one before, its volume is not mounted. Or set keys.root_key_file."
        ),
        Err(error) => Err(error).with_context(|| format!("cannot open the key store at {path}")),
    }
}

/// Makes sure of the operator's key, again and again for as long as a fault of the store may take to pass.
///
/// # Errors
/// When the key is not stored by then, or cannot be.
pub(super) async fn ensure_root(keyring: &Keyring, secret: &KeySecret, control: &Handle) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        match keyring.ensure_root(secret).await {
            Ok(_) => return Ok(()),
            Err(ChangeError::Unavailable) if begun.elapsed() < HEALING_MAX => {
                // Whoever waits here may have no clock.
                let _ = control.spawn(async { tokio::time::sleep(HEALING_POLL).await }).await;
            }
            Err(error) => return Err(error).context("cannot store the root key"),
        }
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
    let clock = Clock::System;
    let metrics = Metrics::new(1, clock.clone());
    let keyring = Keyring::open(Arc::new(store), &config.keys, clock, metrics, control.handle())?;
    let stored = control.block_on(keyring.ensure_root(&secret));
    control.block_on(keyring.close());
    control.stop();
    stored.context("cannot store the root key")?;
    Ok(secret)
}

/// Everything that requests are judged by. What is the same as `before` goes on with what it has: an upstream with its
/// connections, the limits of routes and of client addresses with what was taken of them.
pub(super) fn gate(
    config: &Config,
    keyring: &Arc<Keyring>,
    metrics: &Metrics,
    before: Option<(&Config, &Gate)>,
) -> anyhow::Result<Gate> {
    let workers = config.listen.workers.get();
    let previous = before.map(|(_, gate)| gate.upstreams.as_slice()).unwrap_or_default();
    let succeed = |UpstreamConfig { name, urls, settings }: &UpstreamConfig| {
        let upstream = Upstream::succeed(previous, name, urls, settings, workers, metrics);
        upstream.with_context(|| format!("upstream.{name}.tls"))
    };
    let upstreams = config.upstreams.iter().map(succeed);
    let upstreams: Vec<Arc<Upstream>> = upstreams.collect::<Result<_, _>>()?;
    let buckets = before.map(|(_, gate)| buckets(gate)).unwrap_or_default();
    let route = |(pattern, line): (&Pattern, &RouteConfig)| {
        let upstream = Arc::clone(&upstreams[line.upstream]);
        let name: Arc<str> = pattern.to_string().into();
        let metrics = metrics.route(&name, &upstream.name);
        let settings = line.settings.clone();
        let limit = route_limit(&settings, buckets.get(&*name));
        let requirement = Arc::new(settings.requirement.clone());
        (pattern.clone(), Route { name, settings, requirement, upstream, metrics, limit })
    };
    let Ok(table) = Table::build(config.routes.lines().map(route).collect()) else {
        bail!("the routes contradict each other, which the configuration's reader should have told");
    };
    let hosts = config.requests.hosts.iter().map(|HostName(host)| host.clone()).collect();
    Ok(Gate {
        table,
        upstreams,
        requests: config.requests.clone(),
        sources: config.credentials.from.clone(),
        challenge: Challenge::basic(config.credentials.realm.as_str()),
        trusted_proxies: config.forwarding.trusted_proxies.clone(),
        admin: Arc::new(Admin::new(&config.admin, config.scopes.clone(), Arc::clone(keyring), hosts)),
        managed_on: config.admin.listeners.clone(),
        allowance: config.limits.key.allowance(),
        failures: failures(config, before),
        unmatched: metrics.route(NO_ROUTE, LOCAL),
        mount: config.admin.path.as_str().into(),
        managed: metrics.route(config.admin.path.as_str(), LOCAL),
        access_log: config.log.access,
    })
}

fn buckets(gate: &Gate) -> HashMap<&str, &Arc<Bucket>> {
    let limits = gate.table.lines().filter_map(|(_, route)| Some((&*route.name, route.limit.as_ref()?)));
    limits.map(|(name, limit)| (name, &limit.bucket)).collect()
}

fn route_limit(settings: &RouteSettings, bucket: Option<&&Arc<Bucket>>) -> Option<RouteLimit> {
    let rate = settings.rate?;
    let quota = Quota::new(rate, settings.burst.unwrap_or(rate.count));
    Some(RouteLimit { quota, bucket: bucket.map(|bucket| Arc::clone(bucket)).unwrap_or_default() })
}

fn failures(config: &Config, before: Option<(&Config, &Gate)>) -> Arc<Failures> {
    let limits = &config.limits.failures;
    match before {
        Some((old, gate)) if old.limits.failures == *limits => Arc::clone(&gate.failures),
        Some((_, gate)) => Arc::new(gate.failures.succeeded_by(limits, Instant::now())),
        None => Arc::new(Failures::new(limits)),
    }
}
