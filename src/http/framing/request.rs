//! The client's side of a connection: request after request, each head judged whole.
//!
//! Refuses every request target but a path (RFC 9112 §3.2.1), since any other form names a second host to believe.

use bytes::Bytes;
use http::uri::Uri;
use http::{HeaderMap, Method, Request};

use super::chunked::{self, Chunked};
use super::field::{Line, line, token_len};
use super::lengths::{Lengths, Version};
use super::spans::Spans;
use super::upgrade::Upgrade;
use super::{Body, Malformed, host};

const METHOD_BYTES_MAX: usize = 32;

/// How much of a request head is taken.
#[derive(Clone, Copy, Debug)]
pub struct RequestLimits {
    /// Request line and fields together, line ends included.
    pub head_bytes_max: usize,
    pub fields_max: usize,
    /// Path and query.
    pub target_bytes_max: usize,
}

/// What the next bytes of a client are.
#[derive(Debug)]
pub enum RequestPart {
    /// So many bytes of the body.
    Data(usize),
    /// So many bytes that only frame the body.
    Framing(usize),
    /// The head of a request; [`Requests::head`] reads it. What follows is its body, while [`Requests::is_in_body`].
    Head(usize),
    /// The start of a head: nothing can be said before there is more of it.
    Partial,
    /// So many bytes that belong to no request and do no harm.
    Skip(usize),
    /// What ends the body; the fields may be none.
    Trailers(usize, HeaderMap),
}

/// The rules for what a client may send.
pub struct Requests {
    limits: RequestLimits,
    state: State,
    heads: u64,
    /// The one empty line that is tolerated before a request was there.
    empty_line_seen: bool,
    /// Of the last head.
    head: Head,
    spans: Spans,
}

enum State {
    Chunked(Chunked, Vec<u8>),
    Head,
    Sized(u64),
}

impl Requests {
    pub fn new(limits: RequestLimits) -> Self {
        let (head, spans) = (Head::default(), Spans::default());
        Self { limits, state: State::Head, heads: 0, empty_line_seen: false, head, spans }
    }

    /// How many valid heads there were.
    pub fn heads(&self) -> u64 {
        self.heads
    }

    /// Whether the body of the last head goes on.
    pub fn is_in_body(&self) -> bool {
        !matches!(self.state, State::Head)
    }

    /// How much of the body is still to come; `None`: only its end will tell.
    pub fn body_left(&self) -> Option<u64> {
        match self.state {
            State::Sized(left) => Some(left),
            State::Head => Some(0),
            State::Chunked(..) => None,
        }
    }

    /// Whether the client of the last head lets another request follow (RFC 9112 §9.3).
    pub fn keeps_alive(&self) -> bool {
        self.head.keeps_alive()
    }

    /// Whether the last head asks for a WebSocket and has no body: what follows is another request or belongs to nobody
    /// here, and only the answer tells which (RFC 6455 §4.1).
    pub fn asks_for_websocket(&self) -> bool {
        let is_get_of_1_1 = self.head.is_get && self.head.version == Some(Version::Http11);
        is_get_of_1_1 && self.head.lengths.body().is_none() && self.head.upgrade.is_to_websocket()
    }

    /// Whether the body of the last head may be held back until it is asked for (RFC 9110 §10.1.1).
    pub fn awaits_invitation(&self) -> bool {
        self.head.expects_continue && self.head.version == Some(Version::Http11)
    }

    /// Whether the client of the last head reads trailers (RFC 9110 §10.1.4).
    pub fn takes_trailers(&self) -> bool {
        self.head.takes_trailers
    }

    /// Says what the bytes are that follow those of the last part; there is at least one. A [`RequestPart::Partial`] is to
    /// be shown again with more behind it.
    ///
    /// # Errors
    /// When they cannot be what they should. Valid bytes before a violation are parts of their own, but for those of a head.
    pub fn next(&mut self, bytes: &[u8]) -> Result<RequestPart, Malformed> {
        match &mut self.state {
            State::Head => self.next_of_head(bytes),
            State::Sized(left) => {
                let len = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= len as u64;
                if *left == 0 {
                    self.state = State::Head;
                }
                Ok(RequestPart::Data(len))
            }
            State::Chunked(chunked, trailers) => {
                let part = match chunked.next_part(bytes, trailers)? {
                    chunked::Part::Data(len) => RequestPart::Data(len),
                    chunked::Part::Framing(len) => RequestPart::Framing(len),
                    chunked::Part::End(len, fields) => RequestPart::Trailers(len, fields),
                };
                if chunked.is_done() {
                    self.state = State::Head;
                }
                Ok(part)
            }
        }
    }

