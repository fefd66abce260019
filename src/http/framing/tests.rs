//! The rows of the hostile-input catalogue that framing decides, each also cut into pieces.
//!
//! Notation: `¶` CR LF, `⏎` bare LF, `␍` bare CR, `␀` NUL.

use bytes::Bytes;
use http::{Method, Request};
use proptest::prelude::*;

use super::*;

const LIMITS: RequestLimits = RequestLimits { head_bytes_max: 32 << 10, fields_max: 100, target_bytes_max: 8 << 10 };

fn wire(text: &str) -> Vec<u8> {
    text.replace('¶', "\r\n").replace('⏎', "\n").replace('␍', "\r").replace('␀', "\0").into_bytes()
}

/// Walks over the pieces as they arrive one after the other: what of them belongs to a request, the requests that their
/// heads make, and the violation that ended it.
fn run(rules: &mut Requests, pieces: &[&[u8]]) -> (Vec<u8>, Vec<Request<()>>, Option<Malformed>) {
    let (mut held, mut passed, mut requests) = (Vec::new(), Vec::new(), Vec::new());
    for piece in pieces {
        held.extend_from_slice(piece);
        while !held.is_empty() {
            let len = match rules.next(&held) {
                Ok(RequestPart::Partial) => break,
                Ok(RequestPart::Skip(len)) => {
                    held.drain(..len);
                    continue;
                }
                Ok(RequestPart::Head(len)) => {
                    match rules.head(&Bytes::copy_from_slice(&held[..len])) {
                        Ok(request) => requests.push(request),
                        Err(malformed) => return (passed, requests, Some(malformed)),
                    }
                    len
                }
                Ok(RequestPart::Data(len) | RequestPart::Framing(len) | RequestPart::Trailers(len, _)) => len,
                Err(malformed) => return (passed, requests, Some(malformed)),
            };
            assert!(len > 0, "a part is not empty");
            passed.extend(held.drain(..len));
        }
    }
    (passed, requests, None)
}

/// Single bytes, unless there are so many that an unoptimized build takes long.
fn dribble(bytes: &[u8]) -> usize {
    if bytes.len() > 2_000 { 211 } else { 1 }
}

/// Valid requests before the violation, and the violation.
type Verdict = (u64, Option<Malformed>);

fn judge(pieces: &[&[u8]]) -> (Verdict, Vec<u8>) {
    let mut rules = Requests::new(LIMITS);
    let (passed, requests, malformed) = run(&mut rules, pieces);
    assert_eq!(requests.len() as u64, rules.heads());
    ((rules.heads(), malformed), passed)
}

#[track_caller]
fn check_bytes(bytes: &[u8], expected: Verdict) {
    let (verdict, passed) = judge(&[bytes]);
    assert_eq!(verdict, expected, "{}", bytes.escape_ascii());
    let single: Vec<&[u8]> = bytes.chunks(dribble(bytes)).collect();
    assert_eq!(judge(&single), (expected, passed), "byte by byte: {}", bytes.escape_ascii());
}

#[track_caller]
fn refused(text: &str, malformed: Malformed) {
    check_bytes(&wire(text), (0, Some(malformed)));
}

/// One valid request, whose body (if any) may have been refused later.
#[track_caller]
fn body_refused(text: &str, malformed: Malformed) {
    check_bytes(&wire(text), (1, Some(malformed)));
}

#[track_caller]
fn admitted(text: &str, requests: u64) {
    check_bytes(&wire(text), (requests, None));
}

#[test]
fn plain_requests_pass() {
    admitted("GET / HTTP/1.1¶Host: t¶¶", 1);
    admitted("GET / HTTP/1.0¶¶", 1);
    admitted("GET /a?b=c&d=%23 HTTP/1.1¶hOsT:t:8080¶X-Empty:¶X:  a \t b\t¶¶", 1);
    admitted("¶GET / HTTP/1.1¶Host: t¶¶¶GET / HTTP/1.1¶Host: t¶¶", 2);
    admitted("GET / HTTP/1.1¶Host: t¶¶GET / HTTP/1.1¶Host: t¶¶GET / HTTP/1.1¶Host: t¶¶", 3);
    admitted("FOO /api HTTP/1.1¶Host: t¶¶", 1);
    admitted("GET /x HTTP/1.1¶Host: t¶X: tab\there ÿ\u{80}¶¶", 1);
    admitted("OPTIONS /[a]{b}|c\\^ HTTP/1.1¶Host: t¶¶", 1);
}

