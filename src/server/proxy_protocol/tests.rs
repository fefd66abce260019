//! Headers in both versions, whole, cut and broken.

use proptest::prelude::*;

use super::header::*;

/// Asserts what a whole header says, and that every shorter part of it asks for more.
#[track_caller]
fn check(header: &[u8], expected: Option<&str>) {
    let expected = expected.map(|address| address.parse().unwrap());
    let header_and_more = [header, b"\r\n\r\n\0\r\nQUIT\nPROXY GET / HTTP/1.1\n"].concat();
    let whole = Ok(Some(Header { client: expected, length: header.len() }));
    assert_eq!(parse(header), whole);
    assert_eq!(parse(&header_and_more), whole);
    for length in 0..header.len() {
        assert_eq!(parse(&header[..length]), Ok(None), "{length} of {}", header.len());
    }
}

/// Asserts that the bytes are refused, and that no more of them would change that.
#[track_caller]
fn refuse(bytes: &[u8], expected: Malformed) {
    assert_eq!(parse(bytes), Err(expected), "{}", bytes.escape_ascii());
    assert_eq!(parse(&[bytes, b"\r\n"].concat()), Err(expected), "{}", bytes.escape_ascii());
}

fn binary(version: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[version, family][..], &length, rest].concat()
}

const FOUR: [u8; 12] = [1, 2, 3, 4, 10, 0, 0, 1, 0x1f, 0x90, 0, 80];

