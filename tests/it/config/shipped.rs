//! The files in `config/`: `portcullis.toml` shows every option at its default, and no slip in a line opens a door.

use std::collections::BTreeSet;
use std::path::{Path as FilePath, PathBuf};

use portcullis::clock::Timestamp;
use portcullis::config::{Config, RouteConfig};
use portcullis::key::{KeyName, KeyRecord, KeySecret, Kind, Scope, ScopeSet};
use portcullis::policy;
use portcullis::route::{Found, Path};
use portcullis::settings::Source;
use toml::de::{DeTable, DeValue};

const ROUTES: &str = "upstream.sample.routes.";
pub(super) const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

#[test]
fn the_example_shows_every_option() {
    let example = Source { path: folder().join("portcullis.toml"), text: read("portcullis.toml") };
    let shown = shown_options(&example.text);
    let (_, known) = Config::parse_with_names(&example).unwrap_or_else(|problems| panic!("{problems}"));
    // No line can have them all, so a route's option is shown when some line has it.
    let shown_of_routes: BTreeSet<&str> = shown.iter().filter_map(|name| option_of_route(name)).collect();
    let is_shown = |name: &String| match option_of_route(name) {
        Some(option) => shown_of_routes.contains(option),
        None => shown.contains(name),
    };
    let missing: Vec<&String> = known.iter().filter(|name| !is_shown(name)).collect();
    assert!(missing.is_empty(), "not in config/portcullis.toml: {missing:#?}");
}

#[test]
fn the_example_shows_every_option_at_its_default() {
    let text = read("portcullis.toml");
    let example = parse(&text).expect("the example is valid");
    let bare = parse(&without_options(&text)).unwrap_or_else(|()| panic!("{}", without_options(&text)));

    assert_eq!(example.listen, bare.listen);
    assert_eq!(example.client, bare.client);
    assert_eq!(example.shutdown, bare.shutdown);
    assert_eq!(example.tls, bare.tls);
    assert_eq!(example.store, bare.store);
    assert_eq!(example.keys, bare.keys);
    assert_eq!(example.admin, bare.admin);
    assert_eq!(example.credentials, bare.credentials);
    assert_eq!(example.requests, bare.requests);
    assert_eq!(example.limits, bare.limits);
    assert_eq!(example.forwarding, bare.forwarding);
    assert_eq!(example.log, bare.log);
    assert_eq!(example.reload, bare.reload);
    assert_eq!(example.scopes, bare.scopes);
    assert_eq!(example.upstreams, bare.upstreams);
    let full_line = |config: &Config| {
        let line = config.routes.lines().find(|(pattern, _)| pattern.to_string() == "POST /api/v1/write");
        line.expect("the line with every option").1.clone()
    };
    assert_eq!(full_line(&example), full_line(&bare));
}

/// A slip of the hand in one line either is refused or opens nothing: what was refused before is refused after, unless
/// the very line that refused it is gone.
#[test]
fn no_slip_in_one_line_of_a_shipped_file_admits_more() {
    for name in shipped_files() {
        let text = read(&name);
        let original = parse(&text).unwrap_or_else(|()| panic!("{name} is not valid"));
        let keys: Vec<KeyRecord> = original.scopes.iter().map(|(scope, _)| holder_of(scope)).collect();
        let mut accepted = 0;
        for slip in slips(&text) {
            let Ok(changed) = parse(&slip.text) else { continue };
            accepted += 1;
            for probe in probes_around_changes(&original, &changed) {
                let (was, now) = (decision(&original, &probe), decision(&changed, &probe));
                let opened = keys.iter().map(Some).chain([None]).find(|key| !was.admits(*key) && now.admits(*key));
                let excused = || was.lines(&original, &probe).iter().any(|line| !has_line(&changed, line));
                assert!(opened.is_none() || excused(), "{name}, {}: {probe:?} now admits {opened:?}", slip.what);
            }
        }
        assert!(accepted > 0, "{name}: no slip was accepted, so nothing was tried");
    }
}

fn folder() -> PathBuf {
    FilePath::new(env!("CARGO_MANIFEST_DIR")).join("config")
}

