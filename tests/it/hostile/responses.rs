//! Part L: upstreams that are hostile or broken, as clients see them on every wire.
//!
//! A cut body never ends cleanly, what cannot be framed safely is 502, and what one request is answered never reaches the
//! next.

use super::request_lines::is_token;
use super::rig::Outcome::Passed;
use super::rig::{Row, byte, bytes, plain};
use super::{ONE_IN, chunks, framing};
use crate::harness::h2_frames::{DATA, END_HEADERS, END_STREAM, HEADERS, Said, fields, frame};
use crate::harness::raw_h2::{self, RawH2, head};
use crate::harness::{Back, Caller, Cell, Front, H2Frames, Reply, Wire, check, check_problem, until};

const QUERY: &str = "/api/v1/query";

/// Runs work behind every front side by side.
#[track_caller]
fn behind_each_front(back: Back, run: impl Fn(&Cell, Caller) + Sync) {
    let run = &run;
    let failed: Vec<Front> = std::thread::scope(|scope| {
        let running: Vec<_> = Front::EVERY
            .into_iter()
            .map(|front| {
                let thread = std::thread::Builder::new().name(format!("{front:?}"));
                let work = move || {
                    let cell = Cell::start(front, back, |setup| setup);
                    let reader = cell.gate.key(&["monitor:read"]);
                    run(&cell, reader);
                };
                (front, thread.spawn_scoped(scope, work).expect("a thread"))
            })
            .collect();
        running.into_iter().filter_map(|(front, run)| run.join().is_err().then_some(front)).collect()
    });
    assert!(failed.is_empty(), "failed: {failed:?}");
}

/// What a client sees of a response.
#[derive(Debug, PartialEq)]
enum Seen {
    Cut,
    Refused,
    Whole(u16, Vec<u8>),
}

/// A client that sees how a response ends, on one connection while that lasts.
struct Asker<'c> {
    cell: &'c Cell,
    caller: Caller,
    wire: Option<Wire>,
    frames: Option<(RawH2, u32)>,
}

impl<'c> Asker<'c> {
    fn new(cell: &'c Cell, caller: &Caller) -> Self {
        Self { cell, caller: caller.keep_alive(), wire: None, frames: None }
    }

    /// Sends a POST, which is never sent again, and reads what comes.
    #[track_caller]
    fn ask(&mut self) -> Seen {
        let cell = self.cell;
        if cell.front.is_http2() {
            return self.ask_over_http2();
        }
        let mut wire = self.wire.take().unwrap_or_else(|| cell.wire());
        wire.send(self.caller.render("POST", QUERY, &[], b""));
        let Some(answer) = wire.read_response_or_close("POST") else { return Seen::Cut };
        if answer.complete && !answer.says_close() {
            self.wire = Some(wire);
        }
        match answer.status {
            _ if !answer.complete => Seen::Cut,
            502 => Seen::Refused,
            status => Seen::Whole(status, answer.body),
        }
    }

    #[track_caller]
    fn ask_over_http2(&mut self) -> Seen {
        let cell = self.cell;
        let (mut frames, stream) = self.frames.take().unwrap_or_else(|| (cell.frames(), 1));
        let authorization = self.caller.authorization();
        frames.request(stream, &[&head("POST", QUERY)[..], &[("authorization", &authorization)]].concat(), true);
        let seen = frames.outcome(stream);
        self.frames = Some((frames, stream + 2));
        match seen {
            raw_h2::Seen::Answer { status: 502, .. } => Seen::Refused,
            raw_h2::Seen::Answer { status, body } => Seen::Whole(status, body),
            raw_h2::Seen::Reset(_) => Seen::Cut,
            raw_h2::Seen::Closed | raw_h2::Seen::GoAway(_) => panic!("a response ended its connection: {seen:?}"),
        }
    }
}

const SIZED: &str = "HTTP/1.1 200 OK¶Content-Length: 10¶¶0123456789";
const CHUNKED: &str = "HTTP/1.1 200 OK¶Transfer-Encoding: chunked¶¶5;a=b¶hello¶5¶world¶0¶X-T: v¶¶";

