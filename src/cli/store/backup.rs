//! `store backup`: everything in the store, as a file.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use crate::clock::Clock;
use crate::store::Store as _;
use crate::store::portable::{Content, write_store};

use super::super::ConfigArgument;
use super::{Exit, output};

/// Write everything in the store to a file that `restore` makes the same store of
///
/// The file is there whole and durable when the command has ended well, and not at all or as it was otherwise. It holds
/// no secrets, and nobody but its owner may read it.
#[derive(Args)]
#[command(after_help = "Example: portcullis store backup --config portcullis.toml --output keys.jsonl")]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// The file to write; one that is there is replaced
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    let config = arguments.config.load()?;
    let store = super::open(&config.store)?;
    let path = &arguments.output;
    let file = write_store(&store, Content::Backup, Clock::System.now(), super::create(path)?);
    file.map_err(anyhow::Error::new).and_then(|file| Ok(file.publish()?)).with_context(|| super::unwritten(path))?;
    output::note(&format!("{} is a backup of revision {}.", path.display(), store.revision()?));
    Ok(Exit::Success)
}
