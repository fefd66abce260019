//! Part G as far as it is about header blocks: pseudo-fields, fields of HTTP/1.1, lengths against bodies, trailers.

use super::rig::{Fields, Rig, field, pseudo};
use crate::harness::raw_h2::{DATA, END_HEADERS, END_STREAM, HEADERS, block};
use crate::harness::{RawH2, Seen};

/// What must come of a head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Ending {
    /// One of the others: it takes part in nothing.
    Ignored,
    /// A stream error, or a status in its place: the connection goes on.
    Stream,
    /// The protocol library takes it for an error of the connection (RFC 9113 §5.4.1 allows it to).
    StreamOrAll,
    /// It is a request: 200, and the upstream has it whole.
    Request,
}

use Ending::{Ignored, Request, Stream, StreamOrAll};

/// (id in the catalogue, what is wrong, the head's fields without a key, what follows them, ending)
pub(crate) struct Head {
    pub(crate) id: &'static str,
    pub(crate) what: String,
    pub(crate) fields: Fields,
    pub(crate) ending: Ending,
}

fn usual() -> Fields {
    pseudo("GET", "/api/v1/query")
}

/// Heads that end their streams.
pub(crate) fn rows() -> Vec<Head> {
    let mut rows = Vec::new();
    pseudo_fields(&mut rows);
    schemes(&mut rows);
    fields_of_http1(&mut rows);
    let mut put = |id, more: &[(&str, &str)], ending| {
        let more: Fields = more.iter().map(|(name, value)| field(name, value)).collect();
        rows.push(Head { id, what: format!("{more:?}"), fields: [usual(), more].concat(), ending });
    };
    put("D24", &[("host", "gate.test")], Request);
    put("D23", &[("host", "other.test")], Stream);
    put("D23", &[("host", "gate.test:80")], Stream);
    put("D23", &[("host", "gate.test."), ("x-a", "b")], Stream);
    put("D19", &[("host", "gate.test"), ("host", "gate.test")], Stream);
    put("D33", &[("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")], Request);
    put("D33", &[("cookie", "a=1"), ("cookie", "")], Request);
    put("D33", &[("cookie", "a=1 "), ("cookie", "b=2")], Stream);
    for length in ["5", "1", "+0", "-0", "", "00", "0x0", "0,0", "0, 0", "18446744073709551616", " 0", "0 ", "zero"] {
        put("G06", &[("content-length", length)], Stream);
    }
    put("G06", &[("content-length", "0")], Request);
    put("G05", &[("content-length", "0"), ("content-length", "1")], Stream);
    put("G05", &[("content-length", "1"), ("content-length", "0")], Stream);
    put("G05", &[("content-length", "0"), ("content-length", "0")], Stream);
    rows
}

fn pseudo_fields(rows: &mut Vec<Head>) {
    let mut put = |id, what: String, fields: Fields, ending| rows.push(Head { id, what, fields, ending });
    let x = field("x-a", "b");
    for (at, (name, value)) in usual().into_iter().enumerate() {
        let shown = String::from_utf8_lossy(&name).into_owned();
        let mut without = usual();
        without.remove(at);
        put("pseudo", format!("no {shown}"), without.clone(), Stream);
        for again in [value.clone(), b"other".to_vec()] {
            put("pseudo", format!("{shown} twice"), [usual(), vec![(name.clone(), again)]].concat(), Stream);
        }
        put(
            "pseudo",
            format!("{shown} behind a field"),
            [without.clone(), vec![x.clone(), (name.clone(), value.clone())]].concat(),
            Stream,
        );
        put(
            "pseudo",
            format!("{shown} again behind a field"),
            [usual(), vec![x.clone(), (name.clone(), value.clone())]].concat(),
            Stream,
        );
        let mut empty = usual();
        empty[at].1.clear();
        let ending = if name == b":scheme" { Ignored } else { StreamOrAll };
        put("pseudo", format!("empty {shown}"), empty, ending);
        let upper = [without.clone(), vec![(name.to_ascii_uppercase(), value.clone())]].concat();
        put("pseudo", format!("{shown} in upper case"), upper, StreamOrAll);
        let plain = [without, vec![(name[1..].to_vec(), value.clone())]].concat();
        put("pseudo", format!("{shown} without its colon"), plain, Stream);
    }
    for (name, value) in [
        (":", "x"),
        ("::path", "/"),
        (":status", "200"),
        (":unknown", "1"),
        (":path ", "/"),
        (":Path", "/"),
        (":host", "t"),
    ] {
        put("pseudo", format!("{name} beside the others"), [vec![field(name, value)], usual()].concat(), StreamOrAll);
    }
    for (method, rest) in [("CONNECT", &usual()[1..]), ("CONNECT", &usual()[3..]), ("connect", &usual()[1..])] {
        let fields = [&[field(":method", method)], rest].concat();
        put("B06", format!("{method} with {} more", rest.len()), fields.clone(), Stream);
        for protocol in ["websocket", "connect-udp", ""] {
            put(
                "B06",
                format!("{method} to {protocol}"),
                [vec![field(":protocol", protocol)], fields.clone()].concat(),
                StreamOrAll,
            );
        }
    }
    put("B06", "protocol with GET".to_owned(), [vec![field(":protocol", "websocket")], usual()].concat(), StreamOrAll);
    for path in [
        "*",
        "?x",
        "#x",
        "#",
        "x",
        "http://gate.test/api/v1/query",
        "//gate.test/",
        "gate.test:80",
        "\\api",
        " /api",
        "/api ",
    ] {
        put("A41", format!("path {path}"), pseudo("GET", path), StreamOrAll);
    }
    for path in ["*", "?x", "x", "/a b", "/api/../x"] {
        put("A41", format!("path {path} with OPTIONS"), pseudo("OPTIONS", path), StreamOrAll);
    }
    for authority in [
        "user@gate.test",
        "user:pw@gate.test",
        "gate.test/x",
        "gate.test?x",
        "gate.test#x",
        "a b",
        "a,b",
        "[::1",
        "t:99999",
        "t:",
        "@",
        ":80",
        "http://t",
    ] {
        let mut fields = usual();
        fields[3].1 = authority.as_bytes().to_vec();
        put("D20", format!("authority {authority}"), fields, StreamOrAll);
    }
}

