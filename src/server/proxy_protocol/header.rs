//! What a PROXY header says, from its bytes alone.
//!
//! Invariant: a verdict depends on the bytes up to the header's end, never on those behind it or on how they were cut.

use std::net::{IpAddr, SocketAddr};

/// Bytes of a version 1 header, its line end included.
const TEXT_BYTES_MAX: usize = 107;
/// Bytes of a version 2 header up to its addresses.
pub(super) const FIXED_BYTES: usize = 16;
/// Bytes behind those: the addresses and what load balancers add to them, which is some hundreds.
pub(super) const LENGTH_MAX: usize = 4_096;

pub(super) const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// A whole header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Header {
    /// The client; `None` when the sender speaks for itself, or of an address that is no TCP one.
    pub(super) client: Option<SocketAddr>,
    /// Bytes of the header.
    pub(super) length: usize,
}

/// The bytes do not begin with a header.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(in crate::server) enum Malformed {
    #[error("the addresses of the PROXY header are malformed")]
    Addresses,
    #[error("the checksum of the PROXY header is wrong")]
    Checksum,
    #[error("the extensions of the PROXY header are malformed")]
    Extensions,
    #[error("there is no PROXY header")]
    Missing,
    #[error("the PROXY header is too long")]
    TooLong,
    #[error("the version or command of the PROXY header is unknown")]
    Version,
}

/// The header that `bytes` begin with. `None` when all of them belong to one that has not ended.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let start = &bytes[..bytes.len().min(SIGNATURE.len())];
    if SIGNATURE.starts_with(start) {
        return if start.len() < SIGNATURE.len() { Ok(None) } else { parse_binary(bytes) };
    }
    parse_text(bytes)
}

/// Version 1: `PROXY TCP4 SOURCE DESTINATION PORT PORT` and CR LF, one blank between two words.
fn parse_text(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    const WORD: &[u8] = b"PROXY ";
    if !bytes.starts_with(&WORD[..bytes.len().min(WORD.len())]) {
        return Err(Malformed::Missing);
    }
    let Some(line_end) = bytes.iter().take(TEXT_BYTES_MAX).position(|byte| *byte == b'\n') else {
        return if bytes.len() < TEXT_BYTES_MAX { Ok(None) } else { Err(Malformed::TooLong) };
    };
    let line = bytes[..line_end].strip_suffix(b"\r").and_then(|line| std::str::from_utf8(line).ok());
    let mut words = line.ok_or(Malformed::Addresses)?.split(' ').skip(1);
    let length = line_end + 1;
    let is_four = match words.next() {
        Some("TCP4") => true,
        Some("TCP6") => false,
        // Whatever follows is to be ignored.
        Some("UNKNOWN") => return Ok(Some(Header { client: None, length })),
        _ => return Err(Malformed::Addresses),
    };
    let address = |word: Option<&str>| -> Option<IpAddr> {
        let word = word?;
        if is_four { word.parse().ok().map(IpAddr::V4) } else { word.parse().ok().map(IpAddr::V6) }
    };
    let port = |word: Option<&str>| -> Option<u16> {
        word.filter(|word| word.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok()
    };
    let (source, destination) = (address(words.next()), address(words.next()));
    let (source_port, destination_port) = (port(words.next()), port(words.next()));
    match (source, destination, source_port, destination_port, words.next()) {
        (Some(source), Some(_), Some(port), Some(_), None) => {
            Ok(Some(Header { client: Some(SocketAddr::new(source, port)), length }))
        }
        _ => Err(Malformed::Addresses),
    }
}

/// Version 2, from the signature on.
fn parse_binary(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let Some(&[version, family, high, low]) = bytes.get(12..FIXED_BYTES) else {
        return Ok(None);
    };
    let is_proxied = match version {
        0x20 => false,
        0x21 => true,
        _ => return Err(Malformed::Version),
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > LENGTH_MAX {
        return Err(Malformed::TooLong);
    }
    let Some(header) = bytes.get(..FIXED_BYTES + length) else {
        return Ok(None);
    };
    let addresses = &header[FIXED_BYTES..];
    let (client, extensions_at) = match family {
        0x11 => (Some(source::<4>(addresses).ok_or(Malformed::Addresses)?), 12),
        0x21 => (Some(source::<16>(addresses).ok_or(Malformed::Addresses)?), 36),
        // UDP over either, unix sockets, and those that are not told: nothing that this connection's client could be.
        0x12 => (None, 12),
        0x22 => (None, 36),
        0x31 | 0x32 => (None, 216),
        0x00..=0x02 | 0x10 | 0x20 | 0x30 => (None, length),
        _ => return Err(Malformed::Addresses),
    };
    // Of a sender that speaks for itself nothing but the length counts.
    if is_proxied {
        check_extensions(header, FIXED_BYTES + extensions_at)?;
    }
    Ok(Some(Header { client: client.filter(|_| is_proxied), length: header.len() }))
}

/// Source address, destination address, source port, destination port.
fn source<const BYTES: usize>(addresses: &[u8]) -> Option<SocketAddr>
where
    IpAddr: From<[u8; BYTES]>,
{
    let address = IpAddr::from(*addresses.first_chunk::<BYTES>()?);
    let &[high, low, _, _] = addresses.get(2 * BYTES..2 * BYTES + 4)? else { return None };
    Some(SocketAddr::new(address, u16::from_be_bytes([high, low])))
}

/// Walks type, length and value of each extension, which are skipped but for a checksum over the whole header.
fn check_extensions(header: &[u8], from: usize) -> Result<(), Malformed> {
    const CHECKSUM: u8 = 0x03;
    let mut at = from;
    while at < header.len() {
        let &[kind, high, low] = header.get(at..at + 3).ok_or(Malformed::Extensions)? else {
            return Err(Malformed::Extensions);
        };
        let end = at + 3 + usize::from(u16::from_be_bytes([high, low]));
        let value = header.get(at + 3..end).ok_or(Malformed::Extensions)?;
        if kind == CHECKSUM {
            let told: [u8; 4] = value.try_into().map_err(|_| Malformed::Extensions)?;
            let computed = crc32c([&header[..at + 3], &[0; 4], &header[end..]]);
            if u32::from_be_bytes(told) != computed {
                return Err(Malformed::Checksum);
            }
        }
        at = end;
    }
    if at > header.len() { Err(Malformed::Addresses) } else { Ok(()) }
}

/// CRC-32C (Castagnoli) of the pieces, one after another.
pub(super) fn crc32c(pieces: [&[u8]; 3]) -> u32 {
    let bit = |crc: u32| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
    let byte = |crc: u32, byte: &u8| (0..8).fold(crc ^ u32::from(*byte), |crc, _| bit(crc));
    !pieces.into_iter().flatten().fold(u32::MAX, byte)
}
