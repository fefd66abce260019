//! An upstream that speaks HTTP/2 and, at one request, sends far too much of something.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::h2_frames::{END_HEADERS, END_STREAM, HEADERS, SETTINGS, fields, frame};

const ACK: u8 = 1;
const PREFACE: usize = 24;
const BATCH: usize = 65_536;

/// What is sent, and when. Any other request is answered with 200 if it comes after the flood began, else not at all.
pub struct Flood {
    /// The request that it begins with, from 1.
    pub at: usize,
    pub opening: Vec<u8>,
    /// Repeated so many times, or until the gate has closed the connection.
    pub piece: Vec<u8>,
    pub count: usize,
    pub closing: Vec<u8>,
    /// Whether to read what the gate sends meanwhile.
    pub reads: bool,
}

impl Flood {
    /// Instead of an answer to the first request.
    pub fn of(piece: impl Into<Vec<u8>>, count: usize) -> Self {
        Self { at: 1, opening: Vec::new(), piece: piece.into(), count, closing: Vec::new(), reads: true }
    }

    pub fn at(self, request: usize) -> Self {
        Self { at: request, ..self }
    }

    pub fn after(self, opening: Vec<u8>) -> Self {
        Self { opening, ..self }
    }

    pub fn before(self, closing: Vec<u8>) -> Self {
        Self { closing, ..self }
    }

    /// Nothing is read once it has begun.
    pub fn deaf(self) -> Self {
        Self { reads: false, ..self }
    }
}

/// A running upstream; it ends when it is dropped.
pub struct H2Flood {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    flood: Flood,
    requests: AtomicUsize,
    /// Bytes of the flood that could be sent.
    sent: AtomicU64,
    is_over: AtomicBool,
    /// Frames that came, by their kind.
    received: [AtomicUsize; 10],
    streams: Mutex<Vec<TcpStream>>,
    ended: AtomicBool,
}

/// A whole response without content.
pub fn answer(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &fields(&[(":status", b"200")]))
}

impl H2Flood {
    pub fn start(flood: Flood) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a local address");
        let shared = Arc::new(Shared {
            flood,
            requests: AtomicUsize::new(0),
            sent: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
            received: Default::default(),
            streams: Mutex::default(),
            ended: AtomicBool::new(false),
        });
        let for_thread = Arc::clone(&shared);
        let accepting = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if for_thread.ended.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(clone) = stream.try_clone() else { continue };
                for_thread.streams.lock().unwrap_or_else(PoisonError::into_inner).push(clone);
                let shared = Arc::clone(&for_thread);
                std::thread::spawn(move || talk(stream, &shared));
            }
        });
        Self { address, shared, accepting: Some(accepting) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn connections(&self) -> usize {
        self.shared.streams.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Frames of a kind that came from the gate.
    pub fn received(&self, kind: u8) -> usize {
        self.shared.received[usize::from(kind)].load(Ordering::SeqCst)
    }

    /// Bytes of the flood that the gate's side took.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::SeqCst)
    }

    /// Waits until everything was sent, or the connection is gone.
    #[track_caller]
    pub fn wait_for_end(&self) {
        super::until("the end of the flood", || self.shared.is_over.load(Ordering::SeqCst));
    }
}

impl Drop for H2Flood {
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

impl Shared {
    fn pour(&self, mut stream: &TcpStream) {
        let Flood { opening, piece, count, closing, .. } = &self.flood;
        let batch = piece.repeat((BATCH / piece.len().max(1)).clamp(1, (*count).max(1)));
        let mut left = piece.len() * count;
        let mut all_sent = stream.write_all(opening).is_ok();
        while all_sent && left > 0 {
            let bytes = &batch[..left.min(batch.len())];
            all_sent = stream.write_all(bytes).is_ok();
            left -= bytes.len();
            self.sent.fetch_add(bytes.len() as u64, Ordering::SeqCst);
        }
        let _ = stream.write_all(closing);
        self.is_over.store(true, Ordering::SeqCst);
    }
}

fn talk(mut stream: TcpStream, shared: &Arc<Shared>) -> Option<()> {
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).ok()?;
    stream.read_exact(&mut [0; PREFACE]).ok()?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).ok()?;
        let [a, b, c, kind, flags, stream_id @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut payload).ok()?;
        shared.received[usize::from(kind)].fetch_add(1, Ordering::SeqCst);
        match kind {
            SETTINGS if flags & ACK == 0 => stream.write_all(&frame(SETTINGS, ACK, 0, &[])).ok()?,
            HEADERS => {
                let number = shared.requests.fetch_add(1, Ordering::SeqCst) + 1;
                if number == shared.flood.at {
                    let (for_thread, writer) = (Arc::clone(shared), stream.try_clone().ok()?);
                    std::thread::spawn(move || for_thread.pour(&writer));
                    if !shared.flood.reads {
                        return None;
                    }
                } else if number > shared.flood.at {
                    stream.write_all(&answer(u32::from_be_bytes(stream_id))).ok()?;
                }
            }
            _ => {}
        }
    }
}
