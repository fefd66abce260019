//! Clients that misuse HTTP/2, frame by frame: each is cut off in bounded time and memory, and nobody else notices.

use crate::harness::raw_h2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PREFACE, PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE,
    block, frame, head,
};
use crate::harness::{Gate, H2Client, Installation, RawH2, Reply, Seen, check};

const INITIAL_WINDOW_SIZE: u16 = 4;
const FLOW_CONTROL_ERROR: u32 = 3;
const SETTINGS_TIMEOUT: u32 = 4;
const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;
const ENHANCE_YOUR_CALM: u32 = 11;

/// A gate whose patience with clients is short, in everything that the test is not about too.
#[track_caller]
fn impatient(options: &[&str]) -> Gate {
    Gate::with(|setup| options.iter().fold(setup, |setup, option| setup.option("client", option)))
}

#[track_caller]
fn check_canary(gate: &Gate) {
    check(&H2Client::connect(gate.public()).request("GET", "/public/canary", &[], b""), 200);
}

#[track_caller]
fn check_cuts(gate: &Gate, reason: &str, count: f64) {
    gate.wait_for_metric(&format!("portcullis_http2_connections_cut_total{{reason=\"{reason}\"}}"), count);
}

#[test]
fn silent_and_dribbling_clients_are_cut() {
    let gate = impatient(&["first_byte_timeout = \"100ms\"", "header_timeout = \"100ms\""]);
    let headers = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&head("GET", "/public/x")));
    let open_block = frame(HEADERS, END_STREAM, 1, &block(&head("GET", "/public/x")));
    let settings = frame(SETTINGS, 0, 0, &[]);
    let with = |bytes: &[u8]| [PREFACE, &settings, bytes].concat();
    let begun: [(&str, Vec<u8>); 8] = [
        ("nothing", Vec::new()),
        ("one byte", PREFACE[..1].to_vec()),
        ("most of the preface", PREFACE[..23].to_vec()),
        ("the preface alone", PREFACE.to_vec()),
        ("settings alone", with(&[])),
        ("the start of a frame's head", with(&headers[..5])),
        ("the start of a frame", with(&headers[..20])),
        ("the start of a header block", with(&open_block)),
    ];
    for (what, bytes) in begun {
        let mut raw = RawH2::silent(gate.public());
        raw.send(&bytes);
        raw.farewell();
        assert_eq!(gate.upstream().connections(), 0, "{what}");
    }
    check_canary(&gate);
}

#[test]
fn settings_that_are_never_acknowledged_end_the_connection() {
    let gate = impatient(&["header_timeout = \"200ms\""]);
    let mut raw = RawH2::connect(gate.public());
    raw.mute();
    assert_eq!(raw.farewell(), Some(SETTINGS_TIMEOUT));
    check_cuts(&gate, "settings_timeout", 1.0);
    check_canary(&gate);
}

#[test]
fn body_that_stops_arriving_is_408_and_disturbs_no_other_stream() {
    let gate = impatient(&["body_timeout = \"200ms\""]);
    let (writer, reader) = (gate.telemetry_key(), gate.key(&["monitor:read"]));
    let client = H2Client::connect(gate.public());
    gate.upstream()
        .reply_on("/api/v1/slow", Reply::default().hold().then("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow"));
    let authorization = reader.authorization();
    let mut slow = client.open("GET", "/api/v1/slow", &[("authorization", &authorization)], true);
    let authorization = writer.authorization();
    let mut stalled = client.open("POST", "/api/v1/write", &[("authorization", &authorization)], false);
    stalled.send(b"begun");

    let answer = stalled.answer().unwrap();

    assert_eq!(check(&answer, 408).json()["code"], "body_timeout");
    gate.upstream().wait_for_closed(1);
    gate.upstream().release();
    assert_eq!(check(&slow.answer().unwrap(), 200).text(), "slow");
}

#[test]
fn body_frame_that_stops_in_its_middle_is_cut() {
    let gate = impatient(&["body_timeout = \"200ms\""]);
    let writer = gate.telemetry_key();
    let authorization = writer.authorization();
    let mut raw = RawH2::connect(gate.public());
    raw.request(1, &[&head("POST", "/api/v1/write")[..], &[("authorization", &authorization)]].concat(), false);
    raw.send(&frame(DATA, 0, 1, b"a whole frame's worth")[..12]);
    raw.farewell();
    check_canary(&gate);
}