    fn next_of_head(&mut self, bytes: &[u8]) -> Result<RequestPart, Malformed> {
        if !self.empty_line_seen {
            match bytes {
                [b'\r'] => return Ok(RequestPart::Partial),
                [b'\r', b'\n', ..] => {
                    self.empty_line_seen = true;
                    return Ok(RequestPart::Skip(2));
                }
                _ => {}
            }
        }
        if self.head.is_over {
            self.head = Head::default();
        }
        let Some(len) = self.head.advance(bytes, &self.limits, &mut self.spans)? else {
            return Ok(RequestPart::Partial);
        };
        self.heads += 1;
        self.empty_line_seen = false;
        match self.head.lengths.body() {
            Some(Body::Chunked) => self.state = State::Chunked(Chunked::new(), Vec::new()),
            Some(Body::Sized(length)) if length > 0 => self.state = State::Sized(length),
            // RFC 9112 §6.3: a request that does not frame a body has none.
            Some(Body::Sized(_)) | None => {}
        }
        Ok(RequestPart::Head(len))
    }

    /// The head that [`RequestPart::Head`] told of; `block` begins with it, and is kept as long as a value is.
    ///
    /// # Errors
    /// When a request cannot hold it: its target or its fields.
    pub fn head(&mut self, block: &Bytes) -> Result<Request<()>, Malformed> {
        let mut request = Request::new(());
        *request.headers_mut() = self.spans.fields(block)?;
        let Head { method_len, target_len, version, .. } = self.head;
        *request.method_mut() = Method::from_bytes(&block[..method_len]).map_err(|_| Malformed::Method)?;
        let target = block.slice(method_len + 1..method_len + 1 + target_len);
        *request.uri_mut() = Uri::from_maybe_shared(target).map_err(|_| Malformed::TargetCharacter)?;
        *request.version_mut() = match version {
            Some(Version::Http10) => http::Version::HTTP_10,
            Some(Version::Http11) | None => http::Version::HTTP_11,
        };
        Ok(request)
    }
}

/// Whether a whole request head without a body would pass.
pub(crate) fn check_head(bytes: &[u8], limits: RequestLimits) -> Result<(), Malformed> {
    let mut rules = Requests::new(limits);
    let mut at = 0;
    while at < bytes.len() {
        at += match rules.next(&bytes[at..])? {
            RequestPart::Data(len)
            | RequestPart::Framing(len)
            | RequestPart::Head(len)
            | RequestPart::Skip(len)
            | RequestPart::Trailers(len, _) => len,
            RequestPart::Partial => return Err(Malformed::HeadTimeout),
        };
    }
    Ok(())
}

/// What is known of a head that may not be complete.
#[derive(Default)]
struct Head {
    /// Where the first line that was not judged yet starts.
    at: usize,
    method_len: usize,
    target_len: usize,
    version: Option<Version>,
    fields: usize,
    has_host: bool,
    lengths: Lengths,
    is_get: bool,
    upgrade: Upgrade,
    says_close: bool,
    says_keep_alive: bool,
    expects_continue: bool,
    takes_trailers: bool,
    is_over: bool,
}

impl Head {
    /// `bytes` start at the head's first byte. Returns its length once it is complete.
    fn advance(&mut self, bytes: &[u8], limits: &RequestLimits, spans: &mut Spans) -> Result<Option<usize>, Malformed> {
        let window = bytes.len().min(limits.head_bytes_max);
        let version = match self.version {
            Some(version) => version,
            None => match request_line(&bytes[..window], limits.target_bytes_max)? {
                Some(RequestLine { len, method_len, target_len, version }) => {
                    spans.clear();
                    (self.at, self.method_len, self.target_len) = (len, method_len, target_len);
                    self.is_get = bytes.starts_with(b"GET ");
                    *self.version.insert(version)
                }
                None => return partial(bytes, limits),
            },
        };
        loop {
            match line(&bytes[self.at..window])? {
                Line::Partial => return partial(bytes, limits),
                Line::End if version == Version::Http11 && !self.has_host => return Err(Malformed::HostMissing),
                Line::End => {
                    self.is_over = true;
                    return Ok(Some(self.at + 2));
                }
                Line::Field { name, value, len } => {
                    self.note(name, value, version, limits)?;
                    spans.note(bytes, self.at, name, value);
                    self.at += len;
                }
            }
        }
    }

