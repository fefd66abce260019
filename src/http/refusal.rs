//! Why a request is refused, and the one place that turns a reason into a status.
//!
//! Two texts for each: the problem's `detail` for the client, `Display` for the log. What is our fault is 5xx, never
//! 401 or 403: agents drop data on 4xx and keep it on 5xx. Unknown, deleted and malformed keys answer alike.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Response, StatusCode};

use super::framing::Malformed;
use super::problem::{FieldError, Problem};
use super::request_id::RequestId;
use crate::key::ScopeSet;
use crate::metrics::Outcome;
use crate::policy::Deny;
use crate::route::PathError;

/// Every reason for which a request does not reach its upstream, or its change is not made.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("too many failed authentications from this address")]
    AddressLimited { wait: Duration },
    #[error("the body is larger than {max} bytes")]
    BodyTooLarge { max: u64 },
    #[error("the client stopped sending its body")]
    BodyTimeout,
    #[error("the client's body broke off or was malformed")]
    BodyBroken,
    #[error("the request carries two different keys")]
    CredentialsConflicting,
    #[error("the credentials hold no key")]
    CredentialsMalformed,
    #[error("the request carries no credentials")]
    CredentialsMissing,
    #[error("the request comes from another site's page")]
    CrossSite,
    #[error("the host is not served here")]
    HostRefused,
    #[error("the change's body is not valid")]
    InvalidBody { detail: String, errors: Vec<FieldError> },
    #[error("the query is not valid")]
    InvalidQuery { errors: Vec<FieldError> },
    #[error("the kind's scopes are fixed")]
    ImmutableScopes,
    #[error("the path has an encoded slash, and its route does not allow it")]
    EncodedSlash,
    #[error("an internal fault")]
    Internal,
    #[error("the key's concurrency limit is reached")]
    KeyConcurrencyLimited { status: StatusCode },
    #[error("the key's rate limit is reached")]
    KeyRateLimited { wait: Duration, status: StatusCode },
    #[error("no key of that id")]
    KeyNotFound,
    #[error("the key is unknown")]
    KeyUnknown,
    #[error("the number of keys is at its maximum")]
    KeysFull,
    #[error("the last key that can manage keys")]
    LastAdminKey,
    #[error("{0}")]
    Malformed(Malformed),
    #[error("the path is refused: {0}")]
    MalformedPath(PathError),
    #[error("the method is not allowed on this path")]
    MethodNotAllowed { allow: String },
    #[error("the media type is not JSON")]
    MediaTypeUnsupported,
    #[error("the request took longer than its deadline")]
    RequestTimeout,
    #[error("the route is closed")]
    RouteClosed,
    #[error("the route's rate limit is reached")]
    RouteRateLimited { wait: Duration, status: StatusCode },
    #[error("no route matches")]
    RouteUnknown,
    #[error("the key lacks a required scope")]
    ScopeMissing { required: ScopeSet, any: bool },
    #[error("the scopes exceed those of the caller")]
    ScopeExceedsCaller { excess: ScopeSet },
    #[error("the path has a semicolon, and its route does not allow it")]
    Semicolon,
    #[error("the key changed since it was read")]
    Stale,
    #[error("the key store is unavailable")]
    StoreUnavailable,
    #[error("the upstream has no free connection")]
    UpstreamBusy,
    #[error("the upstream's response is not valid")]
    UpstreamInvalid,
    #[error("the upstream did not answer in time")]
    UpstreamTimeout,
    #[error("the upstream cannot be reached")]
    UpstreamUnreachable,
}

impl From<Deny> for Refusal {
    fn from(deny: Deny) -> Self {
        match deny {
            Deny::Closed => Self::RouteClosed,
            Deny::KeyMissing => Self::CredentialsMissing,
            Deny::ScopeMissing { required, any } => Self::ScopeMissing { required, any },
            Deny::ScopesExceedGrantor { excess } => Self::ScopeExceedsCaller { excess },
        }
    }
}

/// What the text of the client's refusal depends on besides its reason.
#[derive(Clone, Debug)]
pub struct Challenge(HeaderValue);

