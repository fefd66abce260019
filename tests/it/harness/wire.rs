//! A client's connection, down to the byte.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustls::{ClientConnection, StreamOwned};

use super::DEADLINE;
use super::answer::{Answer, Framing, decode_chunked};
use super::secrets;

/// One connection to a gate, in clear text or over TLS. Every read has a deadline and panics when it is missed.
pub struct Wire {
    stream: Stream,
    /// Received, and not yet part of an answer.
    received: Vec<u8>,
    ended: bool,
    reset: bool,
}

/// What bytes go through, in clear text or over TLS.
pub(super) enum Stream {
    Clear(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    pub(super) fn socket(&self) -> &TcpStream {
        match self {
            Self::Clear(socket) => socket,
            Self::Tls(stream) => &stream.sock,
        }
    }

    pub(super) fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Clear(socket) => socket.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }

    pub(super) fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Clear(socket) => socket.write_all(bytes),
            Self::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        }
    }
}

impl Wire {
    #[track_caller]
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&address, DEADLINE).expect("the gate accepts connections");
        stream.set_nodelay(true).expect("nodelay");
        stream.set_write_timeout(Some(DEADLINE)).expect("write timeout");
        Self { stream: Stream::Clear(stream), received: Vec::new(), ended: false, reset: false }
    }

    /// Takes over a connection whose handshake is done. An end without TLS's own word of it counts as a reset.
    pub fn over_tls(stream: StreamOwned<ClientConnection, TcpStream>) -> Self {
        Self { stream: Stream::Tls(Box::new(stream)), received: Vec::new(), ended: false, reset: false }
    }

    /// A second handle on the same connection in clear text, for another thread; what has been received and not read stays
    /// with the first.
    pub fn try_clone(&self) -> Self {
        let stream = self.stream.socket().try_clone().expect("a descriptor");
        Self { stream: Stream::Clear(stream), received: Vec::new(), ended: false, reset: false }
    }

    /// Sends bytes as they are. A gate that has closed already is no failure here: what it said is read later.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let _ = self.stream.write_all(bytes.as_ref());
        self
    }

    /// Ends the sending direction.
    pub fn finish_sending(&mut self) -> &mut Self {
        if let Stream::Tls(stream) = &mut self.stream {
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
        let _ = self.stream.socket().shutdown(Shutdown::Write);
        self
    }

    /// Reads one response to anything but HEAD; interim (1xx) responses are answers of their own.
    #[track_caller]
    pub fn read_response(&mut self) -> Answer {
        self.read_response_to("GET")
    }

    /// Reads one response to a request of that method, body included.
    #[track_caller]
    pub fn read_response_to(&mut self, method: &str) -> Answer {
        let mut answer = self.read_head();
        self.read_rest(&mut answer, method);
        answer
    }

    /// Reads what is left of a response whose head, and maybe some whole chunks, have been read.
    #[track_caller]
    pub fn read_rest(&mut self, answer: &mut Answer, method: &str) {
        let framing = answer.framing(method);
        self.read_body(answer, framing);
        answer.search();
    }

    /// Reads one response, or finds that the gate has closed the connection without any.
    #[track_caller]
    pub fn read_response_or_close(&mut self, method: &str) -> Option<Answer> {
        let deadline = Instant::now() + DEADLINE;
        while self.received.is_empty() {
            if !self.read_more(deadline) {
                return None;
            }
        }
        Some(self.read_response_to(method))
    }

    /// Reads one response's head alone; [`Wire::read_exactly`] and the like then read its body's raw bytes.
    #[track_caller]
    pub fn read_head(&mut self) -> Answer {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some((answer, length)) = Answer::parse_head(&self.received) {
                self.received.drain(..length);
                return answer;
            }
            assert!(self.read_more(deadline), "closed before a whole head: {:?}", self.seen());
        }
    }

    /// Reads so many raw bytes.
    #[track_caller]
    pub fn read_exactly(&mut self, count: usize) -> Vec<u8> {
        let deadline = Instant::now() + DEADLINE;
        while self.received.len() < count {
            assert!(self.read_more(deadline), "closed after {:?}", self.seen());
        }
        self.received.drain(..count).collect()
    }

    /// Reads until `needle` has arrived; returns everything up to its end.
    #[track_caller]
    pub fn read_until(&mut self, needle: &[u8]) -> Vec<u8> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(at) = super::answer::find(&self.received, needle) {
                return self.received.drain(..at + needle.len()).collect();
            }
            assert!(self.read_more(deadline), "closed after {:?}", self.seen());
        }
    }

    /// Reads raw bytes until the gate closes the connection, by FIN or RST.
    #[track_caller]
    pub fn read_to_end(&mut self) -> Vec<u8> {
        self.wait_for_end();
        secrets::check("what a connection got to its end", &self.received);
        std::mem::take(&mut self.received)
    }

    /// Reads to the end without a look at what comes, for who measures the time.
    pub fn wait_for_end(&mut self) {
        let deadline = Instant::now() + DEADLINE;
        while self.read_more(deadline) {}
    }

    /// Asserts that the gate closes the connection and says nothing more before.
    #[track_caller]
    pub fn check_closed(&mut self) {
        let rest = self.read_to_end();
        assert!(rest.is_empty(), "bytes before the close: {:?}", String::from_utf8_lossy(&rest));
    }

    /// Whether bytes arrive, or the connection ends, within `wait`.
    pub fn stirs_within(&mut self, wait: Duration) -> bool {
        if !self.received.is_empty() || self.ended {
            return true;
        }
        self.stream.socket().set_read_timeout(Some(wait)).expect("read timeout");
        let mut byte = [0];
        self.stream.socket().peek(&mut byte).is_ok()
    }

    /// Whether the gate has reset the connection, seen by a read.
    pub fn was_reset(&self) -> bool {
        self.reset
    }

    pub fn local_address(&self) -> SocketAddr {
        self.stream.socket().local_addr().expect("a local address")
    }

    #[track_caller]
    fn read_body(&mut self, answer: &mut Answer, framing: Framing) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some((body, length)) = whole_body(&self.received, framing, self.ended) {
                answer.complete = !self.reset;
                answer.body = body;
                answer.raw.extend(self.received.drain(..length));
                return;
            }
            if self.ended || !self.read_more(deadline) {
                break;
            }
        }
        if let Some((body, _)) = whole_body(&self.received, framing, true) {
            answer.complete = !self.reset;
            answer.body = body;
        } else if framing == Framing::Chunked {
            answer.body = decode_chunked(&self.received).0;
        } else {
            answer.body = self.received.clone();
        }
        answer.raw.append(&mut self.received);
    }

    /// Reads what is there; `false` once the connection has ended.
    #[track_caller]
    fn read_more(&mut self, deadline: Instant) -> bool {
        if self.ended {
            return false;
        }
        let wait = deadline.saturating_duration_since(Instant::now());
        assert!(!wait.is_zero(), "nothing arrived in time; so far {:?}", self.seen());
        self.stream.socket().set_read_timeout(Some(wait)).expect("read timeout");
        let mut buffer = [0; 65_536];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.ended = true,
            Ok(count) => self.received.extend_from_slice(&buffer[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("nothing arrived in time; so far {:?}", self.seen())
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => {
                self.ended = true;
                self.reset = true;
            }
        }
        !self.ended
    }

    fn seen(&self) -> String {
        String::from_utf8_lossy(&self.received).into_owned()
    }
}

/// The decoded body and its length on the wire, once it is whole.
fn whole_body(received: &[u8], framing: Framing, ended: bool) -> Option<(Vec<u8>, usize)> {
    match framing {
        Framing::Chunked => match decode_chunked(received) {
            (body, Some(length)) => Some((body, length)),
            (_, None) => None,
        },
        Framing::Length(length) => received.get(..length).map(|body| (body.to_vec(), length)),
        Framing::Nothing => Some((Vec::new(), 0)),
        Framing::UntilClose => ended.then(|| (received.to_vec(), received.len())),
    }
}
