//! `store compact`: the store in fresh files.

use crate::store;

use super::{ConfigArgument, Exit, output};

pub(super) fn run(config: &ConfigArgument) -> anyhow::Result<Exit> {
    let config = config.load()?;
    let done = store::compact(&config.store)?;
    output::print(&format!("{} keys: {} bytes, now {}", done.keys, done.bytes_before, done.bytes_after))?;
    Ok(Exit::Success)
}
