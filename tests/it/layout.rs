//! The shape of `src/`: the reading order of its modules is also the order in which they may use each other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn source_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every `.rs` file below a folder.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// The modules in the order in which `lib.rs` lists them.
fn reading_order() -> BTreeMap<String, usize> {
    let text = read(&source_folder().join("lib.rs"));
    let declared = |line: &str| {
        let line = line.trim();
        let rest = line.strip_prefix("pub mod ").or_else(|| line.strip_prefix("mod "))?;
        Some(rest.trim_end_matches(';').to_owned())
    };
    text.lines().filter_map(declared).enumerate().map(|(position, name)| (name, position)).collect()
}

/// The module that a file belongs to: the first part of its path below `src/`.
fn module_of(path: &Path) -> String {
    let below = path.strip_prefix(source_folder()).expect("below src");
    let first = below.iter().next().expect("a name").to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

/// The modules that a source text names behind `crate::`, groups (`crate::{a::B, c}`) included. Comments do not count.
fn used_modules(text: &str) -> Vec<String> {
    let code: String =
        text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
    let mut used = Vec::new();
    for after in code.split("crate::").skip(1) {
        match after.strip_prefix('{') {
            Some(group) => used.extend(group_heads(group)),
            None => used.push(leading_name(after)),
        }
    }
    used
}

/// The first name of each element of a `use` group, up to its closing brace.
fn group_heads(group: &str) -> Vec<String> {
    let mut heads = Vec::new();
    let (mut depth, mut starts) = (0_usize, true);
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => starts = true,
            _ if starts && !character.is_whitespace() => {
                heads.push(leading_name(&group[at..]));
                starts = false;
            }
            _ => {}
        }
    }
    heads
}

fn leading_name(text: &str) -> String {
    text.chars().take_while(|character| character.is_alphanumeric() || *character == '_').collect()
}

#[test]
fn a_module_imports_only_modules_above_it() {
    let order = reading_order();
    assert!(order.len() > 10, "lib.rs lists the modules: {order:?}");
    let mut wrong = Vec::new();
    for path in rust_files(&source_folder()) {
        let module = module_of(&path);
        let Some(own) = order.get(&module) else { continue };
        for used in used_modules(&read(&path)) {
            if order.get(&used).is_some_and(|position| position > own) {
                wrong.push(format!("{} uses {used}, which lib.rs lists below {module}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_folder_and_file_of_the_library_is_listed_in_lib_rs() {
    let order = reading_order();
    let listed = |module: &String| order.contains_key(module) || module == "lib" || module == "main";
    let unlisted: Vec<String> =
        rust_files(&source_folder()).iter().map(|path| module_of(path)).filter(|module| !listed(module)).collect();
    assert!(unlisted.is_empty(), "{unlisted:?}");
}

/// The maps that clients fill hash with a seed that they cannot know. Those of the route table are filled by the
/// configuration alone.
#[test]
fn nothing_but_the_route_table_hashes_without_a_random_seed() {
    let seedless = ["BuildHasherDefault", "DefaultHasher", "FnvHash", "FxHash", "with_hasher("];
    let is_seedless = |path: &PathBuf| seedless.iter().any(|name| read(path).contains(name));
    let found: Vec<PathBuf> = rust_files(&source_folder()).into_iter().filter(is_seedless).collect();
    assert_eq!(found, [source_folder().join("route").join("table.rs")]);
}

#[test]
fn every_source_file_opens_with_what_it_owns() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = ["src", "tests", "benches"].into_iter().flat_map(|folder| rust_files(&root.join(folder)));
    let bare: Vec<PathBuf> = files.filter(|path| !read(path).starts_with("//! ")).collect();
    assert!(bare.is_empty(), "{bare:?}");
}

#[test]
fn imports_are_found_however_they_are_written() {
    let text = "use crate::key::KeyId;\nuse crate::{clock::{Clock, Timestamp}, store, limit::Bucket};\nlet x = crate::http::y(); // crate::app";
    assert_eq!(used_modules(text), ["key", "clock", "store", "limit", "http"]);
}
