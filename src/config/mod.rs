//! The configuration file: every module's own options composed, and the route table.
//!
//! Declares no option of its own but `seal`, which is about the file itself. Invariants: a file with any problem yields
//! no configuration; a line that would never take effect is a problem.

mod combined;
mod routes;
mod seal;

use std::path::Path;

use crate::admin;
use crate::credential;
use crate::http::headers;
use crate::key::{DECLARED_MAX, Scope, ScopeCatalog};
use crate::keyring;
use crate::limit;
use crate::log;
use crate::proxy::{self, HostName, Rewrite, RouteSettings};
use crate::reload;
use crate::route::{HOSTS_MAX, Host, Table};
use crate::server;
use crate::settings::{FileState, Node, Problems, Reading, Section, Source, Value, read_file};
use crate::store;
use crate::tls;
use crate::upstream::{self, Urls};

/// Everything that the program needs to know, read and checked.
#[derive(Debug)]
pub struct Config {
    pub listen: server::Listen,
    pub client: server::Client,
    pub http2: server::Http2,
    pub shutdown: server::Shutdown,
    pub tls: tls::Settings,
    pub store: store::Settings,
    pub keys: keyring::Settings,
    pub admin: admin::Settings,
    pub credentials: credential::Settings,
    pub requests: proxy::Settings,
    pub limits: limit::Settings,
    pub forwarding: headers::Settings,
    pub log: log::Settings,
    pub reload: reload::Settings,
    pub scopes: ScopeCatalog,
    pub upstreams: Vec<UpstreamConfig>,
    pub routes: Table<RouteConfig>,
}

/// An `[upstream.NAME]`.
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamConfig {
    pub name: String,
    pub urls: Urls,
    pub settings: upstream::Settings,
}

/// A line of an `[upstream.NAME.routes]`.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteConfig {
    /// The position in [`Config::upstreams`].
    pub upstream: usize,
    pub settings: RouteSettings,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{0}")]
    Problems(#[from] Problems),
    #[error("cannot read {path}")]
    Unreadable { path: String, source: std::io::Error },
}

impl Config {
    /// Reads the file at `path`, and none that it names. Blocking.
    ///
    /// # Errors
    /// [`ConfigError`], with all problems at once.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::load_noting_files(path).0
    }

    /// As [`Config::load`]; the certificates and keys that the file names must be usable too.
    ///
    /// # Errors
    /// [`ConfigError`], with all problems at once.
    pub fn load_with_files(path: &Path) -> Result<Self, ConfigError> {
        let config = Self::load(path)?;
        Self::check_files(path)?;
        Ok(config)
    }

    /// Whether the certificates and keys that a valid file names can be used. Blocking.
    ///
    /// # Errors
    /// [`ConfigError`], with all problems at once.
    pub fn check_files(path: &Path) -> Result<(), ConfigError> {
        let source = read_source(path)?;
        let reading = Reading::new(&source);
        reading.document::<combined::Files>();
        Ok(reading.finish()?)
    }

    /// As [`Config::load`], with all files that the outcome depends on, the file itself included, as they were before
    /// they were read.
    pub fn load_noting_files(path: &Path) -> (Result<Self, ConfigError>, Vec<FileState>) {
        let mut files = vec![FileState::of(path)];
        let source = match read_source(path) {
            Ok(source) => source,
            Err(error) => return (Err(error), files),
        };
        let reading = Reading::new(&source);
        let config = reading.document::<Self>();
        files.extend(reading.files());
        let config = finished(reading, config);
        let named = config.iter().filter_map(|config| config.keys.root_key_file.as_deref());
        files.extend(named.map(FileState::of));
        let upstreams = config.iter().flat_map(|config| &config.upstreams);
        files.extend(upstreams.flat_map(|upstream| upstream.settings.tls.files()).map(FileState::of));
        (config.map_err(ConfigError::from), files)
    }

    /// Reads a configuration from its text; relative paths start at the folder of `source.path`.
    ///
    /// # Errors
    /// All problems at once.
    pub fn parse(source: &Source) -> Result<Self, Problems> {
        Self::parse_with_names(source).map(|(config, _)| config)
    }

    /// As [`Config::parse`], with the dotted names of all options that the sections of this file can have.
    ///
    /// # Errors
    /// All problems at once.
    pub fn parse_with_names(source: &Source) -> Result<(Self, Vec<String>), Problems> {
        let reading = Reading::new(source);
        let config = reading.document::<Self>();
        let names = reading.asked();
        Ok((finished(reading, config)?, names))
    }
}

fn read_source(path: &Path) -> Result<Source, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.display().to_string(), source };
    let bytes = read_file(path).map_err(unreadable)?;
    Ok(decoded(path, bytes)?)
}

fn finished(reading: Reading<'_>, config: Option<Config>) -> Result<Config, Problems> {
    reading.finish()?;
    Ok(config.expect("a document without a problem was read whole: readers report before they give none"))
}