impl Challenge {
    /// RFC 7617 §2: the Basic challenge, with the character set that its decoding assumes.
    pub fn basic(realm: &str) -> Self {
        let text = format!("Basic realm=\"{realm}\", charset=\"UTF-8\"");
        Self(HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("Basic realm=\"portcullis\"")))
    }
}

impl Refusal {
    /// The response to send. The connection's fate is the server's and the caller's business.
    pub fn into_response(self, request_id: RequestId, challenge: &Challenge) -> Response<Bytes> {
        let mut problem = self.into_problem();
        if problem.status == StatusCode::UNAUTHORIZED {
            problem = problem.with_header(WWW_AUTHENTICATE, challenge.0.clone());
        }
        problem.into_response(request_id)
    }

    /// The admission outcome that counts this refusal; `None` for those that come after admission.
    pub fn outcome(&self) -> Option<Outcome> {
        Some(match self {
            Self::AddressLimited { .. } => Outcome::AddressLimited,
            Self::BodyTooLarge { .. } => Outcome::BodyTooLarge,
            Self::CredentialsConflicting => Outcome::CredentialsConflicting,
            Self::CredentialsMalformed => Outcome::CredentialsMalformed,
            Self::CredentialsMissing => Outcome::CredentialsMissing,
            Self::HostRefused => Outcome::HostRefused,
            Self::Internal => Outcome::Internal,
            Self::KeyConcurrencyLimited { .. } => Outcome::KeyConcurrencyLimited,
            Self::KeyRateLimited { .. } => Outcome::KeyRateLimited,
            Self::KeyUnknown => Outcome::KeyUnknown,
            Self::Malformed(malformed) if malformed.status() == StatusCode::REQUEST_TIMEOUT => Outcome::TimedOut,
            Self::Malformed(malformed) if malformed.status() == StatusCode::EXPECTATION_FAILED => {
                Outcome::ExpectationFailed
            }
            Self::Malformed(_) => Outcome::MalformedRequest,
            Self::EncodedSlash | Self::MalformedPath(_) | Self::Semicolon => Outcome::MalformedPath,
            Self::MethodNotAllowed { .. } => Outcome::MethodNotAllowed,
            Self::RouteClosed => Outcome::RouteClosed,
            Self::RouteRateLimited { .. } => Outcome::RouteRateLimited,
            Self::RouteUnknown => Outcome::RouteUnknown,
            Self::ScopeMissing { .. } => Outcome::ScopeMissing,
            Self::StoreUnavailable => Outcome::StoreUnavailable,
            Self::BodyBroken
            | Self::BodyTimeout
            | Self::CrossSite
            | Self::ImmutableScopes
            | Self::InvalidBody { .. }
            | Self::InvalidQuery { .. }
            | Self::KeyNotFound
            | Self::KeysFull
            | Self::LastAdminKey
            | Self::MediaTypeUnsupported
            | Self::RequestTimeout
            | Self::ScopeExceedsCaller { .. }
            | Self::Stale
            | Self::UpstreamBusy
            | Self::UpstreamInvalid
            | Self::UpstreamTimeout
            | Self::UpstreamUnreachable => return None,
        })
    }

    /// Whether nothing more may be read from the connection: what follows could be read in two ways.
    pub fn closes_connection(&self) -> bool {
        matches!(
            self,
            Self::EncodedSlash | Self::HostRefused | Self::Malformed(_) | Self::MalformedPath(_) | Self::Semicolon
        )
    }

    /// Whether the client failed to authenticate: what the failed-authentication limiter counts.
    pub fn is_failed_authentication(&self) -> bool {
        matches!(self, Self::CredentialsMalformed | Self::KeyUnknown)
    }

