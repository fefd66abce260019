//! An upstream's bytes: what passes is read in the same way by a second reader, and the connection is used again only
//! when it ended exactly where the last response did.

#![no_main]

use bytes::Bytes;
use http::Method;
use libfuzzer_sys::fuzz_target;
use portcullis::http::framing::{BadResponse, Part, ResponseLimits, Responses};
use portcullis_fuzz::http1::{self, Framing};
use portcullis_fuzz::pieces;

const LIMITS: ResponseLimits = ResponseLimits { head_bytes_max: 2 << 10, fields_max: 20 };

fuzz_target!(|bytes: &[u8]| {
    let Some((&[seed, kind], bytes)) = bytes.split_first_chunk::<2>() else { return };
    let whole = run(&[bytes], *kind_of(kind));
    let cut = run(&pieces(bytes, seed), *kind_of(kind));
    assert_eq!(whole, cut, "a verdict depends on the bytes alone");
    check(&whole, bytes, *kind_of(kind));
});

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Asked {
    Get,
    Head,
    WebSocket,
}

fn kind_of(byte: u8) -> &'static Asked {
    &[Asked::Get, Asked::Head, Asked::WebSocket][usize::from(byte % 3)]
}

#[derive(Debug, Eq, PartialEq)]
struct Verdict {
    passed: Vec<u8>,
    bad: Option<BadResponse>,
    is_clean: bool,
}

fn run(pieces: &[&[u8]], asked: Asked) -> Verdict {
    let mut responses = Responses::new(LIMITS);
    responses.announce(if asked == Asked::Head { &Method::HEAD } else { &Method::GET });
    if asked == Asked::WebSocket {
        responses.announce_upgrade();
    }
    let (mut held, mut passed) = (Vec::new(), Vec::new());
    for piece in pieces {
        held.extend_from_slice(piece);
        while !held.is_empty() {
            let len = match responses.next(&held) {
                Err(bad) => return Verdict { passed, bad: Some(bad), is_clean: false },
                Ok(Part::Partial) => break,
                Ok(Part::Data(len) | Part::Framing(len) | Part::Interim(len, _) | Part::Trailers(len, _)) => len,
                Ok(Part::Head(len)) => {
                    let head = Bytes::copy_from_slice(&held);
                    responses.head(&head).expect("what is valid can be read");
                    len
                }
            };
            assert!(len > 0, "a part has bytes");
            passed.extend(held.drain(..len));
        }
    }
    Verdict { passed, bad: None, is_clean: responses.is_reusable() }
}

fn check(verdict: &Verdict, bytes: &[u8], asked: Asked) {
    assert!(bytes.starts_with(&verdict.passed), "what passes is what came");
    let mut at = 0;
    loop {
        let left = &verdict.passed[at..];
        if left.is_empty() {
            assert!(!verdict.is_clean, "nothing was answered: {verdict:?}");
            return;
        }
        let (status, head) = http1::response_head(left).expect("no head passes in part");
        http1::check_lines(&left[..head.head_bytes]);
        at += head.head_bytes;
        assert!((100..600).contains(&status));
        if status == 101 {
            assert!(asked == Asked::WebSocket && !verdict.is_clean);
            return;
        }
        if status >= 200 {
            return check_body(verdict, &head, status, at, asked);
        }
    }
}

/// Of the final response, whose body begins at `at`.
fn check_body(verdict: &Verdict, head: &http1::Message, status: u16, at: usize, asked: Asked) {
    let framing = head.framing();
    let body = &verdict.passed[at..];
    let end = match framing {
        _ if asked == Asked::Head || matches!(status, 204 | 304) => Some(at),
        Framing::Chunked => http1::chunked(body).map(|length| at + length),
        Framing::Sized(length) => http1::sized(&verdict.passed, at, length),
        Framing::None => None,
    };
    match end {
        Some(end) => assert_eq!(end, verdict.passed.len(), "nothing passes behind a response: {verdict:?}"),
        None => assert!(!verdict.is_clean, "it has not ended: {verdict:?}"),
    }
    let is_close = |option: &[u8]| option.trim_ascii().eq_ignore_ascii_case(b"close");
    let says_close = |value: &&[u8]| value.split(|byte| *byte == b',').any(is_close);
    if verdict.is_clean {
        assert!(verdict.bad.is_none(), "bytes that belong to nobody: {verdict:?}");
        assert!(!head.values("connection").iter().any(says_close), "it says that it closes: {verdict:?}");
    }
}
