//! A client's bytes: whatever passes the framing rules is read in the same way by a second reader, however it was cut
//! into reads, and holds no bare line end.

#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::http::framing::{Malformed, Progress, RequestLimits, Requests, Rules};
use portcullis_fuzz::{http1, pieces};

const LIMITS: RequestLimits = RequestLimits { head_bytes_max: 2 << 10, fields_max: 20, target_bytes_max: 512 };

fuzz_target!(|bytes: &[u8]| {
    let Some((seed, bytes)) = bytes.split_first() else { return };
    let whole = run(&[bytes]);
    assert_eq!(run(&pieces(bytes, *seed)), whole, "a verdict depends on the bytes alone");
    check(&whole);
});

#[derive(Debug, Eq, PartialEq)]
struct Verdict {
    passed: Vec<u8>,
    heads: u64,
    malformed: Option<Malformed>,
    is_undecided: bool,
    is_in_body: bool,
}

fn run(pieces: &[&[u8]]) -> Verdict {
    let mut rules = Requests::new(LIMITS);
    let (mut held, mut passed, mut malformed) = (Vec::new(), Vec::new(), None);
    'pieces: for piece in pieces {
        held.extend_from_slice(piece);
        loop {
            match rules.advance(&mut held) {
                Ok(Progress { pass: 0, skip: 0 }) => break,
                Ok(Progress { pass, skip }) => passed.extend(held.drain(..pass + skip).take(pass)),
                Err(violation) => {
                    malformed = Some(violation);
                    break 'pieces;
                }
            }
        }
    }
    let (is_undecided, is_in_body) = (rules.is_undecided(), rules.is_in_body());
    Verdict { passed, heads: rules.heads(), malformed, is_undecided, is_in_body }
}

fn check(verdict: &Verdict) {
    let mut left = verdict.passed.as_slice();
    let mut heads = 0;
    let mut is_in_body = false;
    while !left.is_empty() {
        let request = http1::request(left).expect("no head passes in part");
        heads += 1;
        check_head(&left[..request.head_bytes], &request);
        is_in_body = request.end.is_none();
        left = &left[request.end.unwrap_or(left.len())..];
    }
    assert_eq!(heads, verdict.heads);
    assert_eq!(is_in_body, verdict.is_in_body, "both readers are at the same place: {verdict:?}");
}

fn check_head(head: &[u8], request: &http1::Message) {
    http1::check_lines(head);
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let [method, target, version] = words[..] else { panic!("three words: {}", line.escape_ascii()) };
    assert_eq!((method, target), (request.start[0].as_bytes(), request.start[1].as_bytes()));
    assert!(matches!(version, b"HTTP/1.0" | b"HTTP/1.1"));
    assert!(target.starts_with(b"/") && !target.contains(&b'#') && method != b"CONNECT");
    assert!(head.len() <= LIMITS.head_bytes_max && target.len() <= LIMITS.target_bytes_max);
    assert!(request.fields.len() <= LIMITS.fields_max);
    let hosts = request.values("host").len();
    assert!(hosts == 1 || (hosts == 0 && version == b"HTTP/1.0"), "one host: {request:?}");
    assert!(request.values("upgrade").is_empty(), "hyper must not see it");
}