#[test]
fn empty_line_before_a_request_is_dropped_once() {
    let (_, passed) = judge(&[b"\r\nGET / HTTP/1.0\r\n\r\n"]);
    assert_eq!(passed, b"GET / HTTP/1.0\r\n\r\n");
    refused("¶¶GET / HTTP/1.1¶Host: t¶¶", Malformed::Method);
    refused("⏎GET / HTTP/1.1¶Host: t¶¶", Malformed::Method);
}

#[test]
fn targets_other_than_a_path_are_refused() {
    for target in
        ["http://t/api", "ftp://t/x", "http://u:p@t/", "t:80", "api/v1/query", "admin", "*", "*/x", "?x", "#x"]
    {
        refused(&format!("GET {target} HTTP/1.1¶Host: t¶¶"), Malformed::TargetForm);
    }
    refused("OPTIONS * HTTP/1.1¶Host: t¶¶", Malformed::TargetForm);
    refused("PRI * HTTP/2.0¶¶SM¶¶", Malformed::TargetForm);
    refused("CONNECT t:80 HTTP/1.1¶Host: t¶¶", Malformed::Connect);
    refused("CONNECT /api HTTP/1.1¶Host: t¶¶", Malformed::Connect);
    for target in ["/a#b", "/a\"", "/<", "/>", "/`", "/ä", "/a\tb", "/a␀", "/a\u{7f}", "/?a=\"x\""] {
        refused(&format!("GET {target} HTTP/1.1¶Host: t¶¶"), Malformed::TargetCharacter);
    }
}

#[test]
fn request_lines_are_exact() {
    let refused_line = |line: &str, malformed| refused(&format!("{line}¶Host: t¶¶"), malformed);
    refused_line("GET  /x HTTP/1.1", Malformed::RequestLine);
    refused_line("GET /x  HTTP/1.1", Malformed::RequestLine);
    refused_line("GET /x HTTP/1.1 ", Malformed::RequestLine);
    refused_line("GET\t/x HTTP/1.1", Malformed::Method);
    refused_line("GET /x\tHTTP/1.1", Malformed::TargetCharacter);
    refused_line(" GET /x HTTP/1.1", Malformed::Method);
    refused_line("GET  HTTP/1.1", Malformed::RequestLine);
    refused_line("GET /x", Malformed::RequestLine);
    refused_line("GET", Malformed::Method);
    refused_line("GET /x HTTP/1.2", Malformed::Version);
    refused_line("GET /x HTTP/2.0", Malformed::Version);
    refused_line("GET /x http/1.1", Malformed::Version);
    refused_line("GET /x HTTP/1.10", Malformed::Version);
    refused_line("GET /a b HTTP/1.1", Malformed::Version);
    refused_line("G=\"(),/:;<=>?@[]{} / HTTP/1.1", Malformed::Method);
    refused_line(&format!("{} / HTTP/1.1", "M".repeat(33)), Malformed::Method);
    admitted(&format!("{} / HTTP/1.1¶Host: t¶¶", "M".repeat(32)), 1);
    refused("GET / HTTP/1.1⏎Host: t⏎⏎", Malformed::LineEnd);
    refused("GET / HTTP/1.1␍Host: t␍␍", Malformed::LineEnd);
    refused("\u{16}\u{3}\u{1}", Malformed::Method);
}

