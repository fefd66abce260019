//! `serve`: the gate itself.

use anyhow::Context;
use clap::Args;

use crate::app::{self, Inherited, Start};
use crate::config::Config;
use crate::log;

use super::{ConfigArgument, Exit};

/// Run the gate until SIGTERM or SIGINT
///
/// The store must have been made by `init`, or `keys.root_key_file` must name a key made by `keygen`: an empty directory
/// never gets a key by itself. A signal stops new connections, lets running requests end, and writes all that is left to
/// the store; SIGHUP reads the configuration again. Sockets that systemd passes are used in place of [listen].
#[derive(Args)]
#[command(after_help = "Example: portcullis serve --config portcullis.toml")]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    // First of all, while there is one thread: it changes the environment.
    let sockets = Inherited::from_environment()?;
    let path = &arguments.config.config;
    let (config, files) = Config::load_noting_files(path);
    let config = config?;
    Config::check_files(path)?;
    let (log, _flush) = log::init(&config.log).context("cannot start logging")?;
    app::serve(config, path, files, Start { sockets, log: Some(log), ..Start::default() })?;
    Ok(Exit::Success)
}
