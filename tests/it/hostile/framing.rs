//! Part E: the fields that say where a body ends. Each case carries a body, or a second request, that must not become one.

use super::request_lines::is_token;
use super::rig::Outcome::{Aborted, Closed, Passed};
use super::rig::{Case, Row, byte, bytes};

pub(crate) fn rows() -> Vec<Row> {
    let mut rows = Row::of_table(FRAMING, "<>");
    rows.extend(lengths());
    rows.extend(encodings());
    rows.extend(both());
    rows
}

/// How many of the rows are the catalogue's own.
pub(crate) const TABLED: usize = FRAMING.len();

const FRAMING: &[Case] = &[
    ("E01", "<W>Content-Length: 6¶Transfer-Encoding: chunked¶¶0¶¶GPOST", Closed(400)),
    ("E02", "<W>Transfer-Encoding: chunked¶Content-Length: 6¶¶0¶¶GPOST", Closed(400)),
    ("E02", "<W>Content-Length: 5¶Transfer-Encoding: chunked¶¶0¶¶", Closed(400)),
    ("E03", "<W>Content-Length: 5¶Content-Length: 5¶¶hello", Closed(400)),
    ("E03", "<W>Content-Length: 5, 5¶¶hello", Closed(400)),
    ("E04", "<W>Content-Length: 5¶Content-Length: 6¶¶hello!", Closed(400)),
    ("E04", "<W>Content-Length: 6¶Content-Length: 5¶¶hello!", Closed(400)),
    ("E05", "<W>Content-Length: +5¶¶hello", Closed(400)),
    ("E05", "<W>Content-Length: -1¶¶hello", Closed(400)),
    ("E05", "<W>Content-Length: 0x5¶¶hello", Closed(400)),
    ("E05", "<W>Content-Length: 5_0¶¶hello", Closed(400)),
    ("E05", "<W>Content-Length: 5.0¶¶hello", Closed(400)),
    ("E05", "<W>Content-Length: 5e1¶¶hello", Closed(400)),
    ("E05", "<W>Content-Length: 5 6¶¶hello", Closed(400)),
    ("E05", "<W>Content-Length: \\xd9\\xa5¶¶hello", Closed(400)),
    ("E05", "<W>Content-Length: \"5\"¶¶hello", Closed(400)),
    ("E05", "<W>Content-Length: 5;¶¶hello", Closed(400)),
    ("E06", "<W>Content-Length:¶¶hello", Closed(400)),
    ("E06", "<W>Content-Length:¶Content-Length: 5¶¶hello", Closed(400)),
    ("E07", "<W>Content-Length: 00005¶¶hello", Closed(400)),
    ("E07", "<W>Content-Length: 010¶¶hello", Closed(400)),
    ("E08", "<W>Content-Length: 18446744073709551616¶¶", Closed(400)),
    ("E08", "<W>Content-Length: 18446744073709551621¶¶hello", Closed(400)),
    ("E08", "<W>Content-Length: 9223372036854775808¶¶", Closed(400)),
    ("E11", "<W>Transfer-Encoding: gzip, chunked¶¶0¶¶", Closed(400)),
    ("E11", "<W>Transfer-Encoding: chunked, gzip¶¶0¶¶", Closed(400)),
    ("E11", "<W>Transfer-Encoding: chunked, chunked¶¶0¶¶", Closed(400)),
    ("E11", "<W>Transfer-Encoding: identity¶¶hello", Closed(400)),
    ("E11", "<W>Transfer-Encoding: gzip¶Transfer-Encoding: chunked¶¶0¶¶", Closed(400)),
    ("E11", "<W>Transfer-Encoding: chunked¶Transfer-Encoding: chunked¶¶0¶¶", Closed(400)),
    ("E11", "<W>Transfer-Encoding: \"chunked\"¶¶0¶¶", Closed(400)),
    ("E11", "<W>Transfer-Encoding: chunked;q=1¶¶0¶¶", Closed(400)),
    ("E11", "<W>Transfer-Encoding: ,chunked¶¶0¶¶", Closed(400)),
    ("E11", "<W>Transfer-Encoding: xchunked¶¶0¶¶", Closed(400)),
    ("E11", "<W>Transfer-Encoding: chunked\\x0b¶¶0¶¶", Closed(400)),
    ("E15", "<W>Transfer-Encoding :chunked¶¶0¶¶", Closed(400)),
    ("E15", "<W> Transfer-Encoding: chunked¶¶0¶¶", Closed(400)),
    ("E15", "<W>Transfer-Encoding⏎: chunked¶¶0¶¶", Closed(400)),
    ("E15", "<W>X: x␍Transfer-Encoding: chunked¶¶0¶¶", Closed(400)),
    ("E15", "<W>Content-Length : 5¶¶hello", Closed(400)),
    ("E16", "<W>Content-Length: 5¶Transfer_Encoding: chunked¶¶hello", Passed),
    ("E16", "<W>Content-Length: 5¶Content_Length: 50¶Content.Length: 50¶¶hello", Passed),
    ("E16", "<W>Transfer-Encoding:¶¶0¶¶", Closed(400)),
    ("E17", "<W>tRANSFER-eNCODING: ChUnKeD¶¶5¶hello¶0¶¶", Passed),
    ("E30", "POST /api/v1/write HTTP/1.0¶<H><ktel>Transfer-Encoding: chunked¶¶5¶hello¶0¶¶", Closed(400)),
    ("E31", "POST /api/v1/write HTTP/1.0¶<H><ktel>¶GET /api/v1/query HTTP/1.1¶<H><kread>¶", Passed),
    ("E39", "<W>Content-Length: 45¶¶DELETE /api/keys/x HTTP/1.1¶Host: t¶¶12345", Passed),
    ("E39", "<W>Transfer-Encoding: chunked¶¶5¶¶0¶¶0¶¶", Passed),
    (
        "E40",
        "POST /api/v1/write HTTP/1.1¶<H>Content-Length: 1000000¶¶0123456789GET /api/v1/query HTTP/1.1¶<H><kread>¶",
        Closed(401),
    ),
    ("E40", "POST /api/v1/admin HTTP/1.1¶<H><ktel>Transfer-Encoding: chunked¶¶1¶x", Closed(403)),
    ("E48", "<W>Content-Length: 10¶¶hello", Aborted),
    ("E48", "<W>Transfer-Encoding: chunked¶¶5¶hel", Aborted),
];

