//! How an option is read: from a TOML value with its position to a typed setting, all problems at once.
//!
//! Knows no option by name: each module declares its own with `settings!`, and `config` composes them.
//!
//! Invariants: reading never stops at the first problem; a field that nothing asked for is a problem; every problem
//! names file, line and column.

mod addresses;
mod files;
mod interpolate;
mod problem;
mod units;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

pub use files::{FileState, read_file};
pub use problem::{Problem, Problems, Source};
pub use units::{ByteSize, Rate};

/// Declares a struct of options: each field once, with its type and default.
///
/// The struct gets `Default`, [`Value`] and a comparison by name; a TOML table with a field that is not listed is a problem.
macro_rules! settings {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$note:meta])* pub $field:ident: $type:ty = $default:expr,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name { $($(#[$note])* pub $field: $type,)* }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl $name {
            /// The names of the options that differ.
            pub fn differences(&self, other: &Self) -> Vec<&'static str> {
                let options = [$((stringify!($field), self.$field == other.$field)),*];
                options.into_iter().filter(|(_, same)| !same).map(|(name, _)| name).collect()
            }

            /// Reads these options out of a section that may hold others beside them.
            pub(crate) fn fields(section: &mut $crate::settings::Section<'_>) -> Self {
                Self { $($field: section.option(stringify!($field), || $default),)* }
            }
        }

        impl $crate::settings::Value for $name {
            fn read(node: &$crate::settings::Node<'_>) -> Option<Self> {
                let mut section = node.section()?;
                let settings = Self::fields(&mut section);
                section.finish();
                Some(settings)
            }
        }
    };
}
pub(crate) use settings;

/// A type that an option can have.
pub trait Value: Sized {
    /// Reads the value at `node`; `None` means that a problem was reported there.
    fn read(node: &Node<'_>) -> Option<Self>;
}

/// Shorter values are no secrets, and stand in words by chance.
const SECRET_BYTES_MIN: usize = 4;

/// One reading of one file: collects its problems and the names of the options that were asked for.
pub struct Reading<'a> {
    source: &'a Source,
    problems: RefCell<Vec<Problem>>,
    asked: RefCell<BTreeSet<String>>,
    files: RefCell<Vec<FileState>>,
    /// What strings with placeholders stand for, each with how it is written: what messages say in its place.
    filled: RefCell<Vec<(String, String)>>,
}

impl<'a> Reading<'a> {
    pub fn new(source: &'a Source) -> Self {
        Self {
            source,
            problems: RefCell::default(),
            asked: RefCell::default(),
            files: RefCell::default(),
            filled: RefCell::default(),
        }
    }

    /// Reads the whole document as `T`. `None` and every problem are told by [`Reading::finish`].
    pub fn document<T: Value>(&self) -> Option<T> {
        let (root, errors) = DeTable::parse_recoverable(&self.source.text);
        for error in errors {
            let span = error.span().unwrap_or(0..0);
            self.report(span, error.message().to_owned());
        }
        // A file that is not TOML has been told where; what its tables would mean is guesswork.
        if !self.problems.borrow().is_empty() {
            return None;
        }
        let span = root.span();
        let value = DeValue::Table(root.into_inner());
        T::read(&Node { reading: self, value: &value, span, path: String::new() })
    }

    pub fn report(&self, span: Range<usize>, mut message: String) {
        for (value, written) in self.filled.borrow().iter() {
            message = message.replace(value, written);
        }
        self.problems.borrow_mut().push(self.source.problem(span.start, message));
    }

    /// The dotted names of all options that the readers asked for, in alphabetical order.
    pub fn asked(&self) -> Vec<String> {
        self.asked.borrow().iter().cloned().collect()
    }

    /// The files that placeholders named as they were before they were read, those that could not be read too.
    pub fn files(&self) -> Vec<FileState> {
        self.files.borrow().clone()
    }

    /// # Errors
    /// All problems, in the order of their positions, if there was any.
    pub fn finish(self) -> Result<(), Problems> {
        Problems::check(self.problems.into_inner())
    }
}

