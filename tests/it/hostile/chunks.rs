//! Parts E and F: the chunked coding and its trailers.

use super::request_lines::is_token;
use super::rig::Outcome::{Aborted, Passed};
use super::rig::{Case, Outcome, Row, byte, bytes};

pub(crate) const IN_CHUNKS: &str = "<W>Transfer-Encoding: chunked¶¶<>";

/// The bodies alone.
pub(crate) fn bodies() -> Vec<Row> {
    let mut rows = Row::of_table(CHUNKS, "<>");
    rows.extend(generated().into_iter().map(|(id, text, outcome)| Row::new(id, text, outcome)));
    rows
}

pub(crate) fn rows() -> Vec<Row> {
    let mut rows = Row::of_table(CHUNKS, IN_CHUNKS);
    rows.extend(
        generated().into_iter().map(|(id, text, outcome)| Row::new(id, IN_CHUNKS.replace("<>", &text), outcome)),
    );
    // What is cut short would be waited for.
    rows.into_iter().map(|row| if row.outcome == Aborted { row.ended() } else { row }).collect()
}

/// How many of the rows are the catalogue's own.
pub(crate) const TABLED: usize = CHUNKS.len();

const CHUNKS: &[Case] = &[
    ("E18", "0x5¶hello¶0¶¶", Aborted),
    ("E18", "+5¶hello¶0¶¶", Aborted),
    ("E18", "-5¶hello¶0¶¶", Aborted),
    ("E18", "5_¶hello¶0¶¶", Aborted),
    ("E18", " 5¶hello¶0¶¶", Aborted),
    ("E18", "5g¶hello¶0¶¶", Aborted),
    ("E18", "¶hello¶0¶¶", Aborted),
    ("E18", "5h¶hello¶0¶¶", Aborted),
    ("E18", "\\xd9\\xa5¶hello¶0¶¶", Aborted),
    ("E19", "FFFFFFFFFFFFFFFF¶hello¶0¶¶", Aborted),
    ("E19", "10000000000000005¶hello¶0¶¶", Aborted),
    ("E19", "7FFFFFFFFFFFFFFF¶hello¶0¶¶", Aborted),
    ("E20", "00000000000000000000000000000005¶hello¶0¶¶", Aborted),
    ("E21", "5 ¶hello¶0¶¶", Aborted),
    ("E21", "5\t¶hello¶0¶¶", Aborted),
    ("E22", "5;a=b¶hello¶0¶¶", Passed),
    ("E22", "5;a=\"␍⏎\"¶hello¶0¶¶", Aborted),
    ("E22", "5;⏎hello¶0¶¶", Aborted),
    ("E22", "5;a␀¶hello¶0¶¶", Aborted),
    ("E23", "5␍Xhello¶0¶¶", Aborted),
    ("E23", "5⏎hello¶0¶¶", Aborted),
    ("E23", "5¶hello0¶¶", Aborted),
    ("E23", "5¶hellO0¶", Aborted),
    ("E23", "5¶hello⏎0¶¶", Aborted),
    ("E23", "5¶hello¶0⏎⏎", Aborted),
    ("E23", "5¶hello¶0¶␍X", Aborted),
    ("E23", "4¶hello¶0¶¶", Aborted),
    ("E23", "6¶hello¶0¶¶", Aborted),
    ("E24", "5¶hello¶00¶¶", Passed),
    ("F11", "5¶hello¶0¶Content-Length: 5¶Host: evil¶¶", Passed),
    ("F11", "5¶hello¶0¶X-A : b¶¶", Aborted),
    ("F11", "5¶hello¶0¶X-A: b⏎¶", Aborted),
    ("F11", "5¶hello¶0¶: b¶¶", Aborted),
    ("F11", "5¶hello¶0¶GET / HTTP/1.1¶¶", Aborted),
];

/// Bytes that a loose parser takes for something, and some that none does.
const TELLING: [u8; 24] = [
    0, 1, b'\t', b'\n', 0x0b, 0x0c, b'\r', 0x1b, b' ', b'"', b'#', b'+', b',', b'-', b'.', b'0', b':', b';', b'=',
    b'_', b'g', b'x', 0x7f, 0xff,
];

fn generated() -> Vec<(&'static str, String, Outcome)> {
    let mut rows = Vec::new();
    let of = |is_good: bool| if is_good { Passed } else { Aborted };
    for value in bytes() {
        let is_leading_zero = value == b'0';
        rows.push(("E18", format!("{}5¶hello¶0¶¶", byte(value)), of(is_leading_zero)));
        rows.push(("E18", format!("5{}¶hello¶0¶¶", byte(value)), of(value == b';')));
        rows.push(("E22", format!("5;a={}¶hello¶0¶¶", byte(value)), of(value == b'\t' || !value.is_ascii_control())));
        let trailer = value == b':' || is_token(value);
        rows.push(("F11", format!("5¶hello¶0¶x-a{}: b¶¶", byte(value)), of(trailer)));
        rows.push((
            "F11",
            format!("5¶hello¶0¶x-a: b{}b¶¶", byte(value)),
            of(value == b'\t' || !value.is_ascii_control()),
        ));
    }
    let whole = "5¶hello¶0¶x-a: b¶¶".replace('¶', "\r\n");
    for (at, right) in whole.bytes().enumerate().filter(|(_, right)| matches!(right, b'\r' | b'\n')) {
        for value in TELLING {
            if value != right {
                rows.push(("E23", format!("{}{}{}", &whole[..at], byte(value), &whole[at + 1..]), Aborted));
            }
            if right == b'\r' && at < 10 && !matches!(value, b'0' | b';') {
                rows.push(("E23", format!("{}{}{}", &whole[..at], byte(value), &whole[at..]), Aborted));
            }
        }
    }
    for digits in [
        "0000000000000005",
        "10000000000000000",
        "8000000000000000",
        "FFFFFFFFFFFFFFFF",
        "ffffffffffffffffffff",
        "7fffffffffffffff",
    ] {
        rows.push(("E19", format!("{digits}¶hello¶0¶¶"), Aborted));
    }
    let whole = "5;x=y¶hello¶5¶world¶0¶x-t: v¶¶";
    let ends: Vec<usize> = whole.char_indices().map(|(at, _)| at).collect();
    rows.extend(ends.into_iter().filter(|at| *at > 0).map(|at| ("E48", whole[..at].to_owned(), Aborted)));
    rows
}
