//! Keys that are no good, one after the other, none of them twice: nobody remembers them.
//!
//! `PORTCULLIS_BAD_KEYS=10000000` sets how many are tried; they come pipelined over kept connections.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};

use portcullis::key::KeySecret;

use super::{MIB, Rig};
use crate::harness::{Served, basic, check};

const TRIED: u64 = 20_000;
const CONNECTIONS: u64 = 4;
const BATCH: u64 = 100;
const MEMORY_MAX: u64 = 5 * MIB;
/// What the kernel may read of the program's own text, where it had no room to keep it.
const OWN_TEXT_MAX: u64 = MIB;

/// The ways for a key to be no good.
#[derive(Clone, Copy)]
enum Bad {
    /// It has no key's shape, or a wrong checksum.
    Malformed,
    /// It is as a key should be, and nobody's.
    Unknown,
    /// Its id is somebody's.
    WrongSecret,
}

/// A key's text from its id on, with the rest random and the checksum right.
pub fn with_id(id: &str) -> String {
    let random = KeySecret::generate().expect("randomness").expose().to_owned();
    let body = format!("{id}{}", &random[id.len()..random.len() - 6]);
    let mut crc = crc32fast::hash(body.as_bytes());
    let mut digits = [b'0'; 6];
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"[(crc % 62) as usize];
        crc /= 62;
    }
    body + std::str::from_utf8(&digits).expect("digits")
}

impl Bad {
    const ALL: [Self; 3] = [Self::Malformed, Self::Unknown, Self::WrongSecret];

    fn key(self, number: u64, known: &str) -> String {
        match self {
            Self::Malformed => format!("pcl_{number:012}_{number:038}"),
            Self::Unknown => KeySecret::generate().expect("randomness").expose().to_owned(),
            Self::WrongSecret => with_id(known),
        }
    }
}

/// Tries so many bad keys over one connection.
fn try_keys(address: SocketAddr, known: &str, count: u64, next: &AtomicU64) {
    let mut socket = TcpStream::connect(address).expect("the gate accepts connections");
    let mut buffer = vec![0; 65_536];
    for _ in 0..count / BATCH {
        let mut requests = String::new();
        for _ in 0..BATCH {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let key = Bad::ALL[(number % 3) as usize].key(number, known);
            requests += &format!("GET /open/x HTTP/1.1\r\nHost: gate.test\r\nAuthorization: {}\r\n\r\n", basic(&key));
        }
        socket.write_all(requests.as_bytes()).expect("the connection is kept");
        let (mut answered, mut refused) = (0, 0);
        let mut last = Vec::new();
        while answered < BATCH {
            let length = socket.read(&mut buffer).expect("the connection is kept");
            assert!(length > 0, "closed after {answered} answers: {:?}", String::from_utf8_lossy(&last));
            // What may be the beginning of either mark is looked at again.
            last.extend_from_slice(&buffer[..length]);
            answered += take(&mut last, b"\"}", &mut refused);
        }
        assert_eq!(refused, BATCH, "not all of them are 401");
    }
}

/// Takes whole answers from the front, and counts those that are 401.
fn take(bytes: &mut Vec<u8>, end: &[u8], refused: &mut u64) -> u64 {
    let mut answered = 0;
    while let Some(at) = bytes.windows(end.len()).position(|window| window == end) {
        *refused += u64::from(bytes.starts_with(b"HTTP/1.1 401 "));
        bytes.drain(..at + end.len());
        answered += 1;
    }
    answered
}

/// The names and labels of all samples, and the values of those of one family.
fn samples(served: &Served, family: &str) -> (BTreeSet<String>, Vec<String>) {
    let page = served.ops_get("/metrics").text();
    let lines = || page.lines().filter(|line| !line.starts_with('#'));
    let series = lines().filter_map(|line| line.rsplit_once(' ')).map(|(name, _)| name.to_owned()).collect();
    (series, lines().filter(|line| line.starts_with(family)).map(str::to_owned).collect())
}

#[test]
fn bad_keys_leave_nothing_behind() {
    const READS: &str = "portcullis_store_operation_duration_seconds_count{operation=\"key_read\"";
    const MISSES: &str = "portcullis_key_cache_lookups_total{result=\"miss\"}";
    const HITS: &str = "portcullis_key_cache_lookups_total{result=\"hit\"}";
    let tried = std::env::var("PORTCULLIS_BAD_KEYS").map_or(TRIED, |count| count.parse().expect("a number"));
    let rig = Rig::with(|setup| setup.option("limits.failures", r#"rate = "off""#));
    let good = rig.served.caller(&rig.root);
    let other = good.create(&["monitor:read"]);
    let next = AtomicU64::new(0);
    // The first ones, for what is only there once it was needed.
    try_keys(rig.served.public, other.id(), 3 * BATCH, &next);
    check(&good.get("/open/x"), 200);
    check(&other.get("/open/x"), 200);
    let (series, reads) = samples(&rig.served, READS);
    assert_eq!(reads.len(), 1, "{series:?}");
    let (memory, (disk, _), cpu) = (rig.probe.memory(), rig.probe.disk_bytes(), rig.probe.cpu());
    rig.probe.forget_peak();

    std::thread::scope(|scope| {
        for _ in 0..CONNECTIONS {
            scope.spawn(|| try_keys(rig.served.public, other.id(), tried / CONNECTIONS, &next));
        }
    });

    let grown = rig.probe.peak().saturating_sub(memory);
    let cpu = rig.probe.cpu() - cpu;
    let (misses, hits) = (samples(&rig.served, MISSES).1, samples(&rig.served, HITS).1);
    check(&good.get("/open/x"), 200);
    check(&other.get("/open/x"), 200);
    println!("{tried} keys: {} KiB more of {} KiB, {cpu:?}", grown / 1_024, memory / 1_024);
    assert!(grown < MEMORY_MAX, "{grown} bytes more after {tried} bad keys");
    assert_eq!(samples(&rig.served, READS), (series, reads), "series, and reads of the store");
    assert_eq!(misses.len(), 1);
    assert_eq!(samples(&rig.served, MISSES).1, misses, "good keys stay in memory");
    assert_ne!(samples(&rig.served, HITS).1, hits, "good keys stay in memory");
    let read = rig.probe.disk_bytes().0 - disk;
    assert!(read < OWN_TEXT_MAX, "{read} bytes read from disk");
}
