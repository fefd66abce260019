//! Route lines: a pattern and what it asks for, in the short form or as a table.

use std::ops::Range;

use crate::admin;
use crate::credential::Source;
use crate::key::{Scope, ScopeCatalog, ScopeSet};
use crate::policy::Requirement;
use crate::proxy::{self, CredentialSegment, HostName, Rewrite, RouteSettings};
use crate::route::{ConflictKind, Host, Pattern, Table};
use crate::settings::{Entry, Node, Section, Value, nearest};
use crate::upstream;

use super::RouteConfig;

const FORMS: &str = "a scope such as \"metrics:read\", \"public\", \"authenticated\", \"deny\", \
     { any = [\"a\", \"b\"] } or { all = [\"a\", \"b\"] }";

/// What a route can need that is no scope.
pub(super) const WORDS: [&str; 3] = ["authenticated", "deny", "public"];

/// Collects the lines of all upstreams, then builds their one table.
pub(super) struct Reader<'c> {
    scopes: &'c ScopeCatalog,
    requests: &'c proxy::Settings,
    sources: &'c [Source],
    admin: &'c admin::Settings,
    lines: Vec<(Pattern, RouteConfig)>,
    /// Of the upstream whose lines are being read.
    rewrite: Rewrite,
    spans: Vec<Range<usize>>,
}

impl<'c> Reader<'c> {
    pub(super) fn new(
        scopes: &'c ScopeCatalog,
        requests: &'c proxy::Settings,
        sources: &'c [Source],
        admin: &'c admin::Settings,
    ) -> Self {
        Self { scopes, requests, sources, admin, lines: Vec::new(), rewrite: Rewrite::default(), spans: Vec::new() }
    }

    /// Reads the routes of upstream number `upstream`, of which `hosts`, `rewrite` and `options` are the defaults.
    pub(super) fn read(
        &mut self,
        node: &Node<'_>,
        upstream: usize,
        hosts: &[Host],
        rewrite: Rewrite,
        options: &upstream::Settings,
    ) {
        self.rewrite = rewrite;
        for entry in node.entries().unwrap_or_default() {
            let pattern = match Pattern::parse(&entry.name) {
                Ok(pattern) => pattern.for_hosts(hosts),
                Err(error) => {
                    node.problem_at(entry.name_span, format!("route \"{}\": {error}", entry.name));
                    continue;
                }
            };
            self.check_reach(&entry, &pattern);
            let Some(settings) = self.settings(&entry.node, options) else { continue };
            check_credential(&entry, &pattern, &settings);
            check_sources(&entry, &pattern, &settings);
            check_upgrade(&entry, &pattern, &settings);
            for problem in settings.rewrite.problems(&pattern, &settings.requirement) {
                entry.node.problem_at(entry.name_span.clone(), format!("route \"{}\": {problem}", entry.name));
            }
            self.lines.push((pattern, RouteConfig { upstream, settings }));
            self.spans.push(entry.name_span);
        }
    }

    /// No request may get to a line: the key API owns its path, or its host is refused before.
    fn check_reach(&self, entry: &Entry<'_>, pattern: &Pattern) {
        let report = |reason: String| {
            let message = format!("route \"{}\" can never match: {reason}", entry.name);
            entry.node.problem_at(entry.name_span.clone(), message);
        };
        if self.admin.is_on_public() && pattern.is_within(self.admin.path.as_str()) {
            report(format!("{} is the key API's own path (admin.path)", self.admin.path.as_str()));
        }
        let served = &self.requests.hosts;
        let is_served = |host: &&Host| served.is_empty() || served.iter().any(|HostName(name)| name.overlaps(host));
        for host in pattern.hosts().iter().filter(|host| !is_served(host)) {
            report(format!("requests.hosts does not list {host}"));
        }
    }

    /// Builds the table; lines that contradict each other are reported at the later one.
    pub(super) fn finish(self, node: Option<&Node<'_>>) -> Table<RouteConfig> {
        let texts: Vec<String> = self.lines.iter().map(|(pattern, _)| pattern.to_string()).collect();
        match Table::build(self.lines) {
            Ok(table) => table,
            Err(conflicts) => {
                for conflict in conflicts {
                    let Some(node) = node else { break };
                    let line = node.line_of(&self.spans[conflict.first]);
                    let (first, second) = (&texts[conflict.first], &texts[conflict.second]);
                    let message = match conflict.kind {
                        ConflictKind::SameRequests { method } => {
                            format!(
                                "route \"{second}\" claims {method} requests that \"{first}\" in line {line} has; keep one"
                            )
                        }
                        ConflictKind::Unreachable => {
                            format!(
                                "route \"{second}\" can never match: \"{first}\" in line {line} and others are in front of it"
                            )
                        }
                    };
                    node.problem_at(self.spans[conflict.second].clone(), message);
                }
                Table::default()
            }
        }
    }

