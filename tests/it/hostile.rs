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
mod credentials;
mod differential;
mod fields;
mod frames;
mod framing;
mod heads;
mod identity;
mod large;
mod model;
mod request_lines;
mod responses;
mod rig;
mod sequences;
mod targets;

use rig::Outcome::{Closed, Passed, Refused};
use rig::{OVER_HTTP1, OVER_HTTP2, Row, field, in_cells, pseudo, share};

use crate::harness::raw_h2::{DATA, END_HEADERS, END_STREAM, HEADERS, block, head};
use crate::harness::{Back, Front, Seen};
use heads::Ending;

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

#[test]
fn a_credential_that_is_written_otherwise_is_none_over_any_wire() {
    let in_frame = |rows: Vec<Row>| -> Vec<Row> {
        let framed = |row: Row| Row { text: fields::IN_FIELDS.replace("<>", &row.text), ..row };
        rows.into_iter().map(framed).collect()
    };
    in_cells(&OVER_HTTP1, |rig| {
        rig.run_in_a_row(&in_frame(credentials::lines(rig)));
        rig.run_in_a_row(&share(&in_frame(credentials::blanks(rig)), rig, &OVER_HTTP1, ONE_IN));
    });
    in_cells(&OVER_HTTP2, |rig| {
        let rows = credentials::lines(rig).into_iter().map(over_http2).collect::<Vec<_>>();
        rig.run_fields(&rows, fields::with_authority);
    });
}

#[test]
fn nobody_speaks_in_the_gates_name_in_any_spelling_over_any_wire() {
    let framed = |row: Row| Row { text: fields::IN_FIELDS.replace("<>", &row.text), ..row };
    let claims: Vec<Row> = identity::claims(false).into_iter().map(framed).collect();
    let repetitions: Vec<Row> = identity::repetitions().into_iter().map(framed).collect();
    let nominations = identity::nominations();
    in_cells(&OVER_HTTP1, |rig| {
        rig.run_in_a_row(&claims);
        rig.run_in_a_row(&share(&repetitions, rig, &OVER_HTTP1, ONE_IN));
        rig.run_in_a_row(&share(&nominations, rig, &OVER_HTTP1, ONE_IN));
    });
    let claims = identity::claims(true);
    let repetitions = identity::repetitions();
    in_cells(&OVER_HTTP2, |rig| {
        rig.run_fields(&claims, fields::with_authority);
        rig.run_fields(&share(&repetitions, rig, &OVER_HTTP2, ONE_IN), fields::with_authority);
    });
}

#[test]
fn heads_over_http2_that_are_none_never_reach_an_upstream() {
    let rows = heads::rows();
    in_cells(&OVER_HTTP2, |rig| {
        let mut open = None;
        for head in &rows {
            rig.cell.forget();
            let (mut frames, stream) = open.take().unwrap_or_else(|| (rig.cell.frames(), 1));
            let seen = heads::send(rig, &mut frames, stream, &head.fields);
            let message = format!("{} {}: {seen:?}", head.id, head.what);
            let is_served = seen.status() == Some(200);
            if head.ending == Ending::Request || (head.ending == Ending::Ignored && is_served) {
                assert!(is_served, "{message}");
                assert_eq!(rig.cell.last().target, "/api/v1/query", "{message}");
            } else {
                let is_refused = matches!(seen.status(), Some(400 | 405 | 501)) || matches!(seen, Seen::Reset(_));
                let is_ended = matches!(seen, Seen::GoAway(_));
                assert!(is_refused || (is_ended && head.ending != Ending::Stream), "{message}");
                rig.cell.check_untouched();
            }
            if matches!(seen, Seen::GoAway(_)) {
                rig.check_canary(None);
            } else {
                rig.check_frames_canary(&mut frames, stream + 2);
                open = Some((frames, stream + 4)).filter(|_| stream < 200);
            }
        }
    });
}

