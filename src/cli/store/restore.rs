//! `store restore`: the store as it was at a backup.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use crate::store;

use super::super::ConfigArgument;
use super::{Exit, output};

/// Make the store of a backup again, where there is none
///
/// A store with keys is left alone: move it away first. The restored one is there whole or not at all. It is as it was
/// at the backup: keys that were deleted since work again.
#[derive(Args)]
#[command(after_help = "Example: portcullis store restore --config portcullis.toml keys.jsonl")]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// What `store backup` or a running gate has written
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    let config = arguments.config.load()?;
    let path = &arguments.file;
    let file = super::read(path)?;
    let header = store::restore(file, &config.store, config.keys.keys_max.get().into())
        .map_err(|error| super::explained(error.into()))
        .with_context(|| format!("cannot restore {}", path.display()))?;
    let (keys, revision, created) = (header.keys, header.revision, header.created);
    output::print(&format!("restored {keys} keys at revision {revision}, as of {created}"))?;
    output::note(&format!(
        "warning: every change after revision {revision} ({created}) is undone. Keys that were deleted or narrowed since \
         then admit again as they did: look through the audit lines of the log after that time, and delete them anew."
    ));
    Ok(Exit::Success)
}
