//! `store`: the store itself, while no gate runs on it.
//!
//! What the commands share: how the store is opened and what is said when a gate has it.

mod backup;
mod export;
mod import;
mod restore;

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use anyhow::Context as _;
use clap::{Args, Subcommand};

use crate::store::{ImportError, RestoreError, Settings, SledStore, StoreError, WholeFile};

use super::{Exit, output};

/// Back up, restore and migrate the keys
///
/// For a store that no gate runs on. A running gate makes backups by itself: see [store.backup] in the configuration.
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
    Export(export::Arguments),
    Import(import::Arguments),
    Restore(restore::Arguments),
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    match &arguments.command {
        Command::Backup(arguments) => backup::run(arguments),
        Command::Export(arguments) => export::run(arguments),
        Command::Import(arguments) => import::run(arguments),
        Command::Restore(arguments) => restore::run(arguments),
    }
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
