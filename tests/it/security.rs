//! SECURITY.md: that what it names is there.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What stands in backticks, the blocks aside.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("readable").map(|entry| entry.expect("readable").path()) {
        if entry.is_dir() {
            rust_files(&entry, found);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            found.push(entry);
        }
    }
}

/// Every test as `file::name`, the file that it is in without its folders.
fn tests() -> HashSet<String> {
    let mut files = Vec::new();
    ["src", "tests"].iter().for_each(|folder| rust_files(&root().join(folder), &mut files));
    let mut tests = HashSet::new();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("readable");
        let module = file.file_stem().expect("a name").to_string_lossy().into_owned();
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        for (at, line) in lines.iter().enumerate() {
            let name =
                line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ").and_then(|rest| rest.split('(').next());
            let is_test =
                lines[at.saturating_sub(4)..at].iter().any(|line| line.starts_with("#[") && line.contains("test"));
            tests.extend(name.filter(|_| is_test).map(|name| format!("{module}::{name}")));
        }
    }
    tests
}

#[test]
fn every_test_and_file_that_security_md_names_is_there() {
    let text = std::fs::read_to_string(root().join("SECURITY.md")).expect("SECURITY.md");
    let tests = tests();
    let named: Vec<&str> = quoted(&text).filter(|name| name.contains("::") && name.contains('_')).collect();
    assert!(named.len() > 30, "{named:?}");
    let missing: Vec<&&str> = named.iter().filter(|name| !tests.contains(**name)).collect();
    assert!(missing.is_empty(), "no such tests: {missing:#?}");
    let is_path = |name: &&str| ["src/", "tests/", "benches/", "config/"].iter().any(|folder| name.starts_with(folder));
    for path in quoted(&text).filter(is_path).chain(["deny.toml", ".ci/run"]) {
        assert!(root().join(path).exists(), "{path}");
    }
}

#[test]
fn security_md_gives_the_advisories_that_are_accepted_and_no_other() {
    let numbers = |file: &str| {
        let text = std::fs::read_to_string(root().join(file)).expect("readable");
        let ids = text.match_indices("RUSTSEC-").map(|(at, _)| text[at..at + 17].to_owned());
        ids.collect::<HashSet<_>>()
    };
    assert_eq!(numbers("SECURITY.md"), numbers("deny.toml"));
}
