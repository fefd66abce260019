//! A request's head, as HTTP/1.1 has it on the wire.

use http::header::{CONTENT_LENGTH, TE, TRANSFER_ENCODING};
use http::request::Parts;

use crate::http::outgoing::{Framing, put_field};

/// RFC 9112 §2.1, §3 and §6. Fields that frame the body say what `framing` says, whatever they said.
pub(super) fn encode(parts: &Parts, framing: Framing, is_bare: bool) -> Vec<u8> {
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let fields: usize = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    let mut head = Vec::with_capacity(parts.method.as_str().len() + target.len() + fields + 64);
    for part in [parts.method.as_str(), " ", target, " HTTP/1.1\r\n"] {
        head.extend_from_slice(part.as_bytes());
    }
    let mut says_length = false;
    for (name, value) in &parts.headers {
        // It is for the next hop alone, and would have to be named in Connection, which some upstreams close for.
        if *name == TE || *name == TRANSFER_ENCODING || (*name == CONTENT_LENGTH && framing == Framing::Chunked) {
            continue;
        }
        says_length |= *name == CONTENT_LENGTH;
        put_field(&mut head, name.as_str(), value.as_bytes());
    }
    match framing {
        Framing::Chunked => put_field(&mut head, TRANSFER_ENCODING.as_str(), b"chunked"),
        Framing::Sized(length) if !is_bare && !says_length => {
            put_field(&mut head, CONTENT_LENGTH.as_str(), length.to_string().as_bytes());
        }
        Framing::Sized(_) | Framing::UntilClose => {}
    }
    head.extend_from_slice(b"\r\n");
    head
}
