//! A file's text and the problems found in it. Refuses to guess: a problem always has its place.

use std::fmt;
use std::path::{Path, PathBuf};

/// A configuration file as it was read.
pub struct Source {
    pub path: PathBuf,
    pub text: String,
}

impl Source {
    /// The folder that the file's relative paths start from.
    pub fn folder(&self) -> &Path {
        match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        }
    }

    pub(super) fn problem(&self, offset: usize, message: String) -> Problem {
        let (line, column) = self.position(offset);
        let shown = self.text.lines().nth(line - 1).unwrap_or_default().to_owned();
        Problem { path: self.path.clone(), line, column, shown, message }
    }

    /// Line and column of a byte offset, both counted from 1, columns in characters.
    pub(super) fn position(&self, offset: usize) -> (usize, usize) {
        let before = self.text.get(..offset.min(self.text.len())).unwrap_or(&self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }
}

/// One thing that is wrong, and where.
#[derive(Clone, Debug)]
pub struct Problem {
    pub path: PathBuf,
    pub line: usize,
    pub column: usize,
    /// The whole line of the file.
    pub shown: String,
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}:{}:{}: {}", self.path.display(), self.line, self.column, self.message)?;
        let gutter = self.line.to_string();
        writeln!(f, "  {gutter} | {}", self.shown)?;
        write!(f, "  {} | {}^", " ".repeat(gutter.len()), " ".repeat(self.column - 1))
    }
}

/// At least one problem, in the order of their places.
#[derive(Clone, Debug)]
pub struct Problems(Vec<Problem>);

impl Problems {
    pub(super) fn check(mut problems: Vec<Problem>) -> Result<(), Self> {
        if problems.is_empty() {
            return Ok(());
        }
        problems.sort_by_key(|problem| (problem.line, problem.column));
        Err(Self(problems))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.0 {
            writeln!(f, "{problem}")?;
        }
        let plural = if self.0.len() == 1 { "" } else { "s" };
        write!(f, "{} problem{plural}", self.0.len())
    }
}

impl std::error::Error for Problems {}
