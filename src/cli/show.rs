//! Settings as the configuration file would write them.

use std::time::Duration;

use crate::config::Config;
use crate::credential::Source;
use crate::limit;
use crate::policy::Requirement;
use crate::proxy::{HostHeader, LimitStatus, Rewrite, RouteSettings};
use crate::settings::{ByteSize, Rate};

const DURATION_UNITS: [(u128, &str); 5] = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms")];
const SIZE_UNITS: [(u64, &str); 4] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B")];

pub(super) fn requirement(requirement: &Requirement) -> String {
    match requirement {
        Requirement::AllOf(scopes) if scopes.iter().len() == 1 => scopes.names().concat(),
        Requirement::AllOf(scopes) => format!("all of {}", scopes.names().join(", ")),
        Requirement::AnyKey => "authenticated".to_owned(),
        Requirement::AnyOf(scopes) => format!("any of {}", scopes.names().join(", ")),
        Requirement::Nobody => "deny".to_owned(),
        Requirement::Public => "public".to_owned(),
    }
}

/// What bounds the requests of a route.
pub(super) fn limits(route: &RouteSettings) -> String {
    let mut limits = Vec::new();
    limits.extend(route.timeout.map(|timeout| format!("timeout {}", duration(timeout))));
    limits.extend(route.max_body.map(|max| format!("body {}", size(max))));
    limits.extend(route.rate.map(|limit| match route.burst {
        Some(burst) => format!("rate {} burst {burst}", rate(limit)),
        None => format!("rate {}", rate(limit)),
    }));
    if route.limit_status == LimitStatus::ServiceUnavailable {
        limits.push("503 beyond a rate".to_owned());
    }
    if route.upgrade {
        limits.push("upgrades".to_owned());
    }
    limits.join(", ")
}

/// What bounds the requests of each key; `None` when nothing does.
pub(super) fn key_limits(limits: &limit::KeyLimits) -> Option<String> {
    let mut shown = Vec::new();
    shown.extend(limits.rate.map(|limit| match limits.burst {
        Some(burst) => format!("rate {} burst {burst}", rate(limit)),
        None => format!("rate {}", rate(limit)),
    }));
    shown.extend(limits.concurrency.map(|max| format!("concurrency {max}")));
    if shown.is_empty() { None } else { Some(shown.join(", ")) }
}

/// Where a route takes its key from.
pub(super) fn sources(route: &RouteSettings, from_path: bool) -> String {
    if from_path {
        return "the {credential} segment of the path".to_owned();
    }
    let mut shown: Vec<String> = route.sources.iter().map(source).collect();
    shown.extend(route.credential_query.as_ref().map(|name| format!("query:{}", name.as_str())));
    shown.join(", ")
}

fn source(source: &Source) -> String {
    match source {
        Source::Basic => "basic".to_owned(),
        Source::Bearer => "bearer".to_owned(),
        Source::Header(name) => format!("header:{name}"),
    }
}

/// What becomes of a request's and a response's header fields, one line for each.
pub(super) fn changes(rewrite: &Rewrite) -> Vec<String> {
    let host = host(&rewrite.host).filter(|_| rewrite.host != HostHeader::Keep);
    let mut changes: Vec<String> = host.map(|host| format!("Host is {host}")).into_iter().collect();
    for (rules, whose) in [(&rewrite.request, ""), (&rewrite.response, "the response's ")] {
        changes.extend(rules.set().iter().map(|(name, template)| format!("{whose}{name} is {template}")));
        changes.extend(rules.removed().iter().map(|name| format!("{whose}{name} is dropped")));
    }
    changes
}

/// The option `host`, as the configuration writes it; `None` for what is no text.
pub(super) fn host(host: &HostHeader) -> Option<&str> {
    match host {
        HostHeader::Keep => Some("keep"),
        HostHeader::Named(name) => name.to_str().ok(),
        HostHeader::Upstream => Some("upstream"),
    }
}

/// The name of an upstream by its position.
pub(super) fn upstream(config: &Config, position: usize) -> &str {
    config.upstreams.get(position).map_or("", |upstream| upstream.name.as_str())
}

pub(super) fn duration(duration: Duration) -> String {
    let mut left = duration.as_millis();
    let mut shown = String::new();
    for (unit, name) in DURATION_UNITS {
        if left >= unit {
            shown.push_str(&format!("{}{name}", left / unit));
            left %= unit;
        }
    }
    shown
}

pub(super) fn size(size: ByteSize) -> String {
    let whole = SIZE_UNITS.into_iter().find(|(unit, _)| size.0.is_multiple_of(*unit));
    let (unit, name) = whole.unwrap_or((1, "B"));
    format!("{}{name}", size.0 / unit)
}

pub(super) fn rate(rate: Rate) -> String {
    let unit = match rate.per.as_secs() {
        1 => "s",
        60 => "m",
        _ => "h",
    };
    format!("{}/{unit}", rate.count)
}
