//! A request's head, as HTTP/1.1 has it on the wire.

use http::header::{CONTENT_LENGTH, TE, TRAILER, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, HeaderName};
use hyper::body::Body;

/// How a request's body is sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Framing {
    Chunked,
    /// So many bytes more.
    Sized(u64),
}

impl Framing {
    pub(super) fn of(body: &impl Body) -> Self {
        match body.size_hint().exact() {
            Some(length) => Self::Sized(length),
            None => Self::Chunked,
        }
    }
}

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
        put(&mut head, name, value.as_bytes());
    }
    match framing {
        Framing::Chunked => put(&mut head, &TRANSFER_ENCODING, b"chunked"),
        Framing::Sized(length) if !is_bare && !says_length => {
            put(&mut head, &CONTENT_LENGTH, length.to_string().as_bytes());
        }
        Framing::Sized(_) => {}
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// What ends a chunked body. Of the `trailers` those are sent that the head has `announced` (RFC 9110 §6.6.2).
pub(super) fn last_chunk(trailers: Option<&HeaderMap>, announced: &[HeaderName]) -> Vec<u8> {
    let mut end = b"0\r\n".to_vec();
    for (name, value) in trailers.into_iter().flatten() {
        if announced.contains(name) {
            put(&mut end, name, value.as_bytes());
        }
    }
    end.extend_from_slice(b"\r\n");
    end
}

/// The fields that a head announces for behind its body.
pub(super) fn announced(headers: &HeaderMap) -> Vec<HeaderName> {
    let names = headers.get_all(TRAILER).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    names.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok()).collect()
}

fn put(bytes: &mut Vec<u8>, name: &HeaderName, value: &[u8]) {
    bytes.extend_from_slice(name.as_str().as_bytes());
    bytes.extend_from_slice(b": ");
    bytes.extend_from_slice(value);
    bytes.extend_from_slice(b"\r\n");
}
