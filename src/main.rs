//! The program: reads the command line, runs the command, says what went wrong, ends with its exit code.

use std::process::ExitCode;

use clap::Parser;
use portcullis::cli::{Cli, Exit};

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(exit) => exit.into(),
        Err(error) => Exit::after(&error).into(),
    }
}
