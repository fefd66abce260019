//! The floor of the comparison: copies bytes between a client and an upstream and looks at none of them.
//!
//! For each piece of either direction one read and one write, with a wait for readiness in between: no proxy does less.
//! Usage: `relay LISTEN UPSTREAM`; ends with its process.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, TcpStream};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

const LISTENER: u64 = 0;
const PIECE_BYTES: usize = 64 * 1024;

/// What was read from one side and not yet written to the other.
#[derive(Default)]
struct Rest(Vec<u8>);

struct Pair {
    client: TcpStream,
    upstream: TcpStream,
    to_upstream: Rest,
    to_client: Rest,
}

enum Flow {
    Ended,
    Open,
}

fn main() {
    // `cargo test --bench` runs every bench with this, to see that it starts.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let [listen, upstream] = arguments.as_slice() else {
        println!("usage: relay LISTEN UPSTREAM; benches/compare/compare starts it");
        return;
    };
    let address = |text: &str| text.parse::<SocketAddr>().unwrap_or_else(|error| panic!("{text}: {error}"));
    let listener = TcpListener::bind(address(listen)).expect("a free address");
    relay(&listener, address(upstream));
}

fn relay(listener: &TcpListener, upstream: SocketAddr) {
    listener.set_nonblocking(true).expect("an option");
    let poll = epoll::create(CreateFlags::CLOEXEC).expect("epoll");
    epoll::add(&poll, listener, EventData::new_u64(LISTENER), EventFlags::IN).expect("watched");
    // A pair's client has its number, which is never used again, and its upstream the next one.
    let (mut pairs, mut newest) = (HashMap::new(), LISTENER);
    let mut buffer = vec![0; PIECE_BYTES];
    let mut events = [MaybeUninit::uninit(); 512];
    loop {
        let (events, _) = epoll::wait(&poll, &mut events[..], None).expect("epoll");
        for event in &*events {
            let number = event.data.u64();
            if number != LISTENER {
                let (pair, is_client) = (number & !1, number & 1 == 0);
                let ended =
                    pairs.get_mut(&pair).is_some_and(|pair: &mut Pair| pair.pump(is_client, &mut buffer).is_err());
                if ended {
                    pairs.remove(&pair);
                }
                continue;
            }
            while let Ok((client, _)) = listener.accept() {
                let Ok(pair) = Pair::open(client, upstream) else { continue };
                newest += 2;
                let flags = EventFlags::IN | EventFlags::OUT | EventFlags::ET | EventFlags::RDHUP;
                for (number, socket) in [(newest, &pair.client), (newest + 1, &pair.upstream)] {
                    epoll::add(&poll, socket, EventData::new_u64(number), flags).expect("watched");
                }
                pairs.insert(newest, pair);
            }
        }
    }
}

impl Pair {
    fn open(client: TcpStream, upstream: SocketAddr) -> std::io::Result<Self> {
        let upstream = TcpStream::connect(upstream)?;
        for socket in [&client, &upstream] {
            socket.set_nodelay(true)?;
            socket.set_nonblocking(true)?;
        }
        Ok(Self { client, upstream, to_upstream: Rest::default(), to_client: Rest::default() })
    }

    /// Moves what can be moved since one side has stirred. `Err`: a side has ended.
    fn pump(&mut self, is_client: bool, buffer: &mut [u8]) -> Result<(), ()> {
        let Self { client, upstream, to_upstream, to_client } = self;
        let (stirred, other, away, back) = match is_client {
            true => (client, upstream, to_upstream, to_client),
            false => (upstream, client, to_client, to_upstream),
        };
        let mut flow = away.copy(stirred, other, buffer);
        if !back.0.is_empty() && matches!(flow, Flow::Open) {
            flow = back.copy(other, stirred, buffer);
        }
        if matches!(flow, Flow::Ended) { Err(()) } else { Ok(()) }
    }
}

impl Rest {
    fn copy(&mut self, from: &mut TcpStream, to: &mut TcpStream, buffer: &mut [u8]) -> Flow {
        loop {
            if !self.0.is_empty() {
                let rest = std::mem::take(&mut self.0);
                if self.write(&rest, to).is_err() {
                    return Flow::Ended;
                }
                if !self.0.is_empty() {
                    return Flow::Open;
                }
            }
            match from.read(buffer) {
                Ok(0) => return Flow::Ended,
                Ok(count) => {
                    if self.write(&buffer[..count], to).is_err() {
                        return Flow::Ended;
                    }
                    // epoll(7): less than was asked for is all that there was.
                    if count < buffer.len() || !self.0.is_empty() {
                        return Flow::Open;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Flow::Open,
                Err(_) => return Flow::Ended,
            }
        }
    }

    /// Writes what there is room for, and keeps the rest.
    fn write(&mut self, mut bytes: &[u8], to: &mut TcpStream) -> Result<(), ()> {
        while !bytes.is_empty() {
            match to.write(bytes) {
                Ok(0) => return Err(()),
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.0.extend_from_slice(bytes);
                    return Ok(());
                }
                Err(_) => return Err(()),
            }
        }
        Ok(())
    }
}