/// A scheme takes part in nothing: the request is refused, or served as ever.
fn schemes(rows: &mut Vec<Head>) {
    let mut put = |scheme: &[u8]| {
        let mut fields = usual();
        fields[1].1 = scheme.to_vec();
        rows.push(Head {
            id: "G09",
            what: format!("scheme {:?}", String::from_utf8_lossy(scheme)),
            fields,
            ending: Ignored,
        });
    };
    for scheme in
        ["http://x/?", "ht tp", "http:", "/", "http\r\nx: y", "http\0", "1http", ":", "https", "javascript", "HTTP"]
    {
        put(scheme.as_bytes());
    }
    put(b"\xff");
}

fn fields_of_http1(rows: &mut Vec<Head>) {
    let mut put = |name: &str, value: &str, ending| {
        let fields = [usual(), vec![field(name, value)]].concat();
        rows.push(Head { id: "G04", what: format!("{name}: {value}"), fields, ending });
    };
    for name in ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"] {
        for value in ["", "x", "close", "chunked", "te", "websocket"] {
            put(name, value, Stream);
        }
    }
    for value in ["gzip", "trailers, gzip", "", "trailers;q=0", "Trailers", "chunked"] {
        put("te", value, Stream);
    }
    put("te", "trailers", Request);
}

/// A body, or trailers, that contradict their head.
pub(crate) struct Contradiction {
    pub(crate) id: &'static str,
    pub(crate) what: &'static str,
    /// Beside those of a POST.
    pub(crate) fields: &'static [(&'static str, &'static str)],
    pub(crate) frames: Vec<(u8, u8, Vec<u8>)>,
}

pub(crate) fn contradictions() -> Vec<Contradiction> {
    let data = |flags: u8, bytes: &str| (DATA, flags, bytes.as_bytes().to_vec());
    let trailers = |flags: u8, fields: &[(&str, &str)]| (HEADERS, flags, block(fields));
    let both = END_HEADERS | END_STREAM;
    let length = |value: &'static [(&'static str, &'static str)]| value;
    let five = length(&[("content-length", "5")]);
    let none = length(&[]);
    let row = |id, what, fields, frames| Contradiction { id, what, fields, frames };
    vec![
        row("G05", "a byte less", five, vec![data(END_STREAM, "four")]),
        row("G05", "a byte more", five, vec![data(END_STREAM, "sixsix")]),
        row("G05", "a byte less in two pieces", five, vec![data(0, "fo"), data(END_STREAM, "ur")]),
        row("G05", "a byte more in two pieces", five, vec![data(0, "hello"), data(END_STREAM, "!")]),
        row("G05", "nothing", five, vec![data(END_STREAM, "")]),
        row("G05", "a byte less before trailers", five, vec![data(0, "four"), trailers(both, &[("x-a", "b")])]),
        row("G05", "nothing before trailers", five, vec![trailers(both, &[("x-a", "b")])]),
        row("G05", "something where there is nothing", length(&[("content-length", "0")]), vec![data(END_STREAM, "x")]),
        row(
            "G05",
            "lengths that differ",
            length(&[("content-length", "5"), ("content-length", "6")]),
            vec![data(END_STREAM, "hello")],
        ),
        row("G05", "two lengths in one", length(&[("content-length", "5, 5")]), vec![data(END_STREAM, "hello")]),
        row("G06", "a sign", length(&[("content-length", "+5")]), vec![data(END_STREAM, "hello")]),
        row("G06", "a leading zero", length(&[("content-length", "05")]), vec![data(END_STREAM, "hello")]),
        row(
            "G06",
            "a length beyond any",
            length(&[("content-length", "18446744073709551621")]),
            vec![data(END_STREAM, "hello")],
        ),
        row(
            "G04",
            "the chunked coding",
            length(&[("transfer-encoding", "chunked")]),
            vec![data(END_STREAM, "5\r\nhello\r\n0\r\n\r\n")],
        ),
        row("G10", "trailers that do not end it", none, vec![data(0, "hello"), trailers(END_HEADERS, &[("x-a", "b")])]),
        row("G10", "trailers of HTTP/1.1", none, vec![data(0, "hello"), trailers(both, &[("connection", "x")])]),
        row("G10", "trailers with an upper-case name", none, vec![data(0, "hello"), trailers(both, &[("X-A", "b")])]),
        row("G10", "trailers with a line end", none, vec![data(0, "hello"), trailers(both, &[("x-a", "b\r\nx-b: c")])]),
        row(
            "G10",
            "trailers with a pseudo-field behind a field",
            none,
            vec![data(0, "hello"), trailers(both, &[("x-a", "b"), (":path", "/forged")])],
        ),
    ]
}

/// Sends a head by itself; returns what became of its stream.
pub(crate) fn send(rig: &Rig, frames: &mut RawH2, stream: u32, fields: &Fields) -> Seen {
    let fields = [fields.clone(), vec![field("authorization", rig.kread.authorization())]].concat();
    frames.frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&fields));
    frames.outcome(stream)
}
