//! Connections that pause between requests: whatever comes after a pause is served as if there had been none.

use std::time::Duration;

use crate::harness::{Gate, Wire, check, check_problem};

const QUERY: &str = "/api/v1/query";
/// Well within `idle_timeout`, and longer than any wait that a request has of its own.
const PAUSE: Duration = Duration::from_millis(500);

fn patient() -> Gate {
    Gate::with(|setup| {
        setup.option("client", r#"idle_timeout = "1600ms""#).option("client", r#"body_timeout = "200ms""#)
    })
}

#[test]
fn what_comes_after_a_pause_is_served_whole_in_order_and_as_strictly() {
    let gate = patient();
    let reader = gate.key(&["monitor:read"]).keep_alive();
    let request = |body: &str| reader.render("POST", QUERY, &[], body.as_bytes());
    let mut wires: Vec<Wire> = (0..5).map(|_| gate.raw()).collect();
    for wire in &mut wires {
        wire.send(request("before"));
        assert_eq!(check(&wire.read_response(), 200).text(), "before");
    }
    let [whole, pieces, pipeline, malformed, stalled] = &mut wires[..] else { unreachable!() };
    assert!(!whole.stirs_within(PAUSE));

    let long = "x".repeat(100_000);
    whole.send(request(&long));
    assert_eq!(check(&whole.read_response(), 200).text(), long);

    let bytes = request("in pieces");
    let bytes: &[u8] = bytes.as_ref();
    let (first, rest) = bytes.split_at(7);
    pieces.send(first);
    assert!(!pieces.stirs_within(Duration::from_millis(20)));
    pieces.send(rest);
    assert_eq!(check(&pieces.read_response(), 200).text(), "in pieces");

    pipeline.send([request("one"), request("two"), request("three")].concat());
    for body in ["one", "two", "three"] {
        assert_eq!(check(&pipeline.read_response(), 200).text(), body);
    }

    malformed.send([request("good"), "GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".into()].concat());
    assert_eq!(check(&malformed.read_response(), 200).text(), "good");
    check(&malformed.read_response(), 400);
    malformed.check_closed();

    let cut = request("never whole");
    let cut: &[u8] = cut.as_ref();
    stalled.send(&cut[..cut.len() - 3]);
    check_problem(&stalled.read_response(), 408, "body_timeout");
    stalled.check_closed();
}

#[test]
fn a_connection_that_goes_on_pausing_is_let_go_in_time() {
    let gate = patient();
    let mut wire = gate.raw();
    wire.send(gate.key(&["monitor:read"]).keep_alive().render("GET", QUERY, &[], b""));
    check(&wire.read_response(), 200);
    assert!(!wire.stirs_within(PAUSE));
    wire.check_closed();
}
