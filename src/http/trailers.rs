//! Which trailer fields are passed on.
//!
//! Invariant: nothing that a head's field would have been dropped for, or that steers how a message is read, gets through
//! behind a body (RFC 9110 §6.5.1).

use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TRAILER};

use super::headers::{is_dropped_from_request, is_dropped_from_response, plain_name};

/// Far more than anybody sends; a status of gRPC with its details fits.
const FIELDS_MAX: usize = 64;
const BYTES_MAX: usize = 32 << 10;

/// The trailer section is larger than any that is passed on.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the trailer section is too large")]
pub struct TooLarge;

/// Leaves what the upstream may get of a request's trailers, which are not `is_hidden`.
///
/// # Errors
/// [`TooLarge`]: what was sent is not passed on at all.
pub fn prepare_request(trailers: &mut HeaderMap, is_hidden: impl Fn(&HeaderName) -> bool) -> Result<(), TooLarge> {
    prepare(trailers, |name| is_dropped_from_request(name.as_str(), false) || is_hidden(name))
}

/// Leaves what the client may get of a response's trailers, which are not `is_hidden`.
///
/// # Errors
/// [`TooLarge`]: what was sent is not passed on at all.
pub fn prepare_response(trailers: &mut HeaderMap, is_hidden: impl Fn(&HeaderName) -> bool) -> Result<(), TooLarge> {
    prepare(trailers, |name| !passes_to_client(name) || is_hidden(name))
}

/// What the head of a response may say of its trailers to a client that takes them: the names that the upstream announces
/// and the client may get. gRPC announces none, and ends with the same in every response.
pub fn announced(head: &HeaderMap, is_hidden: impl Fn(&HeaderName) -> bool) -> Option<HeaderValue> {
    if !head.contains_key(TRAILER) && is_grpc(head) {
        return Some(HeaderValue::from_static("grpc-status, grpc-message, grpc-status-details-bin"));
    }
    let lines = head.get_all(TRAILER).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let names = lines.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok());
    let kept: Vec<HeaderName> =
        names.filter(|name| passes_to_client(name) && !is_hidden(name)).take(FIELDS_MAX).collect();
    let text = kept.iter().map(HeaderName::as_str).collect::<Vec<_>>().join(", ");
    HeaderValue::try_from(text).ok().filter(|text| !text.is_empty())
}

fn is_grpc(head: &HeaderMap) -> bool {
    head.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

fn passes_to_client(name: &HeaderName) -> bool {
    !comes_too_late(name) && !is_dropped_from_response(name.as_str())
}

fn prepare(trailers: &mut HeaderMap, is_dropped: impl Fn(&HeaderName) -> bool) -> Result<(), TooLarge> {
    let bytes: usize = trailers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if trailers.len() > FIELDS_MAX || bytes > BYTES_MAX {
        return Err(TooLarge);
    }
    let dropped = |name: &&HeaderName| comes_too_late(name) || is_dropped(name);
    let dropped: Vec<HeaderName> = trailers.keys().filter(dropped).cloned().collect();
    for name in dropped {
        trailers.remove(name);
    }
    Ok(())
}

fn comes_too_late(name: &HeaderName) -> bool {
    is_for_heads(&plain_name(name.as_str()))
}

/// Fields that frame, route, authenticate or qualify a message, and so come too late behind it.
fn is_for_heads(name: &str) -> bool {
    name.starts_with("if-")
        || matches!(
            name,
            "accept"
                | "accept-encoding"
                | "age"
                | "authorization"
                | "cache-control"
                | "content-encoding"
                | "content-length"
                | "content-range"
                | "content-type"
                | "cookie"
                | "date"
                | "expires"
                | "host"
                | "location"
                | "max-forwards"
                | "origin"
                | "pragma"
                | "proxy-authenticate"
                | "range"
                | "referer"
                | "retry-after"
                | "set-cookie"
                | "vary"
                | "via"
                | "www-authenticate"
        )
}