pub(super) fn read(name: &str) -> String {
    std::fs::read_to_string(folder().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

pub(super) fn shipped_files() -> Vec<String> {
    let entries = std::fs::read_dir(folder()).expect("config/ is there");
    let names = entries.map(|entry| entry.expect("readable").file_name().into_string().expect("a plain name"));
    let mut names: Vec<String> = names.filter(|name| name.ends_with(".toml")).collect();
    names.sort();
    assert!(names.len() > 1, "{names:?}");
    names
}

pub(super) fn parse(text: &str) -> Result<Config, ()> {
    Config::parse(&Source { path: folder().join("some.toml"), text: text.to_owned() }).map_err(|_| ())
}

/// The last part of the dotted name of a route's option.
fn option_of_route(name: &str) -> Option<&str> {
    name.strip_prefix(ROUTES)?.rsplit_once('.').map(|(_, option)| option).filter(|option| !option.contains('/'))
}

/// The dotted names of all fields of a file.
fn shown_options(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    collect(DeTable::parse(text).expect("valid TOML").get_ref(), "", &mut names);
    names
}

fn collect(table: &DeTable<'_>, path: &str, names: &mut BTreeSet<String>) {
    for (name, value) in table {
        let path = if path.is_empty() { name.get_ref().to_string() } else { format!("{path}.{}", name.get_ref()) };
        if let Some(table) = value.get_ref().as_table() {
            collect(table, &path, names);
        }
        names.insert(path);
    }
}

/// The file's scopes, upstreams and routes with what they need, and nothing else.
fn without_options(text: &str) -> String {
    let file = DeTable::parse(text).expect("valid TOML");
    let mut bare = String::from("[scopes]\n");
    for (name, about) in table(file.get_ref(), "scopes") {
        bare += &format!("{:?} = {}\n", name.get_ref(), toml_of(about.get_ref()));
    }
    for (name, upstream) in table(file.get_ref(), "upstream") {
        let upstream = upstream.get_ref().as_table().expect("an upstream is a table");
        let url = upstream.get("url").expect("an upstream has a url");
        bare += &format!("[upstream.{0}]\nurl = {1}\n[upstream.{0}.routes]\n", name.get_ref(), toml_of(url.get_ref()));
        for (line, needs) in table(upstream, "routes") {
            bare += &format!("{:?} = {}\n", line.get_ref(), needs_alone(needs.get_ref()));
        }
    }
    bare
}

fn table<'t>(parent: &'t DeTable<'t>, name: &str) -> &'t DeTable<'t> {
    parent.get(name).and_then(|value| value.get_ref().as_table()).unwrap_or_else(|| panic!("no table {name}"))
}

fn needs_alone(route: &DeValue<'_>) -> String {
    let Some(table) = route.as_table() else { return toml_of(route) };
    let needs = ["any", "all", "require"].into_iter().find_map(|name| Some((name, table.get(name)?)));
    let (name, needs) = needs.expect("a route says what it needs");
    format!("{{ {name} = {} }}", toml_of(needs.get_ref()))
}

/// A string, or an array of strings.
fn toml_of(value: &DeValue<'_>) -> String {
    match value.as_array() {
        Some(array) => format!("[{}]", array.iter().map(|one| toml_of(one.get_ref())).collect::<Vec<_>>().join(", ")),
        None => format!("{:?}", value.as_str().expect("a string")),
    }
}

/// A file after one slip.
pub(super) struct Slip {
    pub(super) what: String,
    pub(super) text: String,
}

/// Every line that is no comment deleted, doubled, swapped with the next one, cut short, and the file ended after it.
pub(super) fn slips(text: &str) -> Vec<Slip> {
    let lines: Vec<&str> = text.lines().collect();
    let mut slips = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let number = index + 1;
        let mut slip = |what: &str, replaced: &[&str], rest: &[&str]| {
            let text = [&lines[..index], replaced, rest].concat().join("\n") + "\n";
            slips.push(Slip { what: format!("line {number} {what}"), text });
        };
        let rest = &lines[number..];
        slip("deleted", &[], rest);
        slip("doubled", &[line, line], rest);
        slip("the last", &[line], &[]);
        if let Some((next, rest)) = rest.split_first() {
            slip("swapped with the next", &[next, line], rest);
        }
        let told = line.split('#').next().unwrap_or_default();
        for (end, _) in told.match_indices(['=', ',', '}', ']']) {
            slip(&format!("cut before column {}", end + 1), &[&line[..end]], rest);
            slip(&format!("cut after column {}", end + 1), &[&line[..=end]], rest);
        }
    }
    slips
}

