//! `serve`: the gate itself.

use clap::Args;

use crate::app;

use super::{ConfigArgument, Exit};

/// Run the gate until SIGTERM or SIGINT
///
/// The store must have been made by `init`, or `keys.root_key_file` must name a key made by `keygen`: an empty directory
/// never gets a key by itself. A signal stops new connections, lets running requests end, and writes all that is left to
/// the store.
#[derive(Args)]
#[command(after_help = "Example: portcullis serve --config portcullis.toml")]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    app::serve(arguments.config.load()?, &arguments.config.config)?;
    Ok(Exit::Success)
}
