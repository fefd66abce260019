//! `store repair`: a store that opens, of what can be trusted in one that does not.

use clap::Args;

use crate::store::{self, Doubtful, Dropped};

use super::{ConfigArgument, Exit, output};

/// Make a store that opens of one that is damaged
///
/// Keeps the keys that are proven to be as they were last acknowledged, by sums or by the change log, and tells of every
/// other that it is gone: an old record could open more than its key was left with. The damaged files are kept aside.
/// Prefer a backup that is recent enough. A sound store is left alone.
#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Also keep keys that may have been changed or deleted since, because changes are missing: check each of them, since
    /// it may open more than it was left with
    #[arg(long)]
    keep_doubtful: bool,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    let config = arguments.config.load()?;
    let doubtful = if arguments.keep_doubtful { Doubtful::Keep } else { Doubtful::Drop };
    let done = store::repair(&config.store, doubtful)?;
    if done.problems.is_empty() {
        output::print(&format!("sound: {} keys at revision {}; nothing was done", done.kept, done.revision))?;
        return Ok(Exit::Success);
    }
    let problems = done.problems.iter().map(|problem| format!("found: {problem}"));
    let mut lines: Vec<String> = problems.collect();
    lines.extend(done.doubtful.iter().map(|key| told("doubtful", key)));
    lines.extend(done.dropped.iter().map(|key| told("gone", key)));
    if done.unknown > 0 {
        lines.push(format!("gone: {} more keys, of which nothing is known", done.unknown));
    }
    if done.changes_lost > 0 {
        lines.push(format!("gone: {} lines of the change log", done.changes_lost));
    }
    if done.is_end_unknown {
        lines.push(format!(
            "unknown: whether there were changes after revision {}: the mark that tells was damaged; compare with the \
             audit lines of the log, since a change that is missing may have narrowed or deleted a key",
            done.revision
        ));
    }
    lines.push(format!("kept: {} keys, at revision {}", done.kept, done.revision));
    output::print(&output::escaped_lines(&lines.join("\n")))?;
    if let Some(aside) = done.aside {
        output::note(&format!("The damaged files are in {}.", aside.display()));
    }
    Ok(Exit::Success)
}

fn told(what: &str, key: &Dropped) -> String {
    let Dropped { id, facts, reason } = key;
    format!("{what}: {id} \"{}\" ({}): {reason}", facts.name.as_str(), facts.scopes.names().join(" "))
}