#[test]
fn header_lines_are_exact() {
    let refused_field = |field: &str, malformed| refused(&format!("GET / HTTP/1.1¶Host: t¶{field}¶¶"), malformed);
    refused_field(": x", Malformed::FieldName);
    refused_field("no-colon", Malformed::FieldName);
    refused_field("Authorization : Basic x", Malformed::FieldName);
    refused_field("Transfer-Encoding :chunked", Malformed::FieldName);
    refused_field("Transfer-Encoding⏎: chunked", Malformed::FieldName);
    refused_field("a(b: x", Malformed::FieldName);
    refused_field("a b: x", Malformed::FieldName);
    refused_field("aï: x", Malformed::FieldName);
    refused_field(" Transfer-Encoding: chunked", Malformed::FieldFolded);
    refused_field("X: a¶ b", Malformed::FieldFolded);
    refused_field("Transfer-Encoding:¶ chunked", Malformed::Encoding);
    refused_field("X: a␍Transfer-Encoding: chunked", Malformed::LineEnd);
    refused_field("X: a⏎Transfer-Encoding: chunked", Malformed::LineEnd);
    refused_field("X: a␀", Malformed::FieldValue);
    refused_field("X: a long value that ends in a control character\u{1b}", Malformed::FieldValue);
    refused_field("X: a\u{7f}b", Malformed::FieldValue);
    refused_field("X: a¶␍X", Malformed::LineEnd);
    refused_field(&format!("{}: x", "x".repeat(257)), Malformed::FieldName);
}

#[test]
fn host_is_there_once_and_valid() {
    refused("GET / HTTP/1.1¶¶", Malformed::HostMissing);
    refused("GET / HTTP/1.1¶Host: a¶Host: a¶¶", Malformed::HostRepeated);
    refused("GET / HTTP/1.0¶Host: a¶Host: b¶¶", Malformed::HostRepeated);
    for host in [
        "", ".", "..a", "a..b", "a b", "a/b", "a\\b", "[::1", "a:99999", "a:0", "a:1:2", "a@b", "a#", "a?", "a, b",
        "a:", "a:x", "[::1]x", "[::g]", "[]", "::1", "a%41", "a:-1", "ä",
    ] {
        refused(&format!("GET / HTTP/1.1¶Host: {host}¶¶"), Malformed::Host);
        refused(&format!("GET / HTTP/1.0¶Host: {host}¶¶"), Malformed::Host);
    }
    for host in
        ["t", "T.example.", "a_b-c.d:8080", "127.0.0.1:1", "[::1]", "[2001:db8::1]:65535", "[::ffff:1.2.3.4]:80"]
    {
        admitted(&format!("GET / HTTP/1.1¶Host: {host}¶¶"), 1);
    }
}

#[test]
fn content_length_is_one_plain_number() {
    let post = |fields: &str| format!("POST / HTTP/1.1¶Host: t¶{fields}¶¶");
    for length in [
        "+5",
        "-1",
        "0x5",
        "5_0",
        "5.0",
        "5e1",
        "5 6",
        "٥",
        "",
        "5, 5",
        "00005",
        "010",
        "00",
        "9007199254740993",
        "9223372036854775808",
        "18446744073709551616",
    ] {
        refused(&post(&format!("Content-Length: {length}")), Malformed::Length);
    }
    refused(&post("Content-Length: 5¶Content-Length: 5"), Malformed::LengthRepeated);
    refused(&post("Content-Length: 5¶Content-Length: 6"), Malformed::LengthRepeated);
    refused(&post("Content-Length: 6¶Content-Length: 5"), Malformed::LengthRepeated);
    refused(&post("Content-Length:¶Content-Length: 5"), Malformed::Length);
    admitted(&(post("Content-Length: 5") + "helloGET / HTTP/1.1¶Host: t¶¶"), 2);
    admitted(&(post("Content-Length: 0") + "GET / HTTP/1.1¶Host: t¶¶"), 2);
    admitted(&post("Content-Length: 9007199254740992"), 1);
    admitted("GET / HTTP/1.1¶Host: t¶Content-Length: 5¶¶hello", 1);
}

#[test]
fn transfer_encoding_is_chunked_alone_or_refused() {
    let post = |fields: &str| format!("POST / HTTP/1.1¶Host: t¶{fields}¶¶0¶¶GPOST");
    refused(&post("Content-Length: 6¶Transfer-Encoding: chunked"), Malformed::LengthWithEncoding);
    refused(&post("Transfer-Encoding: chunked¶Content-Length: 5"), Malformed::LengthWithEncoding);
    for encoding in
        ["gzip, chunked", "gzip", "", "chunked, chunked", "identity", "chunked;q=1", "\"chunked\"", "xchunked"]
    {
        refused(&post(&format!("Transfer-Encoding: {encoding}")), Malformed::Encoding);
    }
    refused(&post("Transfer-Encoding: chunked¶Transfer-Encoding: chunked"), Malformed::EncodingRepeated);
    refused("POST / HTTP/1.0¶Transfer-Encoding: chunked¶¶0¶¶", Malformed::EncodingVersion);
    admitted("POST / HTTP/1.1¶Host: t¶tRANSFER-eNCODING: ChUnKeD¶¶0¶¶", 1);
    admitted("POST / HTTP/1.1¶Host: t¶Transfer_Encoding: chunked¶¶GET / HTTP/1.1¶Host: t¶¶", 2);
}

