//! `store verify`: whether the store is what was acknowledged.

use clap::Args;

use crate::store;

use super::{ConfigArgument, Exit, output};

/// Read the whole store and tell what is wrong with it
///
/// Reads every record, the sums over them, the change log and the times of last use, and holds them against each other.
/// Each problem is a line on stdout. Ends with 0 only when there is none. The store is not changed: what is read is a
/// copy, which needs as much room as the store has.
#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    let config = arguments.config.load()?;
    let found = store::verify(&config.store)?;
    if found.problems.is_empty() {
        output::print(&format!(
            "sound: {} keys at revision {}, {} changes kept, format {}",
            found.keys, found.revision, found.changes, found.format
        ))?;
        return Ok(Exit::Success);
    }
    output::print(&output::escaped_lines(&found.problems.join("\n")))?;
    output::note("The store is not sound: restore it from a backup, or see `portcullis store repair`.");
    Ok(Exit::Refused)
}
