//! A router that is plain to see: it compares every line with every path and sorts by rank. Slow, and right if it is
//! short enough to be read.
//!
//! Knows nothing of the real one: the unit tests and the fuzz target `route` (which takes this file in by its path)
//! compare the two.

/// What becomes of a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Decision {
    /// The line that governs it, by its place in the table.
    Line(usize),
    /// The path has lines, and these methods do.
    MethodNotAllowed(String),
    Nothing,
}

const STANDARD: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// How specific each step of a match is; less is more specific, and a path that ends beats a `{*rest}` of nothing.
type Rank = Vec<u8>;
const END: u8 = 0;
const LITERAL: u8 = 1;
const PARAMETER: u8 = 2;
const REST: u8 = 3;

/// A line taken apart by hand: methods, hosts, segments.
fn parts(line: &str) -> (Vec<&str>, Vec<&str>, Vec<&str>) {
    let (methods, target) = line.split_once(' ').expect("a method and a target");
    let (hosts, path) = target.split_once('/').expect("a path");
    (methods.split(',').collect(), hosts.split(',').collect(), path.split('/').collect())
}

/// Decides for `raw`, which [`has_one_reading`]. `host` is without its port.
pub fn decide(lines: &[String], host: Option<&str>, raw: &str, method: &str) -> Decision {
    let host = host.map(|host| host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase());
    let host = host.as_deref();
    let (rank, chosen) = best(lines, host, &raw[1..].split('/').map(decoded).collect::<Vec<_>>());
    let Some(rank) = rank else { return Decision::Nothing };
    let ends_in_rest = rank.ends_with(&[REST]);
    if has(raw, &[";", "%3B"]) || (ends_in_rest && has(raw, &["%2F"])) {
        // An upstream that splits at encoded slashes and drops what follows a semicolon must come to the same lines.
        let fixed = if ends_in_rest { rank.len() - 1 } else { usize::MAX };
        let lax: Vec<Vec<u8>> = lax_segments(raw, fixed).iter().map(decoded).collect();
        if best(lines, host, &lax).1 != chosen {
            return Decision::Nothing;
        }
    }
    by_method(lines, &chosen, method)
}

/// Whether two programs would read the path in the same way.
pub fn has_one_reading(raw: &str) -> bool {
    let Some(path) = raw.strip_prefix('/') else { return false };
    let segments: Vec<&str> = path.split('/').collect();
    let is_doubtful = has(raw, &["%2F", ";", "%3B"]);
    segments.iter().all(|segment| is_written_plainly(segment))
        && do_not_climb(&segments)
        && (!is_doubtful || do_not_climb(&lax_segments(raw, 0).iter().map(String::as_str).collect::<Vec<_>>()))
}

/// Only a last segment may be empty.
fn do_not_climb(segments: &[&str]) -> bool {
    let last = segments.len() - 1;
    segments.iter().enumerate().all(|(index, segment)| match *segment {
        "" => index == last,
        segment => !matches!(segment, "." | ".."),
    })
}

/// RFC 3986 §3.3, less every second spelling of a character.
fn is_written_plainly(segment: &str) -> bool {
    let mut left = segment;
    while let Some(first) = left.chars().next() {
        let is_unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        if first != '%' {
            if !first.is_ascii() || !(is_unreserved(first as u8) || "!$&'()*+,=:@;".contains(first)) {
                return false;
            }
            left = &left[1..];
            continue;
        }
        let Some(byte) = left.get(1..3).and_then(hexadecimal) else { return false };
        if byte < 0x20 || byte == 0x7f || is_unreserved(byte) || b"%\\".contains(&byte) {
            return false;
        }
        left = &left[3..];
    }
    String::from_utf8(decoded(segment)).is_ok_and(|text| !text.contains(char::is_control))
}

