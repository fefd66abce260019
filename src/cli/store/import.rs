//! `store import`: keys of another store into this one.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, ValueEnum};

use crate::clock::Clock;
use crate::store::{Import, Imported, OnConflict};

use super::super::ConfigArgument;
use super::{Exit, output};

/// Take the keys of an export or a backup into the store
///
/// All of the file is checked before anything is written. A store that is not there yet appears with all keys or not at
/// all. One that is there takes them in order: if that is cut off, run the same command again. Keys that are there
/// already as they are in the file are passed over. A key whose id is there with another secret is an error, always. The
/// log of changes names the operator as who made the keys.
#[derive(Args)]
#[command(after_help = "Example: portcullis store import --config portcullis.toml keys.jsonl")]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// What `store export` or `store backup` has written
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// What to do when a key is in the store with another name or other scopes
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = Conflict::Refuse)]
    on_conflict: Conflict,
    /// What to do with keys that hold scopes which [scopes] does not declare
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = Undeclared::Refuse)]
    undeclared_scopes: Undeclared,
    /// Check and tell what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Conflict {
    /// Import nothing at all
    Refuse,
    /// Leave the store's key as it is
    Skip,
    /// Give the store's key the name and scopes of the file
    Update,
}

#[derive(Clone, Copy, ValueEnum)]
enum Undeclared {
    /// Keep them: they count from the moment that they are declared
    Keep,
    /// Import nothing at all
    Refuse,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    let config = arguments.config.load()?;
    let path = &arguments.file;
    let file = super::read(path)?;
    let import = Import {
        settings: &config.store,
        scopes: match arguments.undeclared_scopes {
            Undeclared::Keep => None,
            Undeclared::Refuse => Some(&config.scopes),
        },
        on_conflict: match arguments.on_conflict {
            Conflict::Refuse => OnConflict::Refuse,
            Conflict::Skip => OnConflict::Skip,
            Conflict::Update => OnConflict::Update,
        },
        keys_max: config.keys.keys_max.get().into(),
        now: Clock::System.now(),
    };
    let imported = if arguments.dry_run { import.rehearse(file) } else { import.run(file) };
    let imported = imported
        .map_err(|error| super::explained(error.into()))
        .with_context(|| format!("cannot import {}", path.display()))?;
    let Imported { created, skipped, unchanged, updated, managers } = imported;
    output::print(&format!("created {created}, updated {updated}, unchanged {unchanged}, skipped {skipped}"))?;
    if managers == 0 {
        output::note("warning: no key in the store can manage keys; set keys.root_key_file to have one made");
    }
    if arguments.dry_run {
        output::note("Nothing was written.");
    }
    Ok(Exit::Success)
}