/// A value in the file, with its place and dotted name.
pub struct Node<'a> {
    reading: &'a Reading<'a>,
    value: &'a DeValue<'a>,
    span: Range<usize>,
    path: String,
}

impl<'a> Node<'a> {
    /// The dotted name, for messages (`limits.key.rate`).
    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// The file's own folder: where relative paths start.
    pub fn folder(&self) -> &Path {
        self.reading.source.folder()
    }

    /// The file's text before the line that this begins on, and after the line that it ends on.
    pub fn around(&self) -> (&'a str, &'a str) {
        let text = self.reading.source.text.as_str();
        let line_start = text[..self.span.start].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = text[self.span.end..].find('\n').map_or(text.len(), |newline| self.span.end + newline + 1);
        (&text[..line_start], &text[line_end..])
    }

    pub fn value(&self) -> &'a DeValue<'a> {
        self.value
    }

    /// Whether the value is the word that unsets an option.
    pub fn is_off(&self) -> bool {
        self.value.as_str() == Some(OFF)
    }

    /// Reports a problem at this value. Returns `None`, so that a reader can end with it.
    pub fn problem<T>(&self, message: impl Into<String>) -> Option<T> {
        self.reading.report(self.span.clone(), message.into());
        None
    }

    /// Reports a problem elsewhere in the same file.
    pub fn problem_at(&self, span: Range<usize>, message: impl Into<String>) {
        self.reading.report(span, message.into());
    }

    /// The line (1-based) of a span's start, for messages that name a second place.
    pub fn line_of(&self, span: &Range<usize>) -> usize {
        self.reading.source.position(span.start).0
    }

    /// The string here, with `${env:NAME}` and `${file:PATH}` filled in.
    pub fn text(&self) -> Option<String> {
        let Some(raw) = self.value.as_str() else {
            return self.problem(format!("{} must be a string, not {}", self.name(), self.value.type_str()));
        };
        let mut note = |path: &Path| self.reading.files.borrow_mut().push(FileState::of(path));
        match interpolate::expand(raw, self.folder(), &mut note) {
            Ok(text) => {
                if self.placeholders().is_some() && text.len() >= SECRET_BYTES_MIN {
                    self.reading.filled.borrow_mut().push((text.clone(), raw.to_owned()));
                }
                Some(text)
            }
            Err(message) => self.problem(format!("{}: {message}", self.name())),
        }
    }

    /// The string here as it is written, if it has placeholders. What they stand for may be a secret, and is not shown.
    pub fn placeholders(&self) -> Option<&'a str> {
        self.value.as_str().filter(|raw| raw.contains("${"))
    }

    /// The table here, to be asked for its fields one by one.
    pub fn section(&self) -> Option<Section<'a>> {
        let Some(table) = self.value.as_table() else {
            return self.problem(format!("{} must be a table, not {}", self.name(), self.value.type_str()));
        };
        Some(Section { reading: self.reading, table, path: self.path.clone(), known: Vec::new() })
    }

    /// The elements of the array here.
    pub fn elements(&self) -> Option<Vec<Node<'a>>> {
        let Some(array) = self.value.as_array() else {
            return self.problem(format!("{} must be an array, not {}", self.name(), self.value.type_str()));
        };
        Some(array.iter().map(|element| self.child(element, &self.path)).collect())
    }

    /// The fields of the table here, whatever their names, in the order of their positions.
    pub fn entries(&self) -> Option<Vec<Entry<'a>>> {
        Some(self.section()?.entries())
    }

    fn child(&self, value: &'a Spanned<DeValue<'a>>, path: &str) -> Node<'a> {
        Node { reading: self.reading, value: value.get_ref(), span: value.span(), path: path.to_owned() }
    }

    fn name(&self) -> &str {
        if self.path.is_empty() { "the file" } else { &self.path }
    }
}

/// A field whose name is the user's own choice (`[scopes]`, `[upstream.X]`, a route line).
pub struct Entry<'a> {
    pub name: String,
    pub name_span: Range<usize>,
    pub node: Node<'a>,
}

/// A table that is being read.
pub struct Section<'a> {
    reading: &'a Reading<'a>,
    table: &'a DeTable<'a>,
    path: String,
    known: Vec<&'static str>,
}

