//! `store compact`: the store in fresh files.

use clap::Args;

use crate::store;

use super::{ConfigArgument, Exit, output};

/// Write the store into fresh files: those of the database never shrink
///
/// Needs room for both. The old files are there until the new ones are on disk and were read back. A store in which
/// anything is wrong is left alone.
#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    let config = arguments.config.load()?;
    let done = store::compact(&config.store)?;
    output::print(&format!("{} keys: {} bytes, now {}", done.keys, done.bytes_before, done.bytes_after))?;
    Ok(Exit::Success)
}
