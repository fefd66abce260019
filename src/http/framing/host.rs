//! The value of `Host`: a plain host name, an IPv4 address or a bracketed IPv6 address, with an optional port.
//!
//! Stricter than RFC 3986, which allows percent-escapes and sub-delimiters that no host has: the value takes part in
//! route choice and is written into `Forwarded`.

use std::net::Ipv6Addr;

const HOST_BYTES_MAX: usize = 255;

pub(super) fn is_valid(value: &[u8]) -> bool {
    let end_of = |mark: u8| value.iter().position(|byte| *byte == mark);
    if value.first() == Some(&b'[') {
        let Some(bracket) = end_of(b']') else { return false };
        return is_canonical(&value[1..bracket]) && is_port_suffix(&value[bracket + 1..]);
    }
    let (host, port) = value.split_at(end_of(b':').unwrap_or(value.len()));
    host.len() <= HOST_BYTES_MAX && is_name(host) && is_port_suffix(port)
}

/// RFC 5952: one spelling of an address, so that no other slips past a route's host. The case makes no difference.
fn is_canonical(address: &[u8]) -> bool {
    let Ok(address) = std::str::from_utf8(address) else { return false };
    address.parse::<Ipv6Addr>().is_ok_and(|parsed| parsed.to_string().eq_ignore_ascii_case(address))
}

/// Labels between single dots; one dot at the end means the DNS root.
fn is_name(host: &[u8]) -> bool {
    // A dot is due only behind a label.
    let mut is_in_label = false;
    for byte in host {
        is_in_label = match byte {
            b'.' if is_in_label => false,
            b'-' | b'_' => true,
            byte if byte.is_ascii_alphanumeric() => true,
            _ => return false,
        };
    }
    !host.is_empty()
}

fn is_port_suffix(suffix: &[u8]) -> bool {
    let digits = match suffix {
        [] => return true,
        [b':', digits @ ..] => digits,
        _ => return false,
    };
    let is_plain = (1..=5).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    let port = || digits.iter().fold(0, |port: u32, digit| port * 10 + u32::from(digit - b'0'));
    is_plain && (1..=u32::from(u16::MAX)).contains(&port())
}
