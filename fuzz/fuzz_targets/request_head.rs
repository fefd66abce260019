//! A client's bytes: whatever passes the framing rules is read in the same way by a second reader, however it was cut
//! into reads, and holds no bare line end.

#![no_main]

use bytes::Bytes;
use http::Request;
use libfuzzer_sys::fuzz_target;
use portcullis::http::framing::{Malformed, RequestLimits, RequestPart, Requests};
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
    /// Method, target and fields of each request.
    requests: Vec<(Vec<String>, Vec<(String, Vec<u8>)>)>,
    /// The data of all bodies.
    data: Vec<u8>,
    malformed: Option<Malformed>,
    is_in_body: bool,
}

fn run(pieces: &[&[u8]]) -> Verdict {
    let mut rules = Requests::new(LIMITS);
    let (mut held, mut passed, mut data, mut requests) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut malformed = None;
    'pieces: for piece in pieces {
        held.extend_from_slice(piece);
        while !held.is_empty() {
            let len = match rules.next(&held) {
                Ok(RequestPart::Partial) => break,
                Ok(RequestPart::Skip(len)) => {
                    held.drain(..len);
                    continue;
                }
                Ok(RequestPart::Head(len)) => {
                    let request = rules.head(&Bytes::copy_from_slice(&held[..len])).expect("a request");
                    requests.push(told(&request));
                    len
                }
                Ok(RequestPart::Data(len)) => {
                    data.extend_from_slice(&held[..len]);
                    len
                }
                Ok(RequestPart::Framing(len) | RequestPart::Trailers(len, _)) => len,
                Err(violation) => {
                    malformed = Some(violation);
                    break 'pieces;
                }
            };
            passed.extend(held.drain(..len));
        }
    }
    assert_eq!(rules.heads(), requests.len() as u64);
    Verdict { passed, requests, data, malformed, is_in_body: rules.is_in_body() }
}

fn told(request: &Request<()>) -> (Vec<String>, Vec<(String, Vec<u8>)>) {
    let fields = request.headers().iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()));
    (vec![request.method().to_string(), request.uri().to_string()], fields.collect())
}

fn check(verdict: &Verdict) {
    let mut left = verdict.passed.as_slice();
    let mut heads = 0;
    let mut is_in_body = false;
    let mut data = verdict.data.as_slice();
    while !left.is_empty() {
        let request = http1::request(left).expect("no head passes in part");
        let (start, fields) = &verdict.requests[heads];
        assert_eq!(*start, request.start);
        for name in fields.iter().map(|(name, _)| name) {
            let values = fields.iter().filter(|(given, _)| given == name).map(|(_, value)| value.as_slice());
            assert_eq!(values.collect::<Vec<_>>(), request.values(name), "{name}");
        }
        assert_eq!(fields.len(), request.fields.len());
        heads += 1;
        check_head(&left[..request.head_bytes], &request);
        is_in_body = request.end.is_none();
        let (now, later) = left.split_at(request.end.unwrap_or(left.len()));
        if let http1::Framing::Sized(_) = request.framing() {
            let body;
            (body, data) = data.split_at(now.len() - request.head_bytes);
            assert_eq!(body, &now[request.head_bytes..]);
        } else if let (http1::Framing::Chunked, Some(_)) = (request.framing(), request.end) {
            let body = http1::data_of_chunks(&now[request.head_bytes..]);
            assert!(data.starts_with(&body), "the same data: {verdict:?}");
            data = &data[body.len()..];
        }
        left = later;
    }
    assert_eq!(heads, verdict.requests.len());
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
}
