//! What is said to the operator on stderr, as text or JSON lines.
//!
//! Refuses to hold anybody up: a line that finds no room is dropped and counted. Invariants: one event is one line,
//! whatever is in its fields; a JSON line is valid JSON; no field holds a secret, a query string or a header map.

mod events;
mod format;
mod lines;
mod occasionally;
#[cfg(test)]
mod tests;

use std::io;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::Registry;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;

use crate::settings::{Node, Value, settings};
use events::{ACCESS, AUDIT};
use format::{EitherFormat, FormatChoice};
use lines::{Lines, Written};

pub use events::{Access, Audit};
pub use lines::Flush;
pub(crate) use lines::deceives;
pub use occasionally::Occasionally;

settings! {
    /// `[log]`
    pub struct Settings {
        pub format: Format = Format::Text,
        /// The least urgent level that is shown; audit lines always are.
        pub level: Level = Level::Info,
        /// Whether each request leaves a line.
        pub access: bool = false,
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    Json,
    Text,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Level {
    Debug,
    Error,
    Info,
    Warn,
}

impl Value for Format {
    fn read(node: &Node<'_>) -> Option<Self> {
        choice(node, &[("text", Self::Text), ("json", Self::Json)])
    }
}

impl Value for Level {
    fn read(node: &Node<'_>) -> Option<Self> {
        choice(node, &[("error", Self::Error), ("warn", Self::Warn), ("info", Self::Info), ("debug", Self::Debug)])
    }
}

fn choice<T: Copy>(node: &Node<'_>, choices: &[(&str, T)]) -> Option<T> {
    let text = node.text()?;
    match choices.iter().find(|(name, _)| *name == text) {
        Some((_, choice)) => Some(*choice),
        None => {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            node.problem(format!("{} must be one of {}, not \"{text}\"", node.path(), names.join(", ")))
        }
    }
}

/// Sends every event of the process to stderr from now on. The [`Flush`] is to be held until the process ends.
///
/// # Errors
/// When the writing thread cannot be started, or the process has a subscriber already.
pub fn init(settings: &Settings) -> io::Result<(Control, Flush)> {
    init_with(settings, io::stderr())
}

/// Sends every event of the process to `sink` from now on, as [`init`] does to stderr.
///
/// # Errors
/// As [`init`].
pub fn init_with(settings: &Settings, sink: impl io::Write + Send + 'static) -> io::Result<(Control, Flush)> {
    let format = FormatChoice::new(settings.format);
    let (lines, flush) = lines::start(format.clone(), sink)?;
    let written = lines.written();
    let (subscriber, filter) = subscriber(settings, format.clone(), lines);
    tracing::subscriber::set_global_default(subscriber).map_err(io::Error::other)?;
    Ok((Control { filter, format, written }, flush))
}

/// The log of the process, for changes while it runs.
#[derive(Clone)]
pub struct Control {
    filter: reload::Handle<Targets, Registry>,
    format: FormatChoice,
    written: Written,
}

impl Control {
    /// Other events, or another format, from the next line on.
    pub fn reconfigure(&self, settings: &Settings) {
        self.format.set(settings.format);
        // Fails only without the subscriber, which lives as long as the process.
        let _ = self.filter.reload(targets(settings));
    }

    /// Waits until what was logged is written, for two seconds at most. Blocking.
    pub fn flush(&self) {
        self.written.wait();
    }
}

fn subscriber(
    settings: &Settings,
    format: FormatChoice,
    lines: Lines,
) -> (impl tracing::Subscriber + Send + Sync, reload::Handle<Targets, Registry>) {
    let (filter, handle) = reload::Layer::new(targets(settings));
    // Without internal errors: they would go to stderr by `eprintln!`, which panics when stderr is closed.
    let layer = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .log_internal_errors(false)
        .event_format(EitherFormat::new(format))
        .with_writer(lines);
    (tracing_subscriber::registry().with(filter).with(layer), handle)
}

fn targets(settings: &Settings) -> Targets {
    let level = match settings.level {
        Level::Debug => LevelFilter::DEBUG,
        Level::Error => LevelFilter::ERROR,
        Level::Info => LevelFilter::INFO,
        Level::Warn => LevelFilter::WARN,
    };
    let access = if settings.access { LevelFilter::INFO } else { LevelFilter::OFF };
    // Libraries stay at warnings: at debug some of them write header values, and those hold credentials.
    Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_target("portcullis", level)
        .with_target(ACCESS, access)
        .with_target(AUDIT, LevelFilter::INFO)
}
