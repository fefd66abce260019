//! `store export`: the keys, for another store.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use crate::clock::Clock;
use crate::store::portable::{Content, WriteError, write_store};

use super::super::ConfigArgument;
use super::super::output::OutputError;
use super::Exit;

/// Write all keys as JSON lines, for `import` into another store
///
/// The keys' secrets are not in it and need not be: a key that was imported works as it does here.
#[derive(Args)]
#[command(after_help = "Example: portcullis store export --config portcullis.toml --output keys.jsonl")]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// The file to write, instead of stdout; one that is there is replaced
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    let config = arguments.config.load()?;
    let store = super::open(&config.store)?;
    let now = Clock::System.now();
    let Some(path) = &arguments.output else {
        let stdout = BufWriter::with_capacity(1 << 16, io::stdout().lock());
        let mut written = write_store(&store, Content::Export, now, stdout).map_err(|error| match error {
            WriteError::Output(error) => anyhow::Error::new(OutputError::from(error)),
            error => error.into(),
        })?;
        written.flush().map_err(OutputError::from)?;
        return Ok(Exit::Success);
    };
    write_store(&store, Content::Export, now, super::create(path)?)
        .map_err(anyhow::Error::new)
        .and_then(|file| Ok(file.publish()?))
        .with_context(|| super::unwritten(path))?;
    Ok(Exit::Success)
}