#[test]
fn body_without_framing_is_the_next_request() {
    check_bytes(&wire("POST / HTTP/1.0¶¶hello world¶¶"), (1, Some(Malformed::TargetForm)));
}

#[test]
fn only_100_continue_is_expected() {
    admitted("POST / HTTP/1.1¶Host: t¶Expect: 100-Continue¶Content-Length: 1¶¶x", 1);
    refused("POST / HTTP/1.1¶Host: t¶Expect: 200-ok¶¶", Malformed::Expectation);
    refused("POST / HTTP/1.1¶Host: t¶Expect:¶¶", Malformed::Expectation);
}

#[test]
fn chunked_bodies_are_walked_to_their_end() {
    let chunked = |body: &str| format!("POST / HTTP/1.1¶Host: t¶Transfer-Encoding: chunked¶¶{body}");
    admitted(&chunked("5¶hello¶0¶¶GET / HTTP/1.1¶Host: t¶¶"), 2);
    admitted(&chunked("a¶0123456789¶0¶¶"), 1);
    admitted(&chunked("000000000000005¶hello¶000¶¶"), 1);
    admitted(&chunked("5;a=b;c=\"d\"¶hello¶0;e¶X-Trailer: y¶Z:¶¶GET / HTTP/1.1¶Host: t¶¶"), 2);
    admitted(&chunked("28¶DELETE /api/keys/x HTTP/1.1¶Host: t¶¶¶0¶¶"), 1);
    for size in
        ["0x5", "+5", "-5", "5_", " 5", "5g", "", "5h", "5 ", "5\t", "FFFFFFFFFFFFFFFF", "0000000000000005", ";a"]
    {
        body_refused(&chunked(&format!("{size}¶hello¶0¶¶")), Malformed::ChunkSize);
    }
    body_refused(&chunked(&"0".repeat(1 << 20)), Malformed::ChunkSize);
    body_refused(&chunked("5␍Xhello"), Malformed::ChunkSize);
    body_refused(&chunked("5⏎hello"), Malformed::ChunkSize);
    body_refused(&chunked("5¶hellO0¶¶"), Malformed::ChunkEnd);
    body_refused(&chunked("5¶hello⏎0¶¶"), Malformed::ChunkEnd);
    body_refused(&chunked("5;⏎hello"), Malformed::ChunkExtension);
    body_refused(&chunked("5;a␀¶hello"), Malformed::ChunkExtension);
    body_refused(&chunked("5;a=\"¶\"¶hello¶0¶¶"), Malformed::ChunkEnd);
    body_refused(&chunked(&format!("5;{}¶hello¶0¶¶", "x".repeat(257))), Malformed::ChunkExtension);
    admitted(&chunked(&format!("5;{}¶hello¶0¶¶", "x".repeat(256))), 1);
    for trailer in [": x", "a b: c", "a", " a: b", "a: b⏎", "a: b␍c", "a: ␀"] {
        body_refused(&chunked(&format!("0¶{trailer}¶¶")), Malformed::Trailer);
    }
    body_refused(&chunked(&format!("0¶{}¶", "a: b¶".repeat(10_000))), Malformed::Trailer);
}

#[test]
fn malformed_request_behind_valid_ones_is_the_only_one_refused() {
    let valid = "GET / HTTP/1.1¶Host: t¶¶";
    check_bytes(&wire(&format!("{valid}{valid}{valid}GET * HTTP/1.1¶")), (3, Some(Malformed::TargetForm)));
    // Judged when the bytes in front of it pass, and told once they have.
    check_bytes(&wire(&format!("{valid}GET / HTTP/1.1¶Host: a b¶¶")), (1, Some(Malformed::Host)));
    let length = "GET / HTTP/1.1¶Host: t¶Content-Length: x¶¶";
    check_bytes(&wire(&format!("{valid}{length}")), (1, Some(Malformed::Length)));
}