impl Value for Config {
    fn read(node: &Node<'_>) -> Option<Self> {
        let mut section = node.section()?;
        seal::check(&mut section);
        let scopes = section.node("scopes").map(|node| read_scopes(&node)).unwrap_or_default();
        let requests = section.option("requests", proxy::Settings::default);
        let credentials = section.option("credentials", credential::Settings::default);
        let admin = section.option("admin", admin::Settings::default);
        let reader = routes::Reader::new(&scopes, &requests, &credentials.from, &admin);
        let (upstreams, routes) = read_upstreams(&mut section, reader);
        let mut config = Self {
            listen: section.option("listen", server::Listen::default),
            client: section.option("client", server::Client::default),
            http2: section.option("http2", server::Http2::default),
            shutdown: section.option("shutdown", server::Shutdown::default),
            tls: section.option("tls", tls::Settings::default),
            store: section.option("store", store::Settings::default),
            keys: section.option("keys", keyring::Settings::default),
            limits: section.option("limits", limit::Settings::default),
            forwarding: section.option("forwarding", headers::Settings::default),
            log: section.option("log", log::Settings::default),
            reload: section.option("reload", reload::Settings::default),
            scopes,
            requests,
            credentials,
            admin,
            upstreams,
            routes,
        };
        config.anchor_paths(node.folder());
        combined::check(&config, node, &mut section);
        section.finish();
        Some(config)
    }
}

impl Config {
    /// Relative paths start at the file's own folder, wherever the program was started.
    fn anchor_paths(&mut self, folder: &Path) {
        self.store.path = folder.join(&self.store.path);
        if let Some(directory) = &mut self.store.backup.directory {
            *directory = folder.join(&directory);
        }
        self.tls.anchor(folder);
        if let Some(file) = &mut self.keys.root_key_file {
            *file = folder.join(&file);
        }
        for upstream in &mut self.upstreams {
            upstream.settings.tls.anchor(folder);
        }
    }
}

/// # Errors
/// The place of the first byte that is no UTF-8, which TOML is written in.
fn decoded(path: &Path, bytes: Vec<u8>) -> Result<Source, Problems> {
    let path = path.to_owned();
    let error = match String::from_utf8(bytes) {
        Ok(text) => return Ok(Source { path, text }),
        Err(error) => error,
    };
    let at = error.utf8_error().valid_up_to();
    let source = Source { path, text: String::from_utf8_lossy(error.as_bytes()).into_owned() };
    let reading = Reading::new(&source);
    reading.report(at..at, format!("byte 0x{:02x} is not UTF-8; save the file as UTF-8", error.as_bytes()[at]));
    reading.finish().map(|()| source)
}

fn read_scopes(node: &Node<'_>) -> ScopeCatalog {
    let mut catalog = ScopeCatalog::default();
    let entries = node.entries().unwrap_or_default();
    if entries.len() > DECLARED_MAX {
        node.problem::<()>(format!("at most {DECLARED_MAX} scopes can be declared"));
    }
    for entry in entries {
        let description = String::read(&entry.node).unwrap_or_default();
        let declared = match Scope::parse(&entry.name) {
            // Where a line from further up has slipped below [scopes].
            Ok(_) if entry.name == seal::NAME => {
                Err("cannot be declared: seal is an option of the whole file; write it before all other lines"
                    .to_owned())
            }
            Ok(_) if routes::WORDS.contains(&entry.name.as_str()) => {
                Err("cannot be declared: routes write this word for something else; choose another name".to_owned())
            }
            Ok(scope) => catalog.declare(scope, description).map_err(|error| error.to_string()),
            Err(error) => Err(format!("cannot be declared: {error}")),
        };
        if let Err(message) = declared {
            entry.node.problem_at(entry.name_span, format!("scope \"{}\" {message}", entry.name));
        }
    }
    catalog
}

fn read_upstreams(
    section: &mut Section<'_>,
    mut reader: routes::Reader<'_>,
) -> (Vec<UpstreamConfig>, Table<RouteConfig>) {
    let mut upstreams = Vec::new();
    let Some(node) = section.node("upstream") else { return (upstreams, reader.finish(None)) };
    for entry in node.entries().unwrap_or_default() {
        if !is_plain_name(&entry.name) {
            let message = format!("\"{}\": an upstream's name has 1 to 64 of a-z A-Z 0-9 _ -", entry.name);
            entry.node.problem_at(entry.name_span.clone(), message);
        }
        let Some(mut upstream) = entry.node.section() else { continue };
        let urls = match upstream.node("url") {
            Some(url) => Urls::read(&url),
            None => entry.node.problem(format!("{} has no url; add url = \"http://HOST:PORT\"", entry.node.path())),
        };
        let hosts = read_hosts(&mut upstream);
        let rewrite = Rewrite::read(&mut upstream, Rewrite::default());
        let settings = upstream::Settings::fields(&mut upstream);
        if let Some(routes) = upstream.node("routes") {
            reader.read(&routes, upstreams.len(), &hosts, rewrite, &settings);
        }
        upstream.finish();
        // An upstream without a URL is a problem already: the place is kept so that the routes' numbers stay right.
        let urls = urls.unwrap_or_else(Urls::unknown);
        upstreams.push(UpstreamConfig { name: entry.name, urls, settings });
    }
    let table = reader.finish(Some(&node));
    (upstreams, table)
}

/// The hosts of an upstream's lines that name none of their own.
fn read_hosts(upstream: &mut Section<'_>) -> Vec<Host> {
    let Some(node) = upstream.node("hosts") else { return Vec::new() };
    let hosts: Vec<Host> = Vec::read(&node).unwrap_or_default().into_iter().map(|HostName(host)| host).collect();
    if hosts.len() > HOSTS_MAX {
        node.problem::<()>(format!("{} lists more than {HOSTS_MAX} hosts; write *.example.com", node.path()));
    }
    hosts
}

fn is_plain_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}