#[test]
fn a_text_header_tells_the_parse() {
    check(b"PROXY TCP4 1.2.3.4 10.0.0.1 8080 80\r\n", Some("1.2.3.4:8080"));
    check(b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", Some("255.255.255.255:65535"));
    check(b"PROXY TCP6 2001:db8::1 ::1 0 80\r\n", Some("[2001:db8::1]:0"));
    check(b"PROXY UNKNOWN\r\n", None);
    check(b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", None);
    check(format!("PROXY UNKNOWN {}\r\n", "x".repeat(91)).as_bytes(), None);
}

#[test]
fn a_malformed_text_header_is_refused() {
    for line in [
        "PROXY TCP4 1.2.3.4 10.0.0.1 8080 80\n",
        "PROXY TCP4 1.2.3.4 10.0.0.1 8080 80 \r\n",
        "PROXY TCP4 1.2.3.4 10.0.0.1 8080\r\n",
        "PROXY TCP4 1.2.3.4 10.0.0.1 8080 80 90\r\n",
        "PROXY TCP4  1.2.3.4 10.0.0.1 8080 80\r\n",
        "PROXY TCP4 1.2.3.4 10.0.0.1 80800 80\r\n",
        "PROXY TCP4 1.2.3.4 10.0.0.1 +80 80\r\n",
        "PROXY TCP4 1.2.3.4 10.0.0.1 -1 80\r\n",
        "PROXY TCP4 1.2.3 10.0.0.1 8080 80\r\n",
        "PROXY TCP4 1.2.3.256 10.0.0.1 8080 80\r\n",
        "PROXY TCP4 2001:db8::1 ::1 8080 80\r\n",
        "PROXY TCP6 1.2.3.4 10.0.0.1 8080 80\r\n",
        "PROXY TCP5 1.2.3.4 10.0.0.1 8080 80\r\n",
        "PROXY UDP4 1.2.3.4 10.0.0.1 8080 80\r\n",
        "PROXY tcp4 1.2.3.4 10.0.0.1 8080 80\r\n",
        "PROXY  TCP4 1.2.3.4 10.0.0.1 8080 80\r\n",
        "PROXY \r\n",
        "PROXY TCP4\r\n",
        "PROXY TCP4 1.2.3.4\r 10.0.0.1 8080 80\r\n",
    ] {
        refuse(line.as_bytes(), Malformed::Addresses);
    }
    refuse(format!("PROXY UNKNOWN {}\r\n", "x".repeat(92)).as_bytes(), Malformed::TooLong);
    refuse("PROXY UNKNOWN".to_owned().repeat(20).as_bytes(), Malformed::TooLong);
}

#[test]
fn what_does_not_begin_as_a_header_is_refused_at_its_first_wrong_byte() {
    for bytes in
        ["G", "GET / HTTP/1.1\r\n", "PROXI", "proxy ", "PRO\r", "\r\n\r\n\0\r\nQUIX", "\r\nG", "\n", "\x16\x03\x01"]
    {
        refuse(bytes.as_bytes(), Malformed::Missing);
    }
}

#[test]
fn a_binary_header_tells_the_parse() {
    check(&binary(0x21, 0x11, &FOUR), Some("1.2.3.4:8080"));
    let mut six = vec![0; 36];
    six[..2].copy_from_slice(&[0x20, 0x01]);
    six[15] = 1;
    six[33] = 80;
    check(&binary(0x21, 0x21, &six), Some("[2001::1]:80"));
    check(&binary(0x21, 0x31, &[b'x'; 216]), None);
    check(&binary(0x21, 0x12, &FOUR), None);
    check(&binary(0x21, 0x00, b""), None);
    check(&binary(0x21, 0x00, b"anything"), None);
}

#[test]
fn a_sender_that_speaks_for_itself_tells_no_parse() {
    check(&binary(0x20, 0x00, b""), None);
    check(&binary(0x20, 0x11, &FOUR), None);
    check(&binary(0x20, 0x11, &[&FOUR[..], b"\x03\0\x04abcd"].concat()), None);
}

#[test]
fn extensions_are_skipped_and_their_checksum_counts() {
    let with = |extensions: &[u8]| binary(0x21, 0x11, &[&FOUR[..], extensions].concat());
    check(&with(b"\x04\0\0\x02\0\x03a.b\xea\0\x02xy"), Some("1.2.3.4:8080"));
    check(&with(&[&[4, 0x0f, 0xa0][..], &[0; 4_000]].concat()), Some("1.2.3.4:8080"));
    refuse(&with(b"\x04\0\x01"), Malformed::Extensions);
    refuse(&with(b"\x04\0"), Malformed::Extensions);
    refuse(&with(b"\x04"), Malformed::Extensions);
    refuse(&with(b"\x03\0\x03abc"), Malformed::Extensions);
    refuse(&with(b"\x03\0\x04abcd"), Malformed::Checksum);
    let mut summed = with(b"\x04\0\x01x\x03\0\x04\0\0\0\0\x04\0\x01y");
    let at = summed.len() - 8;
    let sum = crc32c([&summed, b"", b""]).to_be_bytes();
    summed[at..at + 4].copy_from_slice(&sum);
    check(&summed, Some("1.2.3.4:8080"));
    // RFC 3720 B.4: the check value of CRC-32C.
    assert_eq!(crc32c([b"1234", b"56789", b""]), 0xe306_9283);
}

#[test]
fn a_malformed_binary_header_is_refused() {
    for version in [0x00, 0x01, 0x10, 0x11, 0x22, 0x2f, 0x31] {
        refuse(&binary(version, 0x11, &FOUR), Malformed::Version);
    }
    for family in [0x03, 0x13, 0x23, 0x33, 0x40, 0x41, 0xff] {
        refuse(&binary(0x21, family, &FOUR), Malformed::Addresses);
    }
    refuse(&binary(0x21, 0x11, &FOUR[..11]), Malformed::Addresses);
    refuse(&binary(0x21, 0x11, b""), Malformed::Addresses);
    refuse(&binary(0x21, 0x21, &[0; 35]), Malformed::Addresses);
    refuse(&binary(0x21, 0x31, &[0; 215]), Malformed::Addresses);
    refuse(&binary(0x21, 0x11, &[0; 4_097])[..16], Malformed::TooLong);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// However the bytes are cut, the verdict on them is the same, and takes no byte behind the header.
    #[test]
    fn a_verdict_does_not_depend_on_what_follows(
        rest in prop::collection::vec(any::<u8>(), 0..60),
        start in prop::sample::select(vec![&b""[..], b"PROXY TCP4 ", b"PROXY ", SIGNATURE, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"]),
    ) {
        let bytes = [start, &rest].concat();
        let mut verdict = None;
        for length in 0..=bytes.len() {
            let now = parse(&bytes[..length]);
            if let Ok(Some(header)) = now {
                prop_assert!(header.length <= length);
                prop_assert!(verdict.is_some() || header.length == length, "waited for a byte behind the header");
            }
            match verdict {
                None if now != Ok(None) => verdict = Some(now),
                None => {}
                Some(verdict) => prop_assert_eq!(verdict, now),
            }
        }
    }
}
