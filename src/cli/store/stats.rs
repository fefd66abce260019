//! `store stats`: the store in numbers.

use crate::store;

use super::{ConfigArgument, Exit, output};

pub(super) fn run(config: &ConfigArgument) -> anyhow::Result<Exit> {
    let config = config.load()?;
    let stats = store::stats(&config.store)?;
    let keys: usize = stats.kinds.iter().map(|(_, count)| count).sum();
    let kinds = stats.kinds.iter().map(|(kind, count)| format!("{} {count}", kind.as_str()));
    let first = stats.first_change.map(|first| format!(", from revision {first}")).unwrap_or_default();
    let files = stats.files.iter().map(|(path, bytes)| format!("{} {bytes}", path.display()));
    let mut fields = vec![
        ("format", stats.format.to_string()),
        ("revision", stats.revision.to_string()),
        ("keys", keys.to_string()),
        ("kinds", kinds.collect::<Vec<String>>().join("\n")),
        ("ever used", stats.used.to_string()),
        ("changes", format!("{}{first}", stats.changes)),
        ("files", files.collect::<Vec<String>>().join("\n")),
    ];
    if stats.unreadable > 0 {
        fields.push(("unreadable", format!("{} (see `portcullis store verify`)", stats.unreadable)));
    }
    output::print(&output::fields(&fields))?;
    Ok(Exit::Success)
}
