//! PROXY headers, versions 1 and 2: what is taken for one says the client that a plain reading finds, has its bounds, and
//! depends on no byte behind it.

#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use libfuzzer_sys::fuzz_target;
use portcullis::server::fuzzing::proxy_header;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const BYTES_MAX: usize = 16 + 4_096;

fuzz_target!(|bytes: &[u8]| {
    match proxy_header(bytes) {
        Ok(Some((client, length))) => {
            assert!((1..=bytes.len().min(BYTES_MAX)).contains(&length));
            let header = &bytes[..length];
            assert_eq!(client, naive(header), "{}", header.escape_ascii());
            assert_eq!(proxy_header(header), Ok(Some((client, length))));
            for end in [0, 1, 6, 12, 15, length / 2, length - 1] {
                assert_eq!(proxy_header(&header[..end.min(length - 1)]), Ok(None), "{}", header.escape_ascii());
            }
        }
        Ok(None) => {
            assert!(bytes.len() < BYTES_MAX);
            let is_begun = SIGNATURE.starts_with(&bytes[..bytes.len().min(12)])
                || b"PROXY ".starts_with(&bytes[..bytes.len().min(6)]);
            assert!(is_begun, "nothing else is waited for: {}", bytes.escape_ascii());
        }
        Err(why) => {
            let more = [bytes, b"\r\n"].concat();
            assert_eq!(proxy_header(&more), Err(why), "what is behind mends nothing: {}", bytes.escape_ascii());
        }
    }
});

fn naive(header: &[u8]) -> Option<SocketAddr> {
    if header.starts_with(b"PROXY ") {
        let text = std::str::from_utf8(header).expect("text").strip_suffix("\r\n").expect("a line");
        let words: Vec<&str> = text.split(' ').collect();
        assert!(text.len() <= 105);
        return match words[1] {
            "UNKNOWN" => None,
            _ => Some(SocketAddr::new(words[2].parse().expect("an address"), words[4].parse().expect("a port"))),
        };
    }
    assert!(header.starts_with(SIGNATURE));
    assert_eq!(header.len(), 16 + usize::from(u16::from_be_bytes([header[14], header[15]])));
    let number = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    match (header[12], header[13]) {
        (0x21, 0x11) => {
            let address = Ipv4Addr::new(header[16], header[17], header[18], header[19]);
            Some(SocketAddr::new(IpAddr::V4(address), number(24)))
        }
        (0x21, 0x21) => {
            let octets: [u8; 16] = header[16..32].try_into().expect("an address");
            Some(SocketAddr::new(IpAddr::V6(Ipv6Addr::from(octets)), number(48)))
        }
        (0x20 | 0x21, _) => None,
        _ => panic!("no version 2: {}", header.escape_ascii()),
    }
}