#[test]
fn heads_have_limits() {
    let head = |fields: &str| format!("GET / HTTP/1.1¶Host: t¶{fields}¶");
    admitted(&head(&"a: b¶".repeat(99)), 1);
    refused(&head(&"a: b¶".repeat(100)), Malformed::FieldsTooMany);
    let room = LIMITS.head_bytes_max - wire(&head("a: ¶")).len();
    admitted(&head(&format!("a: {}¶", "x".repeat(room))), 1);
    refused(&head(&format!("a: {}¶", "x".repeat(room + 1))), Malformed::HeadTooLarge);
    refused(&format!("{} / HTTP/1.1¶", "M".repeat(64 << 10)), Malformed::Method);
    admitted(&format!("GET /{} HTTP/1.1¶Host: t¶¶", "x".repeat(LIMITS.target_bytes_max - 1)), 1);
    refused(&format!("GET /{} HTTP/1.1¶Host: t¶¶", "x".repeat(LIMITS.target_bytes_max)), Malformed::TargetTooLong);
    refused(&format!("GET /{} HTTP/1.1¶Host: t¶¶", "x".repeat(64 << 10)), Malformed::TargetTooLong);
}

#[test]
fn request_is_what_its_head_says() {
    let bytes = b"POST /a%20b?c=d HTTP/1.1\r\nHOST: t\r\nX-One:  a b\t\r\nx-one:\r\nContent-Length: 0\r\n\r\n";
    let (_, requests, malformed) = run(&mut Requests::new(LIMITS), &[bytes]);
    assert_eq!(malformed, None);
    let [request] = &requests[..] else { panic!("one request: {requests:?}") };
    assert_eq!((request.method(), request.uri().to_string().as_str()), (&Method::POST, "/a%20b?c=d"));
    assert_eq!(request.version(), http::Version::HTTP_11);
    let fields: Vec<(&str, &[u8])> =
        request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    assert_eq!(fields, [("host", &b"t"[..]), ("x-one", b"a b"), ("x-one", b""), ("content-length", b"0")]);
}

#[test]
fn only_one_plain_request_for_a_websocket_asks_for_one() {
    let asks = |line: &str, fields: &str| {
        let mut rules = Requests::new(LIMITS);
        let (_, requests, malformed) = run(&mut rules, &[&wire(&format!("{line}¶Host: t¶{fields}¶"))]);
        assert_eq!((requests.len(), malformed), (1, None), "{line} {fields}");
        rules.asks_for_websocket()
    };
    assert!(asks("GET /x HTTP/1.1", "Connection: keep-alive, Upgrade¶UPGRADE: WebSocket¶"));
    let asking = "Connection: upgrade¶Upgrade: websocket¶";
    assert!(asks("GET / HTTP/1.1", asking));
    assert!(!asks("GET / HTTP/1.1", "Upgrade: websocket¶"));
    assert!(!asks("GET / HTTP/1.1", "Connection: upgrade¶"));
    assert!(!asks("GET / HTTP/1.1", "Connection: upgrades¶Upgrade: websocket¶"));
    assert!(!asks("GET / HTTP/1.1", "Connection: upgrade¶Upgrade: h2c¶"));
    assert!(!asks("GET / HTTP/1.1", "Connection: upgrade¶Upgrade: websocket, h2c¶"));
    assert!(!asks("GET / HTTP/1.1", "Connection: upgrade¶Upgrade: websocket¶Upgrade: h2c¶"));
    assert!(!asks("GET / HTTP/1.1", "Connection: upgrade¶Upgrade: h2c¶Upgrade: websocket¶"));
    assert!(!asks("GET / HTTP/1.0", asking));
    assert!(!asks("HEAD / HTTP/1.1", asking));
    assert!(!asks("POST / HTTP/1.1", asking));
    assert!(!asks("get / HTTP/1.1", asking));
    assert!(!asks("GET / HTTP/1.1", &format!("{asking}Content-Length: 0¶")));
    assert!(!asks("GET / HTTP/1.1", &format!("{asking}Content-Length: 2¶")));
}