fn hexadecimal(digits: &str) -> Option<u8> {
    let is_hexadecimal = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_hexadecimal.then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

fn decoded(segment: impl AsRef<str>) -> Vec<u8> {
    let segment = segment.as_ref();
    let mut bytes = Vec::new();
    let mut at = 0;
    while at < segment.len() {
        let escaped = segment[at..].strip_prefix('%').and_then(|rest| hexadecimal(rest.get(..2)?));
        bytes.push(escaped.unwrap_or(segment.as_bytes()[at]));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    bytes
}

fn has(raw: &str, texts: &[&str]) -> bool {
    texts.iter().any(|text| raw.to_ascii_uppercase().contains(text))
}

/// Splits what follows the first `fixed` segments at encoded slashes too, and cuts each segment at its semicolon.
fn lax_segments(raw: &str, fixed: usize) -> Vec<String> {
    let upper = raw.replace("%2f", "%2F").replace("%3b", "%3B");
    let split = |(index, segment): (usize, &str)| {
        let segment = if index < fixed { segment.to_owned() } else { segment.replace("%2F", "/") };
        segment.split('/').map(str::to_owned).collect::<Vec<_>>()
    };
    let segments = upper[1..].split('/').enumerate().flat_map(split);
    let cut = |segment: String| segment.replace("%3B", ";").split(';').next().unwrap_or_default().to_owned();
    segments.map(cut).collect()
}

/// The lines of the most specific path, and how specific it is.
fn best(lines: &[String], host: Option<&str>, path: &[Vec<u8>]) -> (Option<Rank>, Vec<usize>) {
    let ranked: Vec<(Rank, usize, usize)> = (0..lines.len())
        .filter_map(|index| {
            let (_, hosts, segments) = parts(&lines[index]);
            Some((rank(&segments, path)?, host_rank(&hosts, host)?, index))
        })
        .collect();
    let Some((rank, host_rank, _)) = ranked.iter().min() else { return (None, Vec::new()) };
    let chosen = ranked.iter().filter(|(r, h, _)| (r, h) == (rank, host_rank)).map(|(_, _, index)| *index);
    (Some(rank.clone()), chosen.collect())
}

fn rank(segments: &[&str], path: &[Vec<u8>]) -> Option<Rank> {
    match (segments, path) {
        ([], []) => Some(vec![END]),
        ([rest], _) if rest.starts_with("{*") => Some(vec![REST]),
        ([segment, segments @ ..], [part, path @ ..]) => {
            let step = match *segment {
                literal if literal.as_bytes() == part => LITERAL,
                parameter if parameter.starts_with('{') && !part.is_empty() => PARAMETER,
                _ => return None,
            };
            Some(std::iter::once(step).chain(rank(segments, path)?).collect())
        }
        _ => None,
    }
}

/// How closely the hosts of a line name this one, less is closer: itself, the longest name above it, none at all.
fn host_rank(hosts: &[&str], host: Option<&str>) -> Option<usize> {
    let rank = |wanted: &&str| match (wanted.strip_prefix('*'), host) {
        _ if wanted.is_empty() => Some(1_000),
        (_, None) => None,
        (Some(above), Some(host)) => (host.len() > above.len() && host.ends_with(above)).then(|| 500 - above.len()),
        (None, Some(host)) => (*wanted == host).then_some(0),
    };
    hosts.iter().filter_map(rank).min()
}

fn by_method(lines: &[String], chosen: &[usize], method: &str) -> Decision {
    let any_covers = !matches!(method, "CONNECT" | "TRACE") && method.to_ascii_uppercase() == method;
    let serves = |name: &str| chosen.iter().copied().find(|index| parts(&lines[*index]).0.contains(&name));
    let listed = serves(method).filter(|_| method != "ANY");
    let by_get = if method == "HEAD" { serves("GET") } else { None };
    let by_any = if any_covers { serves("ANY") } else { None };
    match listed.or(by_get).or(by_any) {
        Some(line) => Decision::Line(line),
        None => Decision::MethodNotAllowed(allow(lines, chosen)),
    }
}

/// GET brings HEAD, and ANY the methods that everybody knows; those come first.
fn allow(lines: &[String], chosen: &[usize]) -> String {
    let mut listed: Vec<&str> = chosen.iter().flat_map(|index| parts(&lines[*index]).0).collect();
    if listed.contains(&"GET") {
        listed.push("HEAD");
    }
    if listed.contains(&"ANY") {
        listed.extend(STANDARD);
    }
    let mut others: Vec<&str> =
        listed.iter().copied().filter(|name| *name != "ANY" && !STANDARD.contains(name)).collect();
    others.sort_unstable();
    others.dedup();
    let standard = STANDARD.into_iter().filter(|name| listed.contains(name));
    standard.chain(others).collect::<Vec<_>>().join(", ")
}
