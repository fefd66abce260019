//! The options of requests in general, and those of one route.

use std::num::NonZeroU32;
use std::time::Duration;

use http::StatusCode;

use crate::credential::Source;
use crate::policy::Requirement;
use crate::route::Host;
use crate::settings::{ByteSize, Node, Rate, Section, Value, settings};
use crate::upstream;

use super::rewrite::Rewrite;

settings! {
    /// `[requests]`: what holds for every request unless its route says otherwise.
    pub struct Settings {
        /// From the request's head to the last byte of its response.
        pub timeout: Option<Duration> = Some(Duration::from_secs(300)),
        /// The largest request body.
        pub max_body: Option<ByteSize> = Some(ByteSize::mib(64)),
        /// What a request beyond a rate is answered with: 429, or 503 for agents that drop data on 4xx.
        pub limit_status: LimitStatus = LimitStatus::TooManyRequests,
        /// The hosts that are served; a request for another gets 421. Empty: any host.
        pub hosts: Vec<HostName> = Vec::new(),
    }
}

/// The status of a request beyond a limit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LimitStatus {
    ServiceUnavailable,
    TooManyRequests,
}

impl From<LimitStatus> for StatusCode {
    fn from(status: LimitStatus) -> Self {
        match status {
            LimitStatus::ServiceUnavailable => Self::SERVICE_UNAVAILABLE,
            LimitStatus::TooManyRequests => Self::TOO_MANY_REQUESTS,
        }
    }
}

impl Value for LimitStatus {
    fn read(node: &Node<'_>) -> Option<Self> {
        match node.value().as_integer().map(toml::de::DeInteger::as_str) {
            Some("429") => Some(Self::TooManyRequests),
            Some("503") => Some(Self::ServiceUnavailable),
            _ => node.problem(format!("{} must be 429 or 503", node.path())),
        }
    }
}

/// A host, or with `*.` all those below one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HostName(pub Host);

impl Value for HostName {
    fn read(node: &Node<'_>) -> Option<Self> {
        let text = node.text()?;
        match Host::parse(&text) {
            Some(host) => Some(Self(host)),
            None => node.problem(format!(
                "\"{text}\" is not a host name; write it without scheme, port or path, such as \"api.example.com\", \
                 \"*.example.com\" or \"[::1]\""
            )),
        }
    }
}

/// What becomes of a `{credential}` segment on its way to the upstream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CredentialSegment {
    /// Forwarded as it came: the upstream sees the secret.
    Keep,
    /// Replaced by the key's id, so that the path keeps its shape.
    Replace,
}

impl Value for CredentialSegment {
    fn read(node: &Node<'_>) -> Option<Self> {
        match node.text()?.as_str() {
            "keep" => Some(Self::Keep),
            "replace" => Some(Self::Replace),
            _ => node.problem(format!("{} must be \"replace\" or \"keep\"", node.path())),
        }
    }
}

/// The name of a query parameter: the characters that need no escaping there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ParameterName(String);

impl ParameterName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Value for ParameterName {
    fn read(node: &Node<'_>) -> Option<Self> {
        let text = node.text()?;
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
            return node.problem(format!("{} must be a plain parameter name such as \"api_key\"", node.path()));
        }
        Some(Self(text))
    }
}

/// One line of the route table, but for its pattern.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteSettings {
    pub requirement: Requirement,
    pub timeout: Option<Duration>,
    /// The wait for the response's head; `None`: as long as the request may take.
    pub response_timeout: Option<Duration>,
    /// The wait between two pieces of the response's body; `None`: as long as the request may take.
    pub body_timeout: Option<Duration>,
    pub max_body: Option<ByteSize>,
    /// Whether a client may go on with a WebSocket.
    pub upgrade: bool,
    /// One bucket for all requests of the route, whoever sends them.
    pub rate: Option<Rate>,
    pub burst: Option<NonZeroU32>,
    pub limit_status: LimitStatus,
    pub sources: Vec<Source>,
    pub allow_encoded_slash: bool,
    pub allow_semicolon: bool,
    pub credential_segment: CredentialSegment,
    pub credential_query: Option<ParameterName>,
    pub rewrite: Rewrite,
}

impl RouteSettings {
    /// A route that takes everything from the general options and its upstream's, of which `rewrite` are some.
    pub fn plain(
        requirement: Requirement,
        requests: &Settings,
        sources: &[Source],
        rewrite: &Rewrite,
        upstream: &upstream::Settings,
    ) -> Self {
        Self {
            rewrite: rewrite.inherited_by(&requirement),
            requirement,
            timeout: requests.timeout,
            response_timeout: Some(upstream.response_timeout),
            body_timeout: Some(upstream.body_timeout),
            max_body: requests.max_body,
            upgrade: false,
            rate: None,
            burst: None,
            limit_status: requests.limit_status,
            sources: sources.to_vec(),
            allow_encoded_slash: false,
            allow_semicolon: false,
            credential_segment: CredentialSegment::Replace,
            credential_query: None,
        }
    }

    /// Reads the table form's options on top of the plain ones.
    pub fn read_options(self, section: &mut Section<'_>) -> Self {
        Self {
            requirement: self.requirement,
            timeout: section.option("timeout", || self.timeout),
            response_timeout: section.option("response_timeout", || self.response_timeout),
            body_timeout: section.option("body_timeout", || self.body_timeout),
            max_body: section.option("max_body", || self.max_body),
            upgrade: section.option("upgrade", || self.upgrade),
            rate: section.option("rate", || self.rate),
            burst: section.option("burst", || self.burst),
            limit_status: section.option("limit_status", || self.limit_status),
            sources: section.option("sources", || self.sources),
            allow_encoded_slash: section.option("allow_encoded_slash", || self.allow_encoded_slash),
            allow_semicolon: section.option("allow_semicolon", || self.allow_semicolon),
            credential_segment: section.option("credential_segment", || self.credential_segment),
            credential_query: section.option("credential_query", || self.credential_query),
            rewrite: Rewrite::read(section, self.rewrite),
        }
    }
}
