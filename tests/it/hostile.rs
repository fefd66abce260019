//! The catalogue of hostile input (parts A to F), as tables: what is sent, and the safe outcome. Here over HTTP/1.1 in
//! clear text; `wires::hostile` sends the same over the others.
//!
//! After each case the upstream has seen nothing, or exactly what the case says, and a well-behaved request (the
//! canary) is served as ever: on a new connection, and on the same one if it stayed open. Each case is sent whole and
//! byte by byte, since a verdict that depends on how the bytes were cut is no verdict.
//!
//! Notation: `¶` CR LF, `⏎` bare LF, `␍` bare CR, `␀` NUL, `\xNN` one byte, `<H>` a Host line, `<kread>` and the like an
//! Authorization line with that key; `<W>` the start of a write request up to its framing.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::harness::{Answer, Back, Caller, Cell, Front, Gate, Reply, Wire, check};

use Outcome::{Aborted, Closed, Forwarded, Refused};

/// What must come of a case.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome {
    /// The request breaks off: a 4xx or nothing, then the close; the upstream never has it whole.
    Aborted,
    /// This status, `Connection: close`, the close, and nothing of it at the upstream.
    Closed(u16),
    /// A 200, and exactly one request at the upstream, with this request line.
    Forwarded(&'static str),
    /// This status, and nothing of it at the upstream.
    Refused(u16),
}

/// (id in the catalogue, what stands in the frame, outcome)
pub(crate) type Case = (&'static str, &'static str, Outcome);

pub(crate) struct Rig {
    pub(crate) cell: Cell,
    pub(crate) kread: Caller,
    ktel: Caller,
    kdead: Caller,
}

impl Rig {
    fn start() -> Self {
        Self::over(Front::H1, Back::H1)
    }

