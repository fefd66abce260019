//! kill -9 in the middle of a command: what is left is nothing or whole, or goes on when the command is repeated.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::*;

use super::{arguments, file, lines, many, of_type, read, sealed, store, text};

/// How often each command is killed; `PORTCULLIS_STORE_KILLS=N` sets another number.
const KILLS: u32 = 3;
const KEYS: usize = 200;

fn kills() -> u32 {
    std::env::var("PORTCULLIS_STORE_KILLS").map_or(KILLS, |count| count.parse().expect("a number"))
}

/// Runs a `store` command, and kills it after a part of the time that it takes undisturbed. Whether it was killed.
fn killed(installation: &Installation, command: &str, more: &[&str], after: Duration) -> bool {
    let process = Process::start(&arguments(installation, command, more));
    let (_never, ticks): (_, Receiver<()>) = channel();
    let _ = ticks.recv_timeout(after);
    process.signal("KILL");
    process.wait().code.is_none()
}

/// How long the command takes when nobody kills it.
fn undisturbed(run: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    run();
    begun.elapsed()
}

/// The moments of the kills: spread over the time that the command takes, and a little beyond.
fn moments(whole: Duration) -> impl Iterator<Item = Duration> {
    let count = kills();
    // Not at the same places in every run.
    let offset = f64::from(std::process::id() % 100) / 100.0;
    (0..count).map(move |round| whole.mul_f64((f64::from(round) + offset) * 1.1 / f64::from(count)))
}

/// Each key but for what an import gives anew.
fn keys(text: &str) -> BTreeMap<String, Value> {
    let key = |line: Value| {
        let id = line["id"].as_str().expect("an id").to_owned();
        (id, json!([line["sha256"], line["name"], line["kind"], line["scopes"], line["created"], line["updated"]]))
    };
    of_type(&lines(text), "key").into_iter().map(key).collect()
}

fn exported(installation: &Installation) -> BTreeMap<String, Value> {
    keys(&store(installation, "export", &[], 0).stdout)
}

fn forget(installation: &Installation) {
    std::fs::remove_dir_all(installation.folder().join("data")).expect("a store");
}

/// Whether there is a store; if not, it is said so.
fn has_store(installation: &Installation) -> bool {
    let exit = Process::run(&arguments(installation, "export", &[]));
    assert!(exit.code == Some(0) || exit.stderr.contains("there is no store in"), "{exit:?}");
    exit.code == Some(0)
}

/// A backup of a store with many keys, and the keys in it.
fn backup(installation: &Installation) -> (std::path::PathBuf, BTreeMap<String, Value>) {
    let export = file(installation, "export", many(KEYS));
    store(installation, "import", &[text(&export)], 0);
    let path = installation.folder().join("backup");
    store(installation, "backup", &["--output", text(&path)], 0);
    let keys = keys(&read(&path));
    (path, keys)
}

#[test]
fn a_killed_restore_leaves_no_store_or_the_whole_one_and_can_be_repeated() {
    let installation = Installation::new();
    let (path, expected) = backup(&installation);
    forget(&installation);
    let whole = undisturbed(|| drop(store(&installation, "restore", &[text(&path)], 0)));
    forget(&installation);
    let mut interrupted = 0;
    for moment in moments(whole) {
        interrupted += u32::from(killed(&installation, "restore", &[text(&path)], moment));
        if !has_store(&installation) {
            store(&installation, "restore", &[text(&path)], 0);
        }
        assert_eq!(exported(&installation), expected, "killed after {moment:?}");
        forget(&installation);
    }
    assert!(interrupted > 0, "none of the kills met the command");

    // What an interrupted one has left keeps nobody from a fresh start.
    while has_store(&installation) || !installation.folder().join("data").exists() {
        let _ = std::fs::remove_dir_all(installation.folder().join("data"));
        killed(&installation, "restore", &[text(&path)], whole.mul_f64(0.5));
    }
    installation.init();
    assert_eq!(exported(&installation).len(), 1);
}

#[test]
fn a_killed_import_into_an_empty_place_leaves_no_store_or_the_whole_one() {
    let installation = Installation::new();
    let path = file(&installation, "export", many(KEYS));
    let whole = undisturbed(|| drop(store(&installation, "import", &[text(&path)], 0)));
    let expected = keys(&read(&path));
    for moment in moments(whole) {
        let _ = std::fs::remove_dir_all(installation.folder().join("data"));
        killed(&installation, "import", &[text(&path)], moment);
        if !has_store(&installation) {
            store(&installation, "import", &[text(&path)], 0);
        }
        assert_eq!(exported(&installation), expected, "killed after {moment:?}");
    }
}

#[test]
fn a_killed_import_into_a_store_has_taken_whole_keys_and_goes_on_when_it_is_repeated() {
    let installation = Installation::new();
    installation.init();
    let root = exported(&installation);
    let path = file(&installation, "export", many(KEYS));
    let whole = undisturbed(|| drop(store(&installation, "import", &[text(&path)], 0)));
    let mut expected = keys(&read(&path));
    expected.extend(root);
    let data = installation.folder().join("data");
    for moment in moments(whole) {
        std::fs::remove_dir_all(&data).expect("a store");
        installation.init();
        let own = exported(&installation);
        killed(&installation, "import", &[text(&path)], moment);

        let found = exported(&installation);

        let strange = found.iter().find(|(id, key)| expected.get(*id) != Some(*key) && !own.contains_key(*id));
        assert!(strange.is_none(), "{strange:?}");
        assert!(own.iter().all(|(id, key)| found.get(id) == Some(key)), "the root key is gone");
        let said = store(&installation, "import", &[text(&path)], 0).stdout;
        let taken = found.len() - 1;
        assert_eq!(said, format!("created {}, updated 0, unchanged {taken}, skipped 0\n", KEYS - taken));
        assert_eq!(exported(&installation).len(), KEYS + 1);
    }
}

#[test]
fn a_killed_backup_leaves_the_file_that_was_there_or_the_whole_new_one() {
    let installation = Installation::new();
    let (path, expected) = backup(&installation);
    let older = sealed(&[super::header(0)]);
    let mut whole = undisturbed(|| drop(store(&installation, "backup", &["--output", text(&path)], 0)));
    for moment in moments(whole) {
        std::fs::write(&path, &older).expect("writable");
        killed(&installation, "backup", &["--output", text(&path)], moment);
        let found = read(&path);
        assert!(found == older || keys(&found) == expected, "killed after {moment:?}");
        assert!(found == older || is_whole(&installation, &path), "killed after {moment:?}");
        whole = whole.max(moment);
    }
    store(&installation, "backup", &["--output", text(&path)], 0);
    assert_eq!(keys(&read(&path)), expected);
}

fn is_whole(installation: &Installation, path: &Path) -> bool {
    Process::run(&arguments(installation, "import", &[text(path), "--dry-run"])).code == Some(0)
}
