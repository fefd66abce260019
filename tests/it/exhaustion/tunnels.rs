//! Tunnels through which far more passes than memory holds, to a receiver that takes it slowly: buffers stay small.
//!
//! `PORTCULLIS_STREAMED_MIB=1024` sets how much goes each way.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use super::{MIB, Rig, narrow};
use crate::harness::{DEADLINE, Wire, check};

const SIZE: u64 = 16 * MIB;
const MEMORY_MAX: u64 = 4 * MIB;
/// Of RFC 6455 §1.3.
const HANDSHAKE: [(&str, &str); 4] = [
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("Sec-WebSocket-Version", "13"),
];
const SWITCHED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                          Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// What one end of a tunnel does once it is open.
#[derive(Clone, Copy)]
enum End {
    /// Sends so many bytes and closes.
    Gives(u64),
    /// Reads to the end, a few bytes at a time.
    Takes,
}

impl End {
    /// How many bytes have gone through.
    fn run(self, mut stream: TcpStream) -> u64 {
        let mut moved = 0;
        match self {
            Self::Gives(size) => {
                let piece = vec![7; 65_536];
                while moved < size {
                    let length = piece.len().min(usize::try_from(size - moved).unwrap_or(usize::MAX));
                    stream.write_all(&piece[..length]).expect("an open tunnel");
                    moved += length as u64;
                }
                stream.shutdown(std::net::Shutdown::Write).expect("an open tunnel");
            }
            Self::Takes => {
                let mut piece = [0; 1_500];
                loop {
                    match stream.read(&mut piece).expect("an open tunnel") {
                        0 => break,
                        count => moved += count as u64,
                    }
                }
            }
        }
        moved
    }
}

/// An upstream that switches on its first connection and then does as this end. Its handle tells how much it moved.
fn upstream(end: End) -> (String, std::thread::JoinHandle<u64>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let socket = socket2::SockRef::from(&listener);
    socket.set_recv_buffer_size(1_024).expect("a small buffer");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let running = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the gate connects");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("a request");
            head.push(byte[0]);
        }
        stream.write_all(SWITCHED).expect("a gate that reads");
        end.run(stream)
    });
    (url, running)
}

#[track_caller]
fn check_way(what: &str, near: End, far: End, size: u64) {
    let (url, running) = upstream(far);
    let rig = Rig::with(|setup| {
        let route = r#"{ require = "authenticated", upgrade = true }"#;
        setup.upstream_url(&url).route("GET /live/{*rest}", route)
    });
    let request = rig.served.caller(&rig.root).render("GET", "/live/x", &HANDSHAKE, b"");
    let mut stream = narrow(rig.served.public);
    stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    stream.write_all(&request).expect("taken");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a response");
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{:?}", String::from_utf8_lossy(&head));
    let before = rig.probe.memory();
    rig.probe.forget_peak();

    let moved = (near.run(stream), running.join().expect("an upstream that is not cut off"));

    let grown = rig.probe.peak().saturating_sub(before);
    println!("{} MiB {what}: {} KiB more, {:?}", size / MIB, grown / 1_024, rig.probe.cpu());
    assert_eq!(moved, (size, size), "{what}");
    assert!(grown < MEMORY_MAX, "{what}: {grown} bytes more for {size}");
    check(&Wire::connect(rig.served.public).send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").read_response(), 401);
}

/// Catalogue F06.
#[test]
fn a_tunnel_takes_the_same_memory_for_any_amount_at_any_pace() {
    let size = std::env::var("PORTCULLIS_STREAMED_MIB").map_or(SIZE, |mib| mib.parse::<u64>().expect("a number") * MIB);
    check_way("down", End::Takes, End::Gives(size), size);
    check_way("up", End::Gives(size), End::Takes, size);
}
