//! Why a request is refused, and the one place that turns a reason into a status.
//!
//! Two texts for each: the problem's `detail` for the client, `Display` for the log. What is our fault is 5xx, never
//! 401 or 403: agents drop data on 4xx and keep it on 5xx. Unknown, deleted and malformed keys answer alike.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Response, StatusCode};

use super::framing::Malformed;
use super::grpc;
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
    #[error("every target of the upstream is left out")]
    UpstreamUnavailable { wait: Duration },
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

    /// The same for a client that speaks gRPC. Its HTTP status is always 200; [`Refusal::status`] stays what is counted.
    pub fn into_grpc_response(self) -> Response<Bytes> {
        grpc::Status { code: self.grpc_code(), message: self.detail().into_owned(), pushback: self.wait() }
            .into_response()
    }

    pub fn status(&self) -> StatusCode {
        match self {
            Self::BodyBroken
            | Self::CredentialsConflicting
            | Self::EncodedSlash
            | Self::InvalidBody { .. }
            | Self::InvalidQuery { .. }
            | Self::MalformedPath(_)
            | Self::Semicolon => StatusCode::BAD_REQUEST,
            Self::CredentialsMalformed | Self::CredentialsMissing | Self::KeyUnknown => StatusCode::UNAUTHORIZED,
            Self::CrossSite | Self::RouteClosed | Self::ScopeExceedsCaller { .. } | Self::ScopeMissing { .. } => {
                StatusCode::FORBIDDEN
            }
            Self::KeyNotFound | Self::RouteUnknown => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::ImmutableScopes | Self::KeysFull | Self::LastAdminKey => StatusCode::CONFLICT,
            Self::Stale => StatusCode::PRECONDITION_FAILED,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::MediaTypeUnsupported => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::HostRefused => StatusCode::MISDIRECTED_REQUEST,
            Self::AddressLimited { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::KeyConcurrencyLimited { status }
            | Self::KeyRateLimited { status, .. }
            | Self::RouteRateLimited { status, .. } => *status,
            Self::Malformed(malformed) => malformed.status(),
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::UpstreamInvalid | Self::UpstreamUnreachable => StatusCode::BAD_GATEWAY,
            Self::StoreUnavailable | Self::UpstreamBusy | Self::UpstreamUnavailable { .. } => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::RequestTimeout | Self::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// The same for a gRPC client, which knows no other statuses: what the protocol's own mapping says where it has one
    /// that clients act on rightly.
    fn grpc_code(&self) -> grpc::Code {
        match self.status() {
            StatusCode::UNAUTHORIZED => grpc::Code::Unauthenticated,
            StatusCode::FORBIDDEN => grpc::Code::PermissionDenied,
            StatusCode::NOT_FOUND
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::MISDIRECTED_REQUEST
            | StatusCode::NOT_IMPLEMENTED => grpc::Code::Unimplemented,
            StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED => grpc::Code::FailedPrecondition,
            StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            | StatusCode::TOO_MANY_REQUESTS
            | StatusCode::URI_TOO_LONG => grpc::Code::ResourceExhausted,
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => grpc::Code::Unavailable,
            StatusCode::GATEWAY_TIMEOUT | StatusCode::REQUEST_TIMEOUT => grpc::Code::DeadlineExceeded,
            status if status.is_client_error() => grpc::Code::InvalidArgument,
            _ => grpc::Code::Internal,
        }
    }

    /// What the problem is called for programs. Missing, malformed, unknown and deleted keys are called the same.
    pub fn code(&self) -> &'static str {
        match self {
            Self::AddressLimited { .. } => "too_many_failures",
            Self::BodyBroken => "body_broken",
            Self::BodyTimeout => "body_timeout",
            Self::BodyTooLarge { .. } => "body_too_large",
            Self::CredentialsConflicting => "credentials_conflicting",
            Self::CredentialsMalformed | Self::CredentialsMissing | Self::KeyUnknown => "unauthenticated",
            Self::CrossSite => "cross_site",
            Self::EncodedSlash | Self::MalformedPath(_) | Self::Semicolon => "malformed_path",
            Self::HostRefused => "host_refused",
            Self::ImmutableScopes => "immutable_scopes",
            Self::Internal => "internal",
            Self::InvalidBody { .. } => "invalid_body",
            Self::InvalidQuery { .. } => "invalid_query",
            Self::KeyConcurrencyLimited { .. } => "concurrency_limited",
            Self::KeyNotFound => "key_not_found",
            Self::KeyRateLimited { .. } => "rate_limited",
            Self::KeysFull => "keys_full",
            Self::LastAdminKey => "last_admin_key",
            Self::Malformed(malformed) => malformed.code(),
            Self::MediaTypeUnsupported => "unsupported_media_type",
            Self::MethodNotAllowed { .. } => "method_not_allowed",
            Self::RequestTimeout => "request_timeout",
            Self::RouteClosed => "route_closed",
            Self::RouteRateLimited { .. } => "route_rate_limited",
            Self::RouteUnknown => "route_unknown",
            Self::ScopeExceedsCaller { .. } => "scope_exceeds_caller",
            Self::ScopeMissing { .. } => "scope_missing",
            Self::Stale => "precondition_failed",
            Self::StoreUnavailable => "store_unavailable",
            Self::UpstreamBusy => "upstream_busy",
            Self::UpstreamInvalid => "upstream_invalid",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::UpstreamUnavailable { .. } => "upstream_unavailable",
            Self::UpstreamUnreachable => "upstream_unreachable",
        }
    }

    /// The label that counts this refusal.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::AddressLimited { .. } => Outcome::AddressLimited,
            Self::BodyBroken => Outcome::BodyBroken,
            Self::BodyTimeout => Outcome::BodyTimeout,
            Self::BodyTooLarge { .. } => Outcome::BodyTooLarge,
            Self::CredentialsConflicting => Outcome::CredentialsConflicting,
            Self::CredentialsMalformed => Outcome::CredentialsMalformed,
            Self::CredentialsMissing => Outcome::CredentialsMissing,
            Self::CrossSite => Outcome::CrossSite,
            Self::EncodedSlash | Self::MalformedPath(_) | Self::Semicolon => Outcome::MalformedPath,
            Self::HostRefused => Outcome::HostRefused,
            Self::ImmutableScopes => Outcome::ImmutableScopes,
            Self::Internal => Outcome::Internal,
            Self::InvalidBody { .. } | Self::MediaTypeUnsupported => Outcome::InvalidBody,
            Self::InvalidQuery { .. } => Outcome::InvalidQuery,
            Self::KeyConcurrencyLimited { .. } => Outcome::KeyConcurrencyLimited,
            Self::KeyNotFound => Outcome::KeyNotFound,
            Self::KeyRateLimited { .. } => Outcome::KeyRateLimited,
            Self::KeyUnknown => Outcome::KeyUnknown,
            Self::KeysFull => Outcome::KeysFull,
            Self::LastAdminKey => Outcome::LastAdminKey,
            Self::Malformed(malformed) => match malformed.status() {
                StatusCode::REQUEST_TIMEOUT => Outcome::TimedOut,
                StatusCode::EXPECTATION_FAILED => Outcome::ExpectationFailed,
                _ => Outcome::MalformedRequest,
            },
            Self::MethodNotAllowed { .. } => Outcome::MethodNotAllowed,
            Self::RequestTimeout => Outcome::RequestTimeout,
            Self::RouteClosed => Outcome::RouteClosed,
            Self::RouteRateLimited { .. } => Outcome::RouteRateLimited,
            Self::RouteUnknown => Outcome::RouteUnknown,
            Self::ScopeExceedsCaller { .. } => Outcome::ScopeExceedsCaller,
            Self::ScopeMissing { .. } => Outcome::ScopeMissing,
            Self::Stale => Outcome::Stale,
            Self::StoreUnavailable => Outcome::StoreUnavailable,
            Self::UpstreamBusy => Outcome::UpstreamBusy,
            Self::UpstreamInvalid => Outcome::UpstreamInvalid,
            Self::UpstreamTimeout => Outcome::UpstreamTimeout,
            Self::UpstreamUnavailable { .. } => Outcome::UpstreamUnavailable,
            Self::UpstreamUnreachable => Outcome::UpstreamUnreachable,
        }
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
        let problem = Problem::new(self.status(), self.code(), self.detail());
        let problem = match self.wait() {
            Some(wait) => problem.with_header(RETRY_AFTER, seconds(wait)),
            None => problem,
        };
        match self {
            Self::InvalidBody { errors, .. } | Self::InvalidQuery { errors } => Problem { errors, ..problem },
            Self::MethodNotAllowed { allow } => {
                let allow = HeaderValue::try_from(allow).unwrap_or_else(|_| HeaderValue::from_static(""));
                problem.with_header(ALLOW, allow)
            }
            Self::ScopeExceedsCaller { excess } => Problem { exceeding_scopes: Some(excess), ..problem },
            Self::ScopeMissing { required, .. } => Problem { required_scopes: Some(required), ..problem },
            _ => problem,
        }
    }

    /// How long the client should wait before it tries again; `None` where waiting changes nothing.
    fn wait(&self) -> Option<Duration> {
        match self {
            Self::AddressLimited { wait }
            | Self::KeyRateLimited { wait, .. }
            | Self::RouteRateLimited { wait, .. }
            | Self::UpstreamUnavailable { wait } => Some(*wait),
            Self::KeyConcurrencyLimited { .. } | Self::StoreUnavailable | Self::UpstreamBusy => {
                Some(Duration::from_secs(1))
            }
            _ => None,
        }
    }

    /// What the client can do about it.
    fn detail(&self) -> Cow<'static, str> {
        let text = match self {
            Self::BodyTooLarge { max } => {
                return format!("The body is larger than the {max} bytes that are allowed here.").into();
            }
            Self::InvalidBody { detail, .. } => return detail.clone().into(),
            Self::Malformed(malformed) => return malformed.to_string().into(),
            Self::MalformedPath(error) => return error.to_string().into(),
            Self::MethodNotAllowed { allow } => {
                return format!("This path does not take that method; it takes {allow}.").into();
            }
            Self::ScopeExceedsCaller { excess } => return listed("The calling key does not hold: ", excess),
            Self::ScopeMissing { required, any: false } => {
                return listed("The key needs all of these scopes: ", required);
            }
            Self::ScopeMissing { required, any: true } => {
                return listed("The key needs one of these scopes: ", required);
            }
            Self::AddressLimited { .. } => {
                "Too many failed authentications from this address. Wait, and check the key."
            }
            Self::BodyBroken => "The body broke off or was malformed.",
            Self::BodyTimeout => "The body did not arrive in time.",
            Self::CredentialsConflicting => "The request carries two different keys. Send one.",
            // Short: a stranger's request is short too, and gets no more than ten times as much.
            Self::CredentialsMalformed | Self::CredentialsMissing | Self::KeyUnknown => "An API key is needed.",
            Self::CrossSite => "Keys cannot be managed by requests that a page of another site makes.",
            Self::EncodedSlash => "The path has an encoded slash, which this route does not allow.",
            Self::HostRefused => "The Host of the request is not one of those served here.",
            Self::ImmutableScopes => {
                "The scopes of telemetry and sdk_integration keys are fixed. Create a custom key instead."
            }
            Self::Internal => "The gate failed. This has been logged.",
            Self::InvalidQuery { .. } => "The query has invalid parameters.",
            Self::KeyConcurrencyLimited { .. } => "This key has too many requests running. Wait for some to end.",
            Self::KeyNotFound => "There is no key of that id.",
            Self::KeyRateLimited { .. } => "This key sends requests faster than its limit.",
            Self::KeysFull => "The number of keys is at its maximum. Delete unused keys first.",
            Self::LastAdminKey => "This is the last key that can manage keys. Create another one with key:write first.",
            Self::MediaTypeUnsupported => {
                "The body must be JSON: send Content-Type: application/json, and no Content-Encoding."
            }
            Self::RequestTimeout => "The request took longer than this path allows.",
            Self::RouteClosed => "This path is closed to every key.",
            Self::RouteRateLimited { .. } => "This path receives requests faster than its limit.",
            Self::RouteUnknown => "No route of this gate matches the path.",
            Self::Semicolon => "The path has a semicolon, which this route does not allow.",
            Self::Stale => "The key has changed since the version that If-Match names. Read it again.",
            Self::StoreUnavailable => "The key store cannot be reached just now. Try again.",
            Self::UpstreamBusy => "The service behind this gate is at its limit. Try again.",
            Self::UpstreamInvalid => "The service behind this gate sent a response that cannot be passed on safely.",
            Self::UpstreamTimeout => "The service behind this gate did not answer in time.",
            Self::UpstreamUnavailable { .. } => "The service behind this gate is down just now. Try again.",
            Self::UpstreamUnreachable => "The service behind this gate cannot be reached.",
        };
        Cow::Borrowed(text)
    }
}

fn listed(before: &str, scopes: &ScopeSet) -> Cow<'static, str> {
    [before, &scopes.names().join(", "), "."].concat().into()
}

/// RFC 9110 §10.2.3: whole seconds, rounded up, and never "at once".
fn seconds(wait: Duration) -> HeaderValue {
    HeaderValue::from((wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1))
}
