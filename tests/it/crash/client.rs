//! A client whose gate may be killed at any moment: it finds that out, and does not fail over it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::harness::{DEADLINE, GATE, TlsClient, basic};

/// A connection that is used again and again, until it breaks.
pub struct Line {
    address: SocketAddr,
    tls: Option<TlsClient>,
    /// Whether 503, after which a change may have been made or not, is as no answer.
    takes_503_for_silence: bool,
    stream: Option<Box<dyn Stream>>,
}

trait Stream: Read + Write + Send {}

impl<S: Read + Write + Send> Stream for S {}

/// A whole answer.
#[derive(Debug)]
pub struct Told {
    pub status: u16,
    /// The revision that the answer gives as ETag.
    pub revision: Option<u64>,
    pub body: serde_json::Value,
}

impl Line {
    pub fn to(address: SocketAddr) -> Self {
        Self { address, tls: None, takes_503_for_silence: false, stream: None }
    }

    /// To a gate whose store may fail, too, over TLS where it is given.
    pub fn to_faulty(address: SocketAddr, tls: Option<&TlsClient>) -> Self {
        Self { tls: tls.cloned(), takes_503_for_silence: true, ..Self::to(address) }
    }

    /// Sends a request, and `None` when there is no whole answer.
    pub fn call(&mut self, secret: &str, method: &str, path: &str, more: &str, body: &str) -> Option<Told> {
        let told = self.try_call(secret, method, path, more, body);
        if told.is_none() {
            self.stream = None;
        }
        told.filter(|told| !(self.takes_503_for_silence && told.status == 503))
    }

    fn connect(&self) -> std::io::Result<Box<dyn Stream>> {
        if let Some(tls) = &self.tls {
            return Ok(Box::new(tls.shake(self.address, GATE)?));
        }
        let stream = TcpStream::connect_timeout(&self.address, DEADLINE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        Ok(Box::new(stream))
    }

    fn try_call(&mut self, secret: &str, method: &str, path: &str, more: &str, body: &str) -> Option<Told> {
        if self.stream.is_none() {
            self.stream = Some(self.connect().ok()?);
        }
        let stream = self.stream.as_deref_mut()?;
        let (authorization, length) = (basic(secret), body.len());
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: gate.test\r\nAuthorization: {authorization}\r\n{more}\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).ok()?;
        let mut received = Vec::new();
        let end = loop {
            if let Some(end) = received.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end + 4;
            }
            read_more(stream, &mut received)?;
        };
        let head = String::from_utf8(received[..end].to_vec()).expect("a head in UTF-8").to_ascii_lowercase();
        let status = head.get(9..12).and_then(|status| status.parse().ok()).expect("a status");
        let field = |name: &str| head.split("\r\n").find_map(|line| line.strip_prefix(name)).map(str::trim);
        let length = field("content-length:").map_or(0, |length| length.parse().expect("a length"));
        while received.len() < end + length {
            read_more(stream, &mut received)?;
        }
        let revision = field("etag:").map(|tag| tag.trim_matches('"').parse().expect("a revision as ETag"));
        if field("connection:") == Some("close") {
            self.stream = None;
        }
        let body = serde_json::from_slice(&received[end..]).unwrap_or_default();
        Some(Told { status, revision, body })
    }
}

fn read_more(stream: &mut dyn Stream, received: &mut Vec<u8>) -> Option<()> {
    let mut buffer = [0; 16_384];
    let count = stream.read(&mut buffer).ok().filter(|count| *count > 0)?;
    received.extend_from_slice(&buffer[..count]);
    Some(())
}
