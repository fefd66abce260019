//! `store`: what is done to the key store while no gate runs on it.
//!
//! What the commands share: how the store is opened and what is said when a gate has it.

mod backup;
mod compact;
mod export;
mod import;
mod repair;
mod restore;
mod stats;
mod verify;

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use anyhow::Context as _;
use clap::{Args, Subcommand};

use crate::store::{ImportError, RestoreError, Settings, SledStore, StoreError, WholeFile};

use super::{ConfigArgument, Exit, output};

/// Look after the key store: back it up, move it, check and mend its files
///
/// For a store that no gate runs on. A running gate makes backups by itself: see [store.backup] in the configuration.
/// Interrupted at any moment, each command leaves a store that opens with all that it had.
#[derive(Args)]
#[command(after_help = "Example: portcullis store backup --config portcullis.toml --output keys.jsonl\n\n\
                  Files hold no secrets: each key's SHA-256 stands for it. Whoever can change a file decides which keys its \
                  restored store admits, so keep them as the store is kept.")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Backup(backup::Arguments),
    /// Write the store into fresh files: those of the database never shrink
    ///
    /// Needs room for both. The old files are there until the new ones are on disk and were read back. A store in which
    /// anything is wrong is left alone.
    Compact(ConfigArgument),
    Export(export::Arguments),
    Import(import::Arguments),
    Repair(repair::Arguments),
    Restore(restore::Arguments),
    /// Show what the store holds and how large its files are
    ///
    /// The store is not changed: what is read is a copy, which needs as much room as the store has.
    Stats(ConfigArgument),
    /// Read the whole store and tell what is wrong with it
    ///
    /// Reads every record, the sums over them, the change log and the times of last use, and holds them against each other.
    /// Each problem is a line on stdout. Ends with 0 only when there is none. The store is not changed: what is read is a
    /// copy, which needs as much room as the store has.
    Verify(ConfigArgument),
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    silence_database();
    match &arguments.command {
        Command::Backup(arguments) => backup::run(arguments),
        Command::Compact(config) => compact::run(config),
        Command::Export(arguments) => export::run(arguments),
        Command::Import(arguments) => import::run(arguments),
        Command::Repair(arguments) => repair::run(arguments),
        Command::Restore(arguments) => restore::run(arguments),
        Command::Stats(config) => stats::run(config),
        Command::Verify(config) => verify::run(config),
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

fn open(settings: &Settings) -> anyhow::Result<SledStore> {
    SledStore::open(settings).map_err(|error| explained(error.into()))
}

/// The error, and what helps when a gate has the store.
fn explained(error: anyhow::Error) -> anyhow::Error {
    match fault(&error) {
        Some(StoreError::Locked { .. }) => {
            anyhow::anyhow!("{error:#}; stop it first. A gate makes backups while it runs: set store.backup.directory")
        }
        _ => error,
    }
}

fn fault(error: &anyhow::Error) -> Option<&StoreError> {
    match (error.downcast_ref(), error.downcast_ref()) {
        (Some(ImportError::Store(fault)), _) | (_, Some(RestoreError::Store(fault))) => Some(fault),
        _ => error.downcast_ref(),
    }
}

/// A file to read from the start twice.
fn read(path: &Path) -> anyhow::Result<BufReader<File>> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let metadata = file.metadata().with_context(|| format!("cannot read {}", path.display()))?;
    if !metadata.is_file() {
        anyhow::bail!("{} is not a file; write it to one first, since it is read twice", path.display());
    }
    Ok(BufReader::with_capacity(1 << 16, file))
}

fn create(path: &Path) -> anyhow::Result<WholeFile> {
    WholeFile::create(path).with_context(|| unwritten(path))
}

fn unwritten(path: &Path) -> String {
    format!("cannot write {}", path.display())
}
