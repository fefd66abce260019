//! The value of `Host`: a plain host name, an IPv4 address or a bracketed IPv6 address, with an optional port.
//!
//! Stricter than RFC 3986, which allows percent-escapes and sub-delimiters that no host has: the value takes part in
//! route choice and is written into `Forwarded`.

use std::net::Ipv6Addr;

const HOST_BYTES_MAX: usize = 255;

pub(super) fn is_valid(value: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(value) else {
        return false;
    };
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, after)) if is_canonical(address) => return is_port_suffix(after),
            _ => return false,
        },
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    host.len() <= HOST_BYTES_MAX && is_name(host) && is_port_suffix(port)
}

/// RFC 5952: one spelling of an address, so that no other slips past a route's host. The case makes no difference.
fn is_canonical(address: &str) -> bool {
    address.parse::<Ipv6Addr>().is_ok_and(|parsed| parsed.to_string().eq_ignore_ascii_case(address))
}

/// Labels between single dots; one dot at the end means the DNS root.
fn is_name(host: &str) -> bool {
    let labels = host.strip_suffix('.').unwrap_or(host);
    labels.split('.').all(|label| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    })
}

fn is_port_suffix(suffix: &str) -> bool {
    if suffix.is_empty() {
        return true;
    }
    let Some(digits) = suffix.strip_prefix(':') else {
        return false;
    };
    let is_plain = (1..=5).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_plain && digits.parse::<u16>().is_ok_and(|port| port > 0)
}