    fn settings(&self, node: &Node<'_>, upstream: &upstream::Settings) -> Option<RouteSettings> {
        if node.value().is_array() {
            return node.problem(
                "a bare list does not say whether one or all are needed; write { any = [...] } or { all = [...] }",
            );
        }
        if !node.value().is_table() {
            return Some(self.plain(self.requirement(node)?, upstream));
        }
        let mut section = node.section()?;
        let requirement = self.table_requirement(node, &mut section);
        let settings =
            self.plain(requirement.clone().unwrap_or(Requirement::Nobody), upstream).read_options(&mut section);
        check_burst(&mut section);
        section.finish();
        requirement.map(|_| settings)
    }

    fn plain(&self, requirement: Requirement, upstream: &upstream::Settings) -> RouteSettings {
        RouteSettings::plain(requirement, self.requests, self.sources, &self.rewrite, upstream)
    }

    fn table_requirement(&self, node: &Node<'_>, section: &mut Section<'_>) -> Option<Requirement> {
        let (any, all, require) = (section.node("any"), section.node("all"), section.node("require"));
        match (any, all, require) {
            (Some(any), None, None) => self.scope_set(&any).map(Requirement::AnyOf),
            (None, Some(all), None) => self.scope_set(&all).map(Requirement::AllOf),
            (None, None, Some(require)) => self.requirement(&require),
            (None, None, None) => {
                node.problem("this route says not what it needs; add any = [...], all = [...] or require = \"...\"")
            }
            _ => node.problem("give one of any, all and require, not several"),
        }
    }

    fn requirement(&self, node: &Node<'_>) -> Option<Requirement> {
        if node.value().as_str().is_none() {
            return node.problem(format!("a route needs {FORMS}"));
        }
        match node.text()?.as_str() {
            "authenticated" => Some(Requirement::AnyKey),
            "deny" => Some(Requirement::Nobody),
            "public" => Some(Requirement::Public),
            _ => self.scope(node).map(|scope| Requirement::AllOf(ScopeSet::new([scope]))),
        }
    }

    fn scope_set(&self, node: &Node<'_>) -> Option<ScopeSet> {
        let elements = node.elements()?;
        if elements.is_empty() {
            return node.problem("an empty list of scopes; name at least one, or write \"authenticated\" or \"deny\"");
        }
        let scopes: Vec<Option<Scope>> = elements.iter().map(|element| self.scope(element)).collect();
        Some(ScopeSet::new(scopes.into_iter().collect::<Option<Vec<Scope>>>()?))
    }

    fn scope(&self, node: &Node<'_>) -> Option<Scope> {
        let text = String::read(node)?;
        let declared = Scope::parse(&text).ok().filter(|scope| self.scopes.contains(scope));
        if declared.is_some() {
            return declared;
        }
        let known = self.scopes.iter().map(|(scope, _)| scope.as_str()).chain(WORDS);
        match nearest(&text, known) {
            Some(near) => node.problem(format!("scope \"{text}\" is not declared; did you mean \"{near}\"?")),
            None => node.problem(format!("scope \"{text}\" is not declared; add it to [scopes], or write {FORMS}")),
        }
    }
}

/// A burst is how a rate begins: alone it would bound nothing.
pub(super) fn check_burst(section: &mut Section<'_>) {
    let Some(burst) = section.node("burst").filter(|burst| !burst.is_off()) else { return };
    if section.node("rate").is_none_or(|rate| rate.is_off()) {
        burst.problem::<()>(format!(
            "{} has no effect without a rate; add rate = \"10/s\" or leave it out",
            burst.path()
        ));
    }
}

/// Where the key is looked for does not matter on a line that takes it from its path, or takes none.
fn check_sources(entry: &Entry<'_>, pattern: &Pattern, settings: &RouteSettings) {
    let reason = match &settings.requirement {
        Requirement::Public => "a public route reads no key",
        _ if pattern.has_credential() => "the {credential} segment alone is read",
        _ => return,
    };
    let Some(mut section) = entry.node.value().is_table().then(|| entry.node.section()).flatten() else { return };
    for name in ["sources", "credential_query"] {
        if let Some(option) = section.node(name).filter(|option| !option.is_off()) {
            option.problem::<()>(format!("route \"{}\": {name} has no effect, {reason}; leave it out", entry.name));
        }
    }
}

/// RFC 6455 §4.1: a WebSocket begins with a GET.
fn check_upgrade(entry: &Entry<'_>, pattern: &Pattern, settings: &RouteSettings) {
    if settings.upgrade && !pattern.takes("GET") {
        let message = format!("route \"{}\": upgrade has no effect without GET; add it or leave it out", entry.name);
        entry.node.problem_at(entry.name_span.clone(), message);
    }
}

/// A `{credential}` that nobody reads would reach the upstream as it is.
fn check_credential(entry: &Entry<'_>, pattern: &Pattern, settings: &RouteSettings) {
    if pattern.has_credential() && settings.requirement == Requirement::Public {
        let message = format!(
            "route \"{}\" is public, so nothing would read its {{credential}}, and the upstream would see it; \
             name the segment otherwise, or write \"authenticated\"",
            entry.name
        );
        entry.node.problem_at(entry.name_span.clone(), message);
    }
    if !pattern.has_credential() && settings.credential_segment == CredentialSegment::Keep {
        let message = format!("route \"{}\" has no {{credential}} segment that could be kept", entry.name);
        entry.node.problem_at(entry.name_span.clone(), message);
    }
}