/// Lengths that are not one number in its only spelling.
pub(crate) const LENGTHS: [&str; 31] = [
    "",
    "+5",
    "-5",
    "-0",
    "+0",
    "0x5",
    "0X5",
    "0o5",
    "0b1",
    "05",
    "00",
    "005",
    "5.",
    "5.0",
    "5e0",
    "5_0",
    "5,",
    ",5",
    "5,5",
    "5, 5",
    "5, 6",
    "5;",
    "5;a",
    "5 5",
    "\"5\"",
    "five",
    "5h",
    "\\xb2",
    "9007199254740993",
    "18446744073709551621",
    "99999999999999999999999999999999",
];

/// Codings that are not `chunked` alone.
pub(crate) const ENCODINGS: [&str; 27] = [
    "",
    "identity",
    "gzip",
    "gzip, chunked",
    "chunked, gzip",
    "chunked,",
    ",chunked",
    "chunked, chunked",
    "chunked, identity",
    "identity, chunked",
    "chunked;q=1",
    "chunked; x",
    "\"chunked\"",
    "'chunked'",
    "chunke",
    "chunkedd",
    "xchunked",
    "chunked chunked",
    "x chunked",
    "chunked\\xa0",
    "\\xa0chunked",
    "chunKed\\xe2\\x84\\xaa",
    "c\\x68unked;",
    "trailers",
    "compress",
    "deflate, chunked",
    "chunked/1.1",
];

const BODY: &str = "5¶hello¶0¶¶";

fn lengths() -> Vec<Row> {
    let mut rows = Vec::new();
    for version in ["HTTP/1.1", "HTTP/1.0"] {
        let post = |fields: &str| format!("POST /api/v1/write {version}¶<H><ktel>{fields}¶hello");
        for length in LENGTHS {
            rows.push(Row::new("E05", post(&format!("Content-Length: {length}¶")), Closed(400)));
            for other in ["5", length] {
                rows.push(Row::new(
                    "E04",
                    post(&format!("Content-Length: {other}¶Content-Length: {length}¶")),
                    Closed(400),
                ));
            }
            rows.push(Row::new(
                "E04",
                post(&format!("Content-Length: {length}¶X-A: b¶Content-Length: 5¶")),
                Closed(400),
            ));
        }
        for other in ["0", "4", "5", "6"] {
            rows.push(Row::new("E04", post(&format!("Content-Length: 5¶content-length: {other}¶")), Closed(400)));
        }
    }
    let post = |fields: &str| format!("<W>{fields}¶hello");
    for value in bytes() {
        let of = |is_good: bool| if is_good { Passed } else { Closed(400) };
        let is_blank = matches!(value, b' ' | b'\t');
        if !value.is_ascii_digit() {
            rows.push(Row::new("E05", post(&format!("Content-Length:{}5¶", byte(value))), of(is_blank)));
            rows.push(Row::new("E05", post(&format!("Content-Length:5{}¶", byte(value))), of(is_blank)));
        }
        // A name that is almost the one is another field, or none at all.
        let name = format!("Content-Length{}: 1¶", byte(value));
        rows.push(Row::new("E15", post(&format!("Content-Length: 5¶{name}")), of(is_token(value))));
    }
    for name in ["content-length", "CONTENT-LENGTH", "cOnTeNt-LeNgTh"] {
        rows.push(Row::new("E17", post(&format!("{name}: 5¶")), Passed));
        rows.push(Row::new("E17", post(&format!("{name}:\t 5 \t¶")), Passed));
    }
    for name in ["Content_Length", "Content.Length", "Content~Length", "CONTENT_LENGTH", "Content--Length"] {
        rows.push(Row::new("E16", post(&format!("Content-Length: 5¶{name}: 1¶")), Passed));
        rows.push(Row::new("E16", post(&format!("{name}: 1¶Content-Length: 5¶")), Passed));
    }
    rows
}

