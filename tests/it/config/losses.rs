//! Files that have lost or garbled something: sealed, they are refused; unsealed, a lost line takes access along where no
//! line lies within another.

use aws_lc_rs::digest::{SHA256, digest};
use portcullis::config::Config;
use portcullis::key::{KeyRecord, Scope};
use proptest::prelude::*;
use proptest::sample::Index;

use super::shipped::{METHODS, Probe, decision, holder_of, parse, read, shipped_files, slips};
use super::{accept, refuse};

const SCOPES: [&str; 4] = ["alpha:read", "beta:write", "gamma:all", "delta"];
const NEEDS: [&str; 8] = [
    r#""alpha:read""#,
    r#""beta:write""#,
    r#""authenticated""#,
    r#""public""#,
    r#""deny""#,
    r#"{ any = ["alpha:read", "gamma:all"] }"#,
    r#"{ all = ["delta", "gamma:all"], timeout = "2m" }"#,
    r#"{ require = "delta", rate = "5/s" }"#,
];

fn seal(rest: &str) -> String {
    let hex: String = digest(&SHA256, rest.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("seal = \"{hex}\"")
}

fn sealed(rest: &str) -> String {
    format!("# What follows is sealed.\n{}  # by hand\n{rest}", seal(rest))
}

/// What it says of everything, but for the seal.
fn shown(config: &Config) -> String {
    format!("{config:?}")
}

#[test]
fn a_seal_is_that_of_all_below_it_and_stands_above_all_else() {
    let rest = "[listen]\npublic = \"127.0.0.1:1\"\n";
    accept(&sealed(rest));
    accept(&format!("\n  # note\n{}\r\n{rest}", seal(rest)));
    accept(&format!("seal = \"off\"\n{rest}"));
    accept(&seal(""));
    let message = "if they all are as they should be, write ";
    refuse(&sealed(rest).replace("0.0.1:1", "0.0.1:2"), &[(2, 8, message)]);
    refuse(&format!("seal = \"\"\n{rest}"), &[(1, 8, &format!("{message}{}", seal(rest)))]);
    refuse(&format!("seal = 7\n{rest}"), &[(1, 8, "must be a string")]);
    refuse(&format!("store.path = \"x\"\n{}\n{rest}", seal(rest)), &[(2, 8, "write it before all other lines")]);
    refuse(&format!("[scopes]\n{}\n", seal("")), &[(2, 1, "seal is an option of the whole file")]);
    refuse(&format!("{rest}{}\n", seal("")), &[(3, 1, "unknown option listen.seal")]);
}

#[test]
fn no_slip_in_a_sealed_file_is_accepted_as_another_file() {
    for name in shipped_files() {
        let text = read(&name).replace("seal = \"off\"", "# seal");
        let whole = sealed(&text);
        let original = shown(&accept_shipped(&whole));
        for slip in slips(&whole) {
            if let Ok(config) = parse(&slip.text) {
                assert!(shown(&config) == original || config.routes.lines().len() == 0, "{name}: {}", slip.what);
            }
        }
        // Cut off anywhere: in the middle of a line, and behind each.
        let ends = (0..whole.len()).step_by(97).chain(whole.match_indices('\n').step_by(5).map(|(end, _)| end + 1));
        for end in ends.filter(|end| whole.is_char_boundary(*end)) {
            if let Ok(config) = parse(&whole[..end]) {
                assert!(end == whole.len() || config.routes.lines().len() == 0, "{name}, cut at {end}");
            }
        }
    }
}

#[track_caller]
fn accept_shipped(text: &str) -> Config {
    parse(text).unwrap_or_else(|()| panic!("{text}"))
}

#[derive(Clone, Debug)]
enum Fault {
    Cut(Index),
    Delete(Index),
    Double(Index),
    Garble(Index, char),
    GarbleWord(Index, Index),
    Swap(Index, Index),
}

impl Fault {
    fn is_loss(&self) -> bool {
        !matches!(self, Self::Garble(..) | Self::GarbleWord(..))
    }

    fn done_to(&self, text: &str) -> String {
        if text.is_empty() {
            return String::new();
        }
        let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
        let line = |index: &Index| index.index(lines.len());
        match self {
            Self::Cut(at) => return text.chars().take(at.index(text.chars().count())).collect(),
            Self::Delete(at) => drop(lines.remove(line(at))),
            Self::Double(at) => lines.insert(line(at), lines[line(at)]),
            Self::Garble(at, char) => {
                let at = at.index(text.chars().count());
                return text.chars().enumerate().map(|(index, own)| if index == at { *char } else { own }).collect();
            }
            Self::GarbleWord(at, by) => {
                let words: Vec<&str> = text.split(' ').collect();
                let (at, by) = (at.index(words.len()), by.index(words.len()));
                let word = |(index, own)| if index == at { words[by] } else { own };
                return words.iter().copied().enumerate().map(word).collect::<Vec<_>>().join(" ");
            }
            Self::Swap(one, other) => {
                let (one, other) = (line(one), line(other));
                lines.swap(one, other);
            }
        }
        lines.concat()
    }
}

fn fault() -> impl Strategy<Value = Fault> {
    let index = any::<Index>;
    let char = prop_oneof![any::<char>(), prop::sample::select(" \n\"'#=[]{},*/.-0aA".chars().collect::<Vec<_>>())];
    prop_oneof![
        index().prop_map(Fault::Cut),
        index().prop_map(Fault::Delete),
        index().prop_map(Fault::Double),
        (index(), char).prop_map(|(at, char)| Fault::Garble(at, char)),
        (index(), index()).prop_map(|(at, by)| Fault::GarbleWord(at, by)),
        (index(), index()).prop_map(|(one, other)| Fault::Swap(one, other)),
    ]
}

/// A valid file of lines of which none lies within another, or of lines that do.
fn file(nested: bool) -> impl Strategy<Value = String> {
    let methods = prop::sample::select(vec!["GET", "POST", "GET,POST", "ANY", "DELETE"]);
    let host = prop::sample::select(vec!["", "", "", "h.example", "*.example"]);
    let end = prop::sample::select(vec!["", "/", "/{name}", "/{*rest}", "/a/{name}/b", "/a/b"]);
    let needs = prop::sample::select(NEEDS.to_vec());
    let lines = prop::collection::vec((methods, host, end, needs), 1..10);
    (lines, any::<bool>(), any::<bool>()).prop_map(move |(lines, has_options, has_two)| {
        let mut text = String::from("[scopes]\n");
        text.extend(SCOPES.map(|scope| format!("\"{scope}\" = \"For tests\"\n")));
        if has_options {
            text += "[admin]\nlisteners = [\"ops\"]\n[credentials]\nfrom = [\"basic\"]\n[limits.key]\nrate = \"9/s\"\n";
        }
        let half = if has_two { lines.len() / 2 } else { lines.len() };
        for (index, (methods, host, end, needs)) in lines.iter().enumerate() {
            if index == 0 || index == half {
                let hosts = if nested && has_options { "hosts = [\"a.example\"]\n" } else { "" };
                text += &format!("[upstream.u{index}]\nurl = \"http://127.0.0.1:{}\"\n{hosts}", 9_000 + index);
                text += &format!("[upstream.u{index}.routes]\n");
            }
            let first = if nested { "/top".to_owned() } else { format!("/top{index}") };
            text += &format!("\"{methods} {host}{first}{end}\" = {needs}\n");
        }
        text
    })
}

/// Requests to all that the lines are about, and beside it.
fn probes() -> Vec<Probe> {
    let tops = std::iter::once("/top".to_owned()).chain((0..10).map(|index| format!("/top{index}")));
    let ends = ["", "/", "/x", "/a/b", "/a/x/b", "/x/y"];
    let paths: Vec<String> = tops.flat_map(|top| ends.map(|end| format!("{top}{end}"))).collect();
    let hosts = [None, Some("h.example"), Some("a.example"), Some("other")];
    let requests = paths.iter().flat_map(|path| hosts.map(|host| (path, host)));
    let probe = |(path, host): (&String, Option<&str>)| {
        METHODS.map(|method| Probe { host: host.map(str::to_owned), path: path.clone(), method })
    };
    requests.flat_map(probe).collect()
}

/// A probe that `changed` admits with a key, or without one, that `original` does not.
fn opened<'p>(original: &Config, changed: &Config, probes: &'p [Probe]) -> Option<(&'p Probe, String)> {
    let keys: Vec<KeyRecord> = SCOPES.iter().map(|scope| holder_of(&Scope::parse(scope).expect("a scope"))).collect();
    let callers: Vec<Option<&KeyRecord>> = keys.iter().map(Some).chain([None]).collect();
    probes.iter().find_map(|probe| {
        let (was, now) = (decision(original, probe), decision(changed, probe));
        let caller = callers.iter().find(|key| !was.admits(**key) && now.admits(**key))?;
        Some((probe, format!("{:?}", caller.map(|key| &key.scopes))))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    /// One fault anywhere, the seal's own line too: a file without a seal is then whole, or has no routes.
    #[test]
    fn a_sealed_file_with_a_fault_is_refused_or_means_the_same(rest in file(true), faults in prop::collection::vec(fault(), 12)) {
        let Ok(original) = parse(&rest) else { return Ok(()) };
        let whole = sealed(&rest);
        prop_assert_eq!(shown(&accept_shipped(&whole)), shown(&original));
        for fault in faults {
            let text = fault.done_to(&whole);
            let Ok(config) = parse(&text) else { continue };
            let is_same = shown(&config) == shown(&original) || config.routes.lines().len() == 0;
            prop_assert!(is_same, "{:?} is accepted:\n{}", fault, text);
        }
    }

    /// However many: as long as the seal's line is there, what follows it is what was sealed.
    #[test]
    fn below_a_seal_nothing_changes_unnoticed(rest in file(true), faults in prop::collection::vec(fault(), 1..5)) {
        let Ok(original) = parse(&rest) else { return Ok(()) };
        let changed = faults.iter().fold(rest.clone(), |text, fault| fault.done_to(&text));
        let text = sealed(&rest).replace(&rest, &changed);
        if let Ok(config) = parse(&text) {
            prop_assert_eq!(shown(&config), shown(&original), "{:?}:\n{}", faults, text);
        }
    }

    /// Without a seal, for lines side by side: there is no broader line that a lost one could have stood before.
    #[test]
    fn where_no_line_lies_within_another_a_lost_line_opens_nothing(
        text in file(false),
        faults in prop::collection::vec(fault().prop_filter("a loss", Fault::is_loss), 6),
    ) {
        let original = accept(&text);
        let probes = probes();
        for fault in faults {
            let changed = fault.done_to(&text);
            let Ok(config) = parse(&changed) else { continue };
            let opened = opened(&original, &config, &probes);
            prop_assert!(opened.is_none(), "{:?} opens {:?}:\n{}", fault, opened, changed);
        }
    }
}
