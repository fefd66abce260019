//! The client's side of a connection: request after request, each head judged whole.
//!
//! Refuses every request target but a path (RFC 9112 §3.2.1), since any other form names a second host to believe.

use super::chunked::Chunked;
use super::field::{Line, line, token_len};
use super::lengths::{Lengths, Version};
use super::upgrade::{UPGRADE, Upgrade};
use super::{Body, Malformed, Progress, Rules, host};

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

/// The rules for what a client may send.
pub struct Requests {
    limits: RequestLimits,
    state: State,
    heads: u64,
    /// The one empty line that is tolerated before a request was there.
    empty_line_seen: bool,
}

enum State {
    Chunked(Chunked),
    Head(Head),
    Sized(u64),
    /// After a head that asks for a WebSocket: what follows is another request or belongs to nobody here, and only the
    /// answer tells which.
    Undecided,
}

impl Requests {
    pub fn new(limits: RequestLimits) -> Self {
        Self { limits, state: State::Head(Head::default()), heads: 0, empty_line_seen: false }
    }

    /// How many valid heads have passed.
    pub fn heads(&self) -> u64 {
        self.heads
    }

    /// Whether the body of the last head goes on.
    pub fn is_in_body(&self) -> bool {
        matches!(self.state, State::Chunked(_) | State::Sized(_))
    }

    /// The protocol did not change: what follows is the next request.
    pub(super) fn decide(&mut self) {
        if let State::Undecided = self.state {
            self.state = State::Head(Head::default());
        }
    }
}

/// Whether a whole request head without a body would pass.
pub(crate) fn check_head(bytes: &[u8], limits: RequestLimits) -> Result<(), Malformed> {
    check_head_in_place(&mut bytes.to_vec(), limits)
}

/// The same for a head that may be blunted.
pub(super) fn check_head_in_place(bytes: &mut [u8], limits: RequestLimits) -> Result<(), Malformed> {
    let mut rules = Requests::new(limits);
    let mut passed = 0;
    while passed < bytes.len() {
        match rules.advance(&mut bytes[passed..])? {
            Progress { pass: 0, skip: 0 } => return Err(Malformed::HeadTimeout),
            Progress { pass, skip } => passed += pass + skip,
        }
    }
    Ok(())
}

impl Rules for Requests {
    type Violation = Malformed;

    /// Whether the last head asks for a WebSocket, and nobody has said yet whether it gets one.
    fn is_undecided(&self) -> bool {
        matches!(self.state, State::Undecided)
    }

    fn advance(&mut self, bytes: &mut [u8]) -> Result<Progress, Malformed> {
        match (&self.state, &*bytes) {
            (State::Head(_), [b'\r']) if !self.empty_line_seen => return Ok(Progress { pass: 0, skip: 0 }),
            (State::Head(_), [b'\r', b'\n', ..]) if !self.empty_line_seen => {
                self.empty_line_seen = true;
                return Ok(Progress { pass: 0, skip: 2 });
            }
            _ => {}
        }
        let mut pass = 0;
        while pass < bytes.len() {
            match self.step(&mut bytes[pass..]) {
                Ok(0) => break,
                Ok(step) => pass += step,
                Err(_) if pass > 0 => {
                    // Judged again when it comes first. Noted as far as its fault, it would be told as another one.
                    if let State::Head(head) = &mut self.state {
                        *head = Head::default();
                    }
                    break;
                }
                Err(malformed) => return Err(malformed),
            }
        }
        Ok(Progress { pass, skip: 0 })
    }
}

