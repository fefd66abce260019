//! The verdict on a supposed request: admission's own steps in their own order, with a key that exists nowhere.
//!
//! Takes every decision and every refusal from where the gate takes them (`route`, `policy`, `admin`, `http::Refusal`);
//! a test holds its verdicts against those of a running gate.

use std::fmt;

use crate::admin;
use crate::config::{Config, RouteConfig};
use crate::http::Refusal;
use crate::http::framing::{Malformed, check_head};
use crate::key::ScopeSet;
use crate::policy::{self, Requirement, ScopeHolder};
use crate::proxy::{HostName, check_opt_ins, forwarded_target, without_port};
use crate::route::{Found, Path, Pattern, Table};

use super::listed;
use super::request::Request;

/// Stands for a `Host` that no line and no option names.
const UNNAMED_HOST: &str = "unnamed.invalid";

/// Who is supposed to send the request.
pub(super) enum Caller {
    Key(ScopeSet),
    Stranger,
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(scopes) => write!(f, "a key with {}", scopes.names().join(", ")),
            Self::Stranger => f.write_str("a stranger, without a key (--scopes or --kind suppose one)"),
        }
    }
}

/// The key of a [`Caller`].
struct Supposed<'s>(&'s ScopeSet);

impl ScopeHolder for Supposed<'_> {
    fn scopes(&self) -> &ScopeSet {
        self.0
    }
}

/// What admits the request.
pub(super) enum Admitted {
    KeyApi,
    /// The position in [`Config::upstreams`].
    Upstream(usize),
}

/// What becomes of a request, and what led there.
pub(super) struct Judgement<'c> {
    pub(super) line: Option<(&'c Pattern, &'c RouteConfig)>,
    pub(super) reasons: Vec<String>,
    /// What the upstream would get in the place of the client's target; `None` when it is the same.
    pub(super) target: Option<String>,
    pub(super) verdict: Result<Admitted, Refusal>,
}

/// The host to suppose when none is given: one that is served, if not all are.
pub(super) fn assumed_host(config: &Config) -> Option<String> {
    config.requests.hosts.first().map(|HostName(host)| host.example())
}

pub(super) fn judge<'c>(config: &'c Config, request: &Request, host: Option<&str>, caller: &Caller) -> Judgement<'c> {
    let mut judgement = Judgement { line: None, reasons: Vec::new(), target: None, verdict: Ok(Admitted::KeyApi) };
    let judge = Judge { config, request, given_host: host, host: host.map(without_port), caller };
    judgement.verdict = judge.verdict(&mut judgement);
    judgement
}

struct Judge<'j, 'c> {
    config: &'c Config,
    request: &'j Request,
    /// Perhaps with a port.
    given_host: Option<&'j str>,
    host: Option<&'j str>,
    caller: &'j Caller,
}

