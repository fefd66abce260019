//! The target that the upstream gets: the client's own bytes, but for a prefix and for a credential in it.

use std::ops::Range;

use http::Uri;
use http::uri::PathAndQuery;

use crate::route::Path;

/// The longest target that a request can have.
pub(super) const BYTES_MAX: usize = 65_534;

/// What is changed. Everything else keeps its bytes and order.
pub struct Changes<'c> {
    /// How many segments are cut off the front.
    pub strip_segments: usize,
    /// Put in front, empty or a path without a slash at its end.
    pub add: &'c str,
    /// A segment's place in the path, behind those that are cut off, and what takes it.
    pub credential: Option<(Range<usize>, &'c str)>,
    /// The query parameter that carried the key.
    pub drop_parameter: Option<&'c str>,
}

impl Changes<'_> {
    /// Whether every target with this query stays as it is.
    pub fn is_none(&self, query: Option<&str>) -> bool {
        let keeps_query = self.drop_parameter.is_none() || query.is_none();
        self.strip_segments == 0 && self.add.is_empty() && self.credential.is_none() && keeps_query
    }

    /// The new target. A path of which nothing is left becomes `/`.
    pub fn apply(&self, path: &Path<'_>, query: Option<&str>) -> String {
        let raw = path.raw();
        // The slash before the first segment that stays; the end when none does.
        let from = path.segment_start(self.strip_segments) - 1;
        let mut target = self.add.to_owned();
        match &self.credential {
            Some((segment, text)) => {
                target.push_str(&raw[from..segment.start]);
                target.push_str(text);
                target.push_str(&raw[segment.end..]);
            }
            None => target.push_str(&raw[from..]),
        }
        if target.is_empty() {
            target.push('/');
        }
        let query = match (query, self.drop_parameter) {
            (Some(query), Some(name)) => without_parameter(query, name),
            (query, _) => query.map(str::to_owned),
        };
        if let Some(query) = query {
            target.push('?');
            target.push_str(&query);
        }
        target
    }
}

/// The query without a parameter; `None` when nothing is left.
fn without_parameter(query: &str, name: &str) -> Option<String> {
    let is_dropped = |pair: &str| pair.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('='));
    let kept: Vec<&str> = query.split('&').filter(|pair| !is_dropped(pair)).collect();
    if kept.is_empty() { None } else { Some(kept.join("&")) }
}

/// The target as hyper takes it. `None` unless its path has one reading, with no more doubt in it than the one that was
/// matched.
pub(super) fn checked(target: String, before: &Path<'_>) -> Option<Uri> {
    let path = target.split('?').next().unwrap_or_default();
    let after = Path::parse(path).ok()?;
    let is_no_worse = (!after.has_encoded_slash() || before.has_encoded_slash())
        && (!after.has_semicolon() || before.has_semicolon());
    if !is_no_worse {
        return None;
    }
    PathAndQuery::from_maybe_shared(target).ok().map(Uri::from)
}
