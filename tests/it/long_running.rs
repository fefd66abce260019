//! Routes that run for long: event streams and long polls outlive every deadline that their line switches off.

use std::time::Duration;

use crate::harness::{Gate, Reply, Setup, Wire, check, check_problem};

const EVENTS: &str = "/events/x";
const STREAM: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
/// Longer than every deadline of [`hasty`].
const LONG: Duration = Duration::from_millis(700);

/// Every deadline that could end a response is short.
fn hasty(setup: Setup) -> Setup {
    setup
        .option("requests", r#"timeout = "300ms""#)
        .option("client", r#"idle_timeout = "200ms""#)
        .option("client", r#"body_timeout = "200ms""#)
        .option("client", r#"header_timeout = "200ms""#)
        .option("client", r#"write_timeout = "200ms""#)
        .upstream(r#"response_timeout = "200ms""#)
        .upstream(r#"body_timeout = "200ms""#)
        .upstream(r#"idle_timeout = "200ms""#)
}

fn gate(options: &str) -> Gate {
    let needs = format!(r#"{{ require = "monitor:read", {options} }}"#);
    Gate::with(|setup| hasty(setup).route("GET /events/{*rest}", &needs))
}

fn get(gate: &Gate) -> Wire {
    let mut wire = gate.raw();
    wire.send(gate.root().render("GET", EVENTS, &[("Connection", "keep-alive")], b""));
    wire
}

#[test]
fn an_event_stream_without_deadlines_may_be_silent_for_long_and_passes_each_event_at_once() {
    let gate = gate(r#"timeout = "off", body_timeout = "off""#);
    let events = Reply::bytes(STREAM).then("7\r\ndata: 1\r\n").hold().then("7\r\ndata: 2\r\n");
    gate.upstream().reply(events.then("0\r\n\r\n"));
    let mut wire = get(&gate);
    check(&wire.read_head(), 200);
    wire.read_until(b"data: 1\r\n");
    assert!(!wire.stirs_within(LONG), "cut while it was silent");
    gate.upstream().release();
    wire.read_until(b"data: 2\r\n");
    wire.read_until(b"0\r\n\r\n");
    // Nothing of it is left on the connection.
    wire.send(gate.root().render("GET", "/open/x", &[], b""));
    check(&wire.read_response(), 200);
}

#[test]
fn an_event_stream_is_cut_by_the_deadlines_that_its_line_leaves_on() {
    for options in [r#"timeout = "off""#, r#"body_timeout = "off""#] {
        let gate = gate(options);
        gate.upstream().reply(Reply::bytes(STREAM).then("7\r\ndata: 1\r\n").hold());
        let mut wire = get(&gate);
        check(&wire.read_head(), 200);
        wire.read_until(b"data: 1\r\n");
        wire.check_closed();
        gate.upstream().wait_for_closed(1);
    }
}

#[test]
fn a_long_poll_without_deadlines_waits_for_its_answer() {
    let gate = gate(r#"timeout = "off", response_timeout = "off""#);
    gate.upstream().reply(Reply::default().hold().then("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnews"));
    let mut wire = get(&gate);
    assert!(!wire.stirs_within(LONG), "answered while nothing was new");
    gate.upstream().release();
    assert_eq!(check(&wire.read_response(), 200).text(), "news");
}

#[test]
fn a_long_poll_is_504_by_the_deadlines_that_its_line_leaves_on() {
    let cases = [(r#"timeout = "off""#, "upstream_timeout"), (r#"response_timeout = "off""#, "request_timeout")];
    for (options, code) in cases {
        let gate = gate(options);
        gate.upstream().hold();
        check_problem(&get(&gate).read_response(), 504, code);
    }
}
