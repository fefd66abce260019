//! One configuration's worth of routes, ready to serve: handles resolved, limiters made.

use std::sync::Arc;

use http::HeaderMap;
use ipnet::IpNet;

use crate::admin::{Admin, ListenerName};
use crate::credential::Source;
use crate::http::{Challenge, Refusal};
use crate::limit::{Allowance, Bucket, Failures, Quota};
use crate::metrics::RouteMetrics;
use crate::policy::Requirement;
use crate::route::Table;
use crate::upstream::Upstream;

use super::admit::host_name;
use super::settings::{HostName, RouteSettings, Settings};

/// Everything that a request is judged by.
pub struct Gate {
    pub table: Table<Route>,
    /// Those that the routes lead to, and those that none leads to.
    pub upstreams: Vec<Arc<Upstream>>,
    pub requests: Settings,
    pub sources: Vec<Source>,
    pub challenge: Challenge,
    pub trusted_proxies: Vec<IpNet>,
    pub admin: Arc<Admin>,
    /// The listeners on which the key API owns its path.
    pub managed_on: Vec<ListenerName>,
    /// What each key is allowed.
    pub allowance: Allowance,
    pub failures: Arc<Failures>,
    /// Counts requests that no route matches, or that are refused before the look-up.
    pub unmatched: Arc<RouteMetrics>,
    /// The key API's path, for logs.
    pub mount: Arc<str>,
    /// Counts calls of the key API.
    pub managed: Arc<RouteMetrics>,
    pub access_log: bool,
}

/// One line of the table.
pub struct Route {
    /// The pattern as configured, for logs.
    pub name: Arc<str>,
    pub settings: RouteSettings,
    /// That of `settings`, for requests that outlive this table.
    pub requirement: Arc<Requirement>,
    pub upstream: Arc<Upstream>,
    pub metrics: Arc<RouteMetrics>,
    /// What the requests of the route are allowed together; `None` is without limit.
    pub limit: Option<RouteLimit>,
}

/// The bucket outlives its configuration, for a route that the next one has too.
#[derive(Clone, Debug)]
pub struct RouteLimit {
    pub quota: Quota,
    pub bucket: Arc<Bucket>,
}

impl Gate {
    /// Whether the key API of this listener owns the path.
    pub(super) fn manages(&self, listener: ListenerName, path: &str) -> bool {
        self.managed_on.contains(&listener) && self.admin.covers(path)
    }

    pub(super) fn check_host(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let served = &self.requests.hosts;
        let is_served = |host| served.iter().any(|HostName(served)| served.covers(host));
        if served.is_empty() || host_name(headers).is_some_and(is_served) {
            return Ok(());
        }
        Err(Refusal::HostRefused)
    }
}
