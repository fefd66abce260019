//! The rig of the hostile catalogue: the notation, one driver for HTTP/1.1 and one for HTTP/2, and the canary.

use std::cell::{Cell as Slot, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::model;
use crate::harness::raw_h2::{END_HEADERS, END_STREAM, HEADERS, block, head};
use crate::harness::{Answer, Back, Caller, Cell, Front, RawH2, Recorded, Seen, Wire, check};

use Outcome::{Aborted, Closed, Passed, Refused};

/// What must come of a case.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Outcome {
    /// The request breaks off: a 4xx or nothing, then the close; the upstream never has it whole.
    Aborted,
    /// This status, `Connection: close`, the close, and nothing of it at the upstream.
    Closed(u16),
    /// A 200, and at the upstream exactly one request: what [`model`] makes of the one that was sent.
    Passed,
    /// This status, and nothing of it at the upstream.
    Refused(u16),
}

/// (id in the catalogue, what stands in the frame, outcome)
pub(crate) type Case = (&'static str, &'static str, Outcome);

/// A case to run: its id, what it is sent as (in the notation), and its outcome.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) id: &'static str,
    pub(crate) text: String,
    pub(crate) outcome: Outcome,
    /// Whether the client ends its direction behind it, so that nobody waits for more.
    pub(crate) ends: bool,
}

impl Row {
    pub(crate) fn new(id: &'static str, text: impl Into<String>, outcome: Outcome) -> Self {
        Self { id, text: text.into(), outcome, ends: false }
    }

    /// Nothing comes after it.
    pub(crate) fn ended(mut self) -> Self {
        self.ends = true;
        self
    }

    /// The rows of a table, each put into a frame.
    pub(crate) fn of_table(cases: &[Case], frame: &str) -> Vec<Self> {
        cases.iter().map(|(id, text, outcome)| Self::new(id, frame.replace("<>", text), *outcome)).collect()
    }
}

/// The notation for a byte.
pub(crate) fn byte(byte: u8) -> String {
    format!("\\x{byte:02x}")
}

/// The bytes that are put into every place: all of ASCII but most letters and digits, and some beyond. All 256 of them
/// with `PORTCULLIS_HOSTILE_BYTES=all`.
pub(crate) fn bytes() -> impl Iterator<Item = u8> {
    const BEYOND: [u8; 8] = [0x80, 0x85, 0xa0, 0xad, 0xb2, 0xc3, 0xe2, 0xff];
    let is_all = std::env::var_os("PORTCULLIS_HOSTILE_BYTES").is_some();
    (0..=u8::MAX).filter(move |value| match value {
        _ if is_all => true,
        b'0' | b'1' | b'9' | b'A' | b'E' | b'Z' | b'a' | b'g' | b'x' | b'z' => true,
        0..=127 => !value.is_ascii_alphanumeric(),
        _ => BEYOND.contains(value),
    })
}

