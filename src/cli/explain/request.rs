//! The request that `explain` is asked about.

use std::fmt;
use std::str::FromStr;

/// A method and a target.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) method: http::Method,
    pub(super) target: String,
}

impl Request {
    /// What of the target takes part in matching.
    pub(super) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    pub(super) fn query(&self) -> Option<&str> {
        self.target.split_once('?').map(|(_, query)| query)
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.target)
    }
}

/// The text is no method and path.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("write a method, a blank and a path, such as 'POST /api/v1/write'")]
pub(super) struct NotARequest;

impl FromStr for Request {
    type Err = NotARequest;

    fn from_str(text: &str) -> Result<Self, NotARequest> {
        let (method, target) = text.trim().split_once(' ').ok_or(NotARequest)?;
        let method = method.parse().map_err(|_| NotARequest)?;
        let target = target.trim_start();
        // All else is the gate's to refuse; a line end cannot be part of either.
        if target.contains(['\r', '\n']) {
            return Err(NotARequest);
        }
        Ok(Self { method, target: target.to_owned() })
    }
}