#[test]
fn connection_is_kept_as_its_version_and_client_say() {
    let keeps = |version: &str, fields: &str| {
        let mut rules = Requests::new(LIMITS);
        let (_, requests, malformed) = run(&mut rules, &[&wire(&format!("GET / {version}¶Host: t¶{fields}¶"))]);
        assert_eq!((requests.len(), malformed), (1, None), "{version} {fields}");
        rules.keeps_alive()
    };
    assert!(keeps("HTTP/1.1", ""));
    assert!(keeps("HTTP/1.1", "Connection: keep-alive¶"));
    assert!(!keeps("HTTP/1.1", "Connection: close¶"));
    assert!(!keeps("HTTP/1.1", "Connection: keep-alive¶CONNECTION: x , Close¶"));
    assert!(!keeps("HTTP/1.0", ""));
    assert!(keeps("HTTP/1.0", "Connection: Keep-Alive¶"));
    assert!(!keeps("HTTP/1.0", "Connection: keep-alive, close¶"));
}

fn cut<'b>(bytes: &'b [u8], cuts: &[usize]) -> Vec<&'b [u8]> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    places.extend([0, bytes.len()]);
    places.sort_unstable();
    places.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

/// Near-valid streams: lines of all kinds, joined by line ends of all kinds.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    const PARTS: &[&str] = &[
        "GET / HTTP/1.1¶",
        "POST /a?b HTTP/1.1¶",
        "GET / HTTP/1.0¶",
        "GET  / HTTP/1.1¶",
        "Host: t¶",
        "Host: a b¶",
        "Content-Length: 5¶",
        "Content-Length: 05¶",
        "Transfer-Encoding: chunked¶",
        "Upgrade: x¶",
        "Expect: 100-continue¶",
        "X: y¶",
        "X : y¶",
        "¶",
        "⏎",
        "␍",
        "¶¶",
        "hello",
        "5¶",
        "0¶",
        "0¶¶",
        "5;a¶hello¶",
        "a: b¶",
        "␀",
        " ",
        "GET",
        "g: ",
    ];
    proptest::collection::vec(proptest::sample::select(PARTS), 0..14).prop_map(|parts| wire(&parts.concat()))
}

proptest! {
    #[test]
    fn verdict_does_not_depend_on_how_the_bytes_were_cut(
        bytes in stream(),
        cuts in proptest::collection::vec(any::<usize>(), 0..8),
    ) {
        prop_assert_eq!(judge(&cut(&bytes, &cuts)), judge(&[&bytes]));
    }

    #[test]
    fn whatever_passes_is_valid_again(bytes in stream()) {
        let ((heads, _), passed) = judge(&[&bytes]);
        prop_assert_eq!(judge(&[&passed]), ((heads, None), passed.clone()));
    }

    #[test]
    fn noise_does_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        judge(&[&bytes]);
        respond(&Method::GET, &[&bytes]);
    }
}

const RESPONSE_LIMITS: ResponseLimits = ResponseLimits { head_bytes_max: 16 << 10, fields_max: 100 };

/// What the parts of a response are, why it ended, and whether the connection can be used again then.
fn respond(method: &Method, pieces: &[&[u8]]) -> (Vec<u8>, Option<BadResponse>, bool) {
    let mut responses = Responses::new(RESPONSE_LIMITS);
    responses.announce(method);
    let (mut held, mut content) = (Vec::new(), Vec::new());
    for piece in pieces {
        held.extend_from_slice(piece);
        while !held.is_empty() {
            let taken = match responses.next(&held) {
                Err(bad) => return (content, Some(bad), false),
                Ok(Part::Partial) => break,
                Ok(Part::Head(len) | Part::Interim(len, _) | Part::Framing(len) | Part::Trailers(len, _)) => len,
                Ok(Part::Data(len)) => {
                    content.extend_from_slice(&held[..len]);
                    len
                }
            };
            held.drain(..taken);
        }
    }
    (content, None, responses.is_reusable())
}

#[derive(Debug, PartialEq)]
enum Then {
    Bad(BadResponse),
    Clean,
    /// Not reusable, or not complete.
    Open,
}