fn has_line(config: &Config, pattern: &str) -> bool {
    config.routes.lines().any(|(line, _)| line.to_string() == pattern)
}

#[derive(Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Probe {
    pub(super) host: Option<String>,
    pub(super) path: String,
    pub(super) method: &'static str,
}

/// Requests to the paths of the lines that the two do not share, and to their neighbours: no others can fare otherwise.
fn probes_around_changes(original: &Config, changed: &Config) -> BTreeSet<Probe> {
    let lines = |config: &Config| -> BTreeSet<(String, String)> {
        let needs = |route: &RouteConfig| format!("{:?}", route.settings.requirement);
        config.routes.lines().map(|(pattern, route)| (pattern.to_string(), needs(route))).collect()
    };
    let mut probes = BTreeSet::new();
    for (pattern, _) in lines(original).symmetric_difference(&lines(changed)) {
        let (host, path) = pattern.split_once(' ').and_then(|(_, target)| target.split_once('/')).expect("a pattern");
        let named = host.split(',').filter(|host| !host.is_empty()).map(|host| Some(host.replace('*', "any")));
        let hosts: Vec<Option<String>> = std::iter::once(None).chain(named).collect();
        for (host, path) in hosts.iter().flat_map(|host| paths_around(path).map(|path| (host.clone(), path))) {
            probes.extend(METHODS.map(|method| Probe { host: host.clone(), path: path.clone(), method }));
        }
    }
    probes
}

/// A path that the pattern covers, and its neighbours.
fn paths_around(pattern: &str) -> [String; 4] {
    let segments = pattern.split('/').map(|segment| if segment.starts_with('{') { "some" } else { segment });
    let segments: Vec<&str> = segments.collect();
    let (last, parents) = segments.split_last().expect("split gives one part at least");
    let parent = format!("/{}", parents.join("/"));
    let below = |parent: &str, name: &str| format!("{}/{name}", parent.trim_end_matches('/'));
    let own = below(&parent, last);
    [below(&own, "more"), below(&parent, "other"), own, parent]
}

/// What a table says of a probe.
pub(super) struct Decision<'c>(Found<'c, RouteConfig>);

pub(super) fn decision<'c>(config: &'c Config, probe: &Probe) -> Decision<'c> {
    let path = Path::parse(&probe.path).unwrap_or_else(|error| panic!("{}: {error}", probe.path));
    Decision(config.routes.find(probe.host.as_deref(), &path, probe.method))
}

impl Decision<'_> {
    pub(super) fn admits(&self, key: Option<&KeyRecord>) -> bool {
        let Found::Line { line, .. } = &self.0 else { return false };
        policy::authorize(&line.settings.requirement, key).is_ok()
    }

    /// The lines that decide: one, or all of the path when none of them takes the method.
    fn lines(&self, config: &Config, probe: &Probe) -> BTreeSet<String> {
        let methods = match &self.0 {
            Found::Line { .. } => vec![probe.method],
            Found::MethodNotAllowed { .. } => METHODS.to_vec(),
            Found::Nothing => Vec::new(),
        };
        let path = Path::parse(&probe.path).expect("parsed before");
        let found = methods.into_iter().map(|method| config.routes.find(probe.host.as_deref(), &path, method));
        let line = |found| match found {
            Found::Line { pattern, .. } => Some(pattern.to_string()),
            _ => None,
        };
        found.filter_map(line).collect()
    }
}

pub(super) fn holder_of(scope: &Scope) -> KeyRecord {
    let secret = KeySecret::generate().expect("randomness");
    KeyRecord {
        id: secret.id(),
        digest: secret.digest(),
        name: KeyName::parse("probe").expect("a name"),
        kind: Kind::Custom,
        scopes: ScopeSet::new([scope.clone()]),
        created: Timestamp::from_unix(0),
        updated: Timestamp::from_unix(0),
        created_revision: 1,
        revision: 1,
    }
}
