//! The gate's own messages, read by programs of other people: one message in each, and the same one.
//!
//! `tests/differential/messages.py` runs them: h11, llhttp, nginx, HAProxy and Node for requests; h11, llhttp, curl and
//! Node for responses.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::fields::{self, IN_FIELDS};
use super::heads;
use super::rig::Outcome::Passed;
use super::rig::{Rig, Row, field};
use super::{chunks, framing, identity, request_lines, targets};
use crate::harness::{Answer, Back, Cell, Front, Recorded, Reply, is_installed};
use crate::real_clients::has_module;

/// How many requests are read by the others: each costs five programs a moment.
const READ_MAX: usize = 120;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn can_run() -> bool {
    has_module("h11", None)
        && has_module("llhttp", None)
        && ["nginx", "haproxy", "node", "curl"].into_iter().all(is_installed)
}

/// Asserts that the other programs read messages as they are meant.
#[track_caller]
fn read_by_others(requests: &[Value], responses: &[Value]) {
    let (is_alike, said) = readings(requests, responses);
    assert!(is_alike, "{said}");
    let readings = said.lines().last().and_then(|line| line.split(' ').next()?.parse::<usize>().ok());
    assert!(readings.is_some_and(|count| count >= 3 * (requests.len() + responses.len())), "{said}");
}

/// Whether the other programs read messages as they are meant, and what they say.
fn readings(requests: &[Value], responses: &[Value]) -> (bool, String) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/differential/messages.py");
    let mut command = Command::new("python3");
    let mut reading = command
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("python3 starts");
    let document = json!({"requests": requests, "responses": responses}).to_string();
    std::io::Write::write_all(&mut reading.stdin.take().expect("a pipe"), document.as_bytes()).expect("it reads");
    let output = reading.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), said)
}

/// The machinery itself: what two programs read in two ways, and what is meant otherwise, is told.
#[test]
fn what_is_read_in_two_ways_is_told() {
    if !can_run() {
        return;
    }
    let meant = |id: &str, raw: &str, body: &str| json!({"id": id, "raw": hex(raw.as_bytes()), "method": "POST", "target": "/x", "body": hex(body.as_bytes())});
    let both = "POST /x HTTP/1.1\r\nHost: t\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG";
    let two = "POST /x HTTP/1.1\r\nHost: t\r\n\r\nPOST /y HTTP/1.1\r\nHost: t\r\n\r\n";
    for (id, raw, body) in [("both", both, "0\r\n\r\nG"), ("two", two, "")] {
        let (is_alike, said) = readings(&[meant(id, raw, body)], &[]);
        assert!(!is_alike, "{said}");
        for program in ["h11", "llhttp", "nginx", "haproxy", "node"] {
            assert!(said.contains(&format!("{id} is read otherwise by {program}")), "{program}: {said}");
        }
    }
    let extra = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nok";
    let response = json!({"id": "extra", "raw": hex(extra.as_bytes()), "method": "GET", "status": 200,
        "body": hex(b"ok"), "closes": false});
    let (is_alike, said) = readings(&[], &[response]);
    assert!(!is_alike, "{said}");
    for program in ["h11", "llhttp", "curl", "node"] {
        assert!(said.contains(&format!("extra is read otherwise by {program}")), "{program}: {said}");
    }
}

/// Those rows of all tables that pass.
fn passing() -> Vec<Row> {
    let framed = |row: Row| Row { text: IN_FIELDS.replace("<>", &row.text), ..row };
    let tables = [
        framing::rows(),
        chunks::rows(),
        request_lines::rows(),
        identity::claims(false).into_iter().map(framed).collect(),
        identity::nominations(),
        fields::rows(),
        targets::rows(),
    ];
    tables.into_iter().flatten().filter(|row| row.outcome == Passed).collect()
}