impl<'a> Section<'a> {
    /// The option called `name`, or its default when the file does not set it or sets it badly (which is reported).
    pub fn option<T: Value>(&mut self, name: &'static str, default: impl FnOnce() -> T) -> T {
        self.node(name).and_then(|node| T::read(&node)).unwrap_or_else(default)
    }

    /// The value called `name`, if the file sets it.
    pub fn node(&mut self, name: &'static str) -> Option<Node<'a>> {
        if !self.known.contains(&name) {
            self.known.push(name);
        }
        let path = dotted(&self.path, name);
        self.reading.asked.borrow_mut().insert(path.clone());
        let value = self.table.get(name)?;
        Some(Node { reading: self.reading, value: value.get_ref(), span: value.span(), path })
    }

    /// Reports every field that was not asked for, with the nearest known name.
    pub fn finish(self) {
        for (name, _) in self.sorted() {
            if !self.known.contains(&name.get_ref().as_ref()) {
                let message = unknown(&dotted(&self.path, name.get_ref()), name.get_ref(), &self.known);
                self.reading.report(name.span(), message);
            }
        }
    }

    fn entries(&self) -> Vec<Entry<'a>> {
        let entry = |(name, value): (&'a Spanned<DeString<'a>>, &'a Spanned<DeValue<'a>>)| Entry {
            name: name.get_ref().to_string(),
            name_span: name.span(),
            node: Node {
                reading: self.reading,
                value: value.get_ref(),
                span: value.span(),
                path: dotted(&self.path, name.get_ref()),
            },
        };
        self.sorted().into_iter().map(entry).collect()
    }

    fn sorted(&self) -> Vec<(&'a Spanned<DeString<'a>>, &'a Spanned<DeValue<'a>>)> {
        let mut fields: Vec<_> = self.table.iter().collect();
        fields.sort_by_key(|(name, _)| name.span().start);
        fields
    }
}

fn dotted(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn unknown(path: &str, name: &str, known: &[&'static str]) -> String {
    match nearest(name, known.iter().copied()) {
        Some(near) => format!("unknown option {path}; did you mean {near}?"),
        None => format!("unknown option {path}; known here: {}", known.join(", ")),
    }
}

/// The candidate that a typing slip most likely meant, if one is near enough to be worth telling.
pub fn nearest<'c>(name: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    candidates
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

impl Value for bool {
    fn read(node: &Node<'_>) -> Option<Self> {
        match node.value.as_bool() {
            Some(value) => Some(value),
            None => node.problem(format!("{} must be true or false", node.name())),
        }
    }
}

impl Value for String {
    fn read(node: &Node<'_>) -> Option<Self> {
        node.text()
    }
}

/// As written; whoever composes the options lets relative ones start at the file's own folder, defaults too.
impl Value for PathBuf {
    fn read(node: &Node<'_>) -> Option<Self> {
        let text = node.text()?;
        if text.is_empty() {
            return node.problem(format!("{} is empty; give a path", node.name()));
        }
        Some(Self::from(text))
    }
}

/// A count: a whole number of at least 1.
impl Value for std::num::NonZeroU32 {
    fn read(node: &Node<'_>) -> Option<Self> {
        let integer = node.value.as_integer();
        let number = integer.and_then(|integer| u32::from_str_radix(integer.as_str(), integer.radix()).ok());
        match number.and_then(Self::new) {
            Some(number) => Some(number),
            None => node.problem(format!("{} must be a whole number from 1 to {}", node.name(), u32::MAX)),
        }
    }
}

const OFF: &str = "off";

/// `"off"` means not set.
impl<T: Value> Value for Option<T> {
    fn read(node: &Node<'_>) -> Option<Self> {
        if node.is_off() {
            return Some(None);
        }
        T::read(node).map(Some)
    }
}

impl<T: Value> Value for Vec<T> {
    fn read(node: &Node<'_>) -> Option<Self> {
        let elements = node.elements()?;
        let read: Vec<Option<T>> = elements.iter().map(T::read).collect();
        read.into_iter().collect()
    }
}
