//! The configuration file: every module's own options composed, and the route table.
//!
//! Declares no option of its own. Invariants: a file with any problem yields no configuration; a line that would never
//! take effect is a problem.

mod routes;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use crate::admin;
use crate::credential;
use crate::http::headers;
use crate::key::{DECLARED_MAX, Scope, ScopeCatalog};
use crate::keyring;
use crate::limit;
use crate::log;
use crate::ops;
use crate::proxy::{self, RouteSettings};
use crate::route::Table;
use crate::server;
use crate::settings::{Node, Problems, Reading, Section, Source, Value};
use crate::store;
use crate::upstream::{self, Url};

/// Everything that the program needs to know, read and checked.
#[derive(Debug)]
pub struct Config {
    pub listen: server::Listen,
    pub client: server::Client,
    pub shutdown: server::Shutdown,
    pub store: store::Settings,
    pub keys: keyring::Settings,
    pub admin: admin::Settings,
    pub credentials: credential::Settings,
    pub requests: proxy::Settings,
    pub limits: limit::Settings,
    pub forwarding: headers::Settings,
    pub log: log::Settings,
    pub scopes: ScopeCatalog,
    pub upstreams: Vec<UpstreamConfig>,
    pub routes: Table<RouteConfig>,
}

/// An `[upstream.NAME]`.
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamConfig {
    pub name: String,
    pub url: Url,
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
    /// Reads the file at `path`. Blocking.
    ///
    /// # Errors
    /// [`ConfigError`], with all problems at once.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let bytes = std::fs::read(path)
            .map_err(|source| ConfigError::Unreadable { path: path.display().to_string(), source })?;
        Ok(Self::parse(&decoded(path, bytes)?)?)
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
        reading.finish()?;
        Ok((config.expect("a document without a problem was read whole: readers report before they give none"), names))
    }
}

impl Value for Config {
    fn read(node: &Node<'_>) -> Option<Self> {
        let mut section = node.section()?;
        let scopes = section.node("scopes").map(|node| read_scopes(&node)).unwrap_or_default();
        let requests = section.option("requests", proxy::Settings::default);
        let credentials = section.option("credentials", credential::Settings::default);
        let admin = section.option("admin", admin::Settings::default);
        let reader = routes::Reader::new(&scopes, &requests, &credentials.from, &admin);
        let (upstreams, routes) = read_upstreams(&mut section, reader);
        let mut config = Self {
            listen: section.option("listen", server::Listen::default),
            client: section.option("client", server::Client::default),
            shutdown: section.option("shutdown", server::Shutdown::default),
            store: section.option("store", store::Settings::default),
            keys: section.option("keys", keyring::Settings::default),
            limits: section.option("limits", limit::Settings::default),
            forwarding: section.option("forwarding", headers::Settings::default),
            log: section.option("log", log::Settings::default),
            scopes,
            requests,
            credentials,
            admin,
            upstreams,
            routes,
        };
        config.anchor_paths(node.folder());
        config.check_addresses(node, &mut section);
        config.check_mount(&mut section);
        check_effects(&mut section);
        section.finish();
        Some(config)
    }
}

impl Config {
    /// Relative paths start at the file's own folder, wherever the program was started.
    fn anchor_paths(&mut self, folder: &Path) {
        self.store.path = folder.join(&self.store.path);
        if let Some(file) = &mut self.keys.root_key_file {
            *file = folder.join(&file);
        }
    }

    /// What the ops listener answers itself would hide the key API there, or be hidden by it.
    fn check_mount(&self, section: &mut Section<'_>) {
        let path = section.node("admin").and_then(|admin| inside(&admin)?.node("path"));
        let mount = &self.admin.path;
        let clash = ops::RESERVED_PATHS.into_iter().find(|reserved| mount.overlaps(reserved));
        if let (Some(path), Some(reserved), true) = (path, clash, self.admin.is_on_ops()) {
            let mount = mount.as_str();
            path.problem::<()>(format!(
                "admin.path {mount} and {reserved} overlap on the ops listener; choose another"
            ));
        }
    }

