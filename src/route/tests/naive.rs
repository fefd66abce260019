//! The table against a matcher that is plain to see: compare every line with every path, sort by rank.

use proptest::prelude::*;

use super::super::*;

/// How specific each step of a match is; less is more specific, and a path that ends beats a `{*rest}` of nothing.
type Rank = Vec<u8>;

/// A pattern taken apart by hand: methods, hosts, segments.
fn parts(line: &str) -> (Vec<&str>, Vec<&str>, Vec<&str>) {
    let (methods, target) = line.split_once(' ').unwrap();
    let (hosts, path) = target.split_once('/').unwrap();
    (methods.split(',').collect(), hosts.split(',').collect(), path.split('/').collect())
}

/// How closely the hosts of a line name this one, less is closer: itself, the longest name above it, none at all.
fn host_rank(hosts: &[&str], host: &str) -> Option<usize> {
    let rank = |wanted: &&str| match wanted.strip_prefix('*') {
        _ if wanted.is_empty() => Some(1_000),
        Some(above) => host.ends_with(above).then_some(100 - above.len()),
        None => (*wanted == host).then_some(0),
    };
    hosts.iter().filter_map(rank).min()
}

fn rank(segments: &[&str], path: &[String]) -> Option<Rank> {
    match (segments, path) {
        ([], []) => Some(vec![0]),
        (["{*rest}"], _) => Some(vec![3]),
        ([segment, segments @ ..], [part, path @ ..]) => {
            let step = match *segment {
                literal if literal == part => 1,
                "{x}" if !part.is_empty() => 2,
                _ => return None,
            };
            Some(std::iter::once(step).chain(rank(segments, path)?).collect())
        }
        _ => None,
    }
}

/// The lines of the most specific path, and how specific it is.
fn best(lines: &[String], host: &str, path: &[String]) -> (Option<Rank>, Vec<usize>) {
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

fn naive(lines: &[String], host: &str, raw: &str, method: &str) -> String {
    let split = |text: &str| text[1..].split('/').map(|part| part.replace("%20", " ")).collect::<Vec<_>>();
    let (rank, chosen) = best(lines, host, &split(raw));
    if let Some(rank) = rank
        && rank.ends_with(&[3])
    {
        let fixed: Vec<&str> = raw[1..].splitn(rank.len(), '/').collect();
        let rest = fixed.get(rank.len() - 1).unwrap_or(&"");
        let lax = format!("{}{}", &raw[..raw.len() - rest.len()], rest.replace("%2F", "/"));
        if best(lines, host, &split(&lax)).1 != chosen {
            return "404".to_owned();
        }
    }
    if chosen.is_empty() {
        return "404".to_owned();
    }
    let wanted = if method == "HEAD" { &["HEAD", "GET", "ANY"][..] } else { &[method, "ANY"] };
    let serves = |name: &&str| chosen.iter().copied().find(|index| parts(&lines[*index]).0.contains(name));
    wanted.iter().find_map(serves).map_or("405".to_owned(), |index| index.to_string())
}

fn lines() -> impl Strategy<Value = Vec<String>> {
    let methods = prop::sample::select(vec!["GET", "HEAD", "POST", "GET,POST", "ANY"]);
    let host =
        prop::sample::select(vec!["", "", "", "h", "i", "h,i", "*.w", "b.w", "*.b.w,h", "a.b.w,*.w", "h,*.b.w,w"]);
    let segment = prop::sample::select(vec!["a", "b", "a b", "{x}", "{x}"]);
    let end = prop::sample::select(vec!["", "", "/", "/{*rest}", "/{*rest}"]);
    let line = (methods, host, prop::collection::vec(segment, 0..4), end).prop_map(|(methods, host, segments, end)| {
        let path: String = segments.iter().map(|segment| format!("/{segment}")).collect();
        let path = if path.is_empty() && end.is_empty() { "/" } else { &format!("{path}{end}") };
        format!("{methods} {host}{path}")
    });
    prop::collection::vec(line, 1..16)
}

fn path() -> impl Strategy<Value = String> {
    let segment = prop::sample::select(vec!["a", "b", "a%20b", "c", "a%2Fb", "b%2Fa%2Fb"]);
    (prop::collection::vec(segment, 0..5), any::<bool>()).prop_map(|(segments, slash)| {
        let path: String = segments.iter().map(|segment| format!("/{segment}")).collect();
        if slash || path.is_empty() { format!("{path}/") } else { path }
    })
}

/// The lines that can stand together: of two that conflict, the first stays.
fn without_conflicts(mut lines: Vec<String>) -> (Vec<String>, Table<usize>) {
    loop {
        // Names of parameters must differ within a line; the naive matcher calls them all {x}.
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
        host in prop::sample::select(vec!["h", "i", "j", "w", "b.w", "c.w", "a.b.w", "c.b.w", "d.c.b.w"]),
        method in prop::sample::select(vec!["GET", "HEAD", "POST", "PURGE"]),
    ) {
        let (lines, table) = without_conflicts(lines);
        for raw in paths {
            let answer = match table.find(Some(host), &Path::parse(&raw).unwrap(), method) {
                Found::Line { line, .. } => line.to_string(),
                Found::MethodNotAllowed { .. } => "405".to_owned(),
                Found::Nothing => "404".to_owned(),
            };
            prop_assert_eq!(answer, naive(&lines, host, &raw, method), "{} {}{} in {:#?}", method, host, raw, lines);
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