/// A response of this size, whose client takes nothing of it.
#[track_caller]
fn check_stalled_stream(length: usize) {
    let gate = impatient(&["write_timeout = \"200ms\""]);
    let reader = gate.key(&["monitor:read"]);
    let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{}", "x".repeat(length));
    gate.upstream().reply_on("/api/v1/large", Reply::bytes(response));
    gate.upstream().reply_on("/api/v1/empty", Reply::bytes("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"));
    let mut raw = RawH2::with(gate.public(), &[(INITIAL_WINDOW_SIZE, 0)]);
    raw.get(1, &reader, "/api/v1/large");

    assert_eq!(raw.outcome(1), Seen::Reset(CANCEL), "{length}");

    raw.get(3, &reader, "/api/v1/empty");
    assert_eq!(raw.outcome(3).status(), Some(200), "{length}");
    gate.wait_for_metric("portcullis_http2_streams", 0.0);
    gate.wait_for_metric("portcullis_requests_in_flight", 0.0);
}

#[test]
fn stream_of_a_client_that_opens_no_window_is_reset() {
    check_stalled_stream(4 << 20);
}

#[test]
fn stream_with_a_short_response_that_is_not_taken_is_reset() {
    check_stalled_stream(5);
}

#[test]
fn stream_that_was_taken_in_part_is_reset_when_its_client_stops() {
    let gate = impatient(&["write_timeout = \"200ms\""]);
    let reader = gate.key(&["monitor:read"]);
    let response = Reply::bytes("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        .forever(format!("400\r\n{}\r\n", "x".repeat(1_024)));
    gate.upstream().reply_on("/api/v1/large", response);
    let mut raw = RawH2::with(gate.public(), &[(INITIAL_WINDOW_SIZE, 1)]);
    raw.get(1, &reader, "/api/v1/large").window_update(1, 100);
    assert_eq!(raw.outcome(1), Seen::Reset(CANCEL));
    gate.upstream().wait_for_closed(1);
}

#[test]
fn connection_of_a_client_that_takes_nothing_is_ended() {
    let gate = impatient(&["write_timeout = \"200ms\""]);
    let reader = gate.key(&["monitor:read"]);
    let response = Reply::bytes("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        .forever(format!("400\r\n{}\r\n", "x".repeat(1_024)));
    gate.upstream().reply_on("/api/v1/large", response);
    // Every stream has room, all of them together have not.
    let mut raw = RawH2::with(gate.public(), &[(INITIAL_WINDOW_SIZE, 1 << 30)]);
    for stream in 0..100 {
        raw.get(stream * 2 + 1, &reader, "/api/v1/large");
    }
    assert_eq!(raw.farewell(), Some(ENHANCE_YOUR_CALM));
    check_cuts(&gate, "stalled", 1.0);
    gate.upstream().wait_for_closed(100);
}

#[test]
fn hundred_streams_that_are_not_taken_hold_little_memory_and_end() {
    let installation = Installation::with(|setup| setup.option("client", "write_timeout = \"2s\""));
    let root = installation.init();
    let served = installation.serve();
    let caller = served.caller(&root);
    let length = 4 << 20;
    let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{}", "x".repeat(length));
    installation.upstream().reply_on("/open/large", Reply::bytes(response));
    let memory = || {
        let page = served.ops_get("/metrics").text();
        let sample = page.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes "));
        sample.expect("the sample").parse::<f64>().expect("a number")
    };
    let before = memory();
    let mut raw = RawH2::with(served.public, &[(INITIAL_WINDOW_SIZE, 0)]);
    for stream in 0..100 {
        raw.get(stream * 2 + 1, &caller, "/open/large");
    }
    // On a slow machine the first streams end before the last ones begin.
    let (mut begun, mut resets) = (0, Vec::new());
    while begun < 100 {
        let frame = raw.read().expect("an open connection");
        begun += usize::from(frame.kind == HEADERS);
        resets.extend((frame.kind == RST_STREAM).then_some(frame.payload));
    }

    let grown = memory() - before;

    assert!(grown < 64e6, "{grown} bytes for 100 responses of {length}");
    resets.resize_with(100, || raw.read_kind(RST_STREAM).payload);
    assert!(resets.iter().all(|reset| *reset == CANCEL.to_be_bytes()), "{resets:?}");
    installation.upstream().wait_for_closed(100);
}

/// Floods with one frame over and over until the gate says that it is enough.
#[track_caller]
fn check_flood(flood: &[u8], count: usize, reason: &str) {
    let gate = Gate::start();
    let mut raw = RawH2::connect(gate.public());
    raw.mute().flood(flood, count);
    let farewell = raw.farewell();
    assert!(matches!(farewell, Some(ENHANCE_YOUR_CALM) | None), "{farewell:?}");
    check_cuts(&gate, reason, 1.0);
    check_canary(&gate);
}

#[test]
fn floods_of_frames_that_move_nothing_end_the_connection() {
    for flood in [
        frame(PING, 0, 0, &[0; 8]),
        frame(SETTINGS, 0, 0, &[]),
        frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 1]),
        frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1]),
        frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
        frame(99, 0, 0, &[]),
    ] {
        check_flood(&flood, 100_000, "control_frames");
    }
}

