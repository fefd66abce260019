//! A client that speaks HTTP/2, in clear text or over TLS, and writes its frames by hand.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::DEADLINE;
use super::caller::Caller;
use super::tls::{GATE, TlsClient};
use super::wire::Stream;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame as it came.
#[derive(Clone, Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// What became of a stream of a [`RawH2`].
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    /// A whole response.
    Answer {
        status: u16,
        body: Vec<u8>,
    },
    Closed,
    GoAway(u32),
    Reset(u32),
}

impl Seen {
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Answer { status, .. } => Some(*status),
            _ => None,
        }
    }
}

/// A client that sends what it is told to. Acknowledges settings and answers pings as it reads, unless told otherwise.
pub struct RawH2 {
    stream: Stream,
    received: Vec<u8>,
    answers: bool,
}

impl RawH2 {
    /// Connects and says nothing.
    #[track_caller]
    pub fn silent(address: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&address, DEADLINE).expect("the gate accepts connections");
        stream.set_nodelay(true).expect("nodelay");
        stream.set_write_timeout(Some(DEADLINE)).expect("write timeout");
        Self { stream: Stream::Clear(stream), received: Vec::new(), answers: true }
    }

    /// Greets over a connection of the caller's making.
    pub fn on(stream: TcpStream, settings: &[(u16, u32)]) -> Self {
        Self { stream: Stream::Clear(stream), received: Vec::new(), answers: true }.greet(settings)
    }

    /// Connects and sends preface and settings.
    #[track_caller]
    pub fn connect(address: SocketAddr) -> Self {
        Self::with(address, &[])
    }

    /// The same with settings of its own. Responses are never compressed against earlier ones.
    #[track_caller]
    pub fn with(address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        Self::silent(address).greet(settings)
    }

    /// The same over TLS.
    #[track_caller]
    pub fn over_tls(address: SocketAddr, tls: &TlsClient) -> Self {
        let stream = tls.clone().alpn(&[b"h2"]).shake(address, GATE).expect("a handshake");
        assert_eq!(stream.conn.alpn_protocol(), Some(&b"h2"[..]));
        Self { stream: Stream::Tls(Box::new(stream)), received: Vec::new(), answers: true }.greet(&[])
    }

    fn greet(mut self, settings: &[(u16, u32)]) -> Self {
        const HEADER_TABLE_SIZE: u16 = 1;
        let settings = [settings, &[(HEADER_TABLE_SIZE, 0)]].concat();
        self.send(PREFACE).frame(SETTINGS, 0, 0, &entries(&settings));
        self
    }

    /// Connects as most clients do: responses may be compressed against earlier ones.
    #[track_caller]
    pub fn with_table(address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let mut client = Self::silent(address);
        client.send(PREFACE).frame(SETTINGS, 0, 0, &entries(settings));
        client
    }

    /// From now on settings are not acknowledged, nor pings answered.
    pub fn mute(&mut self) -> &mut Self {
        self.answers = false;
        self
    }

    /// Sends bytes as they are. A gate that has closed already is no failure here: what it said is read later.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let _ = self.stream.write_all(bytes.as_ref());
        self
    }

    pub fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> &mut Self {
        self.send(frame(kind, flags, stream, payload))
    }

    /// Opens a stream with a whole request, or one whose body is to follow.
    pub fn request(&mut self, stream: u32, fields: &[(&str, &str)], is_whole: bool) -> &mut Self {
        let flags = END_HEADERS | if is_whole { END_STREAM } else { 0 };
        self.frame(HEADERS, flags, stream, &block(fields))
    }

    /// Opens a stream with a `GET` of `path`.
    pub fn get(&mut self, stream: u32, caller: &Caller, path: &str) -> &mut Self {
        let authorization = caller.authorization();
        self.request(stream, &[&head("GET", path)[..], &[("authorization", &authorization)]].concat(), true)
    }

    pub fn window_update(&mut self, stream: u32, increment: u32) -> &mut Self {
        self.frame(WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
    }

    pub fn reset(&mut self, stream: u32) -> &mut Self {
        self.frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())
    }

    /// The next frame; `None` once the gate has closed the connection.
    #[track_caller]
    pub fn read(&mut self) -> Option<Frame> {
        let head = self.bytes(9)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let payload = self.bytes(length)?;
        let frame = Frame { kind: head[3], flags: head[4], stream, payload };
        if self.answers && matches!(frame.kind, PING | SETTINGS) && frame.flags & ACK == 0 {
            let payload = if frame.kind == PING { frame.payload.clone() } else { Vec::new() };
            self.frame(frame.kind, ACK, 0, &payload);
        }
        Some(frame)
    }

    /// The next frame of a kind, others left out.
    #[track_caller]
    pub fn read_kind(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.read().unwrap_or_else(|| panic!("closed before a frame of kind {kind}"));
            if frame.kind == kind {
                return frame;
            }
        }
    }

    /// The status of the next response head, an interim one too.
    #[track_caller]
    pub fn status(&mut self) -> u16 {
        status_of(&self.read_kind(HEADERS).payload)
    }

    /// Reads until a stream is over, or the connection. Interim responses are left out.
    #[track_caller]
    pub fn outcome(&mut self, stream: u32) -> Seen {
        let (mut status, mut body) = (0, Vec::new());
        while let Some(frame) = self.read() {
            match frame.kind {
                GOAWAY if code(&frame.payload[4..]) != 0 => return Seen::GoAway(code(&frame.payload[4..])),
                _ if frame.stream != stream => continue,
                RST_STREAM => return Seen::Reset(code(&frame.payload)),
                HEADERS if status < 200 => status = status_of(&frame.payload),
                DATA => body.extend_from_slice(&frame.payload),
                // Trailers.
                HEADERS => {}
                _ => continue,
            }
            if matches!(frame.kind, DATA | HEADERS) && frame.flags & END_STREAM != 0 {
                if status != 201 {
                    super::secrets::check("an answer's body", &body);
                }
                return Seen::Answer { status, body };
            }
        }
        Seen::Closed
    }

    /// Reads to the end of the connection: the code of its last GOAWAY frame, if there was one.
    #[track_caller]
    pub fn farewell(&mut self) -> Option<u32> {
        let mut last = None;
        while let Some(frame) = self.read() {
            if frame.kind == GOAWAY {
                last = Some(code(&frame.payload[4..]));
            }
        }
        last
    }

    /// Ends the sending direction, in clear text.
    pub fn finish(&mut self) -> &mut Self {
        let _ = self.stream.socket().shutdown(std::net::Shutdown::Write);
        self
    }

    /// Sends the same bytes over and over, until the gate closes or `count` times.
    pub fn flood(&mut self, bytes: &[u8], count: usize) -> &mut Self {
        let batch = bytes.repeat((65_536 / bytes.len()).clamp(1, count));
        let per_batch = batch.len() / bytes.len();
        for _ in 0..count.div_ceil(per_batch) {
            if self.stream.write_all(&batch).is_err() {
                break;
            }
        }
        self
    }

    /// Whether anything about a request comes within `wait`: a head, a reset or a farewell.
    pub fn stirs_within(&mut self, wait: Duration) -> bool {
        let deadline = Instant::now() + wait;
        let mut buffer = [0; 65_536];
        loop {
            let mut rest = &self.received[..];
            while let Some((head, after)) = rest.split_at_checked(9) {
                if matches!(head[3], HEADERS | RST_STREAM | GOAWAY) {
                    return true;
                }
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                rest = after.get(length..).unwrap_or_default();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            self.stream.socket().set_read_timeout(Some(left)).expect("read timeout");
            match self.stream.read(&mut buffer) {
                Ok(0) => return true,
                Ok(length) => self.received.extend_from_slice(&buffer[..length]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => return true,
            }
        }
    }

    #[track_caller]
    fn bytes(&mut self, count: usize) -> Option<Vec<u8>> {
        let deadline = Instant::now() + DEADLINE;
        let mut buffer = [0; 65_536];
        while self.received.len() < count {
            let wait = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.stream.socket().set_read_timeout(Some(wait)).expect("read timeout");
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(length) => self.received.extend_from_slice(&buffer[..length]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    panic!("nothing arrived in time")
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
        Some(self.received.drain(..count).collect())
    }
}

/// The payload of a settings frame.
fn entries(settings: &[(u16, u32)]) -> Vec<u8> {
    settings.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect()
}

/// The pseudo-fields of a request.
pub fn head<'h>(method: &'h str, path: &'h str) -> [(&'h str, &'h str); 4] {
    [(":method", method), (":scheme", "http"), (":path", path), (":authority", "gate.test")]
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A header block of literals, neither indexed nor compressed.
pub fn block<N: AsRef<[u8]>, V: AsRef<[u8]>>(fields: &[(N, V)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name.as_ref(), value.as_ref()] {
            put_length(&mut bytes, text.len());
            bytes.extend_from_slice(text);
        }
    }
    bytes
}

/// RFC 7541 §5.1, with a prefix of seven bits.
fn put_length(bytes: &mut Vec<u8>, length: usize) {
    if length < 127 {
        return bytes.push(length as u8);
    }
    bytes.push(127);
    let mut rest = length - 127;
    while rest >= 128 {
        bytes.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    bytes.push(rest as u8);
}

fn code(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// The status of a response, which is its first field.
fn status_of(block: &[u8]) -> u16 {
    const STATIC: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    const STATUS: u8 = 8;
    let is_table_size = |byte: &u8| byte >> 5 == 1;
    let block = &block[block.iter().take_while(|byte| is_table_size(byte)).count()..];
    match block {
        [indexed, ..] if indexed >> 7 == 1 => STATIC[usize::from((indexed & 127) - STATUS)],
        [literal, length, rest @ ..] if literal & 15 == STATUS && length >> 7 == 1 => digits(rest),
        [literal, 3, rest @ ..] if literal & 15 == STATUS => {
            rest[..3].iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0'))
        }
        _ => panic!("no status at the start of {block:?}"),
    }
}

/// RFC 7541 appendix B: 0, 1 and 2 have five bits, the other digits six.
fn digits(bytes: &[u8]) -> u16 {
    let bits = u32::from_be_bytes([bytes[0], bytes[1], bytes.get(2).copied().unwrap_or(255), 255]);
    let (mut at, mut status) = (0, 0);
    for _ in 0..3 {
        let five = bits << at >> 27;
        let (digit, length) = if five <= 2 { (five, 5) } else { ((bits << at >> 26) - 0x19 + 3, 6) };
        status = status * 10 + digit as u16;
        at += length;
    }
    status
}