    fn into_problem(self) -> Problem {
        match self {
            Self::AddressLimited { .. }
            | Self::CredentialsConflicting
            | Self::CredentialsMalformed
            | Self::CredentialsMissing
            | Self::KeyUnknown => self.authentication_problem(),
            Self::EncodedSlash
            | Self::HostRefused
            | Self::Malformed(_)
            | Self::MalformedPath(_)
            | Self::Semicolon
            | Self::BodyTooLarge { .. }
            | Self::BodyTimeout
            | Self::BodyBroken
            | Self::MethodNotAllowed { .. }
            | Self::MediaTypeUnsupported
            | Self::InvalidBody { .. }
            | Self::InvalidQuery { .. } => self.request_problem(),
            Self::KeyConcurrencyLimited { .. }
            | Self::KeyRateLimited { .. }
            | Self::RouteClosed
            | Self::RouteRateLimited { .. }
            | Self::RouteUnknown
            | Self::ScopeMissing { .. } => self.admission_problem(),
            Self::CrossSite
            | Self::ImmutableScopes
            | Self::KeyNotFound
            | Self::KeysFull
            | Self::LastAdminKey
            | Self::ScopeExceedsCaller { .. }
            | Self::Stale => self.change_problem(),
            Self::Internal
            | Self::RequestTimeout
            | Self::StoreUnavailable
            | Self::UpstreamBusy
            | Self::UpstreamInvalid
            | Self::UpstreamTimeout
            | Self::UpstreamUnreachable => self.fault_problem(),
        }
    }

    fn authentication_problem(self) -> Problem {
        match self {
            Self::AddressLimited { wait } => {
                let detail = "Too many failed authentications from this address. Wait, and check the key.";
                limited(StatusCode::TOO_MANY_REQUESTS, "too_many_failures", detail, wait)
            }
            Self::CredentialsConflicting => Problem::new(
                StatusCode::BAD_REQUEST,
                "credentials_conflicting",
                "The request carries two different keys. Send one.",
            ),
            // One text for a missing, malformed, unknown and deleted key: nobody learns which it was.
            _ => Problem::new(
                StatusCode::UNAUTHORIZED,
                "unauthenticated",
                "This needs a valid API key, as the user name of Basic authentication or as a Bearer token.",
            ),
        }
    }

