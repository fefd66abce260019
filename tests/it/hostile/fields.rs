//! Parts C, D and K as far as they are about single header fields.

use super::request_lines::is_token;
use super::rig::Outcome::{Closed, Passed, Refused};
use super::rig::{Case, Fields, Outcome, Rig, Row, byte, bytes, field, pseudo};

pub(crate) const IN_FIELDS: &str = "GET /api/v1/query HTTP/1.1¶<>¶";

pub(crate) fn rows() -> Vec<Row> {
    let mut rows = Row::of_table(FIELDS, IN_FIELDS);
    rows.extend(single().into_iter().map(|single| {
        let line = format!("{}:{}¶", notation(&single.name), notation(&single.value));
        Row::new(single.id, IN_FIELDS.replace("<>", &format!("<H><kread>{line}")), single.over_http1)
    }));
    for (host, outcome) in hosts() {
        rows.push(Row::new("D20", IN_FIELDS.replace("<>", &format!("Host: {}¶<kread>", notation(&host))), outcome));
    }
    for name in
        ["Host", "Authorization", "Content-Length", "Transfer-Encoding", "Connection", "Cookie", "Expect", "Upgrade"]
    {
        for value in (0..=31).chain([127]).filter(|value| *value != b'\t') {
            let line = format!("{name}: a{}b¶<H><kread>", byte(value));
            rows.push(Row::new("D26", IN_FIELDS.replace("<>", &line), Closed(400)));
        }
    }
    rows
}

fn notation(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|value| if value.is_ascii_alphanumeric() { char::from(*value).to_string() } else { byte(*value) })
        .collect()
}

/// How many of the rows are the catalogue's own.
pub(crate) const TABLED: usize = FIELDS.len();

const FIELDS: &[Case] = &[
    ("C24", "<H>Authorization: YWJj¶", Refused(401)),
    ("C25", "<H>Authorization : Basic YWJjOg==¶", Closed(400)),
    ("C25", "<H> Authorization: Basic YWJjOg==¶", Closed(400)),
    ("C31", "<H><kdead>", Refused(401)),
    ("D18", "<kread>", Closed(400)),
    ("D19", "<H><H><kread>", Closed(400)),
    ("D19", "<H><kread>Host: other¶", Closed(400)),
    ("D19", "Host: a, b¶<kread>", Closed(400)),
    ("D20", "Host:¶<kread>", Closed(400)),
    ("D20", "Host: .¶<kread>", Closed(400)),
    ("D20", "Host: ..a¶<kread>", Closed(400)),
    ("D20", "Host: a..b¶<kread>", Closed(400)),
    ("D20", "Host: a b¶<kread>", Closed(400)),
    ("D20", "Host: a/b¶<kread>", Closed(400)),
    ("D20", "Host: a\\b¶<kread>", Closed(400)),
    ("D20", "Host: [::1¶<kread>", Closed(400)),
    ("D20", "Host: [::1]x¶<kread>", Closed(400)),
    ("D20", "Host: [g::]¶<kread>", Closed(400)),
    ("D20", "Host: ::1¶<kread>", Closed(400)),
    ("D20", "Host: a:99999¶<kread>", Closed(400)),
    ("D20", "Host: a:¶<kread>", Closed(400)),
    ("D20", "Host: a:1:2¶<kread>", Closed(400)),
    ("D20", "Host: a:-1¶<kread>", Closed(400)),
    ("D20", "Host: a@b¶<kread>", Closed(400)),
    ("D20", "Host: a#¶<kread>", Closed(400)),
    ("D20", "Host: a?¶<kread>", Closed(400)),
    ("D20", "Host: a%00¶<kread>", Closed(400)),
    ("D20", "Host: \\xc3\\xa9¶<kread>", Closed(400)),
    ("D20", "Host: http://t¶<kread>", Closed(400)),
    ("D20", "Host: [::1]:80¶<kread>", Passed),
    ("D20", "Host: t.¶<kread>", Passed),
    ("D20", "Host: 127.0.0.1:8080¶<kread>", Passed),
    ("D20", "hOsT: t¶<kread>", Passed),
    ("D25", "<H><kread>: x¶", Closed(400)),
    ("D25", "<H><kread>no colon¶", Closed(400)),
    ("D25", "<H><kread>X\\xefA: x¶", Closed(400)),
    ("D25", "<H><kread>X(A: x¶", Closed(400)),
    ("D25", "<H><kread>X A: x¶", Closed(400)),
    ("D25", "<H><kread>X-A : x¶", Closed(400)),
    ("D25", "<H><kread>X-A\t: x¶", Closed(400)),
    ("D25", "<H><kread>X␀A: x¶", Closed(400)),
    ("D26", "<H><kread>X-A: a␀b¶", Closed(400)),
    ("D26", "<H><kread>X-A: a␍b¶", Closed(400)),
    ("D26", "<H><kread>X-A: a⏎b¶", Closed(400)),
    ("D26", "<H><kread>X-A: a⏎Transfer-Encoding: chunked¶", Closed(400)),
    ("D26", "<H><kread>X-A: a\\x01¶", Closed(400)),
    ("D26", "<H><kread>X-A: a\\x7f¶", Closed(400)),
    ("D27", "<H><kread>X-A: a\tb \\x80\\xff¶", Passed),
    ("D27", "<H><kread>X-A:¶", Passed),
    ("E25", "<H><kread>: x¶Content-Length: 5¶", Closed(400)),
    ("E27", "<H><kread>X: a¶ b¶", Closed(400)),
    ("E27", "<H><kread>X: a¶\tb¶", Closed(400)),
    ("E27", "<H><kread>Transfer-Encoding:¶ chunked¶", Closed(400)),
    ("F01", "<H><kread>Upgrade: h2c¶Connection: Upgrade, HTTP2-Settings¶HTTP2-Settings: AA¶", Passed),
    ("F07", "<H><kread>Upgrade: TLS/1.0¶Connection: Upgrade¶", Passed),
    ("F07", "<H><kread>Upgrade: a, websocket¶Connection: upgrade¶", Passed),
    ("F08", "<H><kread>Expect: 200-ok¶", Closed(417)),
    ("K01", "<H><kread>User-Agent: \\x1b[2J¶", Closed(400)),
    ("K04", "<H><kread>User-Agent: ${jndi:ldap://x} %s%n¶", Passed),
];