impl<'c> Judge<'_, 'c> {
    fn verdict(&self, judgement: &mut Judgement<'c>) -> Result<Admitted, Refusal> {
        self.check_framing(judgement)?;
        self.check_host(judgement)?;
        let path = Path::parse(self.request.path()).map_err(|error| {
            judgement.reasons.push("the path has no single safe reading, so no line is looked for".to_owned());
            Refusal::MalformedPath(error)
        })?;
        if self.config.admin.is_on_public() && self.config.admin.path.covers(path.raw()) {
            return self.key_api(&path, judgement);
        }
        let method = self.request.method.as_str();
        match self.config.routes.find(self.host, &path, method) {
            Found::Line { line, pattern, credential } => {
                judgement.line = Some((pattern, line));
                judgement.target = forwarded_target(&line.settings, &path, self.request.query(), credential);
                judgement.reasons.push(self.why_this_line(pattern, &path));
                self.pass(line, &path)
            }
            miss => {
                judgement.reasons.push(self.why_no_line(&path, &miss));
                check_opt_ins(false, false, &path)?;
                if matches!(self.caller, Caller::Stranger) {
                    judgement.reasons.push("strangers are not told which paths exist".to_owned());
                    return Err(Refusal::CredentialsMissing);
                }
                Err(match miss {
                    Found::MethodNotAllowed { allow } => Refusal::MethodNotAllowed { allow: allow.to_owned() },
                    _ => Refusal::RouteUnknown,
                })
            }
        }
    }

    /// What the guard says of the request's head, were it sent with nothing else in it.
    fn check_framing(&self, judgement: &mut Judgement<'c>) -> Result<(), Refusal> {
        let Request { method, target } = self.request;
        let host = self.given_host.unwrap_or(UNNAMED_HOST);
        let head = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let client = &self.config.client;
        let limits = client.request_limits();
        // A line end would begin a field of its own.
        let checked =
            if host.contains(['\r', '\n']) { Err(Malformed::Host) } else { check_head(head.as_bytes(), limits) };
        checked.map_err(|malformed| {
            judgement.reasons.push("the request is malformed, so no line is looked for".to_owned());
            Refusal::Malformed(malformed)
        })
    }

    fn check_host(&self, judgement: &mut Judgement<'c>) -> Result<(), Refusal> {
        let served = &self.config.requests.hosts;
        let named = |host: &str| served.iter().any(|HostName(served)| served.covers(host));
        if served.is_empty() || self.host.is_some_and(named) {
            return Ok(());
        }
        judgement.reasons.push("requests.hosts does not list the host".to_owned());
        Err(Refusal::HostRefused)
    }

    /// Any valid key may call the key API; what it then needs depends on the call.
    fn key_api(&self, path: &Path<'_>, judgement: &mut Judgement<'c>) -> Result<Admitted, Refusal> {
        let mount = &self.config.admin.path;
        judgement.reasons.push(format!("{} and all below it is the key API, whatever the routes say", mount.as_str()));
        check_opt_ins(false, false, path)?;
        let Caller::Key(scopes) = self.caller else { return Err(Refusal::CredentialsMissing) };
        let Some(needed) = admin::scope_needed(mount, self.request.method.as_str(), path.raw())? else {
            judgement.reasons.push("any key may read or delete itself".to_owned());
            return Ok(Admitted::KeyApi);
        };
        judgement.reasons.push(format!("this call needs {needed}"));
        if !scopes.holds_named(needed) {
            return Err(Refusal::ScopeMissing { required: ScopeSet::of(&[needed]), any: false });
        }
        Ok(Admitted::KeyApi)
    }

    fn pass(&self, line: &RouteConfig, path: &Path<'_>) -> Result<Admitted, Refusal> {
        let settings = &line.settings;
        check_opt_ins(settings.allow_encoded_slash, settings.allow_semicolon, path)?;
        let key = match self.caller {
            _ if settings.requirement == Requirement::Public => None,
            Caller::Key(scopes) => Some(Supposed(scopes)),
            // Before the requirement is looked at: a closed route is no news for strangers.
            Caller::Stranger => return Err(Refusal::CredentialsMissing),
        };
        policy::authorize(&settings.requirement, key)?;
        Ok(Admitted::Upstream(line.upstream))
    }

    fn why_this_line(&self, winner: &Pattern, path: &Path<'_>) -> String {
        let others = self.alone(path, |found| matches!(found, Found::Line { .. }));
        let broader = listed(others.filter(|pattern| *pattern != winner));
        if broader.is_empty() {
            return "no other line matches".to_owned();
        }
        format!("the most specific line that matches, before {broader}")
    }

    fn why_no_line(&self, path: &Path<'_>, miss: &Found<'_, RouteConfig>) -> String {
        let Found::MethodNotAllowed { allow } = miss else {
            return "no line matches the path, and what no line allows is refused".to_owned();
        };
        let broader = listed(self.alone(path, |found| matches!(found, Found::Line { .. })));
        if broader.is_empty() {
            return format!("the path takes {allow} alone");
        }
        format!("the most specific path takes {allow} alone, and a broader line does not step in: {broader}")
    }

    /// The lines of which a table of that line alone would say what `is_wanted` wants.
    fn alone<'t>(
        &'t self,
        path: &'t Path<'_>,
        is_wanted: impl Fn(&Found<'_, ()>) -> bool + 't,
    ) -> impl Iterator<Item = &'c Pattern> + 't {
        self.config.routes.lines().map(|(pattern, _)| pattern).filter(move |pattern| {
            let alone = Table::build(vec![((*pattern).clone(), ())]);
            alone.is_ok_and(|table| is_wanted(&table.find(self.host, path, self.request.method.as_str())))
        })
    }
}
