//! What the upstream must have got of an admitted request, worked out anew from the bytes that the client sent.
//!
//! Naive where the gate is fast: it splits and compares strings, and knows only requests that are well-formed.

use super::rig::Fields;
use crate::harness::{Back, Cell, Got};

/// RFC 9110 §7.6.1, and what the design drops besides.
const DROPPED: &[&str] = &[
    "authorization",
    "cf-connecting-ip",
    "client-ip",
    "connection",
    "expect",
    "fastly-client-ip",
    "forwarded",
    "front-end-https",
    "http2-settings",
    "keep-alive",
    "proxy",
    "proxy-authorization",
    "proxy-connection",
    "remote-user",
    "te",
    "trailer",
    "true-client-ip",
    "upgrade",
    "x-authenticated-user",
    "x-originating-ip",
    "x-url-scheme",
];
const DROPPED_PREFIXES: &[&str] = &[
    "x-forwarded",
    "x-portcullis-",
    "x-original-",
    "x-http-",
    "x-real-ip",
    "x-rewrite-",
    "x-remote-",
    "x-webauth-",
    "x-auth-request-",
    "x-ssl-client-",
    "ssl-client-",
    "x-envoy-",
];
/// What frames a message is compared by its effect.
const FRAMING: [&str; 2] = ["content-length", "transfer-encoding"];

/// Asserts that `got` is the request that `sent` holds, with the fields of the gate in place of the client's.
#[track_caller]
pub(crate) fn check(sent: &[u8], cell: &Cell, got: &Got) {
    let sent = sent.strip_prefix(b"\r\n").unwrap_or(sent);
    let end = sent.windows(4).position(|window| window == b"\r\n\r\n").expect("a whole head");
    let head = String::from_utf8_lossy(&sent[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let line: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let fields: Vec<(String, String)> = lines
        .map(|line| line.split_once(':').expect("a field"))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned()))
        .collect();
    check_fields(&fields, cell, got);
    assert_eq!((got.method.as_str(), got.target.as_str()), (line[0], line[1]));
    let is_chunked = fields.iter().any(|(name, _)| name == "transfer-encoding");
    let length = fields.iter().find(|(name, _)| name == "content-length");
    let length = length.map_or(0, |(_, value)| value.parse::<usize>().expect("a length"));
    let body = &sent[end + 4..];
    let body = if is_chunked { dechunked(body) } else { body[..length].to_vec() };
    assert_eq!(String::from_utf8_lossy(&got.body), String::from_utf8_lossy(&body));
    check_bytes(cell, got);
}

/// The same of a request without a body over HTTP/2.
#[track_caller]
pub(crate) fn check_head(sent: &Fields, cell: &Cell, got: &Got) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let pseudo = |name: &str| sent.iter().find(|(given, _)| given == name.as_bytes()).map(|(_, value)| text(value));
    let mut fields: Vec<(String, String)> = Vec::new();
    for (name, value) in sent.iter().filter(|(name, _)| !name.starts_with(b":")) {
        let (name, value) = (text(name), text(value));
        // RFC 9113 §8.2.3: the pieces of a cookie are one field, to which empty ones add nothing.
        match fields.iter_mut().find(|(given, _)| name == "cookie" && *given == name) {
            Some(_) if value.is_empty() => {}
            Some((_, cookie)) => *cookie += &format!("; {value}"),
            None => fields.push((name, value)),
        }
    }
    if let Some(authority) = pseudo(":authority") {
        fields.retain(|(name, _)| name != "host");
        fields.push(("host".to_owned(), authority));
    }
    check_fields(&fields, cell, got);
    let target = pseudo(":path").expect("a path");
    // The protocol library takes a fragment off before anybody sees it: it takes part in nothing.
    let target = target.split('#').next().unwrap_or_default();
    assert_eq!((Some(got.method.clone()), got.target.as_str()), (pseudo(":method"), target));
    assert_eq!(got.body, b"");
    check_bytes(cell, got);
}

