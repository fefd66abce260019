//! What the commands write: to stdout the result, to stderr what is said about it.
//!
//! Invariant: text that others chose (names of keys, a gate's answers) reaches a terminal with its control characters
//! escaped.

use std::io::{self, ErrorKind, Write};

use crate::log::deceives;

/// The result could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output")]
pub(super) struct OutputError(#[from] io::Error);

impl OutputError {
    /// Whether the reader of the pipe has left.
    pub(super) fn is_closed(&self) -> bool {
        self.0.kind() == ErrorKind::BrokenPipe
    }
}

/// Writes text and a line end to stdout.
pub(super) fn print(text: &str) -> Result<(), OutputError> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")?;
    Ok(stdout.flush()?)
}

/// Writes text and a line end to stderr. Nobody is left to tell when that fails.
pub(super) fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// The text with every character escaped that could move a cursor, colour a terminal or turn the reading direction.
pub(super) fn escaped(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut shown, c| {
        if deceives(c) {
            shown.extend(c.escape_unicode())
        } else {
            shown.push(c)
        }
        shown
    })
}

/// As [`escaped`], line ends kept: for text of several lines of ours.
pub(super) fn escaped_lines(text: &str) -> String {
    text.split('\n').map(escaped).collect::<Vec<String>>().join("\n")
}

/// Indented JSON, its strings as harmless as [`escaped`] makes them.
pub(super) fn json(value: &serde_json::Value) -> String {
    // Outside of strings JSON has none of these characters but the line end, so each can be written as an escape.
    format!("{value:#}").chars().fold(String::new(), |mut shown, c| {
        match u32::from(c) {
            code if deceives(c) && c != '\n' => shown.push_str(&format!("\\u{code:04x}")),
            _ => shown.push(c),
        }
        shown
    })
}

/// Columns under their headings, two blanks apart. The last one is not padded, so the widest belongs there.
pub(super) fn table<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> String {
    let heading = heading.map(str::to_owned);
    let lines = || std::iter::once(&heading).chain(rows);
    let width = |column: usize| lines().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |cells: &[String; N]| {
        let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<String>>().join("  ").trim_end().to_owned()
    };
    lines().map(line).collect::<Vec<String>>().join("\n")
}

/// One `name  value` a line, values aligned; a value of several lines goes on below itself.
pub(super) fn fields(fields: &[(&str, String)]) -> String {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let indent = format!("\n{:width$}  ", "");
    let line = |(name, value): &(&str, String)| format!("{name:width$}  {}", value.replace('\n', &indent));
    fields.iter().map(line).collect::<Vec<String>>().join("\n")
}
