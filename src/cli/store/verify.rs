//! `store verify`: whether the store is what was acknowledged.

use crate::store;

use super::{ConfigArgument, Exit, output};

pub(super) fn run(config: &ConfigArgument) -> anyhow::Result<Exit> {
    let config = config.load()?;
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