fn encodings() -> Vec<Row> {
    let mut rows = Vec::new();
    for coding in ENCODINGS {
        for version in ["HTTP/1.1", "HTTP/1.0"] {
            let post = |fields: &str| format!("POST /api/v1/write {version}¶<H><ktel>{fields}¶{BODY}");
            let line = format!("Transfer-Encoding: {coding}¶");
            rows.push(Row::new("E11", post(&line), Closed(400)));
            rows.push(Row::new("E11", post(&format!("{line}Transfer-Encoding: chunked¶")), Closed(400)));
            rows.push(Row::new("E11", post(&format!("Transfer-Encoding: chunked¶X-A: b¶{line}")), Closed(400)));
        }
    }
    let post = |fields: &str| format!("<W>{fields}¶{BODY}");
    for value in bytes() {
        let is_blank = matches!(value, b' ' | b'\t');
        let of = |is_good: bool| if is_good { Passed } else { Closed(400) };
        rows.push(Row::new("E11", post(&format!("Transfer-Encoding:{}chunked¶", byte(value))), of(is_blank)));
        rows.push(Row::new("E11", post(&format!("Transfer-Encoding:chunked{}¶", byte(value))), of(is_blank)));
        rows.push(Row::new("E11", post(&format!("Transfer-Encoding: chun{}ked¶", byte(value))), Closed(400)));
        let name = format!("Transfer-Encoding{}: gzip¶", byte(value));
        rows.push(Row::new("E15", post(&format!("Transfer-Encoding: chunked¶{name}")), of(is_token(value))));
    }
    for name in ["Transfer_Encoding", "Transfer.Encoding", "Transfer~Encoding", "TRANSFER_ENCODING"] {
        rows.push(Row::new("E16", format!("<W>Content-Length: 5¶{name}: chunked¶¶hello"), Passed));
    }
    for fold in [" ", "\t"] {
        rows.push(Row::new("E27", post(&format!("Transfer-Encoding:¶{fold}chunked¶")), Closed(400)));
        rows.push(Row::new("E27", post(&format!("Transfer-Encoding: chunked¶{fold}x¶")), Closed(400)));
        rows.push(Row::new("E27", format!("<W>Content-Length: 5¶{fold}0¶¶hello"), Closed(400)));
    }
    rows.push(Row::new("E17", post("TRANSFER-ENCODING: CHUNKED¶"), Passed));
    rows.push(Row::new("E17", post("transfer-encoding:chunked¶"), Passed));
    rows
}

/// A length beside a coding, whatever each of them is.
fn both() -> Vec<Row> {
    let mut rows = Vec::new();
    for version in ["HTTP/1.1", "HTTP/1.0"] {
        for length in ["0", "5", "15", "", "+5", "5, 5"] {
            for coding in ["chunked", "CHUNKED", "gzip", "identity", "", "gzip, chunked"] {
                let (length, coding) = (format!("Content-Length: {length}¶"), format!("Transfer-Encoding: {coding}¶"));
                for fields in
                    [format!("{length}{coding}"), format!("{coding}{length}"), format!("{length}X-A: b¶{coding}")]
                {
                    let text = format!(
                        "POST /api/v1/write {version}¶<H><ktel>{fields}¶0¶¶GET /api/v1/query HTTP/1.1¶<H><kread>¶"
                    );
                    rows.push(Row::new("E02", text, Closed(400)));
                }
            }
        }
    }
    rows
}
