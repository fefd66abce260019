//! Part A: targets, and the paths in them, that two programs could read in two ways.

use super::rig::Outcome::{Closed, Passed, Refused};
use super::rig::{Case, Outcome, Row, byte, bytes};

pub(crate) const IN_GET: &str = "GET <> HTTP/1.1¶<H><kread>¶";

pub(crate) fn rows() -> Vec<Row> {
    let mut rows = Row::of_table(TARGETS, IN_GET);
    rows.extend(
        generated().into_iter().map(|(id, target, outcome)| Row::new(id, IN_GET.replace("<>", &target), outcome)),
    );
    rows
}

/// The same as targets alone.
pub(crate) fn targets() -> Vec<Row> {
    let fixed = TARGETS.iter().map(|(id, target, outcome)| Row::new(id, *target, *outcome));
    fixed.chain(generated().into_iter().map(|(id, target, outcome)| Row::new(id, target, outcome))).collect()
}

/// How many of the rows are the catalogue's own.
pub(crate) const TABLED: usize = TARGETS.len();

const TARGETS: &[Case] = &[
    ("A01", "/api/v1/query/../admin/x", Refused(400)),
    ("A02", "/api/../api/v1/admin/x", Refused(400)),
    ("A02", "/..", Refused(400)),
    ("A02", "/./api/v1/query", Refused(400)),
    ("A02", "/api/v1/query/.", Refused(400)),
    ("A03", "/api/v1/query/%2e%2e/admin/x", Refused(400)),
    ("A03", "/api/v1/query/%2E./admin/x", Refused(400)),
    ("A03", "/api/v1/query/.%2e/admin/x", Refused(400)),
    ("A05", "/open/..%2fapi/v1/admin/x", Refused(400)),
    ("A05", "/open/..%2Fapi/v1/admin/x", Refused(400)),
    ("A05", "/open/..%5capi", Refused(400)),
    ("A05", "/open/..\\api", Refused(400)),
    ("A08", "/api/v1%2fadmin/x", Refused(400)),
    ("A08", "/api%2Fv1/admin/x", Refused(400)),
    ("A08", "/api/v1/admin%2fx", Refused(400)),
    ("A09", "/api/v1/%61dmin/x", Refused(400)),
    ("A09", "/api/v1/%2561dmin/x", Refused(400)),
    ("A09", "/api/v1/%252e%252e/x", Refused(400)),
    ("A10", "//api/v1/admin/x", Refused(400)),
    ("A11", "/api//v1/admin/x", Refused(400)),
    ("A11", "/api/v1//admin/x", Refused(400)),
    ("A11", "/api/v1/admin//x", Refused(400)),
    ("A12", "///", Refused(400)),
    ("A12", "/api/v1/admin///", Refused(400)),
    ("A15", "/api/v1/%3badmin", Refused(400)),
    ("A15", "/api/v1/;x/admin", Refused(400)),
    ("A15", "/api/v1/query;x=/../admin", Refused(400)),
    ("A15", "/api/v1/admin;/x", Refused(400)),
    ("A16", "/api/v1/query/", Passed),
    ("A17", "/api/v1/query.", Passed),
    ("A17", "/api/v1/query%20", Passed),
    ("A17", "/api/v1/query%09", Refused(400)),
    ("A18", "/API/v1/admin/x", Refused(404)),
    ("A18", "/api/V1/Admin/x", Passed),
    ("A19", "/api/v1/admin%00x", Refused(400)),
    ("A19", "/%00", Refused(400)),
    ("A19", "/api/v1/query%0a", Refused(400)),
    ("A19", "/api/v1/query%7f", Refused(400)),
    ("A21", "/%", Refused(400)),
    ("A21", "/%g1", Refused(400)),
    ("A21", "/%1", Refused(400)),
    ("A21", "/x%", Refused(400)),
    ("A21", "/api/%2", Refused(400)),
    ("A21", "/api/%u002e", Refused(400)),
    ("A22", "/api/%c0%ae%c0%ae/x", Refused(400)),
    ("A22", "/api/%c0%af", Refused(400)),
    ("A22", "/api/%e0%80%af", Refused(400)),
    ("A22", "/api/%f4%90%80%80", Refused(400)),
    ("A23", "/api/%ff", Refused(400)),
    ("A23", "/api/%ed%a0%80", Refused(400)),
    ("A23", "/api/%e4%bd", Refused(400)),
    ("A24", "/api/a b", Closed(400)),
    ("A24", "/api/a\tb", Closed(400)),
    ("A24", "/api/\\x80", Closed(400)),
    ("A24", "/api/é", Closed(400)),
    ("A24", "/api/\\x7f", Closed(400)),
    ("A24", "/api/\\x01", Closed(400)),
    ("A24", "/api/a␀b", Closed(400)),
    ("A24", "/api/a␍b", Closed(400)),
    ("A24", "/api/a⏎b", Closed(400)),
    ("A24", "/api/{x}", Refused(400)),
    ("A24", "/api/a|b", Refused(400)),
    ("A24", "/api/a^b", Refused(400)),
    ("A24", "/api/<x>", Closed(400)),
    ("A24", "/api/a\"b", Closed(400)),
    ("A26", "/api/v1/query?x=/../admin", Passed),
    ("A26", "/api/v1/query?x=/api/v1/admin", Passed),
    ("A26", "/api/v1/query??/../;//\\", Passed),
    ("A26", "/api/v1/query?", Passed),
    ("A26", "/api/v1/query??", Passed),
    ("A26", "/api/v1/query?&&=&a=%00&a[]=b&;", Passed),
    ("A26", "/api/v1/query?http://evil/?a=b@c:d", Passed),
    ("A27", "/nosuch?/api/v1/query", Refused(404)),
    ("A27", "?/api/v1/query", Closed(400)),
    ("A28", "/api/v1/query#/../admin", Closed(400)),
    ("A28", "/api/v1/query?x#y", Closed(400)),
    ("A28", "#/api/v1/query", Closed(400)),
    ("A30", "/api/v1/query?x=%0d%0aX:1", Passed),
    ("A30", "/api/v1/query?x=%00", Passed),
    ("A30", "/api/v1/query?x=%zz%", Passed),
    ("A32", "http://t/api/v1/query", Closed(400)),
    ("A32", "http://evil/api/v1/query", Closed(400)),
    ("A32", "HTTP://t/api/v1/query", Closed(400)),
    ("A34", "ftp://t/x", Closed(400)),
    ("A34", "http://user:pw@t/api/v1/query", Closed(400)),
    ("A35", "t:80", Closed(400)),
    ("A35", "api/v1/query", Closed(400)),
    ("A35", "admin", Closed(400)),
    ("A35", "", Closed(400)),
    ("A35", "\\api\\v1\\query", Closed(400)),
    ("A36", "/api/v1/administrator", Passed),
    ("A36", "/api/v1/admin", Refused(403)),
    ("A36", "/api/v1/admin/", Refused(403)),
    ("A36", "/api/v1/admin/x", Refused(403)),
    ("A36", "/api/v1/admin/x/y/z?q", Refused(403)),
    ("A37", "*", Closed(400)),
    ("A37", "*/x", Closed(400)),
    ("A40", "/api/keys/..%2f..%2fmetrics", Refused(400)),
    ("A40", "/api/keys/%2e%2e/v1/query", Refused(400)),
    ("A41", "/metrics", Refused(404)),
    ("A41", "/-/healthy", Refused(404)),
    ("A41", "/-/ready", Refused(404)),
    ("M36", "/API/keys", Refused(404)),
    ("M36", "/api//keys", Refused(400)),
    ("M36", "/api/keys;x", Refused(400)),
];

