//! The route table: a trie of decoded segments, literals before `{name}` before `{*rest}` at each step.
//!
//! A look-up does not allocate, visits a node at most once, and costs the same however many lines there are.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;

use super::host::Host;
use super::leaf::{Leaf, MethodLines};
use super::path::{Path, Segments, decode};
use super::pattern::{LITERAL_BYTES_MAX, Pattern, Segment};

const ROOT: usize = 0;

/// The lines of a configuration, each with what its owner ties to it.
#[derive(Debug)]
pub struct Table<T> {
    lines: Vec<(Pattern, T)>,
    trie: Trie,
    names_hosts: bool,
}

/// What the table says of a request.
#[derive(Debug)]
pub enum Found<'t, T> {
    Line {
        line: &'t T,
        pattern: &'t Pattern,
        /// Where in the raw path the `{credential}` segment lies.
        credential: Option<Range<usize>>,
    },
    /// The path has lines, but none for this method.
    MethodNotAllowed {
        /// The value of the `Allow` field.
        allow: &'t str,
    },
    Nothing,
}

/// Two lines that cannot both be meant.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Conflict {
    /// Index of the line that stays.
    pub first: usize,
    /// Index of the line that is refused.
    pub second: usize,
    pub kind: ConflictKind,
}

/// The text says what the second line is to the first.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ConflictKind {
    /// Parameter names make no difference.
    #[error("claims the same {method} requests as")]
    SameRequests { method: String },
    #[error("is left no path by more specific lines, one of them")]
    Unreachable,
}

/// No lines: finds nothing.
impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { lines: Vec::new(), trie: Trie::default(), names_hosts: false }
    }
}

impl<T> Table<T> {
    /// # Errors
    /// Every [`Conflict`], with the indices of both lines in `lines`.
    pub fn build(lines: Vec<(Pattern, T)>) -> Result<Self, Vec<Conflict>> {
        let mut trie = Trie::default();
        let mut conflicts: Vec<Conflict> =
            lines.iter().enumerate().flat_map(|(index, (pattern, _))| trie.insert(pattern, index)).collect();
        conflicts.extend(trie.unreachable());
        if !conflicts.is_empty() {
            return Err(conflicts);
        }
        trie.nodes.iter_mut().for_each(Node::finish);
        let names_hosts = lines.iter().any(|(pattern, _)| !pattern.hosts().is_empty());
        Ok(Self { lines, trie, names_hosts })
    }

    /// Whether a request's host makes a difference to [`Table::find`].
    pub fn names_hosts(&self) -> bool {
        self.names_hosts
    }

    /// Finds the line that governs a request. `host` is without its port; its case makes no difference.
    ///
    /// The most specific path wins, then a line with that host over one with `*.` and that over one without; those lines
    /// answer alone.
    pub fn find<'t>(&'t self, host: Option<&str>, path: &Path<'_>, method: &str) -> Found<'t, T> {
        // A name with a final dot is the same host: it must not slip past a line that names it.
        let host = host.map(|host| host.strip_suffix('.').unwrap_or(host));
        let Some(lines) = self.trie.find(host, path) else {
            return Found::Nothing;
        };
        let Some(index) = lines.line(method) else {
            return Found::MethodNotAllowed { allow: lines.allow() };
        };
        let (pattern, line) = &self.lines[index];
        let credential = pattern.credential_position().and_then(|position| segment_range(path, position));
        Found::Line { line, pattern, credential }
    }

    /// All lines in the order in which they were given.
    pub fn lines(&self) -> impl ExactSizeIterator<Item = (&Pattern, &T)> {
        self.lines.iter().map(|(pattern, line)| (pattern, line))
    }
}

fn segment_range(path: &Path<'_>, position: usize) -> Option<Range<usize>> {
    let start = path.segment_start(position);
    let segment = path.raw().get(start..)?.split('/').next()?;
    Some(start..start + segment.len())
}

#[derive(Debug)]
struct Trie {
    /// The root is always there.
    nodes: Vec<Node>,
}

impl Default for Trie {
    fn default() -> Self {
        Self { nodes: vec![Node::default()] }
    }
}

/// What follows one prefix of segments. Children are indices of nodes.
#[derive(Debug, Default)]
struct Node {
    literals: HashMap<Box<[u8]>, usize, BuildHasherDefault<SegmentHasher>>,
    parameter: Option<usize>,
    exact: Leaf,
    rest: Leaf,
}

/// The lines that a path leads to.
struct Match<'t> {
    lines: &'t MethodLines,
    /// Where in the raw path `{*rest}` begins, if the match ends in one.
    rest_from: Option<usize>,
}

impl Trie {
    fn find(&self, host: Option<&str>, path: &Path<'_>) -> Option<&MethodLines> {
        let found = self.walk(&self.nodes[ROOT], path.segments(), host)?;
        let doubtful = path.has_semicolon() || (path.has_encoded_slash() && found.rest_from.is_some());
        // `/api/{*rest}` must not grant `/api/v1%2Fadmin` or `/api/v1;x/admin` where `/api/v1/admin` has its own line:
        // an upstream may read it so. A `{name}` takes an encoded slash without a second look: it says "one segment".
        if doubtful {
            let lax = path.lax_segments(found.rest_from.unwrap_or(usize::MAX));
            let again = self.walk(&self.nodes[ROOT], lax, host)?;
            return std::ptr::eq(found.lines, again.lines).then_some(found.lines);
        }
        Some(found.lines)
    }

