//! `completions`: what a shell needs to complete this program's command lines.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, Exit, output};

/// Print a completion script for a shell
#[derive(Args)]
#[command(after_help = "Example: portcullis completions bash > /etc/bash_completion.d/portcullis")]
pub(super) struct Arguments {
    shell: Shell,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "portcullis", &mut script);
    output::print(String::from_utf8_lossy(&script).trim_end())?;
    Ok(Exit::Success)
}
