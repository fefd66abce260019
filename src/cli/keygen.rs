//! `keygen`: a fresh key that no store knows yet.

use clap::Args;

use crate::key::KeySecret;

use super::{Exit, output};

/// Print a fresh key
///
/// The key is in no store yet. Put it into a file and name that file in `keys.root_key_file`: `serve` then makes sure
/// that a key with all scopes exists under it. That is the way for secrets that are mounted, as in Kubernetes.
#[derive(Args)]
#[command(after_help = "Example: (umask 077; portcullis keygen > root.key)")]
pub(super) struct Arguments {}

pub(super) fn run(_: &Arguments) -> anyhow::Result<Exit> {
    let secret =
        KeySecret::generate().ok_or_else(|| anyhow::anyhow!("the operating system has no randomness to give"))?;
    output::print(secret.expose())?;
    Ok(Exit::Success)
}
