//! `store`: what is done to the files of the key store, while no gate has them open.

mod compact;
mod repair;
mod stats;
mod verify;

use clap::{Args, Subcommand};

use super::{ConfigArgument, Exit, output};

/// Look after the files of the key store
///
/// Each command refuses a store that a running gate has open. Interrupted at any moment, each leaves a store that opens
/// with all that it had.
#[derive(Args)]
#[command(after_help = "Example: portcullis store verify --config portcullis.toml")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Compact(compact::Arguments),
    Repair(repair::Arguments),
    Stats(stats::Arguments),
    Verify(verify::Arguments),
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    silence_database();
    match &arguments.command {
        Command::Compact(arguments) => compact::run(arguments),
        Command::Repair(arguments) => repair::run(arguments),
        Command::Stats(arguments) => stats::run(arguments),
        Command::Verify(arguments) => verify::run(arguments),
    }
}

/// What the database panics over in a damaged store is told as a problem, once, and not on stderr for each row.
fn silence_database() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if std::thread::current().name() != Some(crate::store::SURVEY) {
            hook(panic);
        }
    }));
}