#[test]
fn cancelling_request_after_request_ends_the_connection() {
    let gate = Gate::start();
    let mut raw = RawH2::connect(gate.public());
    let mut bytes = Vec::new();
    for stream in 0..5_000 {
        bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, stream * 2 + 1, &block(&head("GET", "/public/x"))));
        bytes.extend(frame(RST_STREAM, 0, stream * 2 + 1, &[0, 0, 0, 8]));
    }
    raw.send(&bytes);
    let farewell = raw.farewell();
    assert!(matches!(farewell, Some(ENHANCE_YOUR_CALM) | None), "{farewell:?}");
    check_cuts(&gate, "resets", 1.0);
    check_canary(&gate);
    let seen = gate.upstream().requests().len();
    assert!(seen < 1_000, "{seen} cancelled requests reached the upstream");
}

#[test]
fn making_the_gate_reset_stream_after_stream_ends_the_connection() {
    let gate = Gate::start();
    let faults: [&dyn Fn(u32) -> Vec<u8>; 3] = [
        &|stream| frame(WINDOW_UPDATE, 0, stream, &[0x7f, 0xff, 0xff, 0xff]),
        &|stream| frame(DATA, END_STREAM, stream, b"after the end"),
        &|stream| frame(PRIORITY, 0, stream, &[&stream.to_be_bytes()[..], &[1]].concat()),
    ];
    for (at, fault) in faults.into_iter().enumerate() {
        let mut raw = RawH2::connect(gate.public());
        gate.upstream().hold();
        let mut bytes = Vec::new();
        for stream in (1..20_000).step_by(2) {
            bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&head("GET", "/public/x"))));
            bytes.extend(fault(stream));
        }
        raw.send(&bytes);
        let farewell = raw.farewell();
        assert!(farewell != Some(0), "{at}: {farewell:?}");
        gate.upstream().release();
        check_canary(&gate);
    }
    let seen = gate.upstream().requests().len();
    assert!(seen < 2_000, "{seen}");
}

#[test]
fn tiny_pieces_of_a_body_are_bounded() {
    let gate = Gate::start();
    let writer = gate.telemetry_key();
    let authorization = writer.authorization();
    // The upstream takes nothing: what is not read piles up.
    gate.upstream().reply_on("/api/v1/write", Reply::default().before_body().hold());
    for (at, piece) in
        [frame(DATA, 0, 1, b""), frame(DATA, 0, 1, b"x"), frame(DATA, 8, 1, &[200; 201])].iter().enumerate()
    {
        let mut raw = RawH2::connect(gate.public());
        raw.request(1, &[&head("POST", "/api/v1/write")[..], &[("authorization", &authorization)]].concat(), false);
        raw.flood(piece, 1_000_000);
        let farewell = raw.farewell();
        assert!(farewell != Some(0), "{at}: {farewell:?}");
        check_canary(&gate);
    }
}

#[test]
fn endless_header_blocks_end_the_connection() {
    let gate = Gate::start();
    let open = frame(HEADERS, END_STREAM, 1, &block(&head("GET", "/public/x")));
    for piece in [frame(CONTINUATION, 0, 1, &[]), frame(CONTINUATION, 0, 1, &block(&[("x-y", "z".repeat(10_000))]))] {
        let mut raw = RawH2::connect(gate.public());
        raw.send(&open).flood(&piece, 10_000);
        let farewell = raw.farewell();
        assert!(farewell != Some(0), "{farewell:?}");
    }
    assert_eq!(gate.upstream().connections(), 0);
    check_canary(&gate);
}

#[test]
fn list_of_headers_that_is_far_too_large_ends_the_connection() {
    let gate = Gate::start();
    // The one field is in the table after the first time: each byte stands for four thousand.
    let mut kept = block(&[("x", "y".repeat(4_000))]);
    kept[0] = 0x40;
    let bytes = [block(&head("GET", "/public/x")), kept, vec![0xbe; 10_000]].concat();
    let mut raw = RawH2::connect(gate.public());
    raw.frame(HEADERS, END_HEADERS | END_STREAM, 1, &bytes);
    assert_eq!(raw.outcome(1), Seen::GoAway(ENHANCE_YOUR_CALM));
    check_cuts(&gate, "excess", 1.0);
    check_canary(&gate);
}