impl Requests {
    /// Judges the next part of a message; returns its length, 0 while it is not complete.
    fn step(&mut self, bytes: &mut [u8]) -> Result<usize, Malformed> {
        match &mut self.state {
            State::Head(head) => {
                let Some((len, body)) = head.advance(bytes, &self.limits)? else {
                    return Ok(0);
                };
                self.heads += 1;
                self.empty_line_seen = false;
                self.state = match body {
                    None if head.asks_for_websocket() => State::Undecided,
                    Some(Body::Chunked) => State::Chunked(Chunked::new()),
                    Some(Body::Sized(length)) if length > 0 => State::Sized(length),
                    // RFC 9112 §6.3: a request that does not frame a body has none.
                    Some(Body::Sized(_)) | None => State::Head(Head::default()),
                };
                Ok(len)
            }
            State::Undecided => Ok(0),
            State::Sized(left) => {
                let step = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= step as u64;
                if *left == 0 {
                    self.state = State::Head(Head::default());
                }
                Ok(step)
            }
            State::Chunked(chunked) => {
                let step = chunked.advance(bytes)?;
                if chunked.is_done() {
                    self.state = State::Head(Head::default());
                }
                Ok(step)
            }
        }
    }
}

/// What is known of a head that may not be complete.
#[derive(Default)]
struct Head {
    /// Where the first line that was not judged yet starts.
    at: usize,
    version: Option<Version>,
    fields: usize,
    has_host: bool,
    lengths: Lengths,
    is_get: bool,
    upgrade: Upgrade,
}

impl Head {
    /// `bytes` start at the head's first byte. Returns its length and body once it is complete.
    fn advance(
        &mut self,
        bytes: &mut [u8],
        limits: &RequestLimits,
    ) -> Result<Option<(usize, Option<Body>)>, Malformed> {
        let window = bytes.len().min(limits.head_bytes_max);
        let version = match self.version {
            Some(version) => version,
            None => match request_line(&bytes[..window], limits.target_bytes_max)? {
                Some((len, version)) => {
                    self.at = len;
                    self.is_get = bytes.starts_with(b"GET ");
                    *self.version.insert(version)
                }
                None => return self.partial(bytes, limits),
            },
        };
        loop {
            match line(&bytes[self.at..window])? {
                Line::Partial => return self.partial(bytes, limits),
                Line::End if version == Version::Http11 && !self.has_host => return Err(Malformed::HostMissing),
                Line::End => return Ok(Some((self.at + 2, self.lengths.body()))),
                Line::Field { name, value, len } => {
                    let is_upgrade = name.eq_ignore_ascii_case(UPGRADE);
                    self.note(name, value, version, limits)?;
                    if is_upgrade {
                        bytes[self.at..self.at + UPGRADE.len()].copy_from_slice(DISARMED.as_bytes());
                    }
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
        self.upgrade.note(name, value);
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                if self.has_host {
                    return Err(Malformed::HostRepeated);
                }
                self.has_host = true;
                if host::is_valid(value) { Ok(()) } else { Err(Malformed::Host) }
            }
            6 if name.eq_ignore_ascii_case(b"expect") && !value.eq_ignore_ascii_case(b"100-continue") => {
                Err(Malformed::Expectation)
            }
            _ => self.lengths.note(name, value, version),
        }
    }

    /// RFC 6455 §4.1. Whether it has a body as well is for the caller to see.
    fn asks_for_websocket(&self) -> bool {
        self.is_get && self.version == Some(Version::Http11) && self.upgrade.is_to_websocket()
    }

    fn partial<T>(&self, bytes: &[u8], limits: &RequestLimits) -> Result<Option<T>, Malformed> {
        if bytes.len() >= limits.head_bytes_max { Err(Malformed::HeadTooLarge) } else { Ok(None) }
    }
}

/// What hyper gets to see instead: a field of the same length that is dropped before forwarding as well.
///
/// hyper ends a connection on which an upgrade was asked for without flushing it, whatever the answer was.
pub const DISARMED: &str = "upgrad-";

/// Length and version of the request line; `None` while it is not complete.
fn request_line(bytes: &[u8], target_bytes_max: usize) -> Result<Option<(usize, Version)>, Malformed> {
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
    Ok(version(&target[target_len + 1..])?.map(|(len, version)| (line_len + len, version)))
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
/// nowhere and hyper's parser refuses with an answer of its own.
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
