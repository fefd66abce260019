//! Which client trusted proxies speak for: `X-Forwarded-For` and `Forwarded` (RFC 7239), walked from the right.
//!
//! Believes nobody by itself: the caller says whom. Invariant: what stands to the left of the first thing that is not
//! understood or not trusted has no influence, since a client may have written it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

pub(super) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Whether an address is one of the proxies that are believed; none listed: nobody is.
pub fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    let address = address.to_canonical();
    trusted.iter().any(|network| network.contains(&address))
}

/// The client of a trusted `peer`: the first address from the right that is not trusted, or the last one that is known.
///
/// A proxy writes one of the two fields and may pass the other on as the client sent it. So where both are there, they
/// have to agree; else neither is believed, and the peer counts as the client.
pub(super) fn client(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let listed = client_in(peer, headers, &X_FORWARDED_FOR, trusted, addresses_in_list);
    let told = client_in(peer, headers, &FORWARDED, trusted, addresses_in_elements);
    match (listed, told) {
        (Some(listed), Some(told)) if listed != told => peer,
        (listed, told) => listed.or(told).unwrap_or(peer),
    }
}

/// The client as one field tells it; `None` when the field is not there.
fn client_in(
    peer: IpAddr,
    headers: &HeaderMap,
    name: &HeaderName,
    trusted: &[IpNet],
    addresses: fn(&[u8]) -> Vec<Option<IpAddr>>,
) -> Option<IpAddr> {
    let lines: Vec<&HeaderValue> = headers.get_all(name).iter().collect();
    if lines.is_empty() {
        return None;
    }
    let mut client = peer;
    for address in lines.iter().rev().flat_map(|line| addresses(line.as_bytes()).into_iter().rev()) {
        let Some(address) = address else { break };
        client = address;
        if !is_trusted(client, trusted) {
            break;
        }
    }
    Some(client)
}

/// The hops of one line, left to right; `None` for one that has no address.
fn addresses_in_list(line: &[u8]) -> Vec<Option<IpAddr>> {
    let address = |hop: &[u8]| {
        let hop = std::str::from_utf8(hop).ok()?.trim();
        hop.parse().ok().or_else(|| node(hop)).map(|address| address.to_canonical())
    };
    line.split(|byte| *byte == b',').map(address).collect()
}

/// The hops of one `Forwarded` line. A line that breaks the grammar is one hop without an address as a whole: where
/// quotes do not match, no comma in it is known to separate.
fn addresses_in_elements(line: &[u8]) -> Vec<Option<IpAddr>> {
    let elements = std::str::from_utf8(line).ok().and_then(elements);
    elements.unwrap_or_else(|| vec![None])
}

/// RFC 7239 §4: elements separated by commas, of pairs separated by semicolons. Blanks around either are let pass, and
/// empty elements are skipped (RFC 9110 §5.6.1). `None` when that is not what `line` is.
fn elements(line: &str) -> Option<Vec<Option<IpAddr>>> {
    let mut elements = Vec::new();
    let mut left = line;
    // Of the present element: whether it has any pair, and the value of its `for`.
    let (mut is_there, mut client) = (false, None);
    loop {
        left = left.trim_start_matches(BLANKS);
        if !left.starts_with([',', ';']) && !left.is_empty() {
            let (name, value, after) = pair(left)?;
            is_there = true;
            if name.eq_ignore_ascii_case("for") && client.replace(value).is_some() {
                return None;
            }
            left = after.trim_start_matches(BLANKS);
        }
        let ends = left.is_empty() || left.starts_with(',');
        if ends && std::mem::take(&mut is_there) {
            elements.push(client.take().and_then(|value| node(&value)).map(|address| address.to_canonical()));
        }
        match left.split_at_checked(1) {
            None => return Some(elements),
            Some(("," | ";", after)) => left = after,
            Some(_) => return None,
        }
    }
}

const BLANKS: [char; 2] = [' ', '\t'];

/// A pair and what follows it.
fn pair(text: &str) -> Option<(&str, String, &str)> {
    let (name, after) = text.split_at(text.find(|character| !is_token(character))?);
    let after = after.strip_prefix('=')?;
    if let Some(quoted) = after.strip_prefix('"') {
        let (value, after) = unquoted(quoted)?;
        return Some((name, value, after)).filter(|_| !name.is_empty());
    }
    let (value, after) = after.split_at(after.find(|character| !is_token(character)).unwrap_or(after.len()));
    Some((name, value.to_owned(), after)).filter(|_| !name.is_empty() && !value.is_empty())
}