#[track_caller]
fn check_response(method: Method, text: &str, expected: Then) {
    let bytes = wire(text);
    let single: Vec<&[u8]> = bytes.chunks(dribble(&bytes)).collect();
    for pieces in [&[&bytes[..]][..], &single] {
        let then = match respond(&method, pieces) {
            (_, Some(bad), _) => Then::Bad(bad),
            (_, None, true) => Then::Clean,
            (_, None, false) => Then::Open,
        };
        assert_eq!(then, expected, "{text}");
    }
}

#[test]
fn responses_end_where_their_framing_says() {
    let check = |text: &str, expected| check_response(Method::GET, text, expected);
    check("HTTP/1.1 200 OK¶Content-Length: 5¶¶hello", Then::Clean);
    check("HTTP/1.1 200 OK¶Content-Length: 5¶¶hell", Then::Open);
    check("HTTP/1.1 200 OK¶Content-Length: 0¶¶", Then::Clean);
    check("HTTP/1.1 200 OK¶Transfer-Encoding: chunked¶¶5¶hello¶0¶¶", Then::Clean);
    check("HTTP/1.1 200 OK¶Transfer-Encoding: chunked¶¶5¶hello¶0¶", Then::Open);
    check("HTTP/1.1 200 OK¶¶until close", Then::Open);
    check("HTTP/1.1 200¶Content-Length: 0¶¶", Then::Clean);
    check("HTTP/1.1 200 ¶Content-Length: 0¶¶", Then::Clean);
    check("HTTP/1.1 204 No Content¶¶", Then::Clean);
    check("HTTP/1.1 304 Not Modified¶Content-Length: 5¶¶", Then::Clean);
    check("HTTP/1.1 100 Continue¶¶HTTP/1.1 103 Early Hints¶Link: x¶¶HTTP/1.1 204 x¶¶", Then::Clean);
    check("HTTP/1.0 200 OK¶Content-Length: 0¶¶", Then::Open);
    check("HTTP/1.0 200 OK¶Connection: keep-alive¶Content-Length: 0¶¶", Then::Clean);
    check("HTTP/1.1 200 OK¶Connection: x, Close¶Content-Length: 0¶¶", Then::Open);
    check_response(Method::HEAD, "HTTP/1.1 200 OK¶Content-Length: 5¶¶", Then::Clean);
    check_response(Method::HEAD, "HTTP/1.1 200 OK¶Transfer-Encoding: chunked¶¶", Then::Clean);
}

#[test]
fn responses_that_cannot_be_framed_are_bad() {
    let check = |text: &str, bad| check_response(Method::GET, text, Then::Bad(bad));
    let message = BadResponse::Message;
    check("HTTP/1.1 200 OK¶Content-Length: 10¶¶0123456789extra", BadResponse::Stray);
    check("HTTP/1.1 204 x¶¶0¶¶", BadResponse::Stray);
    check("HTTP/1.1 200 OK¶Content-Length: 1¶Content-Length: 1¶¶", message(Malformed::LengthRepeated));
    check("HTTP/1.1 200 OK¶Content-Length: 1¶Content-Length: 2¶¶", message(Malformed::LengthRepeated));
    check("HTTP/1.1 200 OK¶Content-Length: -1¶¶", message(Malformed::Length));
    check("HTTP/1.1 200 OK¶Content-Length: 1¶Transfer-Encoding: chunked¶¶", message(Malformed::LengthWithEncoding));
    check("HTTP/1.1 200 OK¶Transfer-Encoding: gzip, chunked¶¶", message(Malformed::Encoding));
    check("HTTP/1.0 200 OK¶Transfer-Encoding: chunked¶¶", message(Malformed::EncodingVersion));
    check("HTTP/1.1 200 OK¶X: a␍b¶¶", message(Malformed::LineEnd));
    check("HTTP/1.1 200 OK¶X: a⏎¶¶", message(Malformed::LineEnd));
    check("HTTP/1.1 200 OK¶X: a␀¶¶", message(Malformed::FieldValue));
    check("HTTP/1.1 200 OK¶: a¶¶", message(Malformed::FieldName));
    check("HTTP/1.1 200 OK¶X : a¶¶", message(Malformed::FieldName));
    check("HTTP/1.1 200 OK¶X: a¶ b¶¶", message(Malformed::FieldFolded));
    check("HTTP/1.1 200 OK¶Transfer-Encoding: chunked¶¶5x¶", message(Malformed::ChunkSize));
    check(&format!("HTTP/1.1 200 OK¶{}¶", "a: b¶".repeat(101)), message(Malformed::FieldsTooMany));
    check(&format!("HTTP/1.1 200 OK¶a: {}", "b".repeat(16 << 10)), message(Malformed::HeadTooLarge));
    for status in ["99", "2OO", " 200", "-20"] {
        check(&format!("HTTP/1.1 {status} x¶¶"), BadResponse::StatusLine);
    }
    check("HTTP/1.1 1000 x¶¶", BadResponse::StatusLine);
    check("HTTP/1.1 600 x¶¶", BadResponse::Status);
    check("HTTP/1.1 099 x¶¶", BadResponse::Status);
    check("HTTP/3.0 200 x¶¶", BadResponse::StatusLine);
    check("HTTP/1.1  200 x¶¶", BadResponse::StatusLine);
    check("HTTP/1.1 200 x⏎⏎", BadResponse::StatusLine);
    check("<html>", BadResponse::StatusLine);
    check("HTTP/1.1 101 Switching Protocols¶Upgrade: h2c¶¶", BadResponse::Switched);
    check(&"HTTP/1.1 100 Continue¶¶".repeat(17), BadResponse::InterimTooMany);
}

