//! Part B and the request line of part E: methods, versions, and what is between them.

use super::rig::Outcome::{Closed, Passed, Refused};
use super::rig::{Case, Outcome, Row, byte, bytes};

pub(crate) fn rows() -> Vec<Row> {
    let mut rows = Row::of_table(REQUEST_LINES, "<>");
    let method = |method: &str| format!("{method} /api/v1/query HTTP/1.1¶<H><kread>¶");
    rows.extend(methods().into_iter().map(|(id, text, outcome)| Row::new(id, method(&text), outcome)));
    let closed = |line: String| Row::new("E35", format!("{line}¶<H><kread>¶"), Closed(400));
    for blank in BLANKS {
        rows.push(closed(format!("GET{blank}/api/v1/query HTTP/1.1")));
        rows.push(closed(format!("GET /api/v1/query{blank}HTTP/1.1")));
        rows.push(closed(format!("GET /api/v1/query HTTP/1.1{blank}")));
        rows.push(closed(format!("{blank}GET /api/v1/query HTTP/1.1")));
    }
    rows.extend(VERSIONS.map(|version| closed(format!("GET /api/v1/query {version}"))));
    for value in bytes().filter(|value| !matches!(value, b'0' | b'1')) {
        rows.push(closed(format!("GET /api/v1/query HTTP/1.{}", byte(value))));
    }
    for value in bytes().filter(|value| *value != b'1') {
        rows.push(closed(format!("GET /api/v1/query HTTP/{}.1", byte(value))));
    }
    rows
}

/// How many of the rows are the catalogue's own.
pub(crate) const TABLED: usize = REQUEST_LINES.len();

const REQUEST_LINES: &[Case] = &[
    ("A37", "OPTIONS * HTTP/1.1¶<H><kread>¶", Closed(400)),
    ("B05", "FOO /api/v1/query HTTP/1.1¶<H><kread>¶", Refused(405)),
    ("B05", "get /api/v1/query HTTP/1.1¶<H><kread>¶", Refused(405)),
    ("B05", "GETS /api/v1/query HTTP/1.1¶<H><kread>¶", Refused(405)),
    ("B05", "FOO /api/v1/query HTTP/1.1¶<H>¶", Refused(401)),
    ("B06", "CONNECT t:80 HTTP/1.1¶<H><kread>¶", Closed(501)),
    ("B06", "CONNECT /api/v1/query HTTP/1.1¶<H><kread>¶", Closed(501)),
    ("B10", "HEAD /api/v1/query HTTP/1.1¶<H><kread>¶", Passed),
    ("B10", "HEAD /api/v1/admin/x HTTP/1.1¶<H><kread>¶", Refused(403)),
    ("B13", "GET /api/v1/query HTTP/1.1¶<H><kread>Content-Length: 5¶¶hello", Passed),
    ("B13", "GET /api/v1/query HTTP/1.1¶<H><kread>Transfer-Encoding: chunked¶¶5¶hello¶0¶¶", Passed),
    ("B14", "PRI * HTTP/2.0¶¶SM¶X", Closed(400)),
    ("B15", "G=\"(),/:;<=>?@[]{} / HTTP/1.1¶<H>¶", Closed(400)),
    ("B15", " GET /api/v1/query HTTP/1.1¶<H><kread>¶", Closed(400)),
    ("B15", "\\x80 /api/v1/query HTTP/1.1¶<H><kread>¶", Closed(400)),
    ("B15", "␀", Closed(400)),
    ("D34", "TRACE /api/v1/query HTTP/1.1¶<H><kread>Max-Forwards: 0¶¶", Refused(405)),
    ("D34", "OPTIONS /api/v1/query HTTP/1.1¶<H><kread>Max-Forwards: 0¶¶", Refused(405)),
    ("E35", "GET  /api/v1/query HTTP/1.1¶<H><kread>¶", Closed(400)),
    ("E35", "GET /api/v1/query  HTTP/1.1¶<H><kread>¶", Closed(400)),
    ("E35", "GET\t/api/v1/query HTTP/1.1¶<H><kread>¶", Closed(400)),
    ("E35", "GET /api/v1/query\tHTTP/1.1¶<H><kread>¶", Closed(400)),
    ("E35", "GET /api/v1/query HTTP/1.1 ¶<H><kread>¶", Closed(400)),
    ("E35", "GET /api/v1/query HTTP/1.1 x¶<H><kread>¶", Closed(400)),
    ("E35", "GET /api/v1/query¶<H><kread>¶", Closed(400)),
    ("E35", "GET¶<H><kread>¶", Closed(400)),
    ("E35", "GET /api/v1/query HTTP/1.2¶<H><kread>¶", Closed(400)),
    ("E35", "GET /api/v1/query HTTP/2.0¶<H><kread>¶", Closed(400)),
    ("E35", "GET /api/v1/query HTTP/0.9¶<H><kread>¶", Closed(400)),
    ("E35", "GET /api/v1/query HTTP/1¶<H><kread>¶", Closed(400)),
    ("E35", "GET /api/v1/query http/1.1¶<H><kread>¶", Closed(400)),
    ("E35", "GET /api/v1/query HTTP/1.10¶<H><kread>¶", Closed(400)),
    ("E35", "GET /api/v1/query XTTP/1.1¶<H><kread>¶", Closed(400)),
    ("E35", "GET /api/v1/query HTTP/1.1⏎Host: t⏎⏎", Closed(400)),
    ("E35", "GET /api/v1/query HTTP/1.1␍Host: t␍␍", Closed(400)),
    ("E35", "⏎GET /api/v1/query HTTP/1.1¶<H><kread>¶", Closed(400)),
    ("E35", "¶GET /api/v1/query HTTP/1.1¶<H><kread>¶", Passed),
    ("E35", "¶¶GET /api/v1/query HTTP/1.1¶<H><kread>¶", Closed(400)),
    ("P05", "\\x16\\x03\\x01\\x02\\x00\\x01\\x00\\x01\\xfc\\x03\\x03", Closed(400)),
];

/// What is not one blank.
const BLANKS: [&str; 8] = ["  ", "\t", " \t", "\\x0b", "\\x0c", "␍", "␀", "\\xa0"];

const VERSIONS: [&str; 14] = [
    "",
    "HTTP",
    "HTTP/",
    "HTTP/1",
    "HTTP/1.",
    "HTTP/11",
    "HTTP/1.11",
    "HTTP/01.1",
    "HTTP/1.01",
    "HTTP/3",
    "HTTP/2",
    "Http/1.1",
    "HTTPS/1.1",
    "HTTP /1.1",
];

/// Methods with each byte in each place.
pub(crate) fn methods() -> Vec<(&'static str, String, Outcome)> {
    let mut methods = Vec::new();
    for value in bytes() {
        let outcome = if is_token(value) { Refused(405) } else { Closed(400) };
        methods.push(("B15", format!("{}GET", byte(value)), outcome));
        methods.push(("B15", format!("GET{}", byte(value)), outcome));
        methods.push(("B15", format!("G{}T", byte(value)), if value == b'E' { Passed } else { outcome }));
    }
    methods
}

/// RFC 9110 §5.6.2.
pub(crate) fn is_token(value: u8) -> bool {
    value.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&value)
}