/// RFC 9110 §5.6.4, from behind the opening quote: the text, and what follows the closing one.
fn unquoted(quoted: &str) -> Option<(String, &str)> {
    let mut text = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((text, &quoted[at + 1..])),
            '\\' => text.push(characters.next()?.1),
            character => text.push(character),
        }
    }
    None
}

/// RFC 9110 §5.6.2.
fn is_token(character: char) -> bool {
    character.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(character)
}

/// RFC 7239 §6: `192.0.2.1`, `192.0.2.1:80`, `[2001:db8::1]` or `[2001:db8::1]:80`. `None` for `unknown`, for a name that
/// hides the address, and for what is neither.
fn node(text: &str) -> Option<IpAddr> {
    if let Some(bracketed) = text.strip_prefix('[') {
        let (address, port) = bracketed.split_once(']')?;
        let address: Ipv6Addr = address.parse().ok()?;
        return is_port_suffix(port).then_some(IpAddr::V6(address));
    }
    let (address, port) = text.split_at(text.find(':').unwrap_or(text.len()));
    let address: Ipv4Addr = address.parse().ok()?;
    is_port_suffix(port).then_some(IpAddr::V4(address))
}

/// Nothing, or a port in digits, or one that hides behind a name.
fn is_port_suffix(text: &str) -> bool {
    let Some(port) = text.strip_prefix(':') else { return text.is_empty() };
    let is_number = (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit());
    let is_hidden =
        port.starts_with('_') && port.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    is_number || is_hidden
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    const PEER: &str = "10.0.0.1";

    /// Asserts whom the lines, from top to bottom, make the client of 10.0.0.1 while 10.0.0.0/8 and fd00::/8 are trusted.
    #[track_caller]
    fn check(lines: &[(&str, &str)], expected: &str) {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let trusted: Vec<IpNet> = ["10.0.0.0/8", "fd00::/8"].iter().map(|network| network.parse().unwrap()).collect();
        let found = client(PEER.parse().unwrap(), &headers, &trusted);
        assert_eq!(found, expected.parse::<IpAddr>().unwrap(), "{lines:?}");
    }

    #[track_caller]
    fn check_forwarded(value: &str, expected: &str) {
        check(&[("forwarded", value)], expected);
    }

    #[test]
    fn the_first_address_from_the_right_that_is_not_trusted_is_the_client() {
        check(&[], PEER);
        let list = |value: &str, expected: &str| check(&[("x-forwarded-for", value)], expected);
        list("1.2.3.4", "1.2.3.4");
        list("9.9.9.9, 1.2.3.4", "1.2.3.4");
        list("9.9.9.9, 1.2.3.4, 10.0.0.7", "1.2.3.4");
        list("9.9.9.9,1.2.3.4 ,\t10.0.0.7", "1.2.3.4");
        list("10.0.0.8, 10.0.0.7", "10.0.0.8");
        list("1.2.3.4:5678, [fd00::1]:80, [fd00::2]", "1.2.3.4");
        list("2001:db8::1, fd00::1", "2001:db8::1");
        list("::ffff:1.2.3.4", "1.2.3.4");
        check(&[("x-forwarded-for", "9.9.9.9"), ("x-forwarded-for", "1.2.3.4, 10.0.0.7")], "1.2.3.4");
        check(&[("x-forwarded-for", "1.2.3.4"), ("x-forwarded-for", "10.0.0.7")], "1.2.3.4");
        check_forwarded("for=1.2.3.4", "1.2.3.4");
        check_forwarded("For=9.9.9.9, fOR=1.2.3.4;proto=https;by=10.0.0.9", "1.2.3.4");
        check_forwarded("for=9.9.9.9,for=1.2.3.4, for=\"10.0.0.7:80\"", "1.2.3.4");
        check_forwarded("for=\"[2001:db8::1]\";host=\"a, for=1.1.1.1\", for=\"[fd00::1]:_http\"", "2001:db8::1");
        check_forwarded("proto=http;for=\"1.2.3.4:80\" ; by=_x ,, ", "1.2.3.4");
        check_forwarded("for=\"1\\.2.3.4\"", "1.2.3.4");
        check(&[("forwarded", "for=9.9.9.9"), ("forwarded", "for=1.2.3.4"), ("forwarded", "for=10.0.0.7")], "1.2.3.4");
    }

    #[test]
    fn what_is_no_address_ends_the_walk_at_the_last_hop_that_is_known() {
        let list = |value: &str, expected: &str| check(&[("x-forwarded-for", value)], expected);
        for garbage in ["", "unknown", "x", "1.2.3", "1.2.3.4.5", "01.2.3.4", "1.2.3.4:", "1.2.3.4:x", "[1.2.3.4]", "é"]
        {
            list(&format!("1.2.3.4, {garbage}"), PEER);
            list(&format!("1.2.3.4, {garbage}, 10.0.0.7"), "10.0.0.7");
        }
        for garbage in [
            "for=unknown",
            "for=_hidden",
            "for=\"_hidden:80\"",
            "proto=https",
            "for=\"2001:db8::1\"",
            "for=\"[2001:db8::1\"",
            "for=\"[2001:db8::1]x\"",
            "for=\"1.2.3.4:123456\"",
            "for=\"\"",
        ] {
            check_forwarded(&format!("for=1.2.3.4, {garbage}"), PEER);
            check_forwarded(&format!("for=1.2.3.4, {garbage}, for=10.0.0.7"), "10.0.0.7");
        }
    }

    #[test]
    fn a_line_that_breaks_the_grammar_is_not_believed_at_all() {
        for broken in [
            "for=1.2.3.4, for=\"",
            "for=\"1.2.3.4, for=10.0.0.7",
            "for=1.2.3.4;for=10.0.0.7",
            "for=1.2.3.4 for=10.0.0.7",
            "for=1.2.3.4, =x",
            "for=1.2.3.4, for",
            "for=1.2.3.4, for=",
            "for=1.2.3.4, for =x",
            "for=[2001:db8::1]",
            "for=1.2.3.4:80",
            "for=\"1.2.3.4\"x",
            "for=1.2.3.4, \"x\"",
            "for=\"\\",
            // What a client wrote before a proxy went on in the same line.
            "for=9.9.9.9, x=\", for=\"[2001:db8::1]\"",
            "for=9.9.9.9, x=\"\\, for=\"[2001:db8::1]\"",
            "x=\", for=1.2.3.4",
        ] {
            check_forwarded(broken, PEER);
            check(&[("forwarded", broken), ("forwarded", "for=10.0.0.7")], "10.0.0.7");
            check(&[("forwarded", broken), ("forwarded", "for=1.2.3.4")], "1.2.3.4");
        }
    }

    #[test]
    fn two_fields_that_disagree_are_both_not_believed() {
        let both = |list: &str, forwarded: &str, expected: &str| {
            check(&[("x-forwarded-for", list), ("forwarded", forwarded)], expected);
        };
        both("1.2.3.4", "for=1.2.3.4", "1.2.3.4");
        both("9.9.9.9, 1.2.3.4", "for=8.8.8.8, for=1.2.3.4, for=10.0.0.7", "1.2.3.4");
        both("1.2.3.4", "for=9.9.9.9", PEER);
        both("1.2.3.4", "for=unknown", PEER);
        both("x", "for=1.2.3.4", PEER);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever a client sends first: a proxy that goes on in a line of its own is heard, and one that goes on in
        /// the client's line is heard or nobody is.
        #[test]
        fn what_a_client_wrote_never_speaks_for_it(claim in "[ -~]{0,30}", quoted in "[fxor=\", ;\\\\.19]{0,20}") {
            for claim in [claim, quoted] {
                check(&[("forwarded", &claim), ("forwarded", "for=\"[2001:db8::1]\"")], "2001:db8::1");
                check(&[("x-forwarded-for", &claim), ("x-forwarded-for", "2001:db8::1")], "2001:db8::1");
                check(&[("x-forwarded-for", &format!("{claim}, 2001:db8::1"))], "2001:db8::1");
                let told = elements(&format!("{claim}, for=\"[2001:db8::1]\""));
                let last = told.and_then(|told| *told.last()?);
                prop_assert!(last.is_none() || last == "2001:db8::1".parse().ok(), "{claim}: {last:?}");
            }
        }
    }
}
