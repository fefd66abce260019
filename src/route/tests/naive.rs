//! The table and the canonical path against a matcher that is plain to see.

use proptest::prelude::*;

use super::super::*;
use super::slow::{Decision, decide, has_one_reading};

fn lines() -> impl Strategy<Value = Vec<String>> {
    let methods = prop::sample::select(vec!["GET", "HEAD", "POST", "GET,POST", "ANY", "PUT,PURGE", "DELETE"]);
    let host =
        prop::sample::select(vec!["", "", "", "h", "i", "h,i", "*.w", "b.w", "*.b.w,h", "a.b.w,*.w", "h,*.b.w,w"]);
    let segment = prop::sample::select(vec!["a", "b", "a b", "é", "{x}", "{x}"]);
    let end = prop::sample::select(vec!["", "", "/", "/{*rest}", "/{*rest}"]);
    let line = (methods, host, prop::collection::vec(segment, 0..4), end).prop_map(|(methods, host, segments, end)| {
        let path: String = segments.iter().map(|segment| format!("/{segment}")).collect();
        let path = if path.is_empty() && end.is_empty() { "/" } else { &format!("{path}{end}") };
        format!("{methods} {host}{path}")
    });
    prop::collection::vec(line, 1..16)
}

fn path() -> impl Strategy<Value = String> {
    let parts =
        ["a", "b", "a%20b", "c", "%C3%A9", "%c3%a9", "a%2Fb", "b%2Fa%2fb", "a;b", "b%3Ba", "a%3b", ";", "a%2Fb;a"];
    let segment = prop::sample::select(parts.to_vec());
    (prop::collection::vec(segment, 0..5), any::<bool>()).prop_map(|(segments, slash)| {
        let path: String = segments.iter().map(|segment| format!("/{segment}")).collect();
        if slash || path.is_empty() { format!("{path}/") } else { path }
    })
}

/// The lines that can stand together: of two that conflict, the first stays.
fn without_conflicts(mut lines: Vec<String>) -> (Vec<String>, Table<usize>) {
    loop {
        // Names of parameters must differ within a line.
        let numbered = |line: &String| {
            let mut pieces = line.split("{x}");
            let first = pieces.next().unwrap_or_default().to_owned();
            pieces.enumerate().fold(first, |text, (n, piece)| format!("{text}{{x{n}}}{piece}"))
        };
        let parsed = lines.iter().enumerate().map(|(n, line)| (Pattern::parse(&numbered(line)).unwrap(), n));
        match Table::build(parsed.collect()) {
            Ok(table) => return (lines, table),
            Err(conflicts) => lines.remove(conflicts[0].second),
        };
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn table_agrees_with_the_naive_matcher(
        lines in lines(),
        paths in prop::collection::vec(path(), 8),
        host in prop::option::weighted(0.9, prop::sample::select(
            vec!["h", "H.", "i", "j", "w", "b.w", "c.W", "a.b.w", "c.b.w.", "d.c.b.w", ".w", "xw"])),
        method in prop::sample::select(vec!["GET", "HEAD", "POST", "PUT", "PURGE", "get", "TRACE", "CONNECT", "ANY"]),
    ) {
        let (lines, table) = without_conflicts(lines);
        for raw in paths {
            let path = Path::parse(&raw);
            prop_assert_eq!(path.is_ok(), has_one_reading(&raw), "{}: {:?}", raw, path);
            let Ok(path) = path else { continue };
            let answer = match table.find(host, &path, method) {
                Found::Line { line, .. } => Decision::Line(*line),
                Found::MethodNotAllowed { allow } => Decision::MethodNotAllowed(allow.to_owned()),
                Found::Nothing => Decision::Nothing,
            };
            let naive = decide(&lines, host, &raw, method);
            prop_assert_eq!(answer, naive, "{} {:?}{} in {:#?}", method, host, raw, lines);
        }
    }

    #[test]
    fn a_path_is_taken_exactly_when_it_has_one_reading(
        pieces in prop::collection::vec(prop::sample::select(vec![
            "/", "/", "/", "a", ".", "..", "%", "%2", "%2F", "%2f", "%5c", "%2e", "%25", "%61", "%41", "%00", "%7f", "%20", ";", "%3b",
            "%3B", "\\", "é", "%C3", "%A9", "%c3%a9", "%C2%85", "%ED%A0%80", "%F0%9F%98%80", "%F4%90%80%80", "%C0%AF",
            "~", "%7E", "@", ":", "=", "?", "#", " ", "\0", "\u{7f}", "|", "%7C", "-", "_",
        ]), 0..7),
    ) {
        for raw in [format!("/{}", pieces.concat()), pieces.concat()] {
            prop_assert_eq!(Path::parse(&raw).is_ok(), has_one_reading(&raw), "{:?}: {:?}", raw, Path::parse(&raw));
        }
    }

    #[test]
    fn no_text_upsets_the_readers(raw in "\\PC{0,40}", path in "/[a-c/.;%0-9A-Fa-f]{0,40}") {
        let _ = Pattern::parse(&raw);
        let _ = Path::parse(&raw);
        if let Ok(path) = Path::parse(&path) {
            let table = Table::build(vec![(Pattern::parse("GET /{a}/{*rest}").unwrap(), ())]).unwrap();
            let _ = table.find(None, &path, "GET");
        }
    }
}