    fn request_problem(self) -> Problem {
        match self {
            Self::HostRefused => Problem::new(
                StatusCode::MISDIRECTED_REQUEST,
                "host_refused",
                "The Host of the request is not one of those served here.",
            ),
            Self::Malformed(malformed) => Problem::new(malformed.status(), malformed.code(), malformed.to_string()),
            Self::EncodedSlash | Self::Semicolon => {
                let detail = "The path has an encoded slash or a semicolon, which this route does not allow.";
                Problem::new(StatusCode::BAD_REQUEST, "malformed_path", detail)
            }
            Self::MalformedPath(error) => Problem::new(StatusCode::BAD_REQUEST, "malformed_path", error.to_string()),
            Self::BodyTooLarge { max } => Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "body_too_large",
                format!("The body is larger than the {max} bytes that are allowed here."),
            ),
            Self::BodyTimeout => {
                Problem::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", "The body did not arrive in time.")
            }
            Self::MethodNotAllowed { allow } => {
                let allowed = HeaderValue::try_from(&allow).unwrap_or_else(|_| HeaderValue::from_static(""));
                let detail = format!("This path does not take that method; it takes {allow}.");
                Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail).with_header(ALLOW, allowed)
            }
            Self::MediaTypeUnsupported => Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                "The body must be JSON: send Content-Type: application/json, and no Content-Encoding.",
            ),
            Self::InvalidBody { detail, errors } => {
                Problem { errors, ..Problem::new(StatusCode::BAD_REQUEST, "invalid_body", detail) }
            }
            Self::InvalidQuery { errors } => Problem {
                errors,
                ..Problem::new(StatusCode::BAD_REQUEST, "invalid_query", "The query has invalid parameters.")
            },
            _ => Problem::new(StatusCode::BAD_REQUEST, "body_broken", "The body broke off or was malformed."),
        }
    }

    fn admission_problem(self) -> Problem {
        match self {
            Self::KeyConcurrencyLimited { status } => limited(
                status,
                "concurrency_limited",
                "This key has too many requests running. Wait for some to end.",
                Duration::from_secs(1),
            ),
            Self::KeyRateLimited { wait, status } => {
                limited(status, "rate_limited", "This key sends requests faster than its limit.", wait)
            }
            Self::RouteRateLimited { wait, status } => {
                limited(status, "route_rate_limited", "This path receives requests faster than its limit.", wait)
            }
            Self::RouteClosed => {
                Problem::new(StatusCode::FORBIDDEN, "route_closed", "This path is closed to every key.")
            }
            Self::ScopeMissing { required, any } => {
                let which = if any { "one of these scopes" } else { "all of these scopes" };
                let detail = format!("The key needs {which}: {}.", required.names().join(", "));
                let problem = Problem::new(StatusCode::FORBIDDEN, "scope_missing", detail);
                Problem { required_scopes: Some(required), ..problem }
            }
            _ => Problem::new(StatusCode::NOT_FOUND, "route_unknown", "No route of this gate matches the path."),
        }
    }

    fn change_problem(self) -> Problem {
        match self {
            Self::CrossSite => Problem::new(
                StatusCode::FORBIDDEN,
                "cross_site",
                "Keys cannot be managed by requests that a page of another site makes.",
            ),
            Self::ImmutableScopes => Problem::new(
                StatusCode::CONFLICT,
                "immutable_scopes",
                "The scopes of telemetry and sdk_integration keys are fixed. Create a custom key instead.",
            ),
            Self::KeysFull => Problem::new(
                StatusCode::CONFLICT,
                "keys_full",
                "The number of keys is at its maximum. Delete unused keys first.",
            ),
            Self::LastAdminKey => Problem::new(
                StatusCode::CONFLICT,
                "last_admin_key",
                "This is the last key that can manage keys. Create another one with key:write first.",
            ),
            Self::ScopeExceedsCaller { excess } => {
                let detail = format!("The calling key does not hold: {}.", excess.names().join(", "));
                let problem = Problem::new(StatusCode::FORBIDDEN, "scope_exceeds_caller", detail);
                Problem { exceeding_scopes: Some(excess), ..problem }
            }
            Self::Stale => Problem::new(
                StatusCode::PRECONDITION_FAILED,
                "precondition_failed",
                "The key has changed since the version that If-Match names. Read it again.",
            ),
            _ => Problem::new(StatusCode::NOT_FOUND, "key_not_found", "There is no key of that id."),
        }
    }

    fn fault_problem(self) -> Problem {
        let soon = Duration::from_secs(1);
        let unavailable = StatusCode::SERVICE_UNAVAILABLE;
        match self {
            Self::RequestTimeout => Problem::new(
                StatusCode::GATEWAY_TIMEOUT,
                "request_timeout",
                "The request took longer than this path allows.",
            ),
            Self::StoreUnavailable => {
                limited(unavailable, "store_unavailable", "The key store cannot be reached just now. Try again.", soon)
            }
            Self::UpstreamBusy => {
                limited(unavailable, "upstream_busy", "The service behind this gate is at its limit. Try again.", soon)
            }
            Self::UpstreamInvalid => Problem::new(
                StatusCode::BAD_GATEWAY,
                "upstream_invalid",
                "The service behind this gate sent a response that cannot be passed on safely.",
            ),
            Self::UpstreamTimeout => Problem::new(
                StatusCode::GATEWAY_TIMEOUT,
                "upstream_timeout",
                "The service behind this gate did not answer in time.",
            ),
            Self::UpstreamUnreachable => Problem::new(
                StatusCode::BAD_GATEWAY,
                "upstream_unreachable",
                "The service behind this gate cannot be reached.",
            ),
            _ => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "The gate failed. This has been logged."),
        }
    }
}

/// RFC 9110 §10.2.3: whole seconds, rounded up, and never "at once".
fn limited(status: StatusCode, code: &'static str, detail: &str, wait: Duration) -> Problem {
    let seconds = (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1);
    Problem::new(status, code, detail).with_header(RETRY_AFTER, HeaderValue::from(seconds))
}
