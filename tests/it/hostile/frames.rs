//! Part G as far as it is about frames: what no client may send, and what every one may (RFC 9113 §§3 to 6, RFC 7541).

use crate::harness::raw_h2::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PRIORITY, PUSH_PROMISE, RST_STREAM,
    SETTINGS, WINDOW_UPDATE, block, frame, head,
};

const PADDED: u8 = 8;
const WITH_PRIORITY: u8 = 32;
const BOTH: u8 = END_HEADERS | END_STREAM;

fn get() -> Vec<u8> {
    block(&head("GET", "/public/x"))
}

fn post() -> Vec<u8> {
    block(&head("POST", "/public/x"))
}

/// Frames in a row.
type Row = (&'static str, Vec<u8>);

/// What ends the connection with an error.
pub(crate) fn fatal() -> Vec<Row> {
    let mut rows = Vec::new();
    framing(&mut rows);
    settings_and_pings(&mut rows);
    streams(&mut rows);
    compression(&mut rows);
    rows
}

fn framing(rows: &mut Vec<Row>) {
    let long = vec![0; 16_385];
    for (what, kind, stream) in [
        ("DATA over its size", DATA, 1),
        ("HEADERS over its size", HEADERS, 1),
        ("SETTINGS over its size", SETTINGS, 0),
        ("PING over its size", PING, 0),
        ("GOAWAY over its size", GOAWAY, 0),
        ("a frame of no kind over its size", 99, 0),
    ] {
        rows.push((what, frame(kind, 0, stream, &long)));
    }
    let open = frame(HEADERS, END_HEADERS, 1, &post());
    let block_open = frame(HEADERS, END_STREAM, 1, &get());
    let mut put = |what, frames: &[Vec<u8>]| rows.push((what, frames.concat()));
    put("DATA that is all padding and more", &[open.clone(), frame(DATA, PADDED, 1, &[5, 0, 0])]);
    put("DATA with padding and no length of it", &[open, frame(DATA, PADDED, 1, &[])]);
    put("HEADERS that are all padding and more", &[frame(HEADERS, BOTH | PADDED, 1, &[200, 0, 0])]);
    put("HEADERS with a priority cut short", &[frame(HEADERS, BOTH | WITH_PRIORITY, 1, &[0, 0, 0])]);
    for (what, kind, stream) in [
        ("PING within a header block", PING, 0),
        ("DATA within a header block", DATA, 1),
        ("HEADERS within a header block", HEADERS, 3),
        ("a frame of no kind within a header block", 99, 0),
        ("SETTINGS within a header block", SETTINGS, 0),
        ("CONTINUATION of another stream", CONTINUATION, 3),
        ("WINDOW_UPDATE within a header block", WINDOW_UPDATE, 0),
    ] {
        let payload: &[u8] = if kind == WINDOW_UPDATE {
            &[0, 0, 0, 1]
        } else if kind == SETTINGS {
            &[]
        } else {
            &[0; 8]
        };
        put(what, &[block_open.clone(), frame(kind, 0, stream, payload)]);
    }
    put("CONTINUATION of nothing", &[frame(CONTINUATION, END_HEADERS, 1, &[])]);
    put(
        "CONTINUATION of a block that has ended",
        &[frame(HEADERS, BOTH, 1, &get()), frame(CONTINUATION, END_HEADERS, 1, &get())],
    );
    put("CONTINUATION on no stream", &[frame(CONTINUATION, END_HEADERS, 0, &get())]);
    put("a push from a client", &[frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])]);
    put("a push on no stream", &[frame(PUSH_PROMISE, END_HEADERS, 0, &[0, 0, 0, 2])]);
    put("PRIORITY on no stream", &[frame(PRIORITY, 0, 0, &[0; 5])]);
}

fn settings_and_pings(rows: &mut Vec<Row>) {
    let setting = |id: u16, value: u32| frame(SETTINGS, 0, 0, &[&id.to_be_bytes()[..], &value.to_be_bytes()].concat());
    rows.extend([
        ("settings of odd length", frame(SETTINGS, 0, 0, &[0; 5])),
        ("settings of odd length behind a whole one", frame(SETTINGS, 0, 0, &[0; 7])),
        ("settings on a stream", frame(SETTINGS, 0, 1, &[])),
        ("acknowledgement with content", frame(SETTINGS, ACK, 0, &[0; 6])),
        ("push neither on nor off", setting(2, 2)),
        ("initial window beyond its maximum", setting(4, 1 << 31)),
        ("frames too small", setting(5, 16_383)),
        ("frames too large", setting(5, 1 << 24)),
        ("short ping", frame(PING, 0, 0, &[0; 7])),
        ("long ping", frame(PING, 0, 0, &[0; 9])),
        ("ping on a stream", frame(PING, 0, 1, &[0; 8])),
        ("goaway on a stream", frame(GOAWAY, 0, 1, &[0; 8])),
        ("short goaway", frame(GOAWAY, 0, 0, &[0; 7])),
        ("window beyond its maximum", frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])),
        ("window update of nothing", frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
        ("short window update", frame(WINDOW_UPDATE, 0, 0, &[0; 3])),
        ("long window update", frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1, 0])),
        ("window update of a stream that was never opened", frame(WINDOW_UPDATE, 0, 9, &[0, 0, 0, 1])),
    ]);
}