/// What must not be a whole segment.
const NO_SEGMENTS: [&str; 3] = [".", "..", ""];

/// What must not be in any segment.
const NOWHERE: [&str; 27] = [
    "%2e",
    "%2E%2e",
    ".%2e",
    "%2f",
    "%2F..",
    "%5c",
    "%5C..",
    "\\",
    ";",
    ";x",
    ";x=y",
    "%3b",
    "%3B",
    "%00",
    "%0d%0a",
    "%7f",
    "%25",
    "%252e",
    "%c2%80",
    "%c0%ae",
    "%ed%a0%80",
    "%ff",
    "%",
    "%1",
    "%g1",
    "%1g",
    "%u002e",
];

/// Escapes of characters outside ASCII, right and wrong ones (RFC 3629).
const CHARACTERS: [(&str, Outcome); 22] = [
    ("%c3%a9", Passed),
    ("%C3%A9", Passed),
    ("%e4%bd%a0", Passed),
    ("%e2%80%ae", Passed),
    ("%f0%9f%98%80", Passed),
    ("%c2%85", Refused(400)),
    ("%c0%80", Refused(400)),
    ("%c1%bf", Refused(400)),
    ("%e0%80%ae", Refused(400)),
    ("%e0%9f%bf", Refused(400)),
    ("%f0%80%80%af", Refused(400)),
    ("%f0%8f%bf%bf", Refused(400)),
    ("%f8%80%80%80%af", Refused(400)),
    ("%fc%80%80%80%80%af", Refused(400)),
    ("%ed%bf%bf", Refused(400)),
    ("%f4%90%80%80", Refused(400)),
    ("%80", Refused(400)),
    ("%c3", Refused(400)),
    ("%c3a9", Refused(400)),
    ("%c3%a9%a9", Refused(400)),
    ("%e4%bd", Refused(400)),
    ("%c3\\xa9", Closed(400)),
];

