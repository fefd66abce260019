//! A table of lines and a request: the router decides as a matcher does that is plain to see, and takes exactly the
//! paths that have one reading.

#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::route::{Found, Host, Path, Pattern, Table};
use portcullis_fuzz::Choices;

#[path = "../../src/route/tests/slow.rs"]
mod slow;

use slow::{Decision, decide, has_one_reading};

const METHODS: [&str; 8] = ["GET", "POST", "GET,POST", "ANY", "HEAD", "PUT,PURGE", "DELETE", "OPTIONS"];
const HOSTS: [&str; 8] = ["", "", "h", "*.w", "b.w", "*.b.w,h", "[::1]", "h,*.w,w"];
const SEGMENTS: [&str; 12] = ["a", "{}", "b", "api", "v1", "admin", "a b", "é", "a:b", "{credential}", "a@b", "x=y"];
const ENDS: [&str; 4] = ["", "/{*rest}", "/", "/{*all}"];
const REQUEST_HOSTS: [Option<&str>; 9] = [
    None,
    Some("h"),
    Some("H."),
    Some("w"),
    Some("b.w"),
    Some("a.b.W"),
    Some("c.b.w."),
    Some("[::1]"),
    Some("other.example"),
];
const REQUEST_METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PURGE", "get", "TRACE", "OPTIONS", "ANY", "CONNECT"];
const PIECES: [&str; 36] = [
    "/", "a", "b", "api", "v1", "admin", "/a", "/b", "/api", "/v1", "/admin", "%20", "a%20b", "%C3%A9", "%c3%a9",
    "%2F", "%2f", ";", "%3B", "%3b", ".", "..", "%2e", "%5C", "\\", "%25", "%00", "%61", "//", "%", "%f", "é", "a:b",
    "a@b", "x=y", "~",
];

fuzz_target!(|bytes: &[u8]| {
    let mut choices = Choices(bytes);
    let (lines, table) = table(&mut choices);
    while !choices.is_over() {
        let (host, method) = (choices.one_of(&REQUEST_HOSTS), choices.one_of(&REQUEST_METHODS));
        let raw = raw_path(&mut choices);
        let path = Path::parse(&raw);
        assert_eq!(path.is_ok(), has_one_reading(&raw), "{raw:?}: {path:?}");
        let Ok(path) = path else { continue };
        assert_eq!(path.raw(), raw, "what is matched is what is forwarded");
        let decision = match table.find(host, &path, method) {
            Found::Line { line, pattern, credential } => {
                check_line(&lines[*line], pattern, &path, credential.map(|range| &raw[range]));
                Decision::Line(*line)
            }
            Found::MethodNotAllowed { allow } => Decision::MethodNotAllowed(allow.to_owned()),
            Found::Nothing => Decision::Nothing,
        };
        assert_eq!(decision, decide(&lines, host, &raw, method), "{method} {host:?}{raw} in {lines:#?}");
    }
});

/// Lines that can stand together, as they are written.
fn table(choices: &mut Choices<'_>) -> (Vec<String>, Table<usize>) {
    let mut lines = Vec::new();
    let mut table = Table::default();
    for _ in 0..choices.below(12) {
        let line = line(choices);
        // Two parameters of one name are refused; `{}` is a name that each place makes its own.
        let Ok(pattern) = Pattern::parse(&line) else { continue };
        assert_eq!(Pattern::parse(&pattern.to_string()).as_ref(), Ok(&pattern), "shown as it is read: {line}");
        lines.push(line);
        let parse = |(index, line): (usize, &String)| (Pattern::parse(line).expect("parsed before"), index);
        match Table::build(lines.iter().enumerate().map(parse).collect()) {
            Ok(larger) => table = larger,
            // The new line is at odds with one before: it is left out.
            Err(_) => drop(lines.pop()),
        }
    }
    (lines, table)
}

fn line(choices: &mut Choices<'_>) -> String {
    let (methods, hosts) = (choices.one_of(&METHODS), choices.one_of(&HOSTS));
    let mut path = String::new();
    for index in 0..choices.below(5) {
        let segment = choices.one_of(&SEGMENTS);
        path += "/";
        path += &if segment == "{}" { format!("{{x{index}}}") } else { segment.to_owned() };
    }
    path += choices.one_of(&ENDS);
    format!("{methods} {hosts}{}", if path.is_empty() { "/" } else { &path })
}

/// Of pieces that mean something, or any text.
fn raw_path(choices: &mut Choices<'_>) -> String {
    let count = choices.byte();
    if count >= 0xf0 {
        return String::from_utf8_lossy(choices.bytes()).into_owned();
    }
    let pieces: Vec<&str> = (0..count % 12).map(|_| choices.one_of(&PIECES)).collect();
    format!("/{}", pieces.concat())
}

fn check_line(line: &str, pattern: &Pattern, path: &Path<'_>, credential: Option<&str>) {
    let segments: Vec<&str> = line[line.find('/').expect("a path") + 1..].split('/').collect();
    let raw: Vec<&str> = path.raw()[1..].split('/').collect();
    let position = segments.iter().position(|segment| *segment == "{credential}");
    assert_eq!(credential, position.map(|position| raw[position]), "{line} {}", path.raw());
    for (index, segment) in segments.iter().enumerate() {
        if let Some(name) = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            let expected = match name.strip_prefix('*') {
                Some(_) => raw.get(index..).unwrap_or_default().join("/"),
                None => raw[index].to_owned(),
            };
            let name = name.strip_prefix('*').unwrap_or(name);
            assert_eq!(pattern.parameter(name, path), Some(expected.as_str()), "{line} {}", path.raw());
        }
    }
    let hosts: Vec<Host> = pattern.hosts().to_vec();
    assert!(hosts.iter().all(|host| host.covers(&host.example())));
}
