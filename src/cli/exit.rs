//! How the program ends: the exit codes, their documentation, and what is said of an error.

use std::process::ExitCode;

use crate::config::ConfigError;

use super::client::ClientError;
use super::output::{self, OutputError};

/// The codes as `--help` tells them.
pub(super) const CODES: &str = "\
Exit codes:
  0  done; `explain`: the request is admitted; `healthcheck`: the gate is healthy
  1  a problem was found, the gate refused, or something failed; `serve`: a second signal ended it
  2  the command line is wrong
  3  the gate cannot be reached (`keys`; `healthcheck` says 1, as container runtimes expect)";

/// The program's exit code, by meaning.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Exit {
    /// The answer is no, or there is none.
    Refused,
    Success,
    Unreachable,
    Usage,
}

/// What the command line says is wrong in a way that only its command can see.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct UsageError(pub(super) String);

impl Exit {
    /// Says on stderr what went wrong, and tells the code to end with.
    ///
    /// A reader of stdout that went away is nobody's error: nothing is said then.
    pub fn after(error: &anyhow::Error) -> Self {
        if error.downcast_ref::<OutputError>().is_some_and(OutputError::is_closed) {
            return Self::Success;
        }
        match error.downcast_ref() {
            // Each problem starts with its place, where editors look for it.
            Some(ConfigError::Problems(problems)) => output::note(&problems.to_string()),
            _ => output::note(&format!("error: {error:#}")),
        }
        if error.is::<ClientError>() {
            Self::Unreachable
        } else if error.is::<UsageError>() {
            Self::Usage
        } else {
            Self::Refused
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Success => 0,
            Exit::Refused => 1,
            Exit::Usage => 2,
            Exit::Unreachable => 3,
        })
    }
}