/// Asserts that `got` has the fields of the client that go end to end, as they were, and the gate's own once each.
#[track_caller]
pub(crate) fn check_fields(sent: &[(String, String)], cell: &Cell, got: &Got) {
    let named: Vec<String> = sent
        .iter()
        .filter(|(name, _)| name == "connection")
        .flat_map(|(_, value)| value.split(',').map(|token| token.trim().to_ascii_lowercase()))
        .collect();
    let passes = |name: &str| {
        let plain = name.replace(|letter: char| !letter.is_ascii_alphanumeric(), "-");
        let is_special =
            DROPPED.contains(&plain.as_str()) || DROPPED_PREFIXES.iter().any(|prefix| plain.starts_with(prefix));
        let is_disguised = plain != name && (FRAMING.contains(&plain.as_str()) || plain == "host" || plain == "via");
        !is_special && !is_disguised && !named.iter().any(|named| named == name)
    };
    let expected: Vec<&(String, String)> = sent
        .iter()
        .filter(|(name, _)| name != "host" && name != "via" && !FRAMING.contains(&name.as_str()) && passes(name))
        .collect();
    let ours = |name: &str| {
        name.starts_with("x-portcullis-") || name.starts_with("x-forwarded-") || matches!(name, "forwarded" | "via")
    };
    let mut came: Vec<&(String, String)> =
        got.headers.iter().filter(|(name, _)| !ours(name) && !FRAMING.contains(&name.as_str())).collect();
    let mut wanted = expected;
    came.sort();
    wanted.sort();
    assert_eq!(came, wanted);
    let host = sent.iter().find(|(name, _)| name == "host").map(|(_, value)| value.as_str());
    assert_eq!(got.host.as_deref(), host);
    for name in ["x-portcullis-key-id", "x-portcullis-key-name", "x-portcullis-scopes", "x-portcullis-kind"] {
        assert_eq!(got.header_values(name).len(), 1, "{name}: {got:?}");
    }
    let scheme = if cell.front.is_tls() { "https" } else { "http" };
    assert_eq!(got.header_values("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(got.header_values("x-forwarded-proto"), [scheme]);
    assert_eq!(got.header_values("x-forwarded-host"), host.as_slice());
    assert_eq!(got.header_values("forwarded").len(), 1);
    assert!(got.header_values("via").join(", ").ends_with(" portcullis"), "{got:?}");
}

/// Asserts that an upstream of HTTP/1.1 has got the bytes of that one request and no more, framed once.
#[track_caller]
fn check_bytes(cell: &Cell, got: &Got) {
    let framings: usize = FRAMING.iter().map(|name| got.header_values(name).len()).sum();
    assert!(framings <= 1, "{got:?}");
    if cell.back == Back::H2 {
        return;
    }
    let requests = cell.gate.upstream().requests();
    assert_eq!(requests.len(), 1);
    let (raw, all) = (&requests[0].raw, cell.gate.upstream().raw_of(requests[0].connection));
    assert_eq!(String::from_utf8_lossy(raw), String::from_utf8_lossy(&all), "more than one request");
    assert!(got.body.is_empty() || framings == 1, "a body without framing: {got:?}");
}

/// The data of a chunked body without loose syntax.
fn dechunked(body: &[u8]) -> Vec<u8> {
    let (mut data, mut rest) = (Vec::new(), body);
    loop {
        let end = rest.windows(2).position(|pair| pair == b"\r\n").expect("a size");
        let line = String::from_utf8_lossy(&rest[..end]).into_owned();
        let size = line.split(';').next().unwrap_or_default();
        let size = usize::from_str_radix(size, 16).expect("a size in hexadecimal");
        if size == 0 {
            return data;
        }
        data.extend_from_slice(&rest[end + 2..end + 2 + size]);
        rest = &rest[end + 2 + size + 2..];
    }
}
