//! A response as the client sees it: parsed with no leniency, and its raw bytes kept.

use std::fmt;

use super::secrets;

/// One response. Headers are in order, repeated ones kept; the body is decoded from its framing.
#[derive(Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Whether the body ended as its framing says; a cut one is `false`.
    pub complete: bool,
    /// Every byte of the response, head and framing included.
    pub raw: Vec<u8>,
}

/// What follows the head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Framing {
    Chunked,
    Length(usize),
    Nothing,
    UntilClose,
}

impl Answer {
    /// The first value of a header, by lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.header_values(name).into_iter().next()
    }

    pub fn header_values(&self, name: &str) -> Vec<&str> {
        let same = self.headers.iter().filter(|(given, _)| given.eq_ignore_ascii_case(name));
        same.map(|(_, value)| value.as_str()).collect()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("not JSON ({error}): {self:?}"))
    }

    /// Searches the answer for secrets, but for the one that it issues.
    #[track_caller]
    pub(super) fn search(&self) {
        if self.status == 201 && self.header("location").is_some() {
            secrets::issued_in(&self.text());
            return;
        }
        secrets::check("an answer", &self.raw);
        secrets::check("an answer's body", &self.body);
        for (name, value) in &self.headers {
            secrets::check(name, value);
        }
    }

    /// Whether the gate says that it closes the connection.
    pub fn says_close(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    /// The head of `bytes`, if it is all there, and its length. Panics on a head that no server should send.
    pub(super) fn parse_head(bytes: &[u8]) -> Option<(Self, usize)> {
        let end = find(bytes, b"\r\n\r\n")? + 4;
        let head = std::str::from_utf8(&bytes[..end - 4]).expect("a response head in UTF-8");
        let mut lines = head.split("\r\n");
        let status_line = lines.next().unwrap_or_default();
        let mut words = status_line.splitn(3, ' ');
        assert!(matches!(words.next(), Some("HTTP/1.1" | "HTTP/1.0")), "status line: {status_line}");
        let status = words.next().and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("{status_line}"));
        let header = |line: &str| {
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("header line: {line}"));
            (name.to_ascii_lowercase(), value.trim().to_owned())
        };
        let headers = lines.map(header).collect();
        Some((Self { status, headers, body: Vec::new(), complete: false, raw: bytes[..end].to_vec() }, end))
    }

    pub(super) fn framing(&self, method: &str) -> Framing {
        if method == "HEAD" || self.status < 200 || matches!(self.status, 204 | 304) {
            return Framing::Nothing;
        }
        if self.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            return Framing::Chunked;
        }
        match self.header("content-length") {
            Some(length) => Framing::Length(length.parse().expect("a numeric Content-Length")),
            None => Framing::UntilClose,
        }
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.raw[..self.raw.len().min(4_096)];
        let complete = if self.complete { "" } else { " (cut)" };
        write!(f, "answer{complete}: {}", String::from_utf8_lossy(shown))
    }
}

/// Where `needle` starts in `bytes`.
pub(super) fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|window| window == needle)
}

/// Takes a chunked body from the start of `bytes`: its data and its length on the wire once the last chunk is there.
/// Panics on malformed chunks.
pub(super) fn decode_chunked(bytes: &[u8]) -> (Vec<u8>, Option<usize>) {
    let mut data = Vec::new();
    let mut at = 0;
    loop {
        let Some(line_end) = find(&bytes[at..], b"\r\n") else { return (data, None) };
        let line = String::from_utf8_lossy(&bytes[at..at + line_end]).into_owned();
        let size = line.split(';').next().unwrap_or_default();
        let size = usize::from_str_radix(size, 16).unwrap_or_else(|_| panic!("chunk size line {line:?}"));
        at += line_end + 2;
        if size == 0 {
            return (data, trailer_end(&bytes[at..]).map(|end| at + end));
        }
        let there = &bytes[at..bytes.len().min(at + size)];
        data.extend_from_slice(there);
        at += size;
        if bytes.len() < at + 2 {
            return (data, None);
        }
        assert_eq!(&bytes[at..at + 2], b"\r\n", "a chunk ends with CR LF");
        at += 2;
    }
}

/// The length of a trailer section, its empty line included.
fn trailer_end(bytes: &[u8]) -> Option<usize> {
    if bytes.starts_with(b"\r\n") {
        return Some(2);
    }
    find(bytes, b"\r\n\r\n").map(|end| end + 4)
}
