//! `init`: the store and its first key.

use clap::Args;

use crate::app;

use super::{ConfigArgument, Exit, output};

/// Make the store and its first key
///
/// The key is called `root` and holds all scopes. It is printed once, alone on stdout, and cannot be shown again. A store
/// that has keys is left alone. Do this once, before the first `serve`.
#[derive(Args)]
#[command(after_help = "Example: (umask 077; portcullis init --config portcullis.toml > root.key)")]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    let config = arguments.config.load()?;
    let secret = app::initialise(&config)?;
    let path = config.store.path.display();
    // Not an error to pass over when a reader has left: this was the one chance to see the key.
    output::print(secret.expose()).map_err(|error| {
        let error = anyhow::Error::new(error);
        anyhow::anyhow!(
            "the key is in the store but could not be printed ({error:#}); remove {path} and run init again"
        )
    })?;
    output::note(&format!(
        "The store in {path} is ready. Above is its root key, which holds all scopes: keep it, it cannot be shown again."
    ));
    Ok(Exit::Success)
}
