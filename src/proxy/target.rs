//! The target that the upstream gets: the client's own bytes, but for a credential in it.

use std::ops::Range;

use http::Uri;
use http::uri::PathAndQuery;

use crate::key::KeyId;

/// Puts the key's id in the place of the `{credential}` segment.
pub(super) fn replace_segment(uri: &Uri, segment: Range<usize>, id: KeyId) -> Option<Uri> {
    let path = uri.path();
    let mut target = format!("{}{id}{}", &path[..segment.start], &path[segment.end..]);
    if let Some(query) = uri.query() {
        target.push('?');
        target.push_str(query);
    }
    parse(target)
}

/// Drops the query parameter that carried the key; the others keep their bytes and order.
pub(super) fn drop_parameter(uri: &Uri, name: &str) -> Option<Uri> {
    let query = uri.query()?;
    let is_credential =
        |pair: &str| pair.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('='));
    let kept: Vec<&str> = query.split('&').filter(|pair| !is_credential(pair)).collect();
    if kept.is_empty() {
        return parse(uri.path().to_owned());
    }
    parse(format!("{}?{}", uri.path(), kept.join("&")))
}

fn parse(target: String) -> Option<Uri> {
    PathAndQuery::from_maybe_shared(target).ok().map(Uri::from)
}
