//! The limits of `[http2]`, each set low and seen to bite, and each at its default with a client that means well.

use crate::harness::raw_h2::{
    DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE, block, frame, head,
};
use crate::harness::{Gate, RawH2, Reply, Seen};

const FLOW_CONTROL_ERROR: u32 = 3;
const FRAME_SIZE_ERROR: u32 = 6;
const ENHANCE_YOUR_CALM: u32 = 11;
const ACK: u8 = 1;
/// The largest frame that needs no agreement.
const PIECE: usize = 16_384;

#[track_caller]
fn gate_with(option: Option<&str>) -> Gate {
    Gate::with(|setup| option.into_iter().fold(setup, |setup, option| setup.option("http2", option)))
}

#[track_caller]
fn check_still_serves(raw: &mut RawH2, stream: u32) {
    raw.request(stream, &head("GET", "/public/canary"), true);
    assert_eq!(raw.outcome(stream).status(), Some(200));
}

#[track_caller]
fn check_cut(gate: &Gate, reason: &str) {
    gate.wait_for_metric(&format!("portcullis_http2_connections_cut_total{{reason=\"{reason}\"}}"), 1.0);
}

#[test]
fn errors_of_a_client_over_their_limit_end_the_connection() {
    const FAULTS: u32 = 8;
    for (option, is_cut) in [(Some("errors_max = 3"), true), (None, false)] {
        let gate = gate_with(option);
        gate.upstream().reply_on("/public/held", Reply::default().hold());
        let mut raw = RawH2::connect(gate.public());
        let mut codes = Vec::new();
        for stream in (0..FAULTS).map(|number| number * 2 + 1) {
            raw.request(stream, &head("GET", "/public/held"), true).window_update(stream, i32::MAX as u32);
            codes.push(raw.outcome(stream));
            if codes.last() != Some(&Seen::Reset(FLOW_CONTROL_ERROR)) {
                break;
            }
        }
        if is_cut {
            assert_eq!(codes.len(), 4, "{codes:?}");
            assert_eq!(codes[3], Seen::GoAway(ENHANCE_YOUR_CALM));
            check_cut(&gate, "excess");
        } else {
            assert_eq!(codes.len(), FAULTS as usize, "{codes:?}");
            check_still_serves(&mut raw, 101);
        }
        gate.upstream().release();
    }
}

#[test]
fn requests_that_are_cancelled_in_the_same_breath_do_not_pile_up_unseen() {
    // Were they not looked at one by one, the second would end the connection.
    let gate = gate_with(Some("resets_pending_max = 1"));
    let mut raw = RawH2::connect(gate.public());
    let streams = (0..100).map(|number| number * 2 + 1);
    let bytes: Vec<u8> = streams
        .flat_map(|stream| {
            let request = frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&head("GET", "/public/x")));
            [request, frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
        })
        .collect();
    raw.send(&bytes);
    check_still_serves(&mut raw, 201);
}

#[test]
fn cancelled_requests_over_their_rate_end_the_connection() {
    for (option, is_cut) in [(Some("resets = \"1/s\""), true), (None, false)] {
        let gate = gate_with(option);
        gate.upstream().reply_on("/public/held", Reply::default().hold());
        let mut raw = RawH2::connect(gate.public());
        for stream in (0..50).map(|number| number * 2 + 1) {
            raw.request(stream, &head("GET", "/public/held"), true).reset(stream);
        }
        if is_cut {
            assert_eq!(raw.farewell(), Some(ENHANCE_YOUR_CALM));
            check_cut(&gate, "resets");
        } else {
            check_still_serves(&mut raw, 101);
        }
        gate.upstream().release();
    }
}

#[test]
fn frames_that_move_nothing_over_their_rate_end_the_connection() {
    for flood in [frame(PING, 0, 0, &[0; 8]), frame(SETTINGS, 0, 0, &[]), frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])] {
        for (option, is_cut) in [(Some("control_frames = \"1/s\""), true), (None, false)] {
            let gate = gate_with(option);
            let mut raw = RawH2::connect(gate.public());
            raw.flood(&flood, 100);
            if is_cut {
                assert_eq!(raw.farewell(), Some(ENHANCE_YOUR_CALM));
                check_cut(&gate, "control_frames");
            } else {
                check_still_serves(&mut raw, 1);
            }
        }
    }
}