#[test]
fn streams_over_the_limit_are_refused_and_may_be_repeated() {
    let gate = Gate::with(|setup| setup.option("http2", "streams_max = 2"));
    let reader = gate.key(&["monitor:read"]);
    gate.upstream().hold();
    let mut raw = RawH2::connect(gate.public());
    for stream in [1, 3, 5] {
        raw.get(stream, &reader, "/api/v1/query");
    }
    assert_eq!(raw.outcome(5), Seen::Reset(REFUSED_STREAM));
    gate.upstream().wait_for_requests(2);
    gate.upstream().release();
    assert_eq!(raw.outcome(1).status(), Some(200));
    raw.get(7, &reader, "/api/v1/query");
    assert_eq!(raw.outcome(7).status(), Some(200));
    assert_eq!(gate.upstream().requests().len(), 3);
}

#[test]
fn window_of_a_stream_beyond_its_maximum_resets_the_stream() {
    let gate = Gate::start();
    gate.upstream().hold();
    let mut raw = RawH2::connect(gate.public());
    raw.request(1, &head("GET", "/public/x"), true).window_update(1, i32::MAX as u32);
    assert_eq!(raw.outcome(1), Seen::Reset(FLOW_CONTROL_ERROR));
    gate.upstream().release();
    raw.request(3, &head("GET", "/public/x"), true);
    assert_eq!(raw.outcome(3).status(), Some(200));
}

#[test]
fn client_that_does_not_answer_pings_is_cut() {
    let gate = Gate::with(|setup| {
        setup.option("http2", "ping_interval = \"100ms\"").option("http2", "ping_timeout = \"100ms\"")
    });
    gate.upstream().hold();
    let mut raw = RawH2::connect(gate.public());
    raw.read_kind(SETTINGS);
    raw.mute().request(1, &head("GET", "/public/x"), true);
    raw.read_kind(PING);
    raw.farewell();
    gate.upstream().wait_for_closed(1);
}

#[test]
fn bodies_of_requests_that_come_at_once_are_each_waited_for_by_the_same_deadline() {
    let gate = impatient(&["body_timeout = \"200ms\""]);
    let writer = gate.telemetry_key();
    let authorization = writer.authorization();
    // Some of these sizes leave a header block cut in two wherever a buffer ends.
    for length in 484..492 {
        let filler = "z".repeat(length);
        let fields = [&head("POST", "/api/v1/write")[..], &[("authorization", &authorization), ("x-filler", &filler)]];
        let fields = block(&fields.concat());
        let streams = (1..160).step_by(2);
        let requests: Vec<u8> = streams.clone().flat_map(|id| frame(HEADERS, END_HEADERS, id, &fields)).collect();
        let mut raw = RawH2::connect(gate.public());

        raw.send(&requests);

        let mut answered = std::collections::BTreeSet::new();
        while answered.len() < streams.len() {
            answered.insert(raw.read_kind(HEADERS).stream);
        }
    }
}

#[test]
fn body_that_other_bodies_leave_no_room_for_is_not_given_up() {
    let gate = Gate::with(|setup| {
        let setup =
            setup.option("client", "body_timeout = \"200ms\"").option("http2", "connection_window = \"128KiB\"");
        setup.upstream("concurrency = 1").upstream("queue_timeout = \"1h\"")
    });
    let late = Reply::default().hold().then("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    gate.upstream().reply_on("/public/slow", late);
    let post = head("POST", "/public/x");
    let mut raw = RawH2::connect(gate.public());
    raw.request(1, &head("GET", "/public/slow"), true).read_kind(WINDOW_UPDATE);
    gate.upstream().wait_for_requests(1);
    // While these wait for their turn nobody reads them.
    raw.request(3, &post, false).frame(DATA, 0, 3, &[b'x'; 100]).request(5, &post, false);
    // As much as the window has left.
    for length in [16_384; 7].into_iter().chain([16_284]) {
        raw.frame(DATA, 0, 5, &vec![b'x'; length]);
    }

    // By the time that this one is given up they had been silent for longer.
    let mut other = RawH2::connect(gate.public());
    other.request(1, &post, false);
    assert_eq!(other.outcome(1).status(), Some(408));

    gate.upstream().release();
    assert_eq!(raw.outcome(1).status(), Some(200));
    raw.frame(DATA, END_STREAM, 3, &[]);
    assert_eq!(raw.outcome(3).status(), Some(200));
}

#[test]
fn body_that_stops_arriving_is_408_where_nothing_else_is_waited_for() {
    let gate = Gate::with(|setup| {
        let patient = "{ require = \"public\", timeout = \"off\", response_timeout = \"off\" }";
        setup.option("client", "body_timeout = \"200ms\"").route("POST /public/patient", patient)
    });
    let mut raw = RawH2::connect(gate.public());
    raw.request(1, &head("POST", "/public/patient"), false).frame(DATA, 0, 1, b"begun");

    assert_eq!(raw.outcome(1).status(), Some(408));
}