/// Requests that are different in more than where their fields stand, as many of each kind as there is room for.
fn chosen(passed: &[(&'static str, Recorded)]) -> Vec<Value> {
    let mut kinds: BTreeMap<&str, Vec<&Recorded>> = BTreeMap::new();
    for (id, recorded) in passed {
        let kind = kinds.entry(id).or_default();
        if kind.iter().all(|known| known.raw != recorded.raw) {
            kind.push(recorded);
        }
    }
    let is_all = std::env::var_os("PORTCULLIS_HOSTILE_BYTES").is_some();
    let each = if is_all { usize::MAX } else { READ_MAX / kinds.len().max(1) };
    let of_kind = |(id, kind): (&str, Vec<&Recorded>)| {
        let step = kind.len().div_ceil(each.max(1)).max(1);
        kind.into_iter().step_by(step).map(|recorded| request(id, recorded)).collect::<Vec<_>>()
    };
    kinds.into_iter().flat_map(of_kind).collect()
}

fn request(id: &str, recorded: &Recorded) -> Value {
    let id = format!("{id}: {:.200}", recorded.text());
    let Recorded { raw, method, target, body, .. } = recorded;
    json!({"id": id, "raw": hex(raw), "method": method, "target": target, "body": hex(body)})
}

#[test]
fn what_is_forwarded_is_read_alike_by_other_programs() {
    if !can_run() {
        return;
    }
    let rig = Rig::over(Front::H1, Back::H1);
    rig.run_in_a_row(&passing());
    let over_http2 = Rig::over(Front::H2c, Back::H1);
    let bodies = with_bodies(&over_http2.cell);
    let authorization = field("authorization", over_http2.kread.authorization());
    for head in heads::rows().into_iter().filter(|head| head.ending == heads::Ending::Request) {
        let fields = [head.fields, vec![authorization.clone()]].concat();
        over_http2.run_fields(&[Row::new(head.id, head.what, Passed)], |_, _| fields.clone());
    }
    over_http2.run_fields(
        &fields::over_http2().into_iter().filter(|row| row.outcome == Passed).collect::<Vec<_>>(),
        fields::with_host,
    );
    let mut requests = chosen(&rig.passed.borrow());
    requests.extend(chosen(&over_http2.passed.borrow()));
    requests.extend(bodies);
    assert!(requests.len() > 60, "{}", requests.len());
    read_by_others(&requests, &[]);
}

/// Bodies over HTTP/2, of known and unknown length, with trailers and without.
fn with_bodies(cell: &Cell) -> Vec<Value> {
    let writer = cell.gate.telemetry_key();
    let mut client = cell.client(&writer);
    let inner = b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: t\r\n\r\n";
    let mut requests = Vec::new();
    for body in [&b""[..], b"hello", inner, &[0, 13, 10, 255]] {
        client.request("POST", "/api/v1/write", &[], body);
        requests.push(request("a known length", &cell.gate.upstream().last()));
        for has_trailers in [false, true] {
            let mut exchange = client.begin("POST", "/api/v1/write", &[]);
            if !body.is_empty() {
                exchange.send(body);
            }
            if has_trailers {
                exchange.finish_with(&[("x-end", "1")])
            } else {
                exchange.finish()
            };
            exchange.rest();
            requests.push(request("an unknown length", &cell.gate.upstream().last()));
        }
    }
    requests
}

/// What upstreams of HTTP/1.1 say, and what is asked of them.
const SAID: [(&str, &str); 16] = [
    ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    ("GET", "HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok"),
    ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: ChunKED\r\n\r\n2;a=b\r\nok\r\n0;x\r\nX-T: v\r\n\r\n"),
    ("GET", "HTTP/1.0 200 OK\r\n\r\nto the end"),
    ("GET", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nto the end"),
    (
        "GET",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: <x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ),
    ("GET", "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"),
    ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n"),
    ("GET", "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ("GET", "HTTP/1.1 599 A\tä\r\nX-A: b\tä\r\nContent-Length: 2\r\n\r\nok"),
    ("GET", "HTTP/1.1 200 OK\r\nX-A: b\r\nx-a:\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 2\r\n\r\nok"),
    ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
    ("HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
];

/// What the gate answers by itself.
const REFUSED: [&str; 14] = [
    "GET /api/v1/query HTTP/1.1¶<H>¶",
    "HEAD /api/v1/query HTTP/1.1¶<H>¶",
    "GET /api/../x HTTP/1.1¶<H><kread>¶",
    "GET /api/v1/admin HTTP/1.1¶<H><kread>¶",
    "GET /nosuch HTTP/1.1¶<H><kread>¶",
    "PATCH /api/v1/query HTTP/1.1¶<H><kread>¶",
    "GET /api/v1/query HTTP/1.1¶<H>X : a¶¶",
    "CONNECT t:80 HTTP/1.1¶<H><kread>¶",
    "GET /api/v1/query HTTP/1.1¶<H>Expect: x¶¶",
    "POST /api/v1/write HTTP/1.1¶<H>Content-Length: 9¶¶hello",
    "POST /api/v1/write HTTP/1.1¶<H><ktel>Content-Length: 99999999999¶¶",
    "GET /api/keys HTTP/1.1¶<H><kread>¶",
    "GET /api/v1/query HTTP/1.0¶<H><kread>¶",
    "␀",
];

#[test]
fn what_clients_get_is_read_alike_by_other_programs() {
    if !can_run() {
        return;
    }
    let rig = Rig::over(Front::H1, Back::H1);
    let mut responses = Vec::new();
    for text in REFUSED {
        let method = text.split(' ').next().unwrap_or_default();
        let answer = rig.cell.wire().send(rig.bytes(text)).read_response_to(method);
        responses.push(response(text, method, &answer, text.contains("HTTP/1.0")));
    }
    for (method, said) in SAID {
        for client in ["1.1", "1.0"] {
            let reply = Reply::bytes(said);
            let is_close = said.contains("to the end");
            rig.cell.gate.upstream().reply(if is_close { reply.close() } else { reply });
            let text = format!("{method} /api/v1/query HTTP/{client}¶<H>TE: trailers¶<kread>¶");
            let mut wire = rig.cell.wire();
            wire.send(rig.bytes(&text));
            let mut before = Vec::new();
            let mut answer = wire.read_response_to(method);
            while answer.status < 200 {
                before.append(&mut answer.raw);
                answer = wire.read_response_to(method);
            }
            // What comes before a response is read with it.
            answer.raw.splice(..0, before);
            responses.push(response(said, method, &answer, client == "1.0"));
        }
    }
    read_by_others(&[], &responses);
}

fn response(id: &str, method: &str, answer: &Answer, is_for_http_1_0: bool) -> Value {
    assert!(answer.complete, "{id}: {answer:?}");
    let body = if method == "HEAD" { &[][..] } else { &answer.body };
    let closes = answer.says_close() || is_for_http_1_0;
    let method = if matches!(method, "GET" | "HEAD") { method } else { "GET" };
    json!({"id": id, "raw": hex(&answer.raw), "method": method, "status": answer.status, "body": hex(body), "closes": closes})
}