fn streams(rows: &mut Vec<Row>) {
    let whole = |stream: u32| frame(HEADERS, BOTH, stream, &get());
    rows.extend([
        ("even stream", whole(2)),
        ("stream 0", whole(0)),
        ("a stream below one that was opened", [whole(5), whole(3)].concat()),
        ("data on stream 0", frame(DATA, 0, 0, b"x")),
        ("data on a stream that was never opened", frame(DATA, 0, 9, b"x")),
        ("reset of no stream", frame(RST_STREAM, 0, 0, &[0; 4])),
        ("reset of a stream that was never opened", frame(RST_STREAM, 0, 9, &[0; 4])),
        ("short reset", [frame(HEADERS, END_HEADERS, 1, &post()), frame(RST_STREAM, 0, 1, &[0; 3])].concat()),
        ("long reset", [frame(HEADERS, END_HEADERS, 1, &post()), frame(RST_STREAM, 0, 1, &[0; 5])].concat()),
    ]);
}

fn compression(rows: &mut Vec<Row>) {
    let with = |bytes: &[u8]| frame(HEADERS, BOTH, 1, &[&get()[..], bytes].concat());
    rows.extend([
        ("index 0", with(&[0x80])),
        ("an index beyond the table", with(&[0xff, 0xff, 0x7f])),
        ("an index just beyond the table", with(&[0x80 | 62])),
        ("a name's index beyond the table", with(&[0x7f, 0x20, 1, b'x'])),
        ("an integer without end", with(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f])),
        ("an integer that is cut", with(&[0xff, 0xff])),
        ("a literal that is cut", with(&[0, 5, b'x'])),
        ("a literal longer than any", with(&[0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0x0f])),
        ("Huffman padding of a whole byte", with(&[0, 1, b'x', 0x82, 0x1f, 0xff, 0xff])),
        ("Huffman padding with zeros", with(&[0, 1, b'x', 0x81, 0x18])),
        ("Huffman end of string", with(&[0, 1, b'x', 0x84, 0xff, 0xff, 0xff, 0xff])),
        ("a table larger than was offered", frame(HEADERS, BOTH, 1, &[&[0x3f, 0xe2, 0x1f][..], &get()].concat())),
        ("a table's new size behind a field", with(&[0x20])),
    ]);
}

/// What resets its stream, and nothing else.
pub(crate) fn resets() -> Vec<Row> {
    let itself = [&[0, 0, 0, 1, 16], &get()[..]].concat();
    let held = |more: Vec<u8>| [frame(HEADERS, BOTH, 1, &get()), more].concat();
    vec![
        ("a stream that depends on itself", frame(HEADERS, BOTH | WITH_PRIORITY, 1, &itself)),
        ("data behind the end", held(frame(DATA, END_STREAM, 1, b"x"))),
        ("a head behind the end", held(frame(HEADERS, BOTH, 1, &get()))),
        ("a window beyond its maximum", held(frame(WINDOW_UPDATE, 0, 1, &[0x7f, 0xff, 0xff, 0xff]))),
        ("a window update of nothing", held(frame(WINDOW_UPDATE, 0, 1, &[0; 4]))),
    ]
}

/// What every client may send, behind which stream 1 is answered.
pub(crate) fn harmless() -> Vec<Row> {
    let request = frame(HEADERS, BOTH, 1, &get());
    let before = |frames: Vec<u8>| [frames, request.clone()].concat();
    let mut rows = vec![
        ("a frame of no kind", before(frame(99, 0xff, 0, b"whatever"))),
        ("a frame of no kind on a stream", before(frame(99, 0xff, 7, b"whatever"))),
        ("a setting of no kind", before(frame(SETTINGS, 0, 0, &[0x7f, 0xff, 1, 2, 3, 4]))),
        ("settings again and again", before(frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0, 0, 4, 0, 2, 0, 0]))),
        ("a ping's answer that nobody asked for", before(frame(PING, ACK, 0, &[7; 8]))),
        ("flags that mean nothing", before(frame(PING, 0xfe, 0, &[7; 8]))),
        ("the reserved bit", before(frame(WINDOW_UPDATE, 0, 0x8000_0000, &[0x80, 0, 0, 1]))),
        ("PRIORITY of an idle stream", before(frame(PRIORITY, 0, 7, &[0, 0, 0, 0, 16]))),
        ("a head with padding", frame(HEADERS, BOTH | PADDED, 1, &[&[3], &get()[..], &[0; 3]].concat())),
        ("a head with a priority", frame(HEADERS, BOTH | WITH_PRIORITY, 1, &[&[0, 0, 0, 0, 16], &get()[..]].concat())),
        ("a smaller table", frame(HEADERS, BOTH, 1, &[&[0x20, 0x3f, 0xe1, 0x1f][..], &get()].concat())),
        ("a stream that is not the first", frame(HEADERS, BOTH, 1, &get())),
        (
            "empty CONTINUATION",
            [
                frame(HEADERS, END_STREAM, 1, &[]),
                frame(CONTINUATION, 0, 1, &[]),
                frame(CONTINUATION, END_HEADERS, 1, &get()),
            ]
            .concat(),
        ),
        (
            "a body with padding",
            [frame(HEADERS, END_HEADERS, 1, &post()), frame(DATA, END_STREAM | PADDED, 1, &[2, b'x', 0, 0])].concat(),
        ),
    ];
    let block = get();
    for at in 0..=block.len() {
        let frames = [frame(HEADERS, END_STREAM, 1, &block[..at]), frame(CONTINUATION, END_HEADERS, 1, &block[at..])];
        rows.push(("a block in two frames", frames.concat()));
    }
    rows
}