    pub(crate) fn over(front: Front, back: Back) -> Self {
        let cell = Cell::start(front, back, |setup| {
            setup
                .option("limits", r#"failures = { rate = "1000000/s", burst = 1000000 }"#)
                .option("client", r#"body_timeout = "500ms""#)
                .option("client", r#"header_timeout = "2s""#)
        });
        let gate = &cell.gate;
        let (kread, ktel) = (gate.key(&["monitor:read", "issue:read"]), gate.telemetry_key());
        let kdead = gate.key(&["monitor:read"]);
        gate.root().delete(kdead.id());
        Self { cell, kread, ktel, kdead }
    }

    /// The bytes that a text in the catalogue's notation stands for.
    pub(crate) fn bytes(&self, text: &str) -> Vec<u8> {
        let line = |caller: &Caller| format!("Authorization: {}¶", caller.authorization());
        let text = text
            .replace("<W>", "POST /api/v1/write HTTP/1.1¶<H><ktel>")
            .replace("<H>", "Host: t¶")
            .replace("<kread>", &line(&self.kread))
            .replace("<ktel>", &line(&self.ktel))
            .replace("<kdead>", &line(&self.kdead))
            .replace('¶', "\r\n")
            .replace('⏎', "\n")
            .replace('␍', "\r")
            .replace('␀', "\0");
        unescape(&text)
    }

    /// Runs every case of a table and reports all that failed.
    fn check_table(&self, cases: &[Case], frame: &str) {
        self.check_cut_as(&[("whole", usize::MAX), ("byte by byte", 1)], cases, frame);
    }

    /// The same, cut into pieces of these lengths only.
    pub(crate) fn check_cut_as(&self, ways: &[(&str, usize)], cases: &[Case], frame: &str) {
        let mut failed = Vec::new();
        for (id, text, outcome) in cases {
            let bytes = self.bytes(&frame.replace("<>", text));
            for &(how, piece) in ways {
                if piece == 1 && bytes.len() > 1_500 {
                    continue;
                }
                let run = catch_unwind(AssertUnwindSafe(|| self.run(&bytes, piece, *outcome)));
                if run.is_err() {
                    failed.push(format!("{id} {how}: {text:.200}"));
                    self.cell.release();
                }
            }
        }
        assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n"));
    }

    fn run(&self, bytes: &[u8], piece: usize, outcome: Outcome) {
        self.cell.forget();
        let mut wire = self.cell.wire();
        bytes.chunks(piece.min(bytes.len())).for_each(|piece| {
            wire.send(piece);
        });
        let method = String::from_utf8_lossy(bytes).split(' ').next().unwrap_or_default().to_owned();
        let answer = wire.read_response_or_close(&method);
        match outcome {
            Aborted => check_aborted(&mut wire, answer.as_ref()),
            Closed(status) => check_refused_and_closed(&mut wire, answer.as_ref(), status),
            Forwarded(_) => assert_eq!(answer.as_ref().map(|answer| answer.status), Some(200), "{answer:?}"),
            Refused(status) => assert_eq!(answer.as_ref().map(|answer| answer.status), Some(status), "{answer:?}"),
        }
        self.check_upstream(outcome);
        self.check_canary(None);
        // HTTP/1.0 closes without a word; everything else says whether the connection stays.
        let stays = answer.is_some_and(|answer| answer.complete && !answer.says_close()) && is_http_1_1(bytes);
        if matches!(outcome, Forwarded(_) | Refused(_)) && stays {
            self.check_canary(Some(&mut wire));
        }
    }

    pub(crate) fn check_upstream(&self, outcome: Outcome) {
        let requests = self.cell.requests();
        match outcome {
            Aborted => assert!(requests.is_empty(), "{requests:?}"),
            Closed(_) | Refused(_) => self.cell.check_untouched(),
            Forwarded(line) => {
                assert_eq!(requests.len(), 1, "{requests:?}");
                let request = &requests[0];
                assert_eq!(format!("{} {}", request.method, request.target), line);
                let framings = ["content-length", "transfer-encoding"].map(|name| request.header_values(name).len());
                assert!(framings.iter().sum::<usize>() <= 1, "{request:?}");
            }
        }
    }

    fn check_canary(&self, same: Option<&mut Wire>) {
        let before = self.cell.requests().len();
        let canary = self.kread.keep_alive().render("GET", "/api/v1/query?canary", &[], b"");
        let answer = match same {
            Some(wire) => wire.send(&canary).read_response(),
            None => self.cell.wire().send(&canary).read_response(),
        };
        check(&answer, 200);
        let requests = self.cell.requests();
        assert_eq!(requests.len(), before + 1, "{requests:?}");
        assert_eq!(requests[before].target, "/api/v1/query?canary");
    }
}

#[track_caller]
fn check_aborted(wire: &mut Wire, answer: Option<&Answer>) {
    if let Some(answer) = answer {
        assert!((400..500).contains(&answer.status), "{answer:?}");
        wire.check_closed();
    }
}

#[track_caller]
fn check_refused_and_closed(wire: &mut Wire, answer: Option<&Answer>, status: u16) {
    let answer = answer.expect("an answer before the close");
    assert_eq!(answer.status, status, "{answer:?}");
    assert!(answer.says_close(), "{answer:?}");
    wire.check_closed();
}

fn is_http_1_1(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    text.trim_start().lines().next().is_some_and(|line| line.ends_with("HTTP/1.1"))
}

/// `\xNN` as the byte that it names.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut parts = text.split("\\x");
    bytes.extend_from_slice(parts.next().unwrap_or_default().as_bytes());
    for part in parts {
        bytes.push(u8::from_str_radix(&part[..2], 16).expect("two hexadecimal digits"));
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    bytes
}

pub(crate) const IN_GET: &str = "GET <> HTTP/1.1¶<H><kread>¶";

pub(crate) const TARGETS: &[Case] = &[
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
    ("A16", "/api/v1/query/", Forwarded("GET /api/v1/query/")),
    ("A17", "/api/v1/query.", Forwarded("GET /api/v1/query.")),
    ("A17", "/api/v1/query%20", Forwarded("GET /api/v1/query%20")),
    ("A17", "/api/v1/query%09", Refused(400)),
    ("A18", "/API/v1/admin/x", Refused(404)),
    ("A18", "/api/V1/Admin/x", Forwarded("GET /api/V1/Admin/x")),
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
    ("A26", "/api/v1/query?x=/../admin", Forwarded("GET /api/v1/query?x=/../admin")),
    ("A26", "/api/v1/query?x=/api/v1/admin", Forwarded("GET /api/v1/query?x=/api/v1/admin")),
    ("A26", "/api/v1/query??/../;//\\", Forwarded("GET /api/v1/query??/../;//\\")),
    ("A27", "/nosuch?/api/v1/query", Refused(404)),
    ("A27", "?/api/v1/query", Closed(400)),
    ("A28", "/api/v1/query#/../admin", Closed(400)),
    ("A28", "/api/v1/query?x#y", Closed(400)),
    ("A28", "#/api/v1/query", Closed(400)),
    ("A30", "/api/v1/query?x=%0d%0aX:1", Forwarded("GET /api/v1/query?x=%0d%0aX:1")),
    ("A30", "/api/v1/query?x=%00", Forwarded("GET /api/v1/query?x=%00")),
    ("A30", "/api/v1/query?x=%zz%", Forwarded("GET /api/v1/query?x=%zz%")),
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
    ("A36", "/api/v1/administrator", Forwarded("GET /api/v1/administrator")),
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

pub(crate) const AS_IS: &str = "<>";

pub(crate) const REQUEST_LINES: &[Case] = &[
    ("A37", "OPTIONS * HTTP/1.1¶<H><kread>¶", Closed(400)),
    ("B05", "FOO /api/v1/query HTTP/1.1¶<H><kread>¶", Refused(405)),
    ("B05", "get /api/v1/query HTTP/1.1¶<H><kread>¶", Refused(405)),
    ("B05", "GETS /api/v1/query HTTP/1.1¶<H><kread>¶", Refused(405)),
    ("B05", "FOO /api/v1/query HTTP/1.1¶<H>¶", Refused(401)),
    ("B06", "CONNECT t:80 HTTP/1.1¶<H><kread>¶", Closed(501)),
    ("B06", "CONNECT /api/v1/query HTTP/1.1¶<H><kread>¶", Closed(501)),
    ("B10", "HEAD /api/v1/query HTTP/1.1¶<H><kread>¶", Forwarded("HEAD /api/v1/query")),
    ("B10", "HEAD /api/v1/admin/x HTTP/1.1¶<H><kread>¶", Refused(403)),
    ("B13", "GET /api/v1/query HTTP/1.1¶<H><kread>Content-Length: 5¶¶hello", Forwarded("GET /api/v1/query")),
    (
        "B13",
        "GET /api/v1/query HTTP/1.1¶<H><kread>Transfer-Encoding: chunked¶¶5¶hello¶0¶¶",
        Forwarded("GET /api/v1/query"),
    ),
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
    ("E35", "¶GET /api/v1/query HTTP/1.1¶<H><kread>¶", Forwarded("GET /api/v1/query")),
    ("E35", "¶¶GET /api/v1/query HTTP/1.1¶<H><kread>¶", Closed(400)),
    ("P05", "\\x16\\x03\\x01\\x02\\x00\\x01\\x00\\x01\\xfc\\x03\\x03", Closed(400)),
];

pub(crate) const IN_FIELDS: &str = "GET /api/v1/query HTTP/1.1¶<>¶";

pub(crate) const FIELDS: &[Case] = &[
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
    ("D20", "Host: [::1]:80¶<kread>", Forwarded("GET /api/v1/query")),
    ("D20", "Host: t.¶<kread>", Forwarded("GET /api/v1/query")),
    ("D20", "Host: 127.0.0.1:8080¶<kread>", Forwarded("GET /api/v1/query")),
    ("D20", "hOsT: t¶<kread>", Forwarded("GET /api/v1/query")),
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
    ("D27", "<H><kread>X-A: a\tb \\x80\\xff¶", Forwarded("GET /api/v1/query")),
    ("D27", "<H><kread>X-A:¶", Forwarded("GET /api/v1/query")),
    ("E25", "<H><kread>: x¶Content-Length: 5¶", Closed(400)),
    ("E27", "<H><kread>X: a¶ b¶", Closed(400)),
    ("E27", "<H><kread>X: a¶\tb¶", Closed(400)),
    ("E27", "<H><kread>Transfer-Encoding:¶ chunked¶", Closed(400)),
    (
        "F01",
        "<H><kread>Upgrade: h2c¶Connection: Upgrade, HTTP2-Settings¶HTTP2-Settings: AA¶",
        Forwarded("GET /api/v1/query"),
    ),
    ("F07", "<H><kread>Upgrade: TLS/1.0¶Connection: Upgrade¶", Forwarded("GET /api/v1/query")),
    ("F07", "<H><kread>Upgrade: a, websocket¶Connection: upgrade¶", Forwarded("GET /api/v1/query")),
    ("F08", "<H><kread>Expect: 200-ok¶", Closed(417)),
    ("K01", "<H><kread>User-Agent: \\x1b[2J¶", Closed(400)),
    ("K04", "<H><kread>User-Agent: ${jndi:ldap://x} %s%n¶", Forwarded("GET /api/v1/query")),
];

/// Each carries a second request or a body that must not become one.
pub(crate) const FRAMING: &[Case] = &[
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
    ("E16", "<W>Content-Length: 5¶Transfer_Encoding: chunked¶¶hello", Forwarded("POST /api/v1/write")),
    ("E16", "<W>Content-Length: 5¶Content_Length: 50¶Content.Length: 50¶¶hello", Forwarded("POST /api/v1/write")),
    ("E16", "<W>Transfer-Encoding:¶¶0¶¶", Closed(400)),
    ("E17", "<W>tRANSFER-eNCODING: ChUnKeD¶¶5¶hello¶0¶¶", Forwarded("POST /api/v1/write")),
    ("E30", "POST /api/v1/write HTTP/1.0¶<H><ktel>Transfer-Encoding: chunked¶¶5¶hello¶0¶¶", Closed(400)),
    (
        "E31",
        "POST /api/v1/write HTTP/1.0¶<H><ktel>¶GET /api/v1/query HTTP/1.1¶<H><kread>¶",
        Forwarded("POST /api/v1/write"),
    ),
    ("E39", "<W>Content-Length: 45¶¶DELETE /api/keys/x HTTP/1.1¶Host: t¶¶12345", Forwarded("POST /api/v1/write")),
    ("E39", "<W>Transfer-Encoding: chunked¶¶5¶¶0¶¶0¶¶", Forwarded("POST /api/v1/write")),
    (
        "E40",
        "POST /api/v1/write HTTP/1.1¶<H>Content-Length: 1000000¶¶0123456789GET /api/v1/query HTTP/1.1¶<H><kread>¶",
        Closed(401),
    ),
    ("E40", "POST /api/v1/admin HTTP/1.1¶<H><ktel>Transfer-Encoding: chunked¶¶1¶x", Closed(403)),
    ("E48", "<W>Content-Length: 10¶¶hello", Aborted),
    ("E48", "<W>Transfer-Encoding: chunked¶¶5¶hel", Aborted),
];

pub(crate) const IN_CHUNKS: &str = "<W>Transfer-Encoding: chunked¶¶<>";

pub(crate) const CHUNKS: &[Case] = &[
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
    ("E22", "5;a=b¶hello¶0¶¶", Forwarded("POST /api/v1/write")),
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
    ("E24", "5¶hello¶00¶¶", Forwarded("POST /api/v1/write")),
    ("F11", "5¶hello¶0¶Content-Length: 5¶Host: evil¶¶", Forwarded("POST /api/v1/write")),
    ("F11", "5¶hello¶0¶X-A : b¶¶", Aborted),
    ("F11", "5¶hello¶0¶X-A: b⏎¶", Aborted),
    ("F11", "5¶hello¶0¶: b¶¶", Aborted),
    ("F11", "5¶hello¶0¶GET / HTTP/1.1¶¶", Aborted),
];

#[test]
fn a_target_with_two_readings_never_reaches_the_upstream() {
    Rig::start().check_table(TARGETS, IN_GET);
}

#[test]
fn a_request_line_that_is_not_exactly_one_never_reaches_the_upstream() {
    Rig::start().check_table(REQUEST_LINES, AS_IS);
}

#[test]
fn header_fields_that_are_not_exactly_that_never_reach_the_upstream() {
    Rig::start().check_table(FIELDS, IN_FIELDS);
}

#[test]
fn framing_that_two_programs_could_read_in_two_ways_never_reaches_the_upstream() {
    Rig::start().check_table(FRAMING, AS_IS);
}

#[test]
fn a_chunked_body_that_is_not_exactly_one_never_arrives_whole() {
    Rig::start().check_table(CHUNKS, IN_CHUNKS);
}

/// Runs one case that is too large for a table.
#[track_caller]
fn check_large(rig: &Rig, bytes: &str, outcome: Outcome) {
    rig.run(&rig.bytes(bytes), usize::MAX, outcome);
}

#[test]
fn too_much_of_anything_is_refused() {
    let rig = Rig::start();
    let get = |target: &str, fields: &str| format!("GET {target} HTTP/1.1¶<H><kread>{fields}¶");
    let path = |bytes: usize| format!("/api/{}", "a".repeat(bytes - 5));
    let fields = |count: usize| (0..count).map(|at| format!("X-{at}: {at}¶")).collect::<String>();
    // A38: the target's limit is 8 KiB.
    rig.run(&rig.bytes(&get(&path(8_192), "")), usize::MAX, Forwarded(path(8_192).leak_with_method()));
    check_large(&rig, &get(&path(8_193), ""), Closed(414));
    check_large(&rig, &get(&path(65_535), ""), Closed(414));
    check_large(&rig, &get(&path(65_536), ""), Closed(414));
    check_large(&rig, &get(&format!("/api/v1/query?{}", "a".repeat(9_000)), ""), Closed(414));
    // B12
    check_large(&rig, &format!("{} / HTTP/1.1¶<H>¶", "M".repeat(1_024)), Closed(400));
    check_large(&rig, &format!("{} / HTTP/1.1¶<H>¶", "M".repeat(65_536)), Closed(400));
    // C19, D28: 100 fields (Host and Authorization among them) and 32 KiB.
    check_large(&rig, &get("/api/v1/query", &fields(98)), Forwarded("GET /api/v1/query"));
    check_large(&rig, &get("/api/v1/query", &fields(99)), Closed(431));
    check_large(&rig, &get("/api/v1/query", &format!("X-A: {}¶", "a".repeat(65_536))), Closed(431));
    check_large(&rig, &get("/api/v1/query", &format!("X-A: {}¶", "a".repeat(16_384)).repeat(3)), Closed(431));
    let long = format!("GET /api/v1/query HTTP/1.1¶<H>Authorization: Basic {}¶¶", "A".repeat(8_000));
    check_large(&rig, &long, Refused(401));
    let longer = format!("GET /api/v1/query HTTP/1.1¶<H>Authorization: Basic {}¶¶", "A".repeat(65_536));
    check_large(&rig, &longer, Closed(431));
    // A39
    let deep = "/a".repeat(2_000);
    rig.run(
        &rig.bytes(&get(&format!("/api{deep}"), "")),
        usize::MAX,
        Forwarded(format!("/api{deep}").leak_with_method()),
    );
    // E22, F12
    let chunked = |body: &str| format!("<W>Transfer-Encoding: chunked¶¶{body}");
    check_large(&rig, &chunked(&format!("5;{}¶hello¶0¶¶", "a".repeat(17_000))), Aborted);
    check_large(&rig, &chunked(&format!("{}5¶hello¶0¶¶", "0".repeat(1 << 20))), Aborted);
    check_large(&rig, &chunked(&format!("5¶hello¶0¶{}¶", "X-A: b¶".repeat(10_000))), Aborted);
}

trait LeakWithMethod {
    fn leak_with_method(&self) -> &'static str;
}

impl LeakWithMethod for String {
    /// The request line of a GET, for an outcome that is made at run time.
    fn leak_with_method(&self) -> &'static str {
        Box::leak(format!("GET {self}").into_boxed_str())
    }
}

#[test]
fn an_opt_in_for_encoded_slashes_grants_nothing_that_another_line_guards() {
    let gate = Gate::with(|setup| {
        let wide = r#"{ require = "monitor:read", allow_encoded_slash = true, allow_semicolon = true }"#;
        setup
            .route("GET /api/{*rest}", wide)
            .route("GET /rules/{namespace}", r#"{ require = "monitor:read", allow_encoded_slash = true }"#)
    });
    let reader = gate.key(&["monitor:read"]);
    for target in
        ["/api/v1%2fadmin/x", "/api/v1%2Fadmin%2Fx", "/api/v1;a/admin/x", "/api/v1/admin;x/y", "/api/v1/admin%3b"]
    {
        let answer = reader.get(target);
        assert!((400..500).contains(&answer.status), "{target}: {answer:?}");
    }
    for target in ["/api/..%2fv1/x", "/api/a%2f%2e%2e/x", "/api/..;/x", "/api/a%2f%2fb", "/api/%2f"] {
        assert_eq!(reader.get(target).status, 400, "{target}");
    }
    assert!(gate.upstream().raw().is_empty());
    for target in ["/rules/team%2fa", "/api/series/a%2Fb", "/api/series;x=1/a"] {
        check(&reader.get(target), 200);
        assert_eq!(gate.upstream().last().target, target);
    }
    check(&reader.get("/rules/team;a"), 400);
}

#[test]
fn what_follows_a_malformed_request_in_a_pipeline_is_never_served() {
    let rig = Rig::start();
    let (good, bad) = ("GET /api/v1/query HTTP/1.1¶<H><kread>¶", "GET /api/v1/query HTTP/1.1¶<H><kread>X : y¶¶");
    let mut wire = rig.cell.gate.raw();
    wire.send(rig.bytes(&format!("{good}{bad}{good}{good}")));
    check(&wire.read_response(), 200);
    let refusal = wire.read_response();
    check(&refusal, 400);
    assert!(refusal.says_close());
    wire.check_closed();
    assert_eq!(rig.cell.gate.upstream().requests().len(), 1);
    rig.check_canary(None);
}

#[test]
fn a_long_pipeline_of_strangers_is_refused_one_by_one() {
    let rig = Rig::start();
    let mut wire = rig.cell.gate.raw();
    wire.send(rig.bytes(&"GET /api/v1/query HTTP/1.1¶<H>¶".repeat(1_000)));
    for _ in 0..1_000 {
        let answer = wire.read_response();
        check(&answer, 401);
        if answer.says_close() {
            break;
        }
    }
    assert!(rig.cell.gate.upstream().raw().is_empty());
    rig.check_canary(None);
}

#[test]
fn a_request_inside_a_chunk_stays_a_body() {
    let rig = Rig::start();
    let inner = "DELETE /api/keys/x HTTP/1.1\r\nHost: t\r\n\r\n";
    let body = format!("{:x}\r\n{inner}\r\n0\r\n\r\n", inner.len());
    let mut wire = rig.cell.gate.raw();
    wire.send(rig.bytes("<W>Transfer-Encoding: chunked¶¶")).send(&body);
    check(&wire.read_response(), 200);
    assert_eq!(rig.cell.gate.upstream().last().body, inner.as_bytes());
    rig.check_canary(Some(&mut wire));
}

#[test]
fn bytes_after_an_upgrade_request_are_the_next_request() {
    let rig = Rig::start();
    rig.cell
        .gate
        .upstream()
        .reply(Reply::bytes("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"));
    let mut wire = rig.cell.gate.raw();
    wire.send(
        rig.bytes("GET /api/v1/query HTTP/1.1¶<H><kread>Connection: upgrade¶Upgrade: x¶¶RAW BYTES FOR THE TUNNEL¶¶"),
    );
    check(&wire.read_response(), 502);
    let raw = String::from_utf8_lossy(&rig.cell.gate.upstream().raw()).into_owned();
    assert!(!raw.contains("TUNNEL"), "{raw}");
    rig.check_canary(None);
}

#[test]
fn a_thousand_half_connections_leave_no_trace() {
    let rig = Rig::start();
    for round in 0..1_000 {
        let mut wire = rig.cell.gate.raw();
        if round % 2 == 0 {
            wire.send("GET /api/v1/que");
        }
    }
    rig.check_canary(None);
}