    fn note(&mut self, name: &[u8], value: &[u8], version: Version, limits: &RequestLimits) -> Result<(), Malformed> {
        self.fields += 1;
        if self.fields > limits.fields_max {
            return Err(Malformed::FieldsTooMany);
        }
        match name.len() {
            2 if name.eq_ignore_ascii_case(b"te") => {
                self.takes_trailers |= options(value).any(|option| option.eq_ignore_ascii_case(b"trailers"));
            }
            4 if name.eq_ignore_ascii_case(b"host") => {
                if self.has_host {
                    return Err(Malformed::HostRepeated);
                }
                self.has_host = true;
                return if host::is_valid(value) { Ok(()) } else { Err(Malformed::Host) };
            }
            6 if name.eq_ignore_ascii_case(b"expect") => {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(Malformed::Expectation);
                }
                self.expects_continue = true;
            }
            7 => self.upgrade.note(name, value),
            10 if name.eq_ignore_ascii_case(b"connection") => {
                self.upgrade.note(name, value);
                for option in options(value) {
                    self.says_close |= option.eq_ignore_ascii_case(b"close");
                    self.says_keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            14 | 17 => return self.lengths.note(name, value, version),
            _ => {}
        }
        Ok(())
    }

    /// RFC 9112 §9.3.
    fn keeps_alive(&self) -> bool {
        !self.says_close && (self.version == Some(Version::Http11) || self.says_keep_alive)
    }
}

/// The members of a list (RFC 9110 §5.6.1).
fn options(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

fn partial(bytes: &[u8], limits: &RequestLimits) -> Result<Option<usize>, Malformed> {
    if bytes.len() >= limits.head_bytes_max { Err(Malformed::HeadTooLarge) } else { Ok(None) }
}

struct RequestLine {
    len: usize,
    method_len: usize,
    target_len: usize,
    version: Version,
}

/// The request line that `bytes` begin with; `None` while it is not complete.
fn request_line(bytes: &[u8], target_bytes_max: usize) -> Result<Option<RequestLine>, Malformed> {
    let method_len = token_len(&bytes[..bytes.len().min(METHOD_BYTES_MAX + 1)]);
    match bytes.get(method_len) {
        None => return Ok(None),
        Some(b' ') if (1..=METHOD_BYTES_MAX).contains(&method_len) => {}
        Some(_) => return Err(Malformed::Method),
    }
    if &bytes[..method_len] == b"CONNECT" {
        return Err(Malformed::Connect);
    }
    let target = &bytes[method_len + 1..];
    match target.first() {
        None => return Ok(None),
        Some(b'/') => {}
        Some(b' ' | b'\r' | b'\n' | b'\t') => return Err(Malformed::RequestLine),
        Some(_) => return Err(Malformed::TargetForm),
    }
    let judged = &target[..target.len().min(target_bytes_max.saturating_add(1))];
    let target_len = judged.iter().position(|byte| !is_target(*byte)).unwrap_or(judged.len());
    if target_len > target_bytes_max {
        return Err(Malformed::TargetTooLong);
    }
    match target.get(target_len) {
        None => return Ok(None),
        Some(b' ') => {}
        Some(b'\r' | b'\n') => return Err(Malformed::RequestLine),
        Some(_) => return Err(Malformed::TargetCharacter),
    }
    let line_len = method_len + 1 + target_len + 1;
    let version = version(&target[target_len + 1..])?;
    Ok(version.map(|(len, version)| RequestLine { len: line_len + len, method_len, target_len, version }))
}

/// The end of a request line: version, CR LF.
fn version(bytes: &[u8]) -> Result<Option<(usize, Version)>, Malformed> {
    const PREFIX: &[u8] = b"HTTP/1.";
    let known = bytes.len().min(PREFIX.len());
    if bytes[..known] != PREFIX[..known] {
        return Err(if bytes[0] == b' ' { Malformed::RequestLine } else { Malformed::Version });
    }
    let version = match bytes.get(PREFIX.len()) {
        None => return Ok(None),
        Some(b'0') => Version::Http10,
        Some(b'1') => Version::Http11,
        Some(_) => return Err(Malformed::Version),
    };
    match bytes[PREFIX.len() + 1..] {
        [] | [b'\r'] => Ok(None),
        [b'\r', b'\n', ..] => Ok(Some((PREFIX.len() + 3, version))),
        [b'\r' | b'\n', ..] => Err(Malformed::LineEnd),
        [b' ' | b'\t', ..] => Err(Malformed::RequestLine),
        _ => Err(Malformed::Version),
    }
}

/// Visible ASCII, without `#` (a fragment never leaves a client) and without the characters that RFC 3986 allows
/// nowhere and the parser of targets refuses.
fn is_target(byte: u8) -> bool {
    const TARGET: [bool; 256] = {
        let mut table = [false; 256];
        let mut byte = 0x21;
        while byte <= 0x7e {
            table[byte] = !matches!(byte as u8, b'#' | b'"' | b'<' | b'>' | b'`');
            byte += 1;
        }
        table
    };
    TARGET[usize::from(byte)]
}