    /// Tries the most specific way first and steps back where it leads to no line for this host.
    fn walk<'t>(&'t self, mut node: &'t Node, mut segments: Segments<'_>, host: Option<&str>) -> Option<Match<'t>> {
        loop {
            let here = segments.position();
            let rest = || Some(Match { lines: node.rest.lines(host)?, rest_from: Some(here) });
            let Some(segment) = segments.next() else {
                let exact = node.exact.lines(host).map(|lines| Match { lines, rest_from: None });
                return exact.or_else(rest);
            };
            let literal = if segments.are_escaped() { node.literal_escaped(segment) } else { node.literal(segment) };
            let parameter = node.parameter.filter(|_| !segment.is_empty());
            match (literal, parameter) {
                // Nothing to step back to.
                (Some(child), None) | (None, Some(child)) if node.rest.is_empty() => node = &self.nodes[child],
                _ => {
                    let below = |child: Option<usize>| self.walk(&self.nodes[child?], segments, host);
                    return below(literal).or_else(|| below(parameter)).or_else(rest);
                }
            }
        }
    }

    /// Reports no two lines twice, however many hosts they have in common.
    fn insert(&mut self, pattern: &Pattern, line: usize) -> Vec<Conflict> {
        let mut index = ROOT;
        for segment in &pattern.segments {
            let fresh = self.nodes.len();
            let node = &mut self.nodes[index];
            index = match segment {
                Segment::Literal(text) => *node.literals.entry(text.as_bytes().into()).or_insert(fresh),
                Segment::Parameter(_) => *node.parameter.get_or_insert(fresh),
                Segment::Rest(_) => break,
            };
            if index == fresh {
                self.nodes.push(Node::default());
            }
        }
        let node = &mut self.nodes[index];
        let ends_in_rest = matches!(pattern.segments.last(), Some(Segment::Rest(_)));
        let leaf = if ends_in_rest { &mut node.rest } else { &mut node.exact };
        let any = pattern.hosts.is_empty().then_some(None);
        let hosts = pattern.hosts.iter().map(Some).chain(any);
        let mut conflicts: Vec<Conflict> =
            hosts.filter_map(|host| leaf.lines_mut(host).add(&pattern.methods, line)).collect();
        conflicts.sort_by_key(|conflict| conflict.first);
        conflicts.dedup_by_key(|conflict| conflict.first);
        conflicts
    }

    /// The `{*rest}` lines that no path is left for. No other line can be unreachable: a `{name}` is never used up.
    fn unreachable(&self) -> Vec<Conflict> {
        let mut conflicts = Vec::new();
        for (index, node) in self.nodes.iter().enumerate() {
            for (host, lines) in node.rest.iter() {
                let Some(first) = self.shadow(index, host.as_ref()) else { continue };
                let unreachable = |second| Conflict { first, second, kind: ConflictKind::Unreachable };
                conflicts.extend(lines.indices().map(unreachable));
            }
        }
        conflicts.sort_by_key(|conflict| conflict.second);
        conflicts.dedup();
        conflicts
    }

    /// A line among those that leave nothing to the node's own `{*rest}`: the path itself, the path with a slash, and
    /// all that lies below are covered. For `*.name` it is enough to look at a name that no line mentions: those that do
    /// only have more lines in front.
    fn shadow(&self, index: usize, host: Option<&Host>) -> Option<usize> {
        let node = &self.nodes[index];
        if index != ROOT {
            node.exact.lines_of_all(host)?;
        }
        self.nodes[node.literal(b"")?].exact.lines_of_all(host)?;
        let below = node.parameter?;
        match self.nodes[below].rest.lines_of_all(host) {
            Some(lines) => lines.indices().next(),
            None => self.shadow(below, host),
        }
    }
}

impl Node {
    /// The child for this literal.
    fn literal(&self, text: &[u8]) -> Option<usize> {
        self.literals.get(text).copied()
    }

    /// The child for the literal that the raw `segment` spells.
    fn literal_escaped(&self, segment: &[u8]) -> Option<usize> {
        let mut buffer = [0; LITERAL_BYTES_MAX];
        self.literal(decode(segment, &mut buffer)?)
    }

    fn finish(&mut self) {
        self.exact.finish();
        self.rest.finish();
    }
}

/// Multiply and fold, eight bytes at a time. Needs no seed: clients ask the map but never fill it.
#[derive(Default)]
struct SegmentHasher(u64);

impl Hasher for SegmentHasher {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.write_u64(u64::from_ne_bytes(*word)));
        if !rest.is_empty() {
            self.write_u64(word_of(rest));
        }
    }

    fn write_u64(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word ^ 0x9e37_79b9_7f4a_7c15) * 0xa076_1d64_78bd_642f;
        #[expect(clippy::cast_possible_truncation, reason = "folds the two halves of the product")]
        let folded = (product ^ (product >> 64)) as u64;
        self.0 = folded;
    }

    fn write_usize(&mut self, length: usize) {
        self.write_u64(length as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// One to seven bytes as a word, another for each text of that length. Not copied into an array of eight first: reading
/// back what was just written byte by byte stalls.
fn word_of(bytes: &[u8]) -> u64 {
    match (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        (Some(first), Some(last)) => u64::from(u32::from_ne_bytes(*first)) << 32 | u64::from(u32::from_ne_bytes(*last)),
        _ => bytes.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)),
    }
}
