//! TLS of the listeners: made at the start, reloaded with the configuration and when its files change. And what the gate
//! shows of itself to upstreams.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::clock::Clock;
use crate::metrics::{Listener, Metrics, UpstreamCertificate};
use crate::tls::{H2, HTTP1, Prepared, Server, ServerSettings, Settings, Validity};
use crate::upstream::Upstream;

use super::ReloadError;

/// What is offered to clients, the preferred first.
const PROTOCOLS: &[&[u8]] = &[H2, HTTP1];

/// The listeners that speak TLS, and the task that looks at their files.
pub(super) struct TlsListeners {
    pub(super) public: Option<Arc<Server>>,
    pub(super) ops: Option<Arc<Server>>,
    control: Handle,
    watch: Mutex<Option<AbortHandle>>,
}

/// New settings of all listeners, read and not yet in use.
pub(super) struct PreparedListeners {
    public: Option<Prepared>,
    ops: Option<Prepared>,
    reload_interval: Option<Duration>,
}

impl TlsListeners {
    /// Blocking. `control` runs the look at the files.
    pub(super) fn new(settings: &Settings, metrics: &Arc<Metrics>, control: Handle) -> anyhow::Result<Self> {
        let server = |listener: Listener, settings: &Option<ServerSettings>| {
            let Some(settings) = settings else { return Ok(None) };
            let server = Server::new(listener, settings, PROTOCOLS, Clock::System, Arc::clone(metrics));
            server.map(|server| Some(Arc::new(server))).with_context(|| format!("[tls.{}]", listener.as_str()))
        };
        let public = server(Listener::Public, &settings.public)?;
        let ops = server(Listener::Ops, &settings.ops)?;
        let listeners = Self { public, ops, control, watch: Mutex::default() };
        listeners.watch(settings.reload_interval);
        Ok(listeners)
    }

    /// Reads the files of new settings. Blocking.
    pub(super) fn prepare(&self, settings: &Settings) -> Result<PreparedListeners, ReloadError> {
        let prepare = |server: &Option<Arc<Server>>, settings: &Option<ServerSettings>, section: &'static str| match (
            server, settings,
        ) {
            (None, None) => Ok(None),
            (Some(server), Some(settings)) => match server.prepare(settings) {
                Ok(prepared) => Ok(Some(prepared)),
                Err(error) => Err(ReloadError::Invalid(anyhow::Error::new(error).context(format!("[{section}]")))),
            },
            _ => Err(ReloadError::NeedsRestart { options: vec![section.to_owned()] }),
        };
        Ok(PreparedListeners {
            public: prepare(&self.public, &settings.public, "tls.public")?,
            ops: prepare(&self.ops, &settings.ops, "tls.ops")?,
            reload_interval: settings.reload_interval,
        })
    }

    /// New handshakes use what was prepared; running connections live on.
    pub(super) fn install(&self, prepared: PreparedListeners) {
        for (server, prepared) in [(&self.public, prepared.public), (&self.ops, prepared.ops)] {
            if let (Some(server), Some(prepared)) = (server, prepared) {
                server.install(prepared);
            }
        }
        self.watch(prepared.reload_interval);
    }

    /// Looks at the files from now on, and no longer at the pace of before. Ends with the control runtime.
    fn watch(&self, interval: Option<Duration>) {
        let servers: Vec<Arc<Server>> = self.public.iter().chain(&self.ops).cloned().collect();
        let watch = interval.filter(|_| !servers.is_empty()).map(|interval| {
            let watching = keep_current(servers, interval);
            self.control.spawn(watching).abort_handle()
        });
        let mut running = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = std::mem::replace(&mut *running, watch) {
            old.abort();
        }
    }
}

/// Never ends of itself. One look that was begun is finished even when this is dropped, and does no harm.
async fn keep_current(servers: Vec<Arc<Server>>, interval: Duration) {
    loop {
        tokio::time::sleep(interval).await;
        let servers = servers.clone();
        let looked = tokio::task::spawn_blocking(move || servers.iter().for_each(|server| server.refresh())).await;
        if let Err(panic) = looked {
            tracing::error!(error = %panic, "looking at the TLS files failed");
        }
    }
}

/// Tells when the certificates end that upstreams are shown, once these are in use.
pub(super) fn tell_upstream_certificates(upstreams: &[Arc<Upstream>], metrics: &Metrics) {
    let shown = upstreams.iter().filter_map(|upstream| Some((upstream.name.as_str(), upstream.own_certificate()?)));
    let told = shown.map(|(upstream, own)| {
        let (file, expiry) = (own.path.display().to_string(), own.expiry);
        match own.validity(Clock::System.now()) {
            Validity::Good => {}
            Validity::EndsSoon => {
                tracing::warn!(upstream, certificate = %file, %expiry, "certificate expires within 14 days; replace it");
            }
            Validity::Over => {
                tracing::warn!(upstream, certificate = %file, %expiry, "certificate has expired, the upstream may refuse it; replace it");
            }
        }
        UpstreamCertificate { upstream: upstream.to_owned(), file, expiry }
    });
    metrics.upstream_certificates_loaded(told.collect());
}
