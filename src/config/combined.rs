//! What only sections together can get wrong: addresses that collide, and options that others leave without effect.
//!
//! Reads no option anew: it looks at what was read, and asks the file for the place alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::ops::Range;
use std::path::PathBuf;

use crate::ops;
use crate::settings::{Node, Section, Value};
use crate::tls;
use crate::upstream::{self, Url, Urls};

use super::{Config, UpstreamConfig, routes};

/// Reports what contradicts itself in `config`, which was read from `section`, the root `node`.
pub(super) fn check(config: &Config, node: &Node<'_>, section: &mut Section<'_>) {
    check_addresses(config, node, section);
    check_mount(config, section);
    check_proxy_protocol(config, section);
    check_backups(config, section);
    check_effects(config, section);
}

/// Believed by nobody, a listener that takes the PROXY protocol alone would take no connection.
fn check_proxy_protocol(config: &Config, section: &mut Section<'_>) {
    let option = section.node("listen").and_then(|listen| inside(&listen)?.node("proxy_protocol"));
    if let (Some(option), true, true) =
        (option, config.listen.proxy_protocol, config.forwarding.trusted_proxies.is_empty())
    {
        option.problem::<()>(
            "listen.proxy_protocol takes connections from forwarding.trusted_proxies alone, which lists nobody; \
             add the networks of your load balancers there",
        );
    }
}

/// What takes the store away would take its backups too.
fn check_backups(config: &Config, section: &mut Section<'_>) {
    let store = section.node("store").and_then(|store| inside(&store));
    let option = store.and_then(|mut store| inside(&store.node("backup")?)?.node("directory"));
    let is_inside = |directory: &PathBuf| directory.starts_with(&config.store.path);
    if let (Some(option), true) = (option, config.store.backup.directory.as_ref().is_some_and(is_inside)) {
        option
            .problem::<()>("store.backup.directory is inside of store.path; name one elsewhere, best on another disk");
    }
}