#[test]
fn a_response_cut_at_any_byte_never_ends_cleanly() {
    behind_each_front(Back::H1, |cell, reader| {
        let mut client = Asker::new(cell, &reader);
        for response in [SIZED, CHUNKED].map(plain) {
            let head = response.windows(4).position(|end| end == b"\r\n\r\n").expect("a head") + 4;
            for cut in 0..response.len() {
                let sent = Reply::bytes(&response[..cut]);
                let is_reset = cut % 3 == 1;
                cell.gate.upstream().reply(if is_reset { sent.reset() } else { sent.close() });
                let seen = client.ask();
                let is_refused = seen == Seen::Refused;
                assert!(is_refused || (cut >= head && seen == Seen::Cut), "cut at {cut}, reset {is_reset}: {seen:?}");
            }
            cell.gate.upstream().reply(Reply::bytes(&response));
            assert!(matches!(client.ask(), Seen::Whole(200, body) if body.len() == 10));
            // Nothing was sent twice.
            assert_eq!(cell.requests().len(), response.len() + 1);
            cell.forget();
        }
    });
}

#[test]
fn a_response_cut_at_any_byte_never_ends_cleanly_for_a_client_of_http_1_0() {
    let cell = Cell::start(Front::H1, Back::H1, |setup| setup);
    let reader = cell.gate.key(&["monitor:read"]);
    for response in [SIZED, CHUNKED].map(plain) {
        let head = response.windows(4).position(|end| end == b"\r\n\r\n").expect("a head") + 4;
        for cut in head..response.len() {
            cell.gate.upstream().reply(Reply::bytes(&response[..cut]).close());
            let mut wire = cell.gate.raw();
            let authorization = reader.authorization();
            wire.send(format!("POST {QUERY} HTTP/1.0\r\nHost: t\r\nAuthorization: {authorization}\r\n\r\n"));
            let answer = wire.read_response_or_close("POST");
            assert!(answer.is_none_or(|answer| answer.status == 502 || !answer.complete), "cut at {cut}");
        }
    }
}

/// Frames of a whole response on stream `stream`.
fn frames(stream: u32) -> [Vec<u8>; 4] {
    [
        frame(HEADERS, END_HEADERS, stream, &fields(&[(":status", b"200"), ("x-a", b"b")])),
        frame(DATA, 0, stream, b"hello"),
        frame(DATA, 0, stream, b"world"),
        frame(HEADERS, END_HEADERS | END_STREAM, stream, &fields(&[("x-t", b"v")])),
    ]
}

