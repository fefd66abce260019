//! Entity tags: the revision that changed a key last, and what `If-Match` asks of it (RFC 9110 §13.1.1).
//!
//! A tag stands for what clients can change; `last_used`, which moves with traffic, takes no part. So there is no 304
//! either: it would hide a new `last_used`.

use http::HeaderMap;
use http::header::{HeaderValue, IF_MATCH};

/// Revisions count changes from 1.
const REVISION_OF_NO_KEY: u64 = 0;

/// The tag of a revision.
pub fn etag(revision: u64) -> HeaderValue {
    HeaderValue::try_from(format!("\"{revision}\"")).expect("digits in quotes are a header value")
}

/// The revision that a change must find; `None` when the request sets no condition.
///
/// Of several tags it is the one of `current`, so that a change in between is still noticed. When none is, it is a
/// revision that no key has: the keyring then refuses, but only a caller that could have made the change (§13.2.1).
/// Weak and illegible tags name nothing.
pub fn if_match(headers: &HeaderMap, current: u64) -> Option<u64> {
    if !headers.contains_key(IF_MATCH) {
        return None;
    }
    let wanted = etag(current);
    let lines = headers.get_all(IF_MATCH).iter();
    let tags: Vec<&[u8]> =
        lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii).collect();
    if tags.contains(&b"*".as_slice()) {
        return None;
    }
    Some(if tags.contains(&wanted.as_bytes()) { current } else { REVISION_OF_NO_KEY })
}