#[test]
fn answer_to_nothing_is_stray() {
    let mut responses = Responses::new(RESPONSE_LIMITS);
    assert!(responses.is_reusable());
    assert_eq!(responses.next(b"HTTP/1.1 204 x\r\n\r\n").unwrap_err(), BadResponse::Stray);
}

#[test]
fn head_of_a_response_is_read_where_it_stands() {
    let block = Bytes::from(wire("HTTP/1.1 203 Some reason¶Content-Length:  5 ¶X-A:¶x-a: \tb c ¶¶hello"));
    let mut responses = Responses::new(RESPONSE_LIMITS);
    responses.announce(&Method::GET);
    let Part::Head(len) = responses.next(&block).unwrap() else { panic!("no head") };
    let head = responses.head(&block).unwrap();
    let fields: Vec<_> = head.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    assert_eq!(head.status(), 203);
    assert_eq!(fields, [("content-length", &b"5"[..]), ("x-a", b""), ("x-a", b"b c")]);
    assert!(!responses.is_over());
    assert_eq!(responses.content_left(), Some(5));
    assert_eq!(block.len() - len, 5);
}

#[test]
fn content_is_told_from_what_frames_it_however_it_comes() {
    let bytes = wire("HTTP/1.1 200 OK¶Transfer-Encoding: chunked¶¶5;a=b¶hello¶1¶ ¶005¶world¶0¶X-T: 1¶x-u: 2¶¶");
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    for pieces in [&[&bytes[..]][..], &single] {
        assert_eq!(respond(&Method::GET, pieces), (b"hello world".to_vec(), None, true));
    }
    let mut responses = Responses::new(RESPONSE_LIMITS);
    responses.announce(&Method::GET);
    let mut rest = &bytes[..];
    let trailers = loop {
        match responses.next(rest).unwrap() {
            Part::Trailers(len, fields) => break (len, fields),
            Part::Head(len) | Part::Interim(len, _) | Part::Framing(len) | Part::Data(len) => rest = &rest[len..],
            Part::Partial => panic!("it is whole"),
        }
    };
    assert_eq!((trailers.1["x-t"].as_bytes(), trailers.1["x-u"].as_bytes()), (&b"1"[..], &b"2"[..]));
    assert!(responses.is_reusable());
}

#[test]
fn verdict_on_trailers_does_not_depend_on_how_they_were_cut() {
    let long = "n".repeat(300);
    for trailers in [format!("{long}: x¶¶"), format!("{long}¶"), "a: x¶b¶¶".to_owned(), "a: \t ¶¶".to_owned()] {
        let bytes = wire(&format!("HTTP/1.1 200 OK¶Transfer-Encoding: chunked¶¶2¶ok¶0¶{trailers}"));
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(respond(&Method::GET, &[&bytes]), respond(&Method::GET, &single), "{trailers}");
    }
}