#[test]
fn a_response_over_http2_cut_at_any_byte_never_ends_cleanly() {
    let whole = frames(1).concat().len();
    let head = frames(1)[0].len();
    std::thread::scope(|scope| {
        for front in Front::EVERY {
            let run = move || {
                let upstream = H2Frames::with(move |connection, stream| {
                    let frames = frames(stream).concat();
                    if connection < whole { Said::Last(frames[..connection].to_vec()) } else { Said::Frames(frames) }
                });
                let cell = Cell::start(front, Back::H1, |setup| {
                    setup.upstream_url(&format!("http://{}", upstream.address())).upstream(r#"protocol = "http2""#)
                });
                let reader = cell.gate.key(&["monitor:read"]);
                let mut client = Asker::new(&cell, &reader);
                for cut in 0..whole {
                    let seen = client.ask();
                    let is_refused = seen == Seen::Refused;
                    assert!(is_refused || (cut >= head && seen == Seen::Cut), "{front:?}, cut at {cut}: {seen:?}");
                }
                assert_eq!(client.ask(), Seen::Whole(200, b"helloworld".to_vec()), "{front:?}");
                assert_eq!(upstream.connections(), whole + 1);
            };
            std::thread::Builder::new().name(format!("{front:?}")).spawn_scoped(scope, run).expect("a thread");
        }
    });
}

/// (method, response, its body)
const ENDED: [(&str, &str, &str); 9] = [
    ("GET", "HTTP/1.1 200 OK¶Content-Length: 2¶¶ok", "ok"),
    ("GET", "HTTP/1.1 200 OK¶Content-Length: 0¶¶", ""),
    ("GET", "HTTP/1.1 200 OK¶Transfer-Encoding: chunked¶¶2¶ok¶0¶¶", "ok"),
    ("GET", "HTTP/1.1 200 OK¶Transfer-Encoding: chunked¶¶0¶X-T: v¶¶", ""),
    ("GET", "HTTP/1.1 204 No Content¶¶", ""),
    ("GET", "HTTP/1.1 304 Not Modified¶Content-Length: 6¶¶", ""),
    ("HEAD", "HTTP/1.1 200 OK¶Content-Length: 6¶¶", ""),
    ("HEAD", "HTTP/1.1 200 OK¶Transfer-Encoding: chunked¶¶", ""),
    ("GET", "HTTP/1.1 103 Early Hints¶¶HTTP/1.1 200 OK¶Content-Length: 2¶¶ok", "ok"),
];

/// What may come behind a response, and belongs to none.
const STRAY: [&str; 9] = [
    "x",
    "¶",
    "⏎",
    "␀",
    "6¶poison¶0¶¶",
    "poison",
    "HTTP/1.1 100 Continue¶¶",
    "HTTP/1.1 200 OK¶Content-Length: 6¶¶poison",
    "HTTP/1.1 101 Switching Protocols¶Upgrade: x¶Connection: upgrade¶¶poison",
];

#[test]
fn bytes_behind_a_response_never_reach_the_next_client() {
    behind_each_front(Back::H1, |cell, reader| {
        let other = cell.gate.key(&["monitor:read"]);
        let (mut first, mut second) = (cell.client(&reader), cell.client(&other));
        for (method, response, body) in ENDED {
            for stray in STRAY {
                for is_late in [false, true] {
                    let upstream = cell.gate.upstream();
                    let (before, open) = (upstream.connections(), upstream.open_connections());
                    let response = Reply::bytes(plain(response));
                    let response = if is_late { response.hold() } else { response };
                    cell.gate.upstream().reply(response.then(plain(stray)));
                    let answer = first.request(method, QUERY, &[], b"");
                    assert!(answer.complete && answer.status < 400, "{stray}: {answer:?}");
                    assert_eq!(answer.text(), body, "{stray}");
                    cell.release();
                    // Nobody has asked for anything: it ends its connection.
                    until("a connection with stray bytes is closed", || {
                        upstream.connections() - before + open > upstream.open_connections()
                    });
                    let answer = second.request("POST", QUERY, &[], b"mine");
                    assert_eq!(check(&answer, 200).text(), "mine", "behind {stray}");
                }
            }
        }
    });
}

/// Heads that frame nothing safely, or are none.
fn unsafe_heads() -> Vec<String> {
    let ok = |fields: &str| format!("HTTP/1.1 200 OK¶{fields}¶hello");
    let chunked = |fields: &str| format!("HTTP/1.1 200 OK¶{fields}¶5¶hello¶0¶¶");
    let mut heads = Vec::new();
    for length in framing::LENGTHS {
        heads.push(ok(&format!("Content-Length: {length}¶")));
        heads.push(ok(&format!("Content-Length: 5¶Content-Length: {length}¶")));
        heads.push(ok(&format!("Content-Length: {length}¶X-A: b¶Content-Length: 5¶")));
    }
    heads.push(ok("Content-Length: 5¶content-length: 5¶"));
    for coding in framing::ENCODINGS {
        heads.push(chunked(&format!("Transfer-Encoding: {coding}¶")));
        heads.push(chunked(&format!("Transfer-Encoding: chunked¶Transfer-Encoding: {coding}¶")));
    }
    for coding in ["chunked", "gzip", "identity"] {
        let fields = format!("Transfer-Encoding: {coding}¶");
        heads.push(chunked(&format!("Content-Length: 15¶{fields}")));
        heads.push(chunked(&format!("{fields}Content-Length: 15¶")));
        heads.push(chunked(&fields).replacen("HTTP/1.1", "HTTP/1.0", 1));
    }
    for value in bytes() {
        let value_byte = byte(value);
        if value.is_ascii_control() && value != b'\t' {
            heads.push(ok(&format!("X-A: a{value_byte}b¶Content-Length: 5¶")));
            heads.push(ok(&format!("X-A:{value_byte}¶Content-Length: 5¶")));
            heads.push(ok(&format!("Content-Length: 5{value_byte}¶")));
        }
        if !is_token(value) {
            heads.push(ok(&format!("{value_byte}X-A: a¶Content-Length: 5¶")));
            if value != b':' {
                heads.push(ok(&format!("X{value_byte}A: a¶Content-Length: 5¶")));
                heads.push(ok(&format!("Content-Length{value_byte}: 5¶")));
            }
        }
    }
    for fields in [
        "X-A: a¶ b¶Content-Length: 5¶",
        "Content-Length: 5¶ 0¶",
        "no colon¶Content-Length: 5¶",
        "Content-Length: 5⏎",
        "⏎Content-Length: 5¶",
    ] {
        heads.push(ok(fields));
    }
    for line in [
        "HTTP/1.1 99 X",
        "HTTP/1.1 1000 X",
        "HTTP/1.1 20 X",
        "HTTP/1.1 2OO OK",
        "HTTP/1.1 000 X",
        "HTTP/1.1 600 X",
        "HTTP/1.1 -200 X",
        "HTTP/1.1 +20 X",
        "HTTP/1.1 200OK",
        "HTTP/1.1  200 OK",
        "HTTP/1.1\t200 OK",
        "HTTP/1.1 200\tOK",
        " HTTP/1.1 200 OK",
        "¶HTTP/1.1 200 OK",
        "HTTP/1.1 200 a␀b",
        "HTTP/1.1 200 a␍b",
        "HTTP/1.1",
        "HTTP/1.1 ",
        "HTTP/1.2 200 OK",
        "HTTP/0.9 200 OK",
        "HTTP/2 200 OK",
        "HTTP/2.0 200 OK",
        "HTTP/3.0 200 OK",
        "http/1.1 200 OK",
        "ICY 200 OK",
        "200 OK",
        "<html>",
        "SSH-2.0-x",
        "\\x15\\x03\\x01\\x00\\x02\\x02\\x46",
        "",
        "HTTP/1.1 101 Switching Protocols¶Upgrade: x¶Connection: upgrade",
        "HTTP/1.1 101 Switching Protocols¶Upgrade: websocket¶Connection: upgrade",
    ] {
        heads.push(format!("{line}¶Content-Length: 5¶¶hello"));
    }
    heads.push(format!("HTTP/1.1 200 OK¶{}¶", "X-A: aaaaaaaaaaaaaaaaaaaaaaaa¶".repeat(10_000)));
    heads.push(format!("HTTP/1.1 200 OK¶X-A: {}¶¶", "a".repeat(1 << 20)));
    heads.push(format!("HTTP/1.1 200 {}¶¶", "a".repeat(1 << 20)));
    heads.push("HTTP/1.1 100 Continue¶¶".repeat(1_000));
    heads.push(format!("{}HTTP/1.1 200 OK¶Content-Length: 5¶¶hello", "HTTP/1.1 103 Early Hints¶¶".repeat(17)));
    heads
}

#[test]
fn a_response_that_cannot_be_framed_safely_is_502_on_every_wire() {
    let heads = unsafe_heads();
    behind_each_front(Back::H1, |cell, reader| {
        let mut client = cell.client(&reader);
        let (from, step) = if cell.front == Front::H1 { (0, 1) } else { (cell.front as usize, ONE_IN) };
        for head in heads.iter().skip(from).step_by(step) {
            let before = cell.gate.upstream().connections();
            cell.gate.upstream().reply(Reply::bytes(plain(head)).close());
            let answer = client.get(QUERY);
            assert_eq!(answer.status, 502, "{head:.200}: {answer:?}");
            check_problem(&answer, 502, "upstream_invalid");
            check(&client.get(QUERY), 200);
            assert!(cell.gate.upstream().connections() > before, "{head:.200}");
        }
    });
}

#[test]
fn a_chunked_response_that_is_not_exactly_one_never_ends_cleanly() {
    let rows: Vec<Row> = chunks::bodies();
    behind_each_front(Back::H1, |cell, reader| {
        let mut client = Asker::new(cell, &reader);
        let (from, step) = if cell.front == Front::H1 { (0, 1) } else { (cell.front as usize, ONE_IN) };
        for row in rows.iter().skip(from).step_by(step) {
            let response = plain(&format!("HTTP/1.1 200 OK¶Transfer-Encoding: chunked¶¶{}", row.text));
            let reply = Reply::bytes(response);
            // What is whole leaves its connection to the next request.
            cell.gate.upstream().reply(if row.outcome == Passed { reply } else { reply.close() });
            let seen = client.ask();
            let is_whole = matches!(&seen, Seen::Whole(..));
            assert_eq!(is_whole, row.outcome == Passed, "{}: {seen:?}", row.text);
        }
        assert_eq!(client.ask(), Seen::Whole(200, Vec::new()));
    });
}