#[test]
fn ping_for_each_small_piece_of_a_response_is_no_flood() {
    const PIECES: usize = 100;
    let gate = gate_with(Some("control_frames = \"1/s\""));
    gate.upstream().reply_on("/public/small", Reply::bytes("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
    let mut raw = RawH2::connect(gate.public());
    for stream in (0..PIECES as u32).map(|number| number * 2 + 1) {
        raw.request(stream, &head("GET", "/public/small"), true);
        let seen = raw.outcome(stream);
        assert_eq!(seen.status(), Some(200), "{stream}: {seen:?}");
        raw.frame(PING, 0, 0, &[0; 8]);
        while raw.read_kind(PING).flags & ACK == 0 {}
    }
}

#[test]
fn frames_over_the_size_that_was_announced_end_the_connection() {
    const MAX_FRAME_SIZE: [u8; 2] = [0, 5];
    for (option, max) in [(Some("frame_bytes_max = \"32KiB\""), 32_768_u32), (None, 16_384)] {
        let gate = gate_with(option);
        let mut raw = RawH2::connect(gate.public());
        let settings = raw.read_kind(SETTINGS).payload;
        let announced = settings
            .chunks(6)
            .find(|entry| entry[..2] == MAX_FRAME_SIZE)
            .map_or(16_384, |entry| u32::from_be_bytes([entry[2], entry[3], entry[4], entry[5]]));
        assert_eq!(announced, max);
        let post = head("POST", "/public/x");
        raw.request(1, &post, false).frame(DATA, END_STREAM, 1, &vec![b'x'; max as usize]);
        assert_eq!(raw.outcome(1).status(), Some(200));
        raw.request(3, &post, false).frame(DATA, END_STREAM, 3, &vec![b'x'; max as usize + 1]);
        assert_eq!(raw.read_kind(GOAWAY).payload[4..8], FRAME_SIZE_ERROR.to_be_bytes());
    }
}

/// A gate at which bodies wait for their turn unread, and a client whose first request is what they wait for.
#[track_caller]
fn waiting(option: Option<&str>) -> (Gate, RawH2) {
    let gate = Gate::with(|setup| {
        let setup = option.into_iter().fold(setup, |setup, option| setup.option("http2", option));
        setup.upstream("concurrency = 1").upstream("queue_timeout = \"1h\"")
    });
    let late = Reply::default().hold().then("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    gate.upstream().reply_on("/public/slow", late);
    gate.upstream().reply_on("/public/x", Reply::bytes("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"));
    let mut raw = RawH2::connect(gate.public());
    // The window of a stream holds once it was acknowledged.
    raw.read_kind(SETTINGS);
    raw.request(1, &head("GET", "/public/slow"), true);
    gate.upstream().wait_for_requests(1);
    (gate, raw)
}

#[test]
fn body_over_the_window_of_its_stream_is_reset() {
    for (option, is_reset) in [(Some("stream_window = \"16KiB\""), true), (None, false)] {
        let (gate, mut raw) = waiting(option);
        raw.request(3, &head("POST", "/public/x"), false);
        raw.frame(DATA, 0, 3, &[b'x'; PIECE]).frame(DATA, END_STREAM, 3, b"more");
        if is_reset {
            assert_eq!(raw.outcome(3), Seen::Reset(FLOW_CONTROL_ERROR));
        }
        gate.upstream().release();
        let rest = if is_reset { 1 } else { 3 };
        assert_eq!(raw.outcome(rest).status(), Some(200));
        check_still_serves(&mut raw, 5);
    }
}

#[test]
fn bodies_over_the_window_of_their_connection_end_it() {
    for (option, is_cut) in [(Some("connection_window = \"64KiB\""), true), (None, false)] {
        let (gate, mut raw) = waiting(option);
        for stream in [3, 5] {
            raw.request(stream, &head("POST", "/public/x"), false);
            for flags in [0, 0, END_STREAM] {
                raw.frame(DATA, flags, stream, &[b'x'; PIECE]);
            }
        }
        if is_cut {
            assert_eq!(raw.outcome(5), Seen::GoAway(FLOW_CONTROL_ERROR));
            check_cut(&gate, "protocol_error");
        }
        gate.upstream().release();
        if !is_cut {
            assert_eq!(raw.outcome(5).status(), Some(200));
        }
    }
}
