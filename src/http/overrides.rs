//! Header fields that the configuration sets and removes: which ones it may, and how they win over what was sent.
//!
//! Knows no values but those it is given. Invariant: a field that is set or removed is gone in every spelling that some
//! back end takes for it, however often it was sent.

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::headers::{IDENTITY_PREFIX, changes_meaning, is_hop_by_hop, plain_byte, plain_name};

/// Which way a message goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Direction {
    Request,
    Response,
}

/// Whether `one` and `other` are the same field to a back end that takes all but letters and digits for one character.
pub fn is_same_field(one: &HeaderName, other: &HeaderName) -> bool {
    one.as_str().bytes().map(plain_byte).eq(other.as_str().bytes().map(plain_byte))
}

/// Whether one of `names` is the same field.
pub fn is_one_of(name: &HeaderName, names: &[HeaderName]) -> bool {
    names.iter().any(|other| is_same_field(other, name))
}

/// Whether the configuration may set and remove a field.
///
/// # Errors
/// Why it may not, and what to write instead.
pub fn check_overridable(name: &HeaderName, direction: Direction) -> Result<(), &'static str> {
    let plain = plain_name(name.as_str());
    if plain.starts_with(IDENTITY_PREFIX) {
        return Err("says which key a request has, and is the gate's own to write; choose another name");
    }
    if is_hop_by_hop(&plain) || plain == "content-length" {
        return Err("frames the message or belongs to one connection alone; leave it to the gate");
    }
    match direction {
        Direction::Response => Ok(()),
        Direction::Request if plain == "host" => Err("is written by the option host; use host = \"NAME\""),
        Direction::Request if changes_meaning(&plain) => {
            Err("could make an upstream take another method or path than was matched, so it is always dropped; \
                 use strip_prefix and add_prefix for paths")
        }
        Direction::Request => Ok(()),
    }
}

/// Drops the fields `removed` and those of `set` in every spelling, then sets the latter.
pub fn override_fields(headers: &mut HeaderMap, removed: &[HeaderName], set: Vec<(HeaderName, HeaderValue)>) {
    let is_dropped = |name: &HeaderName| {
        let is_set = set.iter().any(|(other, _)| is_same_field(other, name));
        is_set || is_one_of(name, removed)
    };
    let dropped: Vec<HeaderName> = headers.keys().filter(|name| is_dropped(name)).cloned().collect();
    for name in dropped {
        headers.remove(name);
    }
    for (name, value) in set {
        headers.insert(name, value);
    }
}