#[test]
fn a_body_over_http2_that_contradicts_its_head_is_never_whole_for_an_upstream() {
    let rows = heads::contradictions();
    in_cells(&OVER_HTTP2, |rig| {
        let authorization = rig.ktel.authorization();
        for row in &rows {
            rig.cell.forget();
            let mut frames = rig.cell.frames();
            let head = head("POST", "/api/v1/write");
            let fields = [&head[..], &[("authorization", &authorization)], row.fields].concat();
            frames.request(1, &fields, false);
            for (kind, flags, payload) in &row.frames {
                frames.frame(*kind, *flags, 1, payload);
            }
            let seen = frames.outcome(1);
            let is_refused =
                matches!(seen.status(), Some(400..500)) || matches!(seen, Seen::Reset(_) | Seen::GoAway(_));
            assert!(is_refused, "{} {}: {seen:?}", row.id, row.what);
            assert!(rig.cell.requests().is_empty(), "{} {}: {:?}", row.id, row.what, rig.cell.requests());
            rig.check_canary(None);
        }
    });
}

#[test]
fn trailers_over_http2_carry_neither_a_key_nor_a_target() {
    in_cells(&OVER_HTTP2, |rig| {
        let authorization = rig.ktel.authorization();
        let forged =
            [(":path", "/forged"), ("authorization", &authorization), ("host", "forged"), ("content-length", "9")];
        for trailer in forged {
            for has_key in [true, false] {
                rig.cell.forget();
                let mut frames = rig.cell.frames();
                let key = [("authorization", authorization.as_str())];
                let fields = [&head("POST", "/api/v1/write")[..], if has_key { &key } else { &[] }].concat();
                frames.request(1, &fields, false).frame(DATA, 0, 1, b"body");
                frames.frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[trailer, ("x-end", "1")]));
                // The protocol library drops pseudo-fields of trailers before anybody sees them.
                assert_eq!(frames.outcome(1).status(), Some(if has_key { 200 } else { 401 }), "{trailer:?}");
                let got = rig.cell.requests();
                assert_eq!(got.len(), usize::from(has_key), "{trailer:?}");
                for got in got {
                    assert_eq!((got.target.as_str(), got.host.as_deref()), ("/api/v1/write", Some("gate.test")));
                    assert!(!got.mentions("forged") && !got.mentions(&authorization), "{got:?}");
                    assert!(got.trailers.iter().all(|(name, _)| name == "x-end"), "{got:?}");
                }
                rig.check_frames_canary(&mut frames, 3);
            }
        }
    });
}

#[test]
fn frames_that_break_the_protocol_end_the_connection() {
    let rows = frames::fatal();
    in_cells(&OVER_HTTP2, |rig| {
        for (what, bytes) in &rows {
            rig.cell.gate.upstream().hold();
            let mut frames = rig.cell.frames();
            frames.send(bytes);
            let farewell = frames.farewell();
            assert!(farewell.is_some_and(|code| code != 0), "{what}: {farewell:?}");
            rig.cell.release();
            rig.check_canary(None);
        }
        let cuts = "portcullis_http2_connections_cut_total{reason=\"protocol_error\"}";
        rig.cell.gate.wait_for_metric(cuts, rows.len() as f64);
    });
}

#[test]
fn frames_that_break_a_stream_reset_it_and_no_other() {
    let rows = frames::resets();
    in_cells(&OVER_HTTP2[..1], |rig| {
        for (what, bytes) in &rows {
            rig.cell.gate.upstream().hold();
            let mut frames = rig.cell.frames();
            frames.send(bytes);
            let seen = frames.outcome(1);
            assert!(matches!(seen, Seen::Reset(_) | Seen::GoAway(_)), "{what}: {seen:?}");
            rig.cell.release();
            if matches!(seen, Seen::Reset(_)) {
                rig.check_frames_canary(&mut frames, 3);
            }
            rig.check_canary(None);
        }
    });
}

#[test]
fn frames_that_any_client_may_send_disturb_nothing() {
    let rows = frames::harmless();
    in_cells(&OVER_HTTP2, |rig| {
        for (what, bytes) in &rows {
            for piece in [bytes.len(), 1] {
                rig.cell.forget();
                let mut frames = rig.cell.frames();
                for piece in bytes.chunks(piece) {
                    frames.send(piece);
                }
                assert_eq!(frames.outcome(1).status(), Some(200), "{what} in pieces of {piece}");
                assert_eq!(rig.cell.requests().len(), 1, "{what} in pieces of {piece}");
                rig.check_frames_canary(&mut frames, 3);
            }
        }
    });
}