fn generated() -> Vec<(&'static str, String, Outcome)> {
    let mut rows = Vec::new();
    let path = |at: usize, segment: &str| {
        let mut segments = ["api", "v1", "query", "x"];
        segments[at] = segment;
        format!("/{}", segments.join("/"))
    };
    for at in 0..4 {
        for form in NO_SEGMENTS {
            if at < 3 || !form.is_empty() {
                rows.push(("A01", path(at, form), Refused(400)));
            }
        }
        for form in NOWHERE {
            for segment in [form.to_owned(), format!("a{form}"), format!("{form}-a")] {
                rows.push(("A03", path(at, &segment), Refused(400)));
            }
        }
    }
    for (form, outcome) in CHARACTERS {
        rows.push(("A22", format!("/api/a{form}b"), outcome));
        rows.push(("A22", format!("/api/{form}"), outcome));
    }
    for value in bytes() {
        rows.push(("A09", format!("/api/a%{value:02x}b"), escaped(value)));
        rows.push(("A09", format!("/api/v1%{value:02X}"), escaped(value)));
        rows.push(("A24", format!("/api/a{}b", byte(value)), raw(value)));
        rows.push(("A24", format!("/api/v1/query?a{}b", byte(value)), in_query(value)));
        rows.push(("A30", format!("/api/v1/query?a=%{value:02x}"), Passed));
    }
    rows
}

/// An escape in a path: it passes where the character needs one, and has one reading.
fn escaped(value: u8) -> Outcome {
    match value {
        b'/' | b'\\' | b'%' | b'.' | b';' | b'-' | b'_' | b'~' => Refused(400),
        b' '..=b'~' if !value.is_ascii_alphanumeric() => Passed,
        _ => Refused(400),
    }
}

/// RFC 3986 §3.3.
fn raw(value: u8) -> Outcome {
    match value {
        b'%' | b';' | b'[' | b'\\' | b']' | b'^' | b'{' | b'|' | b'}' => Refused(400),
        _ => in_query(value),
    }
}

/// What hyper would take for something else, or not at all, ends the connection.
fn in_query(value: u8) -> Outcome {
    match value {
        b'"' | b'#' | b'<' | b'>' | b'`' => Closed(400),
        b'!'..=b'~' => Passed,
        _ => Closed(400),
    }
}