/// One field beside good ones.
pub(crate) struct Single {
    pub(crate) id: &'static str,
    pub(crate) name: Vec<u8>,
    pub(crate) value: Vec<u8>,
    pub(crate) over_http1: Outcome,
    pub(crate) over_http2: Outcome,
}

/// Every byte in every place of a name and of a value.
pub(crate) fn single() -> Vec<Single> {
    let mut fields = Vec::new();
    for value in bytes() {
        let names = [
            [&[value][..], b"x-test"].concat(),
            [b"x-te", &[value][..], b"st"].concat(),
            [b"x-test", &[value][..]].concat(),
        ];
        for (place, name) in names.into_iter().enumerate() {
            // A colon ends the name, unless there is none.
            let over_http1 = if is_token(value) || (value == b':' && place > 0) { Passed } else { Closed(400) };
            let over_http2 = if is_token(value) && !value.is_ascii_uppercase() { Passed } else { Refused(400) };
            fields.push(Single { id: "D25", name, value: b"v".to_vec(), over_http1, over_http2 });
        }
        let values =
            [[&[value][..], b"v"].concat(), [b"v", &[value][..], b"v"].concat(), [b"v", &[value][..]].concat()];
        for (place, text) in values.into_iter().enumerate() {
            let is_blank = matches!(value, b' ' | b'\t');
            let is_control = value.is_ascii_control() && !is_blank;
            let over_http1 = if is_control { Closed(400) } else { Passed };
            // RFC 9113 §8.2.1: blanks at an edge are malformed there.
            let over_http2 = if is_control || (is_blank && place != 1) { Refused(400) } else { Passed };
            fields.push(Single { id: "D26", name: b"x-test".to_vec(), value: text, over_http1, over_http2 });
        }
    }
    fields
}

/// Hosts with each byte in each place.
pub(crate) fn hosts() -> Vec<(Vec<u8>, Outcome)> {
    let mut hosts = Vec::new();
    for value in bytes() {
        let is_letter = value.is_ascii_alphanumeric() || matches!(value, b'-' | b'_');
        let of = |is_good: bool| if is_good { Passed } else { Closed(400) };
        let is_blank = matches!(value, b' ' | b'\t');
        hosts.push(([&[value][..], b"t"].concat(), of(is_letter || is_blank)));
        hosts.push(([b"t", &[value][..], b"t"].concat(), of(is_letter || value == b'.')));
        hosts.push(([b"t", &[value][..]].concat(), of(is_letter || value == b'.' || is_blank)));
        hosts.push(([b"t:8", &[value][..]].concat(), of(value.is_ascii_digit() || is_blank)));
    }
    hosts
}

/// A request over HTTP/2 with the fields of a case, a Host among them as it is.
pub(crate) fn with_host(rig: &Rig, text: &str) -> Fields {
    let mut fields = pseudo("GET", "/api/v1/query")[..3].to_vec();
    fields.extend(lines(rig, text));
    fields
}

/// The same, with a Host that there is once as the authority.
pub(crate) fn with_authority(rig: &Rig, text: &str) -> Fields {
    let mut fields = with_host(rig, text);
    let hosts: Vec<usize> = (0..fields.len()).filter(|at| fields[*at].0 == b"host").collect();
    if let [at] = hosts[..] {
        let (_, value) = fields.remove(at);
        fields.insert(3, field(":authority", value));
    }
    fields
}

/// What becomes over HTTP/2 of the cases of the table.
pub(crate) fn over_http2() -> Vec<Row> {
    let mut rows = Row::of_table(FIELDS, "<>");
    for row in &mut rows {
        // RFC 9113 §8.2.2: what is dropped over HTTP/1.1 is malformed here.
        if row.text.contains("Connection:") || row.text.contains("Upgrade:") {
            row.outcome = Refused(400);
        }
    }
    rows
}

/// Field lines as fields. A line that is none becomes a field that is none.
pub(crate) fn lines(rig: &Rig, text: &str) -> Fields {
    let bytes = rig.bytes(text);
    let mut fields = Vec::new();
    let mut rest = &bytes[..];
    while let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") {
        let line = &rest[..end];
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let value = line.get(colon + 1..).unwrap_or_default().trim_ascii();
        fields.push((line[..colon].to_ascii_lowercase(), value.to_vec()));
        rest = &rest[end + 2..];
    }
    fields
}
