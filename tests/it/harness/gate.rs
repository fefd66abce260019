//! A gate in this process, with its upstream and its root key.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use portcullis::app::{self, Running, Start};
use portcullis::config::Config;
use portcullis::key::KeySecret;
use portcullis::settings::Source;
use portcullis::store::{MemoryStore, SledStore, Store};
use tempfile::TempDir;

use super::DEADLINE;
use super::answer::Answer;
use super::caller::Caller;
use super::secrets;
use super::setup::Setup;
use super::tls::TlsClient;
use super::upstream::Upstream;
use super::wire::Wire;

/// A running gate; dropped, it shuts down.
pub struct Gate {
    running: Option<Running>,
    upstream: Upstream,
    root: String,
    public: SocketAddr,
    ops: SocketAddr,
    folder: TempDir,
    tls: Option<TlsClient>,
    setup: Setup,
}

impl Gate {
    /// The default rig: see [`Setup`].
    #[track_caller]
    pub fn start() -> Self {
        Self::with(|setup| setup)
    }

    /// The default rig with changes: `Gate::with(|setup| setup.option("limits", r#"key = { rate = "1/s" }"#))`.
    #[track_caller]
    pub fn with(change: impl FnOnce(Setup) -> Setup) -> Self {
        secrets::watch();
        // What is logged is searched for secrets: as much as there is.
        let setup = change(Setup::new().option("log", "access = true"));
        let upstream = Upstream::start();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let source = Source { path: folder.path().join("portcullis.toml"), text: setup.toml(upstream.address()) };
        let config = Config::parse(&source).unwrap_or_else(|problems| panic!("{problems}"));
        let root = KeySecret::generate().expect("randomness");
        let text = root.expose().to_owned();
        secrets::issued(&text);
        let store: Arc<dyn Store> = match setup.store.clone() {
            _ if setup.sled => Arc::new(SledStore::create(&config.store).expect("a new store")),
            Some(store) => store,
            None => Arc::new(MemoryStore::default()),
        };
        let start = Start { store: Some(store), clock: setup.clock.clone(), root: Some(root), ..Start::default() };
        let running = app::start(config, start).unwrap_or_else(|error| panic!("the gate starts: {error:#}"));
        let (public, ops) = (running.public(), running.ops());
        let tls = setup.tls.clone();
        Self { running: Some(running), upstream, root: text, public, ops, folder, tls, setup }
    }

    pub fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// Where the public listener is.
    pub fn public(&self) -> SocketAddr {
        self.public
    }

    pub fn ops(&self) -> SocketAddr {
        self.ops
    }

    /// The holder of `*`.
    pub fn root(&self) -> Caller {
        self.caller(&self.root)
    }

    /// The holder of a fresh custom key with these scopes.
    #[track_caller]
    pub fn key(&self, scopes: &[&str]) -> Caller {
        self.root().create(scopes)
    }

    /// The holder of a fresh key of the telemetry kind.
    #[track_caller]
    pub fn telemetry_key(&self) -> Caller {
        self.root().create_from(&serde_json::json!({"name": "test telemetry key", "kind": "telemetry"}))
    }

    pub fn anonymous(&self) -> Caller {
        Caller::new(self.public, None).over(self.tls.as_ref())
    }

    /// A caller that presents this text as its key, whatever it is.
    pub fn caller(&self, secret: &str) -> Caller {
        Caller::new(self.public, Some(secret)).over(self.tls.as_ref())
    }

    /// A raw connection to the public listener.
    #[track_caller]
    pub fn raw(&self) -> Wire {
        Wire::connect(self.public)
    }

    /// Gets a path from the ops listener.
    #[track_caller]
    pub fn ops_get(&self, path: &str) -> Answer {
        Caller::new(self.ops, None).get(path)
    }

    /// The value of one metric sample, by its name and labels as `/metrics` writes them; 0 when there is none.
    #[track_caller]
    pub fn metric(&self, sample: &str) -> f64 {
        let text = self.ops_get("/metrics").text();
        let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap_or_else(|_| panic!("{sample} is {value}")))
    }

    /// Waits until a metric sample has this value.
    #[track_caller]
    pub fn wait_for_metric(&self, sample: &str, value: f64) {
        let deadline = Instant::now() + DEADLINE;
        while self.metric(sample) != value {
            assert!(Instant::now() < deadline, "{sample} is not {value} but {}", self.metric(sample));
        }
    }

    /// Takes a changed configuration, as on SIGHUP.
    #[track_caller]
    pub fn reload(&mut self, change: impl FnOnce(Setup) -> Setup) {
        self.setup = change(self.setup.clone());
        let path = self.folder.path().join("portcullis.toml");
        let source = Source { path, text: self.setup.toml(self.upstream.address()) };
        let config = Config::parse(&source).unwrap_or_else(|problems| panic!("{problems}"));
        let running = self.running.as_ref().expect("the gate runs");
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(running.reload(config)).unwrap_or_else(|error| panic!("{error}"));
    }

    /// The folder that the configuration's relative paths start from.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Drains and stops the gate; the upstream stays.
    pub fn shutdown(&mut self) {
        if let Some(running) = self.running.take() {
            running.shutdown();
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // A test that failed while the upstream held a request would else wait for the drain's whole bound.
        self.upstream.release();
        if self.running.is_some() && !self.setup.has("tls.ops") && !std::thread::panicking() {
            self.ops_get("/metrics");
        }
        self.shutdown();
        secrets::check_log();
        secrets::check_files(self.folder.path());
    }
}
