//! The commands, one a file: what each takes, and its dispatch.
//!
//! Decides nothing about requests and keys: it calls what does, and prints the answer. Results go to stdout, all that is
//! said about them to stderr. Invariant: no secret is printed but by the three commands that make one.

mod check;
mod client;
mod completions;
mod demo;
mod exit;
mod explain;
mod healthcheck;
mod init;
mod keygen;
mod keys;
mod output;
mod private;
mod routes;
mod serve;
mod show;
mod store;
#[cfg(test)]
mod tests;
mod trust;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, ConfigError};

pub use exit::Exit;

/// An authenticating reverse proxy with an API for its keys
///
/// Stands in front of an HTTP service that has no authentication of its own. A request passes only when the API key it
/// carries holds the scopes that its route asks for. Keys are made and revoked while it runs, over HTTP or with `keys`.
#[derive(Parser)]
#[command(version, after_long_help = exit::CODES, after_help = "Start with `portcullis demo`. Exit codes and more: --help.")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Check(check::Arguments),
    Completions(completions::Arguments),
    Demo(demo::Arguments),
    Explain(explain::Arguments),
    Healthcheck(healthcheck::Arguments),
    Init(init::Arguments),
    Keygen(keygen::Arguments),
    Keys(keys::Arguments),
    Routes(routes::Arguments),
    Serve(serve::Arguments),
    Store(store::Arguments),
}

/// What every command takes that reads the configuration.
#[derive(Args)]
struct ConfigArgument {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

impl ConfigArgument {
    fn load(&self) -> Result<Config, ConfigError> {
        Config::load(&self.config)
    }

    /// For those that the certificates and keys in the file matter to.
    fn load_with_files(&self) -> Result<Config, ConfigError> {
        Config::load_with_files(&self.config)
    }
}

impl Cli {
    /// Runs the command. Blocking; `serve` and `demo` return when a signal has ended them.
    ///
    /// # Errors
    /// What kept the command from its result, for [`Exit::after`].
    pub fn run(self) -> anyhow::Result<Exit> {
        private::keep_memory_private();
        match self.command {
            Command::Check(arguments) => check::run(&arguments),
            Command::Completions(arguments) => completions::run(&arguments),
            Command::Demo(arguments) => demo::run(&arguments),
            Command::Explain(arguments) => explain::run(&arguments),
            Command::Healthcheck(arguments) => healthcheck::run(&arguments),
            Command::Init(arguments) => init::run(&arguments),
            Command::Keygen(arguments) => keygen::run(&arguments),
            Command::Keys(arguments) => keys::run(&arguments),
            Command::Routes(arguments) => routes::run(&arguments),
            Command::Serve(arguments) => serve::run(&arguments),
            Command::Store(arguments) => store::run(&arguments),
        }
    }
}
