//! The catalogue of hostile input: what is sent, and the safe outcome, over every wire that it can be sent on.
//!
//! After each case the upstream has seen nothing, or exactly the one request that an independent reading of the bytes
//! finds in them ([`model`]), and a well-behaved request (the canary) is served as ever: on a new connection, and on the
//! same one if it stayed open. A table's rows are those of the catalogue; what is generated beside them are their
//! siblings: every byte in every place, every order, every spelling.
//!
//! The first cell of HTTP/1.1 gets its rows whole, and the tables byte by byte as well, since a verdict that depends on how
//! the bytes were cut is no verdict. Of what is generated, the other cells share one row in sixteen.
//!
//! Notation: `¶` CR LF, `⏎` bare LF, `␍` bare CR, `␀` NUL, `\xNN` one byte, `<H>` a Host line, `<kread>` and the like an
//! Authorization line with that key; `<W>` the start of a write request up to its framing.

mod chunks;
mod fields;
mod framing;
mod large;
mod model;
mod request_lines;
mod rig;
mod sequences;
mod targets;

use rig::Outcome::{Closed, Passed, Refused};
use rig::{OVER_HTTP1, OVER_HTTP2, Row, field, in_cells, pseudo, share};

use crate::harness::{Back, Front};

const ONE_IN: usize = 16;

/// Runs rows over HTTP/1.1 in all cells.
#[track_caller]
fn check_http1(rows: &[Row], tabled: usize) {
    in_cells(&OVER_HTTP1, |rig| {
        rig.run(usize::MAX, &rows[..tabled]);
        rig.run_in_a_row(&share(&rows[tabled..], rig, &OVER_HTTP1, ONE_IN));
        if (rig.cell.front, rig.cell.back) == (Front::H1, Back::H1) {
            rig.run(1, &rows[..tabled]);
        }
    });
}

#[test]
fn a_target_with_two_readings_never_reaches_an_upstream() {
    check_http1(&targets::rows(), targets::TABLED);
}

#[test]
fn a_request_line_that_is_not_exactly_one_never_reaches_an_upstream() {
    check_http1(&request_lines::rows(), request_lines::TABLED);
}

#[test]
fn header_fields_that_are_not_exactly_that_never_reach_an_upstream() {
    check_http1(&fields::rows(), fields::TABLED);
}

#[test]
fn framing_that_two_programs_could_read_in_two_ways_never_reaches_an_upstream() {
    check_http1(&framing::rows(), framing::TABLED);
}

#[test]
fn a_chunked_body_that_is_not_exactly_one_never_arrives_whole() {
    check_http1(&chunks::rows(), chunks::TABLED);
}

#[test]
fn too_much_of_anything_is_refused() {
    let rows = large::rows();
    check_http1(&rows, rows.len());
}

/// What ended a connection of HTTP/1.1 is as much refused over HTTP/2.
fn over_http2(mut row: Row) -> Row {
    // The protocol library takes a fragment off before anybody sees it; what is left is matched and forwarded.
    let (before, _) = row.text.split_once(['#']).or_else(|| row.text.split_once("\\x23")).unwrap_or_default();
    row.outcome = match row.outcome {
        _ if before.starts_with('/') => Passed,
        Closed(400) => Refused(400),
        outcome => outcome,
    };
    row
}

#[test]
fn targets_and_methods_over_http2_never_reach_an_upstream_with_two_readings() {
    let targets: Vec<Row> = targets::targets().into_iter().map(over_http2).collect();
    let methods = request_lines::methods();
    let methods: Vec<Row> =
        methods.into_iter().map(|(id, method, outcome)| over_http2(Row::new(id, method, outcome))).collect();
    in_cells(&OVER_HTTP2, |rig| {
        let authorization = field("authorization", rig.kread.authorization());
        rig.run_fields(&share(&targets, rig, &OVER_HTTP2, ONE_IN), |rig, text| {
            [pseudo("GET", rig.bytes(text)), vec![authorization.clone()]].concat()
        });
        rig.run_fields(&share(&methods, rig, &OVER_HTTP2, ONE_IN), |rig, text| {
            let mut fields = pseudo("GET", "/api/v1/query");
            fields[0].1 = rig.bytes(text);
            [fields, vec![authorization.clone()]].concat()
        });
    });
}

#[test]
fn header_fields_over_http2_never_reach_an_upstream_with_two_readings() {
    let tabled = fields::over_http2();
    let single = fields::single();
    let numbers: Vec<Row> = (0..single.len())
        .map(|at| over_http2(Row::new(single[at].id, at.to_string(), single[at].over_http2)))
        .collect();
    let hosts = fields::hosts();
    // RFC 9113 §8.2.1: blanks at an edge are malformed there.
    let of = |host: &[u8], outcome| if host == host.trim_ascii() { outcome } else { Refused(400) };
    let host_numbers: Vec<Row> =
        (0..hosts.len()).map(|at| over_http2(Row::new("D20", at.to_string(), of(&hosts[at].0, hosts[at].1)))).collect();
    in_cells(&OVER_HTTP2, |rig| {
        rig.run_fields(&tabled, fields::with_host);
        rig.run_fields(&tabled, fields::with_authority);
        let authorization = field("authorization", rig.kread.authorization());
        let base = [pseudo("GET", "/api/v1/query"), vec![authorization]].concat();
        rig.run_fields(&share(&numbers, rig, &OVER_HTTP2, ONE_IN), |_, at| {
            let single = &single[at.parse::<usize>().expect("a number")];
            [base.clone(), vec![field(&single.name, &single.value)]].concat()
        });
        rig.run_fields(&share(&host_numbers, rig, &OVER_HTTP2, ONE_IN), |_, at| {
            let mut fields = base.clone();
            fields[3].1 = hosts[at.parse::<usize>().expect("a number")].0.clone();
            fields
        });
    });
}
