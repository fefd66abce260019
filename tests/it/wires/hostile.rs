//! The tables of `hostile`, over the wires that it leaves out.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::harness::raw_h2::{END_HEADERS, END_STREAM, HEADERS, block, head};
use crate::harness::{Back, Front, Seen};
use crate::hostile::Outcome::{Aborted, Closed, Forwarded, Refused};
use crate::hostile::{
    AS_IS, CHUNKS, Case, FIELDS, FRAMING, IN_CHUNKS, IN_FIELDS, IN_GET, Outcome, REQUEST_LINES, Rig, TARGETS,
};

type Field = (Vec<u8>, Vec<u8>);

fn field(name: &str, value: impl Into<Vec<u8>>) -> Field {
    (name.as_bytes().to_vec(), value.into())
}

#[track_caller]
fn check_http1(front: Front, back: Back) {
    let tables =
        [(TARGETS, IN_GET), (REQUEST_LINES, AS_IS), (FIELDS, IN_FIELDS), (FRAMING, AS_IS), (CHUNKS, IN_CHUNKS)];
    // Each table with a gate of its own, side by side: some cases wait for a deadline.
    std::thread::scope(|scope| {
        for (table, frame) in tables {
            scope.spawn(move || Rig::over(front, back).check_cut_as(&[("whole", usize::MAX)], table, frame));
        }
    });
}

#[test]
fn hostile_input_over_tls_never_reaches_an_upstream_of_http1() {
    check_http1(Front::H1Tls, Back::H1);
}

#[test]
fn hostile_input_over_tls_never_reaches_an_upstream_of_http2() {
    check_http1(Front::H1Tls, Back::H2);
}

#[test]
fn hostile_input_in_clear_text_never_reaches_an_upstream_of_http2() {
    check_http1(Front::H1, Back::H2);
}

#[test]
fn hostile_targets_and_fields_over_http2_never_reach_any_upstream() {
    std::thread::scope(|scope| {
        for (front, back) in
            [Front::H2c, Front::H2Tls].into_iter().flat_map(|front| Back::EVERY.map(|back| (front, back)))
        {
            let name = format!("{front:?} to {back:?}");
            let run = move || {
                let rig = Rig::over(front, back);
                check_table(&rig, TARGETS, target_fields);
                check_table(&rig, FIELDS, fields_with_host);
                check_table(&rig, FIELDS, fields_with_authority);
            };
            std::thread::Builder::new().name(name).spawn_scoped(scope, run).expect("a thread");
        }
    });
}

/// A request that asks for the target of a case.
fn target_fields(rig: &Rig, text: &str) -> Vec<Field> {
    let mut fields: Vec<Field> = head("GET", "").iter().map(|(name, value)| field(name, *value)).collect();
    fields[2].1 = rig.bytes(text);
    fields.extend(lines(rig, "<kread>"));
    fields
}

/// A request with the fields of a case, a Host among them as it is.
fn fields_with_host(rig: &Rig, text: &str) -> Vec<Field> {
    let pseudo = head("GET", "/api/v1/query");
    let mut fields: Vec<Field> = pseudo[..3].iter().map(|(name, value)| field(name, *value)).collect();
    fields.extend(lines(rig, text));
    fields
}

/// The same, with a Host that there is once as the authority.
fn fields_with_authority(rig: &Rig, text: &str) -> Vec<Field> {
    let mut fields = fields_with_host(rig, text);
    let hosts: Vec<usize> = (0..fields.len()).filter(|at| fields[*at].0 == b"host").collect();
    if let [at] = hosts[..] {
        let (_, value) = fields.remove(at);
        fields.insert(3, field(":authority", value));
    }
    fields
}

/// Field lines as fields. A line that is none becomes a field that is none.
fn lines(rig: &Rig, text: &str) -> Vec<Field> {
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

fn check_table(rig: &Rig, cases: &[Case], request: impl Fn(&Rig, &str) -> Vec<Field>) {
    let mut failed = Vec::new();
    for (id, text, outcome) in cases {
        let fields = request(rig, text);
        // RFC 9113 §8.2.2: what is dropped over HTTP/1.1 is malformed here.
        let is_of_http1 = fields.iter().any(|(name, _)| matches!(&name[..], b"connection" | b"upgrade"));
        let outcome = match *id {
            _ if is_of_http1 => Refused(400),
            // h2 keeps what a fragment was from us: the rest is all that is matched, and all that is forwarded.
            "A28" if text.starts_with("/api/v1/query#") => Forwarded("GET /api/v1/query"),
            "A28" if text.starts_with("/api/v1/query?x#") => Forwarded("GET /api/v1/query?x"),
            _ => *outcome,
        };
        if catch_unwind(AssertUnwindSafe(|| run(rig, &fields, outcome))).is_err() {
            failed.push(format!("{id}: {text:.200}"));
        }
    }
    assert!(failed.is_empty(), "{} failed over {:?}:\n{}", failed.len(), rig.cell.front, failed.join("\n"));
}

fn run(rig: &Rig, fields: &[Field], outcome: Outcome) {
    rig.cell.forget();
    let mut frames = rig.cell.frames();
    frames.frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(fields));
    let seen = frames.outcome(1);
    let is_broken_off = matches!(seen, Seen::Reset(_) | Seen::GoAway(_));
    match outcome {
        Forwarded(_) => assert_eq!(seen.status(), Some(200), "{seen:?}"),
        Closed(400) | Refused(400) => assert!(is_broken_off || seen.status() == Some(400), "{seen:?}"),
        Closed(status) | Refused(status) => assert_eq!(seen.status(), Some(status), "{seen:?}"),
        Aborted => panic!("there is no body"),
    }
    rig.check_upstream(outcome);
    rig.cell.forget();
    if !matches!(seen, Seen::GoAway(_)) {
        frames.get(3, &rig.kread, "/api/v1/query?canary");
        assert_eq!(frames.outcome(3).status(), Some(200), "the canary");
        assert_eq!(rig.cell.last().target, "/api/v1/query?canary");
    }
}