/// Two listeners on one address cannot both be bound; an upstream that is one of them would forward in a circle.
fn check_addresses(config: &Config, node: &Node<'_>, section: &mut Section<'_>) {
    let (public, ops) = (config.listen.public, config.listen.ops);
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
    for upstream in &config.upstreams {
        for listener in [public, ops] {
            if upstream.urls.iter().any(|url| is_same_place(listener, url)) {
                let message = format!("upstream.{} is this gate's own listener {listener}", upstream.name);
                node.problem_at(span.clone(), message);
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
    let Some((host, port)) = url.target() else { return false };
    let loopbacks = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
    let targets = match host.parse().map(|address: IpAddr| address.to_canonical()) {
        // The kernel connects these to the machine itself.
        Ok(IpAddr::V4(address)) if address.is_unspecified() => loopbacks[..1].to_vec(),
        Ok(IpAddr::V6(address)) if address.is_unspecified() => loopbacks[1..].to_vec(),
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

/// What the ops listener answers itself would hide the key API there, or be hidden by it.
fn check_mount(config: &Config, section: &mut Section<'_>) {
    let path = section.node("admin").and_then(|admin| inside(&admin)?.node("path"));
    let mount = &config.admin.path;
    let clash = ops::RESERVED_PATHS.into_iter().find(|reserved| mount.overlaps(reserved));
    if let (Some(path), Some(reserved), true) = (path, clash, config.admin.is_on_ops()) {
        let mount = mount.as_str();
        path.problem::<()>(format!("admin.path {mount} and {reserved} overlap on the ops listener; choose another"));
    }
}

/// Options that nothing would come of beside the others.
fn check_effects(config: &Config, section: &mut Section<'_>) {
    let key_limits = section.node("limits").and_then(|limits| inside(&limits)?.node("key"));
    if let Some(mut key_limits) = key_limits.as_ref().and_then(inside) {
        routes::check_burst(&mut key_limits);
    }
    let entries = section.node("upstream").filter(|node| node.value().is_table()).and_then(|node| node.entries());
    for entry in entries.iter().flatten() {
        let upstream = config.upstreams.iter().find(|upstream| upstream.name == entry.name);
        if let (Some(upstream), Some(mut section)) = (upstream, inside(&entry.node)) {
            check_upstream(upstream, &mut section);
            check_wires(upstream, &mut section);
        }
    }
    let sources = section.node("credentials").and_then(|credentials| inside(&credentials)?.node("from"));
    if let Some(sources) = sources.filter(|sources| sources.value().as_array().is_some_and(|array| array.is_empty())) {
        sources.problem::<()>("credentials.from is empty: no request could carry a key; add \"basic\" or \"bearer\"");
    }
}

/// What bounds a queue that nobody enters, checks that ask for nothing, and the terms of ejections and retries that never
/// come.
fn check_upstream(upstream: &UpstreamConfig, section: &mut Section<'_>) {
    let (settings, default) = (&upstream.settings, upstream::Settings::default());
    let (queue, timeout) = (section.node("queue"), section.node("queue_timeout"));
    let queue = queue.filter(|_| settings.queue != default.queue);
    let timeout = timeout.filter(|_| settings.queue_timeout != default.queue_timeout);
    if let (Some(node), None) = (queue.or(timeout), settings.concurrency) {
        let path = node.path();
        node.problem::<()>(format!("{path} has no effect without a limit; add concurrency = 100 or leave it out"));
    }
    if let (Some(node), None) = (section.node("health"), &settings.health.path)
        && settings.health != default.health
    {
        node.problem::<()>(format!("{} has no effect without a path; add path = \"/healthy\"", node.path()));
    }
    let off = upstream::Eject { failures: None, ..default.eject };
    if let (Some(node), None) = (section.node("eject"), settings.eject.failures)
        && settings.eject != off
    {
        let path = node.path();
        node.problem::<()>(format!("{path} has no effect with failures = \"off\"; leave the rest of it out"));
    }
    let once = upstream::Retry { attempts: NonZeroU32::MIN, ..default.retry };
    if let (Some(node), true) = (section.node("retry"), settings.retry.attempts == NonZeroU32::MIN)
        && settings.retry != once
    {
        let path = node.path();
        node.problem::<()>(format!("{path}.budget has no effect with attempts = 1; leave it out"));
    }
}

/// Options of wires that are never used would be taken for protection, or for limits.
fn check_wires(UpstreamConfig { urls, settings, .. }: &UpstreamConfig, section: &mut Section<'_>) {
    let tls = section.node("tls").filter(|_| settings.tls != tls::ClientSettings::default());
    if let Some(tls) = tls.filter(|_| !urls.iter().any(Url::is_https)) {
        tls.problem::<()>(format!("{} has no effect on {urls}; write https:// or leave it out", tls.path()));
    }
    let http2 = section.node("http2").filter(|_| settings.http2 != upstream::Http2::default());
    if let Some(http2) = http2.filter(|_| !urls.iter().any(|url| settings.protocol.may_be_http2(url))) {
        http2.problem::<()>(format!(
            "{} has no effect: HTTP/1.1 is spoken to {urls}; add protocol = \"http2\" or leave it out",
            http2.path()
        ));
    }
}

/// The files that a configuration names, beside the configuration itself: one that cannot be used is told where.
pub(super) struct Files;

impl Value for Files {
    fn read(node: &Node<'_>) -> Option<Self> {
        let mut section = node.section()?;
        let mut settings = section.option("tls", tls::Settings::default);
        settings.anchor(node.folder());
        let tls = section.node("tls");
        let mut tls = tls.as_ref().and_then(inside);
        for (name, settings) in [("public", &settings.public), ("ops", &settings.ops)] {
            let node = tls.as_mut().and_then(|tls| tls.node(name));
            if let (Some(node), Some(settings)) = (node, settings) {
                check_tls(&node, settings);
            }
        }
        let upstreams = section.node("upstream").and_then(|node| node.entries());
        upstreams.iter().flatten().for_each(|entry| check_upstream_tls(&entry.node));
        Some(Self)
    }
}

fn check_upstream_tls(node: &Node<'_>) {
    let Some(mut upstream) = inside(node) else { return };
    let urls = upstream.node("url").and_then(|url| Urls::read(&url));
    let Some(node) = upstream.node("tls").filter(|_| urls.is_some_and(|urls| urls.iter().any(Url::is_https))) else {
        return;
    };
    let Some(mut settings) = tls::ClientSettings::read(&node) else { return };
    settings.anchor(node.folder());
    if let Err(error) = tls::Client::new(&settings) {
        node.problem::<()>(format!("{}: {:#}", node.path(), anyhow::Error::new(error)));
    }
}

fn check_tls(node: &Node<'_>, settings: &tls::ServerSettings) {
    if let Err((place, error)) = tls::own_certificates(settings) {
        let message = format!("{}: {:#}", node.path(), anyhow::Error::new(error));
        node.problem_at(span_of(node, place), message);
    }
}

/// The whole section where the option is not set.
fn span_of(section: &Node<'_>, place: tls::Place) -> Range<usize> {
    let option = |name| inside(section)?.node(name);
    let found = match place {
        tls::Place::Certificate(index) => {
            option("certificates").and_then(|node| node.elements()?.get(index).map(Node::span))
        }
        tls::Place::Option(name) => option(name).map(|node| node.span()),
    };
    found.unwrap_or_else(|| section.span())
}

/// The table at `node`; that it is none was told before.
fn inside<'a>(node: &Node<'a>) -> Option<Section<'a>> {
    node.value().is_table().then(|| node.section()).flatten()
}
