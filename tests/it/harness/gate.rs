//! A gate in this process, with its upstream and its root key.

use std::net::SocketAddr;
use std::sync::Arc;

use portcullis::app::{self, Running, Start};
use portcullis::config::Config;
use portcullis::key::KeySecret;
use portcullis::settings::Source;
use portcullis::store::{MemoryStore, SledStore, Store};
use tempfile::TempDir;

use super::answer::Answer;
use super::caller::Caller;
use super::setup::Setup;
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
        let setup = change(Setup::new());
        let upstream = Upstream::start();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let source = Source { path: folder.path().join("portcullis.toml"), text: setup.toml(upstream.address()) };
        let config = Config::parse(&source).unwrap_or_else(|problems| panic!("{problems}"));
        let root = KeySecret::generate().expect("randomness");
        let text = root.expose().to_owned();
        let store: Arc<dyn Store> = match setup.store {
            _ if setup.sled => Arc::new(SledStore::create(&config.store).expect("a new store")),
            Some(store) => store,
            None => Arc::new(MemoryStore::default()),
        };
        let start = Start { store: Some(store), clock: setup.clock, root: Some(root), ..Start::default() };
        let running = app::start(config, start).unwrap_or_else(|error| panic!("the gate starts: {error:#}"));
        let (public, ops) = (running.public(), running.ops());
        Self { running: Some(running), upstream, root: text, public, ops, folder }
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
        Caller::new(self.public, Some(&self.root))
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
        Caller::new(self.public, None)
    }

    /// A caller that presents this text as its key, whatever it is.
    pub fn caller(&self, secret: &str) -> Caller {
        Caller::new(self.public, Some(secret))
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
        self.shutdown();
    }
}