/// A cell with the keys of the catalogue.
pub(crate) struct Rig {
    pub(crate) cell: Cell,
    pub(crate) kread: Caller,
    pub(crate) ktel: Caller,
    kdead: Caller,
    /// What an upstream of HTTP/1.1 has got, for others to read.
    pub(crate) passed: RefCell<Vec<(&'static str, Recorded)>>,
}

impl Rig {
    pub(crate) fn over(front: Front, back: Back) -> Self {
        let cell = Cell::start(front, back, |setup| {
            setup
                .option("limits", r#"failures = { rate = "1000000/s", burst = 1000000 }"#)
                .option("client", r#"body_timeout = "500ms""#)
                .option("client", r#"header_timeout = "2s""#)
                .option("http2", "errors_max = 100000")
        });
        let gate = &cell.gate;
        let (kread, ktel) = (gate.key(&["monitor:read", "issue:read"]), gate.telemetry_key());
        let kdead = gate.key(&["monitor:read"]);
        gate.root().delete(kdead.id());
        Self { cell, kread, ktel, kdead, passed: RefCell::default() }
    }

    /// The bytes that a text in the catalogue's notation stands for.
    pub(crate) fn bytes(&self, text: &str) -> Vec<u8> {
        let line = |caller: &Caller| format!("Authorization: {}¶", caller.authorization());
        let text = text
            .replace("<W>", "POST /api/v1/write HTTP/1.1¶<H><ktel>")
            .replace("<H>", "Host: t¶")
            .replace("<kread>", &line(&self.kread))
            .replace("<ktel>", &line(&self.ktel))
            .replace("<kdead>", &line(&self.kdead));
        plain(&text)
    }

    /// Runs rows over HTTP/1.1, each on a connection of its own and cut into pieces of this length, and reports all that
    /// failed.
    pub(crate) fn run(&self, piece: usize, rows: &[Row]) {
        self.report(rows, |row, bytes| {
            if piece > 1 || bytes.len() <= 1_500 {
                let wire = self.run_one(self.cell.wire(), piece, bytes, row);
                self.check_canary(None);
                drop(wire);
            }
        });
    }

    /// Runs rows over HTTP/1.1, each on the connection of the canary before it.
    pub(crate) fn run_in_a_row(&self, rows: &[Row]) {
        let open = Slot::new(None);
        self.report(rows, |row, bytes| {
            let wire = open.take().unwrap_or_else(|| self.cell.wire());
            let wire = self.run_one(wire, usize::MAX, bytes, row).unwrap_or_else(|| {
                let mut wire = self.cell.wire();
                self.check_canary(Some(&mut wire));
                wire
            });
            open.set(Some(wire));
        });
    }

    fn report(&self, rows: &[Row], run: impl Fn(&Row, &[u8])) {
        let mut failed = Vec::new();
        for row in rows {
            let bytes = self.bytes(&row.text);
            if catch_unwind(AssertUnwindSafe(|| run(row, &bytes))).is_err() {
                failed.push(format!("{}: {:.300}", row.id, row.text));
                self.cell.release();
            }
        }
        let wire = (self.cell.front, self.cell.back);
        assert!(failed.is_empty(), "{} failed over {wire:?}:\n{}", failed.len(), failed.join("\n"));
    }

    /// Returns the connection when it is still open: it has served the canary then.
    fn run_one(&self, mut wire: Wire, piece: usize, bytes: &[u8], row: &Row) -> Option<Wire> {
        self.cell.forget();
        bytes.chunks(piece.min(bytes.len())).for_each(|piece| {
            wire.send(piece);
        });
        if row.ends {
            wire.finish_sending();
        }
        let method = String::from_utf8_lossy(bytes).split(' ').next().unwrap_or_default().to_owned();
        let answer = wire.read_response_or_close(&method);
        match row.outcome {
            Aborted => check_aborted(&mut wire, answer.as_ref()),
            Closed(status) => check_refused_and_closed(&mut wire, answer.as_ref(), status),
            Passed => assert_eq!(answer.as_ref().map(|answer| answer.status), Some(200), "{answer:?}"),
            Refused(status) => assert_eq!(answer.as_ref().map(|answer| answer.status), Some(status), "{answer:?}"),
        }
        self.check_upstream(row.outcome);
        if row.outcome == Passed {
            model::check(bytes, &self.cell, &self.cell.last());
            self.note(row.id);
        }
        // HTTP/1.0 closes without a word; everything else says whether the connection stays.
        let stays = answer.is_some_and(|answer| answer.complete && !answer.says_close()) && is_http_1_1(bytes);
        if !matches!(row.outcome, Passed | Refused(_)) || !stays || row.ends {
            return None;
        }
        self.check_canary(Some(&mut wire));
        Some(wire)
    }

    fn note(&self, id: &'static str) {
        if self.cell.back == Back::H1 {
            self.passed.borrow_mut().push((id, self.cell.gate.upstream().last()));
        }
    }

    /// Asserts what the upstream has seen of a case.
    #[track_caller]
    pub(crate) fn check_upstream(&self, outcome: Outcome) {
        let requests = self.cell.requests();
        match outcome {
            Aborted => assert!(requests.is_empty(), "{requests:?}"),
            Closed(_) | Refused(_) => self.cell.check_untouched(),
            Passed => assert_eq!(requests.len(), 1, "{requests:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn check_canary(&self, same: Option<&mut Wire>) {
        if self.cell.front.is_http2() {
            return self.check_frames_canary(&mut self.cell.frames(), 1);
        }
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

    /// The canary over HTTP/2, on a connection that is there.
    #[track_caller]
    pub(crate) fn check_frames_canary(&self, frames: &mut RawH2, stream: u32) {
        self.cell.forget();
        frames.get(stream, &self.kread, "/api/v1/query?canary");
        assert_eq!(frames.outcome(stream).status(), Some(200), "the canary");
        assert_eq!(self.cell.last().target, "/api/v1/query?canary");
    }

    /// Runs rows over HTTP/2: `request` makes the fields of a head of each text. Connections are shared while they last;
    /// the canary goes over the same one, and over a new one where it ended.
    pub(crate) fn run_fields(&self, rows: &[Row], request: impl Fn(&Self, &str) -> Fields) {
        let mut failed = Vec::new();
        let mut open: Option<(RawH2, u32)> = None;
        for row in rows {
            let fields = request(self, &row.text);
            let run = AssertUnwindSafe(|| self.run_head(&fields, row.outcome, &mut open));
            if catch_unwind(run).is_err() {
                open = None;
                failed.push(format!("{}: {:.300}", row.id, row.text));
            }
        }
        let wire = (self.cell.front, self.cell.back);
        assert!(failed.is_empty(), "{} failed over {wire:?}:\n{}", failed.len(), failed.join("\n"));
    }

    fn run_head(&self, fields: &Fields, outcome: Outcome, open: &mut Option<(RawH2, u32)>) {
        self.cell.forget();
        let (mut frames, stream) = open.take().unwrap_or_else(|| (self.cell.frames(), 1));
        frames.frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(fields));
        let seen = frames.outcome(stream);
        check_seen(&seen, outcome);
        self.check_upstream(outcome);
        if outcome == Passed {
            model::check_head(fields, &self.cell, &self.cell.last());
            self.note("over HTTP/2");
        }
        if matches!(seen, Seen::GoAway(_) | Seen::Closed) {
            return self.check_canary(None);
        }
        self.check_frames_canary(&mut frames, stream + 2);
        // Some way below what a connection of this client may do in a row.
        if stream < 200 {
            *open = Some((frames, stream + 4));
        }
    }
}

/// The fields of a head over HTTP/2.
pub(crate) type Fields = Vec<(Vec<u8>, Vec<u8>)>;

pub(crate) fn field(name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> (Vec<u8>, Vec<u8>) {
    (name.as_ref().to_vec(), value.as_ref().to_vec())
}

/// The pseudo-fields of a request to a target.
pub(crate) fn pseudo(method: &str, target: impl AsRef<[u8]>) -> Fields {
    let mut fields: Fields = head(method, "").iter().map(|(name, value)| field(name, value)).collect();
    fields[2].1 = target.as_ref().to_vec();
    fields
}

/// Asserts what became of a stream.
#[track_caller]
pub(crate) fn check_seen(seen: &Seen, outcome: Outcome) {
    let is_over = matches!(seen, Seen::Reset(_) | Seen::GoAway(_));
    match outcome {
        Passed => assert_eq!(seen.status(), Some(200), "{seen:?}"),
        // RFC 9113 §8.1.1: what is malformed is a stream error; a status in its place is as good.
        Closed(400) | Refused(400) => assert!(is_over || seen.status() == Some(400), "{seen:?}"),
        Closed(status) | Refused(status) => assert_eq!(seen.status(), Some(status), "{seen:?}"),
        Aborted => assert!(is_over || seen.status().is_some_and(|status| (400..500).contains(&status)), "{seen:?}"),
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

/// The bytes that a text in the catalogue's notation stands for, where it names no key.
pub(crate) fn plain(text: &str) -> Vec<u8> {
    unescape(&text.replace('¶', "\r\n").replace('⏎', "\n").replace('␍', "\r").replace('␀', "\0"))
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

/// Runs work in these cells side by side. A failure carries the cell's name as that of its thread.
#[track_caller]
pub(crate) fn in_cells(cells: &[(Front, Back)], run: impl Fn(&Rig) + Sync) {
    let run = &run;
    let failed: Vec<String> = std::thread::scope(|scope| {
        let running: Vec<_> = cells
            .iter()
            .map(|&(front, back)| {
                let name = format!("{front:?} to {back:?}");
                let thread = std::thread::Builder::new().name(name.clone());
                (name, thread.spawn_scoped(scope, move || run(&Rig::over(front, back))).expect("a thread"))
            })
            .collect();
        running.into_iter().filter_map(|(name, run)| run.join().is_err().then_some(name)).collect()
    });
    assert!(failed.is_empty(), "failed: {failed:?}");
}

/// The cells in which requests are HTTP/1.1.
pub(crate) const OVER_HTTP1: [(Front, Back); 4] =
    [(Front::H1, Back::H1), (Front::H1, Back::H2), (Front::H1Tls, Back::H1), (Front::H1Tls, Back::H2)];

/// The cells in which they are HTTP/2.
pub(crate) const OVER_HTTP2: [(Front, Back); 4] =
    [(Front::H2c, Back::H1), (Front::H2c, Back::H2), (Front::H2Tls, Back::H1), (Front::H2Tls, Back::H2)];

/// In its first cell all rows are run, in the others every `one_in`th, from another one on in each.
pub(crate) fn share<'r>(rows: &'r [Row], rig: &Rig, cells: &[(Front, Back)], one_in: usize) -> Vec<Row> {
    let place = cells.iter().position(|cell| *cell == (rig.cell.front, rig.cell.back)).expect("one of the cells");
    let rows: &'r [Row] = rows;
    match place {
        0 => rows.to_vec(),
        place => rows.iter().skip(place - 1).step_by(one_in).cloned().collect(),
    }
}
