//! An upstream that speaks HTTP/2 by the frame, for answers that no server would give.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// A running upstream; it ends when it is dropped. Answers each request's head with what its script gives.
pub struct H2Frames {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

/// What is sent for the head of a request.
pub enum Said {
    /// Nothing: the connection ends.
    End,
    Frames(Vec<u8>),
    /// The last bytes of the connection.
    Last(Vec<u8>),
}

#[derive(Default)]
struct Shared {
    streams: Mutex<Vec<TcpStream>>,
    ended: AtomicBool,
}

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const GOAWAY: u8 = 7;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

const PREFACE: usize = 24;

/// A frame as it is on the wire.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).expect("a short payload").to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A header block without compression: RFC 7541 §6.2.2.
pub fn fields(fields: &[(&str, &[u8])]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        text(name.as_bytes(), &mut block);
        text(value, &mut block);
    }
    block
}

/// RFC 7541 §5.1 and §5.2, never Huffman.
fn text(text: &[u8], block: &mut Vec<u8>) {
    if text.len() < 127 {
        block.push(u8::try_from(text.len()).expect("short"));
    } else {
        block.push(127);
        let mut rest = text.len() - 127;
        while rest >= 128 {
            block.push(u8::try_from(rest % 128).expect("seven bits") | 128);
            rest /= 128;
        }
        block.push(u8::try_from(rest).expect("seven bits"));
    }
    block.extend_from_slice(text);
}

impl H2Frames {
    /// `answer` gets the number of the connection, from 0, and the stream of each request's head, and gives the bytes to
    /// send; `None` closes the connection.
    pub fn start(answer: impl Fn(usize, u32) -> Option<Vec<u8>> + Send + Sync + 'static) -> Self {
        Self::with(move |number, stream| answer(number, stream).map_or(Said::End, Said::Frames))
    }

    /// The same, for answers behind which the connection ends.
    pub fn with(answer: impl Fn(usize, u32) -> Said + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a local address");
        let shared = Arc::new(Shared::default());
        let for_thread = Arc::clone(&shared);
        let answer = Arc::new(answer);
        let accepting = std::thread::spawn(move || {
            for (number, stream) in listener.incoming().flatten().enumerate() {
                if for_thread.ended.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(clone) = stream.try_clone() else { continue };
                for_thread.streams.lock().unwrap_or_else(PoisonError::into_inner).push(clone);
                let answer = Arc::clone(&answer);
                std::thread::spawn(move || talk(stream, number, answer.as_ref()));
            }
        });
        Self { address, shared, accepting: Some(accepting) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections there have been.
    pub fn connections(&self) -> usize {
        self.shared.streams.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Drop for H2Frames {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        for stream in self.shared.streams.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        let _ = TcpStream::connect(self.address);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

fn talk(mut stream: TcpStream, number: usize, answer: &(impl Fn(usize, u32) -> Said + ?Sized)) -> Option<()> {
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).ok()?;
    stream.read_exact(&mut [0; PREFACE]).ok()?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).ok()?;
        let [a, b, c, kind, flags, stream_id @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut payload).ok()?;
        match kind {
            SETTINGS if flags == 0 => stream.write_all(&frame(SETTINGS, 1, 0, &[])).ok()?,
            HEADERS if flags & END_HEADERS != 0 => {
                let said = answer(number, u32::from_be_bytes(stream_id));
                if let Said::Frames(bytes) | Said::Last(bytes) = &said {
                    stream.write_all(bytes).ok()?;
                }
                if !matches!(said, Said::Frames(_)) {
                    let _ = stream.shutdown(Shutdown::Both);
                    return None;
                }
            }
            _ => {}
        }
    }
}
