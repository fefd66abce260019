//! A client's HTTP/2 bytes before hyper sees them: frames are told as a plain reading tells them, however they are cut,
//! and the rules pass whole heads alone.

#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::http::framing::frames::{Event, Frames, HEAD_BYTES, PREFACE};
use portcullis::server::fuzzing::client_frames;
use portcullis_fuzz::{Choices, pieces};

fuzz_target!(|bytes: &[u8]| {
    let mut choices = Choices(bytes);
    let seed = choices.byte();
    let frames = if choices.byte() % 2 == 0 { choices.0.to_vec() } else { composed(&mut choices) };
    let whole = events(&[&frames]);
    assert_eq!(events(&pieces(&frames, seed)), whole);
    assert_eq!(whole, naive(&frames), "{}", frames.escape_ascii());

    let wire = [PREFACE, frames.as_slice()].concat();
    let (passed, cut) = client_frames(&pieces(&wire, seed));
    assert!(passed <= wire.len() && (cut.is_some() || left_over(&wire[passed..])), "{passed} {cut:?}");
    let (passed, cut) = client_frames(&[&frames]);
    assert!(PREFACE.starts_with(&frames[..frames.len().min(PREFACE.len())]) || (passed == 0 && cut.is_some()));
});

/// Nothing is held back but a head that has not ended.
fn left_over(held: &[u8]) -> bool {
    held.len() < HEAD_BYTES
}

/// Frames of which all but the payload is in order.
fn composed(choices: &mut Choices<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    while !choices.is_over() {
        let (kind, flags, stream) = (choices.byte() % 12, choices.byte(), choices.byte() % 16);
        let payload = choices.bytes();
        let length = u32::try_from(payload.len()).expect("a byte's worth").to_be_bytes();
        bytes.extend_from_slice(&length[1..]);
        bytes.extend_from_slice(&[kind, flags, 0, 0, 0, stream]);
        bytes.extend_from_slice(payload);
    }
    bytes
}

fn events(pieces: &[&[u8]]) -> Vec<String> {
    let mut frames = Frames::default();
    let mut events = Vec::new();
    for mut bytes in pieces.iter().copied() {
        while frames.can_step(bytes) {
            let (taken, event) = frames.step(bytes);
            bytes = &bytes[taken..];
            events.extend(event.map(shown));
        }
    }
    events
}

fn shown(event: Event) -> String {
    match event {
        Event::Begins(frame) => format!("begins {:?} {} {}", frame.kind, frame.stream, frame.len),
        Event::Ends(frame) => format!("ends {}", frame.stream),
        Event::GoAway { code } => format!("goaway {code}"),
        Event::Setting { id, value } => format!("setting {id} {value}"),
        Event::WindowUpdate { stream, increment } => format!("window {stream} {increment}"),
    }
}

/// RFC 9113 §4.1, §6.5.1, §6.8, §6.9.
fn naive(mut left: &[u8]) -> Vec<String> {
    const KINDS: [&str; 10] = [
        "Data",
        "Headers",
        "Priority",
        "Reset",
        "Settings",
        "PushPromise",
        "Ping",
        "GoAway",
        "WindowUpdate",
        "Continuation",
    ];
    let number = |bytes: &[u8]| bytes.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    let mut events = Vec::new();
    while left.len() >= HEAD_BYTES {
        let (length, kind, stream) = (number(&left[..3]) as usize, left[3], number(&left[5..9]) & 0x7fff_ffff);
        events.push(format!("begins {} {stream} {length}", KINDS.get(usize::from(kind)).unwrap_or(&"Unknown")));
        left = &left[HEAD_BYTES..];
        let payload = &left[..length.min(left.len())];
        match kind {
            4 => events.extend(
                payload.chunks_exact(6).map(|entry| format!("setting {} {}", number(&entry[..2]), number(&entry[2..]))),
            ),
            7 if payload.len() >= 8 => events.push(format!("goaway {}", number(&payload[4..8]))),
            8 => events.extend(
                payload.chunks_exact(4).map(|entry| format!("window {stream} {}", number(entry) & 0x7fff_ffff)),
            ),
            _ => {}
        }
        if payload.len() < length {
            break;
        }
        events.push(format!("ends {stream}"));
        left = &left[length..];
    }
    events
}
