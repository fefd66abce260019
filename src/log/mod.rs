//! What is said to the operator on stderr, as text or JSON lines.
//!
//! Refuses to hold anybody up: a line that finds no room is dropped and counted. Invariants: one event is one line,
//! whatever is in its fields; a JSON line is valid JSON; no field holds a secret, a query string or a header map.

mod events;
mod lines;
mod occasionally;
#[cfg(test)]
mod tests;

use std::io;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};

use crate::settings::{Node, Value, settings};
use events::{ACCESS, AUDIT};
use lines::Lines;

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

/// Sends every event of the process to stderr from now on. What is returned is to be held until the process ends.
///
/// # Errors
/// When the writing thread cannot be started, or the process has a subscriber already.
pub fn init(settings: &Settings) -> io::Result<Flush> {
    let (lines, flush) = lines::start(settings.format, io::stderr())?;
    tracing::subscriber::set_global_default(subscriber(settings, lines)).map_err(io::Error::other)?;
    Ok(flush)
}

fn subscriber(settings: &Settings, lines: Lines) -> impl tracing::Subscriber + Send + Sync {
    tracing_subscriber::registry().with(targets(settings)).with(layer(settings.format, lines))
}

fn layer<S, W>(format: Format, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'span> tracing_subscriber::registry::LookupSpan<'span>,
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    // Without internal errors: they would go to stderr by `eprintln!`, which panics when stderr is closed.
    let layer = tracing_subscriber::fmt::layer().with_ansi(false).log_internal_errors(false).with_writer(writer);
    match format {
        Format::Json => layer.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed(),
        Format::Text => layer.boxed(),
    }
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
