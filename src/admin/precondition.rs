//! Entity tags: the revision that changed a key last, and what `If-Match` asks of it (RFC 9110 §13.1.1).
//!
//! A tag stands for what clients can change; `last_used`, which moves with traffic, takes no part. So there is no 304
//! either: it would hide a new `last_used`.

use http::HeaderMap;
use http::header::{HeaderValue, IF_MATCH};

use crate::http::Refusal;

/// The tag of a revision.
pub fn etag(revision: u64) -> HeaderValue {
    HeaderValue::try_from(format!("\"{revision}\"")).expect("digits in quotes are a header value")
}

/// The revision that a change must still find; `None` when the request sets no condition.
///
/// # Errors
/// [`Refusal::Stale`] when the condition does not name `current`. Weak and illegible tags name nothing.
pub fn if_match(headers: &HeaderMap, current: u64) -> Result<Option<u64>, Refusal> {
    if !headers.contains_key(IF_MATCH) {
        return Ok(None);
    }
    let wanted = etag(current);
    let tags = headers.get_all(IF_MATCH).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    for tag in tags.map(<[u8]>::trim_ascii) {
        if tag == b"*" {
            return Ok(None);
        }
        if tag == wanted.as_bytes() {
            return Ok(Some(current));
        }
    }
    Err(Refusal::Stale)
}
