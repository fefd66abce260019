//! What an upstream says, in the words of both versions.

use h2::Reason;

use crate::harness::{H2Reply, Reply};

/// A response: a status with fields, then parts in order. It ends in order unless it is cut.
#[derive(Clone)]
pub struct Says {
    status: u16,
    headers: Vec<(&'static str, String)>,
    parts: Vec<Part>,
    is_early: bool,
}

#[derive(Clone)]
enum Part {
    Cut,
    Hold,
    Interim(u16, Vec<(&'static str, &'static str)>),
    Piece(Vec<u8>),
    Trailers(Vec<(&'static str, &'static str)>),
}

impl Says {
    pub fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), parts: Vec::new(), is_early: false }
    }

    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// A body of known length.
    pub fn body(self, bytes: impl AsRef<[u8]>) -> Self {
        let length = bytes.as_ref().len().to_string();
        self.header("content-length", &length).piece(bytes)
    }

    /// A piece of a body, of unknown length unless a field tells it.
    pub fn piece(self, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref().to_vec();
        if bytes.is_empty() { self } else { self.part(Part::Piece(bytes)) }
    }

    pub fn trailers(self, trailers: &[(&'static str, &'static str)]) -> Self {
        self.part(Part::Trailers(trailers.to_vec()))
    }

    /// Waits to be released, before the head if nothing comes before.
    pub fn hold(self) -> Self {
        self.part(Part::Hold)
    }

    /// An interim response; only before the head.
    pub fn interim(self, status: u16, headers: &[(&'static str, &'static str)]) -> Self {
        self.part(Part::Interim(status, headers.to_vec()))
    }

    /// Breaks off, before the head if nothing comes before.
    pub fn cut(self) -> Self {
        self.part(Part::Cut)
    }

    /// Begins once the request's head is there.
    pub fn early(mut self) -> Self {
        self.is_early = true;
        self
    }

    fn part(mut self, part: Part) -> Self {
        self.parts.push(part);
        self
    }

    fn is_chunked(&self) -> bool {
        let has_length = self.headers.iter().any(|(name, _)| *name == "content-length");
        !has_length && self.parts.iter().any(|part| matches!(part, Part::Piece(_) | Part::Trailers(_)))
    }

    fn head(&self) -> String {
        let fields = self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect::<String>();
        let has_length = self.headers.iter().any(|(name, _)| *name == "content-length");
        let framing = match self.status {
            _ if self.is_chunked() => "transfer-encoding: chunked\r\n",
            204 | 304 => "",
            _ if has_length => "",
            _ => "content-length: 0\r\n",
        };
        format!("HTTP/1.1 {} Said\r\n{fields}{framing}\r\n", self.status)
    }

    pub(super) fn over_http1(&self) -> Reply {
        let is_chunked = self.is_chunked();
        let mut reply = if self.is_early { Reply::default().before_body() } else { Reply::default() };
        let mut trailers = String::new();
        let is_before = |part: &&Part| matches!(part, Part::Cut | Part::Hold | Part::Interim(..));
        let before = self.parts.iter().take_while(is_before).count();
        for (at, part) in self.parts.iter().enumerate() {
            if at == before {
                reply = reply.then(self.head());
            }
            reply = match part {
                Part::Cut => return reply.close(),
                Part::Hold => reply.hold(),
                Part::Interim(status, headers) => {
                    let fields = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect::<String>();
                    reply.then(format!("HTTP/1.1 {status} Said\r\n{fields}\r\n"))
                }
                Part::Piece(bytes) if is_chunked => {
                    reply.then([format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat())
                }
                Part::Piece(bytes) => reply.then(bytes),
                Part::Trailers(fields) => {
                    trailers = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
                    reply
                }
            };
        }
        if before == self.parts.len() {
            reply = reply.then(self.head());
        }
        if is_chunked { reply.then(format!("0\r\n{trailers}\r\n")) } else { reply }
    }

    pub(super) fn over_http2(&self) -> H2Reply {
        let mut reply = H2Reply::status(self.status);
        if self.is_early {
            reply = reply.before_body();
        }
        for (name, value) in &self.headers {
            reply = reply.header(name, value);
        }
        for part in &self.parts {
            reply = match part {
                Part::Cut => reply.reset(Reason::INTERNAL_ERROR),
                Part::Hold => reply.hold(),
                Part::Interim(status, headers) => reply.informational(*status, headers),
                Part::Piece(bytes) => reply.data(bytes),
                Part::Trailers(fields) => reply.trailers(fields),
            };
        }
        reply
    }
}
