//! The configuration of a test's gate, as TOML text, and what is not text: its store and its clock.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use portcullis::clock::Clock;
use portcullis::store::Store;

use super::tls::{Pair, TlsClient};
use super::upstream::Upstream;

/// The rules of the hostile catalogue, chosen so that confusion pays: a wide and cheap one above a narrow and dear one.
const ROUTES: [(&str, &str); 7] = [
    ("GET /api/{*rest}", r#""monitor:read""#),
    ("ANY /api/v1/admin/{*rest}", r#""monitor:write""#),
    ("POST /api/v1/write", r#""telemetry:write""#),
    ("GET,POST /api/v1/query", r#""monitor:read""#),
    ("GET /open/{*rest}", r#""authenticated""#),
    ("GET,POST /public/{*rest}", r#""public""#),
    ("ANY /closed/{*rest}", r#""deny""#),
];

/// What a gate is started with. The defaults suit most tests: one worker, memory store, the routes above.
#[derive(Clone)]
pub struct Setup {
    pub(super) clock: Clock,
    pub(super) store: Option<Arc<dyn Store>>,
    pub(super) sled: bool,
    /// In the order of their first mention, each with its lines.
    sections: Vec<(String, Vec<String>)>,
    routes: Vec<(String, String)>,
    /// Each URL that requests go to in place of the recording upstream.
    upstream_urls: Vec<String>,
    /// How callers reach the public listener; `None`: in clear text.
    pub(super) tls: Option<TlsClient>,
}

impl Setup {
    pub(super) fn new() -> Self {
        let routes = ROUTES.map(|(line, needs)| (line.to_owned(), needs.to_owned())).to_vec();
        let setup = Self {
            clock: Clock::System,
            store: None,
            sled: false,
            sections: Vec::new(),
            routes,
            upstream_urls: Vec::new(),
            tls: None,
        };
        setup
            .option("listen", r#"public = "127.0.0.1:0""#)
            .option("listen", r#"ops = "127.0.0.1:0""#)
            .option("listen", "workers = 1")
            .option("store", r#"path = "data""#)
    }

    /// Adds or replaces one line of a table: `option("limits", r#"key = { rate = "1/s" }"#)`. The empty name is the
    /// document's root.
    pub fn option(mut self, section: &str, line: &str) -> Self {
        let name = |line: &str| line.split('=').next().unwrap_or_default().trim().to_owned();
        let at = self.sections.iter().position(|(known, _)| known == section).unwrap_or_else(|| {
            self.sections.push((section.to_owned(), Vec::new()));
            self.sections.len() - 1
        });
        let lines = &mut self.sections[at].1;
        lines.retain(|known| name(known) != name(line));
        lines.push(line.to_owned());
        self
    }

    /// Whether a table has a line.
    pub(super) fn has(&self, section: &str) -> bool {
        self.sections.iter().any(|(name, _)| name == section)
    }

    /// Adds or replaces a line of `[upstream.main]`.
    pub fn upstream(self, line: &str) -> Self {
        self.option("upstream.main", line)
    }

    /// Adds or replaces one route; `needs` is TOML: `r#""monitor:read""#`, `r#"{ all = [..] }"#`.
    pub fn route(mut self, line: &str, needs: &str) -> Self {
        self.routes.retain(|(known, _)| known != line);
        self.routes.push((line.to_owned(), needs.to_owned()));
        self
    }

    /// Drops every route, the default ones too.
    pub fn no_routes(mut self) -> Self {
        self.routes.clear();
        self
    }

    /// Takes the scopes and routes of a preset in `config/` in place of the default routes.
    pub fn preset(self, name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name).with_extension("toml");
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut section = "";
        let mut setup = self.no_routes();
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                section = name;
                continue;
            }
            let Some((route, needs)) = line.strip_prefix('"').and_then(|rest| rest.split_once("\" = ")) else {
                continue;
            };
            setup = match section {
                "scopes" => setup.option("scopes", line),
                _ if section.ends_with(".routes") => setup.route(route, needs),
                _ => setup,
            };
        }
        setup
    }

    /// Makes the public listener speak TLS with this certificate, and callers with it as `client` does.
    pub fn tls(mut self, certificate: &Pair, client: &TlsClient) -> Self {
        self.tls = Some(client.clone());
        self.option("tls.public", &format!("certificates = [{}]", certificate.toml()))
    }

    /// Makes callers shake hands as this client does.
    pub fn callers(mut self, client: &TlsClient) -> Self {
        self.tls = Some(client.clone());
        self
    }

    /// Sends requests elsewhere than to the recording upstream.
    pub fn upstream_url(mut self, url: &str) -> Self {
        self.upstream_urls = vec![url.to_owned()];
        self
    }

    /// The same, to several places.
    pub fn upstream_urls(mut self, urls: impl IntoIterator<Item = String>) -> Self {
        self.upstream_urls = urls.into_iter().collect();
        self
    }

    /// Sends requests to these recording upstreams.
    pub fn targets<'u>(self, targets: impl IntoIterator<Item = &'u Upstream>) -> Self {
        self.upstream_urls(targets.into_iter().map(Upstream::url))
    }

    pub fn clock(mut self, clock: &Clock) -> Self {
        self.clock = clock.clone();
        self
    }

    /// Uses this store, wrapped ones too.
    pub fn store(mut self, store: Arc<dyn Store>) -> Self {
        self.store = Some(store);
        self
    }

    /// Uses sled in a temporary folder.
    pub fn sled(mut self) -> Self {
        self.sled = true;
        self
    }

    /// The whole configuration file.
    pub(super) fn toml(&self, upstream: SocketAddr) -> String {
        let urls = match &self.upstream_urls[..] {
            [] => format!("\"http://{upstream}\""),
            [url] => format!("{url:?}"),
            several => format!("{several:?}"),
        };
        let mut text = String::new();
        let (root, tables): (Vec<_>, Vec<_>) = self.sections.iter().partition(|(name, _)| name.is_empty());
        for (_, lines) in root {
            text += &(lines.join("\n") + "\n");
        }
        for (name, lines) in tables.iter().filter(|(name, _)| name != "upstream.main") {
            text += &format!("[{name}]\n{}\n", lines.join("\n"));
        }
        text += &format!("[upstream.main]\nurl = {urls}\n");
        for (_, lines) in tables.iter().filter(|(name, _)| name == "upstream.main") {
            text += &(lines.join("\n") + "\n");
        }
        text += "[upstream.main.routes]\n";
        for (line, needs) in &self.routes {
            text += &format!("{line:?} = {needs}\n");
        }
        text
    }
}
