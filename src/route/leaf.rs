//! The lines that share one path: picks among them by host, then by method.

use super::host::Host;
use super::pattern::{Methods, STANDARD_METHODS, method_order};
use super::table::{Conflict, ConflictKind};

/// All lines of one path.
#[derive(Debug, Default)]
pub(super) struct Leaf {
    exact: ByName,
    /// By the name that theirs are below.
    below: ByName,
    hostless: Option<MethodLines>,
}

/// Sorted by name, which is in lower case.
type ByName = Vec<(Box<str>, MethodLines)>;

impl Leaf {
    /// The lines that answer for this host, alone: those that name it, else those of the longest name that it is
    /// below, else those that name none.
    pub(super) fn lines(&self, host: Option<&str>) -> Option<&MethodLines> {
        let named = host.and_then(|host| named(&self.exact, host).or_else(|| self.lines_above(host)));
        named.or(self.hostless.as_ref())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.below.is_empty() && self.hostless.is_none()
    }

    /// The lines that answer for every name that `host` stands for, unless they name it more closely; `None` stands
    /// for all names.
    pub(super) fn lines_of_all(&self, host: Option<&Host>) -> Option<&MethodLines> {
        match host {
            None => self.hostless.as_ref(),
            Some(Host::Exact(name)) => self.lines(Some(name)),
            Some(Host::Below(parent)) => {
                named(&self.below, parent).or_else(|| self.lines_above(parent)).or(self.hostless.as_ref())
            }
        }
    }

    fn lines_above(&self, host: &str) -> Option<&MethodLines> {
        // `.example` is not below `example`: something must stand before the dot, as `Host::covers` has it.
        let mut left = if self.below.is_empty() || host.starts_with('.') { "" } else { host };
        while let Some((_, parent)) = left.split_once('.') {
            if let Some(lines) = named(&self.below, parent) {
                return Some(lines);
            }
            left = parent;
        }
        None
    }

    pub(super) fn lines_mut(&mut self, host: Option<&Host>) -> &mut MethodLines {
        let (lines, name) = match host {
            None => return self.hostless.get_or_insert_default(),
            Some(Host::Exact(name)) => (&mut self.exact, name),
            Some(Host::Below(parent)) => (&mut self.below, parent),
        };
        let index = match search(lines, name) {
            Ok(index) => index,
            Err(index) => {
                lines.insert(index, (name.clone(), MethodLines::default()));
                index
            }
        };
        &mut lines[index].1
    }

    /// Every host (or none) that has lines here, with them.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Option<Host>, &MethodLines)> {
        let exact = self.exact.iter().map(|(name, lines)| (Some(Host::Exact(name.clone())), lines));
        let below = self.below.iter().map(|(name, lines)| (Some(Host::Below(name.clone())), lines));
        exact.chain(below).chain(self.hostless.as_ref().map(|lines| (None, lines)))
    }

    pub(super) fn finish(&mut self) {
        let named = self.exact.iter_mut().chain(&mut self.below).map(|(_, lines)| lines);
        named.chain(&mut self.hostless).for_each(MethodLines::finish);
    }
}

fn named<'l>(lines: &'l ByName, host: &str) -> Option<&'l MethodLines> {
    Some(&lines[search(lines, host).ok()?].1)
}

fn search(lines: &ByName, host: &str) -> Result<usize, usize> {
    let wanted = host.bytes().map(|byte| byte.to_ascii_lowercase());
    lines.binary_search_by(|(name, _)| name.bytes().cmp(wanted.clone()))
}

/// The lines of one path and host, by method. A line is its index in the table.
#[derive(Debug, Default)]
pub(super) struct MethodLines {
    listed: Vec<(Box<str>, usize)>,
    any: Option<usize>,
    allow: String,
}

impl MethodLines {
    pub(super) fn line(&self, method: &str) -> Option<usize> {
        let listed = self.listed.iter().find(|(name, _)| **name == *method).map(|(_, line)| *line);
        listed.or_else(|| self.any.filter(|_| any_covers(method)))
    }

    /// The value of an `Allow` field.
    pub(super) fn allow(&self) -> &str {
        &self.allow
    }

    pub(super) fn indices(&self) -> impl Iterator<Item = usize> {
        self.listed.iter().map(|(_, line)| *line).chain(self.any)
    }

    /// Adds the methods of a line, and reports the first of them that another line already has.
    pub(super) fn add(&mut self, methods: &Methods, line: usize) -> Option<Conflict> {
        let conflict = |first: usize, method: &str| {
            let kind = ConflictKind::SameRequests { method: method.to_owned() };
            Some(Conflict { first, second: line, kind })
        };
        let Methods::Listed(methods) = methods else {
            return self.any.replace(line).and_then(|first| conflict(first, "ANY"));
        };
        let taken = self.listed.iter().find(|(name, _)| methods.contains(name));
        let clash = taken.and_then(|(method, first)| conflict(*first, method));
        self.listed.extend(methods.iter().map(|method| (method.clone(), line)));
        clash
    }

    /// Gives HEAD to GET's line unless a line lists it, and writes the `Allow` text.
    fn finish(&mut self) {
        let line_of = |wanted: &str| self.listed.iter().find(|(name, _)| **name == *wanted).map(|(_, line)| *line);
        if let (Some(line), None) = (line_of("GET"), line_of("HEAD")) {
            self.listed.push(("HEAD".into(), line));
        }
        let mut allowed: Vec<&str> = self.listed.iter().map(|(name, _)| &**name).collect();
        if self.any.is_some() {
            allowed.extend(STANDARD_METHODS);
        }
        allowed.sort_by_key(|method| method_order(method));
        allowed.dedup();
        self.allow = allowed.join(", ");
    }
}

/// CONNECT and TRACE are never forwarded. Neither is a method in small letters by `ANY`: an upstream that folds case
/// would take `delete` for the DELETE that another line guards.
fn any_covers(method: &str) -> bool {
    !matches!(method, "CONNECT" | "TRACE") && !method.bytes().any(|byte| byte.is_ascii_lowercase())
}
