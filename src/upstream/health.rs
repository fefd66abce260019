//! Active checks: each target is asked for a path again and again, beside the requests.
//!
//! Every check is a connection of its own, so that it tells whether a new one can be made. A target counts as healthy
//! until checks have failed often enough, and then as unhealthy until they have passed often enough.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, HeaderValue, USER_AGENT};
use http::uri::PathAndQuery;
use http::{Request, StatusCode};
use http_body_util::Empty;
use tokio::time::timeout;

use super::balance::jittered;
use super::dial::Dialer;
use super::standing::{Checker, Standing};
use super::statuses::Statuses;
use super::target::OpenSlot;
use super::url::Url;
use super::{UpstreamError, connection};
use crate::http::framing::interim::Interims;
use crate::settings::{Node, Value, settings};

settings! {
    /// `[upstream.NAME.health]`
    pub struct Settings {
        /// What each target is asked for with GET; unset: no checks are made.
        pub path: Option<CheckPath> = None,
        /// Between two checks of a target, give or take a tenth.
        pub interval: Duration = Duration::from_secs(5),
        /// From the begin of the connection to the head of the response.
        pub timeout: Duration = Duration::from_secs(2),
        /// Passed checks in a row, after which an unhealthy target gets requests again.
        pub healthy_after: NonZeroU32 = NonZeroU32::new(2).unwrap_or(NonZeroU32::MIN),
        /// Failed checks in a row, after which a target gets no requests.
        pub unhealthy_after: NonZeroU32 = NonZeroU32::new(3).unwrap_or(NonZeroU32::MIN),
        /// The statuses of a response that passes.
        pub expect: Vec<Statuses> = vec![Statuses::Class(2), Statuses::Class(3)],
    }
}

/// A path, and a query if there is one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CheckPath(PathAndQuery);

impl Value for CheckPath {
    fn read(node: &Node<'_>) -> Option<Self> {
        let text = node.text()?;
        match PathAndQuery::try_from(text.as_str()) {
            Ok(path) if text.starts_with('/') => Some(Self(path)),
            _ => node.problem(format!("{} must be a path such as \"/-/healthy\"", node.path())),
        }
    }
}

/// The checks of one target.
pub(super) struct Checks {
    pub(super) upstream: String,
    pub(super) url: Url,
    /// What requests to the target name as their host.
    pub(super) host: HeaderValue,
    pub(super) settings: super::Settings,
    pub(super) dialer: Dialer,
    pub(super) standing: Arc<Standing>,
    pub(super) checker: Checker,
}

#[derive(Debug, thiserror::Error)]
enum CheckError {
    #[error("no answer in time")]
    Elapsed,
    #[error("{0}")]
    Failed(#[source] UpstreamError),
    #[error("the answer was {0}")]
    Status(StatusCode),
}

impl Checks {
    /// Goes on until it is dropped.
    pub(super) async fn run(self, path: CheckPath) {
        let health = &self.settings.health;
        // Of what contradicts the present verdict.
        let mut in_a_row = 0;
        loop {
            let verdict = self.check(&path).await;
            if verdict.is_ok() {
                self.standing.was_reached();
            }
            let is_healthy = self.standing.is_healthy();
            in_a_row = if verdict.is_ok() == is_healthy { 0 } else { in_a_row + 1 };
            let wanted = if is_healthy { health.unhealthy_after } else { health.healthy_after };
            if in_a_row >= wanted.get() {
                in_a_row = 0;
                self.turn(&verdict);
            }
            tokio::time::sleep(jittered(health.interval)).await;
        }
    }

    fn turn(&self, verdict: &Result<(), CheckError>) {
        self.standing.set_healthy(verdict.is_ok(), self.checker);
        let (upstream, target) = (&self.upstream, &self.url);
        match verdict {
            Ok(()) => tracing::info!(upstream, %target, "target is healthy"),
            Err(error) => {
                let source = std::error::Error::source(error).and_then(std::error::Error::source);
                let source = source.map(ToString::to_string);
                tracing::warn!(upstream, %target, %error, source, "target is unhealthy");
            }
        }
    }

    async fn check(&self, path: &CheckPath) -> Result<(), CheckError> {
        let health = &self.settings.health;
        let status = timeout(health.timeout, self.ask(path)).await;
        let status = status.map_err(|_| CheckError::Elapsed)?.map_err(CheckError::Failed)?;
        let passes = health.expect.iter().any(|statuses| statuses.include(status));
        if passes { Ok(()) } else { Err(CheckError::Status(status)) }
    }

    async fn ask(&self, CheckPath(path): &CheckPath) -> Result<StatusCode, UpstreamError> {
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.uri_mut() = path.clone().into();
        let fields = request.headers_mut();
        fields.insert(HOST, self.host.clone());
        fields.insert(USER_AGENT, HeaderValue::from_static(concat!("portcullis/", env!("CARGO_PKG_VERSION"))));
        fields.insert(CONNECTION, HeaderValue::from_static("close"));
        let slot = OpenSlot::extra();
        let mut connection = connection::open(&self.dialer, self.settings.protocol, &self.settings, slot).await?;
        let sent = connection.send(Box::new(request), &Interims::default()).await;
        let response = sent.map_err(|failure| failure.error)?;
        Ok(response.status())
    }
}
