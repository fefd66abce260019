//! Another configuration for a gate that runs: all of it at once, or nothing.

use std::sync::Arc;
use std::time::Duration;

use crate::config::Config;
use crate::key::{Digest, KeySecret};
use crate::proxy::Proxy;
use crate::upstream;

use super::tls::tell_upstream_certificates;
use super::{Present, Running, build};

/// Why a new configuration is not taken while the gate runs.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    #[error("{0:#}")]
    Invalid(anyhow::Error),
    #[error("{} cannot change while the gate runs; restart it", .options.join(", "))]
    NeedsRestart { options: Vec<String> },
}

impl Running {
    /// Replaces everything that can change while the gate runs, atomically: a request that has begun keeps what it began
    /// with, and so does a connection with its deadlines. Blocks for as long as files are read.
    ///
    /// # Errors
    /// [`ReloadError`]; nothing has changed then.
    pub async fn reload(&self, config: Config) -> Result<(), ReloadError> {
        let reloaded = self.take_over(config).await;
        self.proxy.metrics.reload(&reloaded);
        reloaded
    }

    /// How often to look whether the configuration's files have changed; `None`: never.
    pub(super) async fn watch_interval(&self) -> Option<Duration> {
        self.present.lock().await.config.reload.watch
    }

    async fn take_over(&self, config: Config) -> Result<(), ReloadError> {
        let mut present = self.present.lock().await;
        let options = needing_restart(&present.config, &config);
        if !options.is_empty() {
            return Err(ReloadError::NeedsRestart { options });
        }
        let Proxy { gate, keyring, metrics, control, .. } = &*self.proxy;
        let old = gate.load_full();
        let root = build::root_key(&config).map_err(ReloadError::Invalid)?;
        let tls = self.tls.prepare(&config.tls)?;
        let new = build::gate(&config, keyring, metrics, Some((&present.config, &old)));
        let new = Arc::new(new.map_err(ReloadError::Invalid)?);
        let root = self.ensure_root(&present, root.as_ref()).await.map_err(ReloadError::Invalid)?;
        // Nothing can fail from here on.
        self.tls.install(tls);
        gate.store(Arc::clone(&new));
        upstream::take_over(&old.upstreams, &new.upstreams, control);
        tell_upstream_certificates(&new.upstreams, metrics);
        keyring.reconfigure(&config.keys);
        self.backups.reconfigure(&config.store.backup);
        self.slots.resize(config.client.connections_max);
        // Before the other settings of connections, which accept loops look at.
        self.http2.store(Arc::new(config.http2.clone()));
        self.client.store(Arc::new(config.client.clone()));
        if let Some(log) = &self.log {
            log.reconfigure(&config.log);
        }
        *present = Present { config, root };
        Ok(())
    }

    /// Only a key that is new in its file: one that was there at the last look may have been deleted since, which a
    /// reload for other reasons must not undo.
    async fn ensure_root(&self, present: &Present, root: Option<&KeySecret>) -> anyhow::Result<Option<Digest>> {
        let Some(secret) = root else { return Ok(None) };
        let digest = secret.digest();
        if !present.root.is_some_and(|known| known.matches(&digest)) {
            build::ensure_root(&self.proxy.keyring, secret, &self.proxy.control).await?;
        }
        Ok(Some(digest))
    }
}

/// What threads, sockets and the store were started with.
fn needing_restart(old: &Config, new: &Config) -> Vec<String> {
    let listen = old.listen.differences(&new.listen).into_iter().map(|option| format!("listen.{option}"));
    let store = old.store.differences(&new.store).into_iter().filter(|option| *option != "backup");
    let store = store.map(|option| format!("store.{option}"));
    let mut options: Vec<String> = listen.chain(store).collect();
    // A listener speaks TLS or it does not.
    let has_tls = |config: &Config| [config.tls.public.is_some(), config.tls.ops.is_some()];
    let switched = ["tls.public", "tls.ops"].into_iter().zip(has_tls(old).into_iter().zip(has_tls(new)));
    options.extend(switched.filter(|(_, (was, is))| was != is).map(|(section, _)| section.to_owned()));
    if old.keys.keys_cached_max != new.keys.keys_cached_max {
        options.push("keys.keys_cached_max".to_owned());
    }
    options
}