    /// Two listeners on one address cannot both be bound; an upstream that is one of them would forward in a circle.
    fn check_addresses(&self, node: &Node<'_>, section: &mut Section<'_>) {
        let (public, ops) = (self.listen.public, self.listen.ops);
        let span = section.node("listen").map_or(node.span(), |listen| listen.span());
        if public == ops && public.port() != 0 {
            node.problem_at(span, format!("listen.public and listen.ops are both {public}; give each its own"));
        } else if public.port() == ops.port() && public.port() != 0 && includes(public, ops) {
            let message = format!(
                "listen.public {public} and listen.ops {ops} cannot both be bound: one includes the other; give each its own port"
            );
            node.problem_at(span, message);
        }
        let span = section.node("upstream").map_or(node.span(), |upstream| upstream.span());
        for upstream in &self.upstreams {
            for listener in [public, ops] {
                if is_same_place(listener, &upstream.url) {
                    let message = format!("upstream.{} is this gate's own listener {listener}", upstream.name);
                    node.problem_at(span.clone(), message);
                }
            }
        }
    }
}

/// Whether one of the two is a wildcard that the other's address falls under; `[::]` takes IPv4 connections too.
fn includes(one: SocketAddr, other: SocketAddr) -> bool {
    let covers = |wild: IpAddr, other: IpAddr| wild.is_unspecified() && (wild.is_ipv6() || other.is_ipv4());
    covers(one.ip(), other.ip()) || covers(other.ip(), one.ip())
}

/// Whether a connection to `url` ends at this listener. Names but `localhost` are not resolved.
fn is_same_place(listener: SocketAddr, url: &Url) -> bool {
    let (host, port) = url.target();
    let loopbacks = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
    let targets = match host.parse().map(|address: IpAddr| address.to_canonical()) {
        // The kernel connects these to the machine itself.
        Ok(IpAddr::V4(address)) if address.is_unspecified() => loopbacks[..1].to_vec(),
        Ok(IpAddr::V6(address)) if address.is_unspecified() => loopbacks.to_vec(),
        Ok(address) => vec![address],
        Err(_) if host.trim_end_matches('.').eq_ignore_ascii_case("localhost") => loopbacks.to_vec(),
        Err(_) => return false,
    };
    let own = listener.ip();
    let is_here = |target: &IpAddr| {
        let under = own.is_unspecified() && target.is_loopback() && (own.is_ipv6() || target.is_ipv4());
        *target == own.to_canonical() || under
    };
    port != 0 && port == listener.port() && targets.iter().any(is_here)
}

/// Options that nothing would come of beside the others.
fn check_effects(section: &mut Section<'_>) {
    let key_limits = section.node("limits").and_then(|limits| inside(&limits)?.node("key"));
    if let Some(mut key_limits) = key_limits.as_ref().and_then(inside) {
        routes::check_burst(&mut key_limits);
    }
    let sources = section.node("credentials").and_then(|credentials| inside(&credentials)?.node("from"));
    if let Some(sources) = sources.filter(|sources| sources.value().as_array().is_some_and(|array| array.is_empty())) {
        sources.problem::<()>("credentials.from is empty: no request could carry a key; add \"basic\" or \"bearer\"");
    }
}

/// The table at `node`; that it is none was told before.
fn inside<'a>(node: &Node<'a>) -> Option<Section<'a>> {
    node.value().is_table().then(|| node.section()).flatten()
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
        let url = match upstream.node("url") {
            Some(url) => Url::read(&url),
            None => entry.node.problem(format!("{} has no url; add url = \"http://HOST:PORT\"", entry.node.path())),
        };
        if let Some(routes) = upstream.node("routes") {
            reader.read(&routes, upstreams.len());
        }
        let settings = upstream::Settings::fields(&mut upstream);
        upstream.finish();
        // An upstream without a URL is a problem already: the place is kept so that the routes' numbers stay right.
        let url = url.unwrap_or_else(Url::unknown);
        upstreams.push(UpstreamConfig { name: entry.name, url, settings });
    }
    let table = reader.finish(Some(&node));
    (upstreams, table)
}

fn is_plain_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}
