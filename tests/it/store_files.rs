//! The files of the key store: read by older and newer programs, looked after by `store`, damaged, and cut off at work.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Caller, Exit, Installation, Process, check};

/// A store as an older release wrote it, with what is known of its keys. `make.sh` beside it says how it was made.
const FORMAT_1: &str = "tests/it/stores/format-1";

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(FORMAT_1).join(name)
}

fn json(name: &str) -> Value {
    serde_json::from_slice(&fs::read(fixture(name)).expect("a file")).expect("JSON")
}

pub fn copied(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for path in fs::read_dir(from).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copied(&path, &target);
        } else {
            fs::copy(&path, target).expect("copied");
        }
    }
}

/// An installation whose store was written by an older release.
fn old_installation() -> Installation {
    let installation = Installation::new();
    copied(&fixture("data"), &installation.folder().join("data"));
    installation
}

/// The arguments of a command of `store`.
fn arguments(installation: &Installation, command: &str) -> Vec<String> {
    let mut arguments = vec!["store".to_owned()];
    arguments.extend(installation.arguments(command));
    arguments
}

#[track_caller]
fn store(installation: &Installation, command: &str, code: i32) -> Exit {
    let exit = Process::run(&arguments(installation, command));
    assert_eq!(exit.code, Some(code), "{command}: {exit:?}");
    exit
}

fn named(folder: &Path, start: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut named: Vec<PathBuf> =
        entries.filter(|path| path.file_name().expect("a name").to_string_lossy().starts_with(start)).collect();
    named.sort();
    named
}

/// Each key that the older release knew is as it said, opens what its scopes say, and nothing else does.
#[track_caller]
fn check_old_keys(installation: &Installation) {
    let served = installation.serve();
    let secrets = json("secrets.json");
    let text = |name: &str| secrets[name].as_str().expect("a key").to_owned();
    let listed = served.caller(&text("root")).get("/api/keys").json();
    let without_last_used = |keys: &Value| -> Vec<Value> {
        let keys = keys.as_array().expect("keys").iter().cloned();
        keys.map(|mut key| {
            // Some are in use now.
            key.as_object_mut().expect("a key").remove("last_used");
            key
        })
        .collect()
    };
    assert_eq!(without_last_used(&listed["data"]), without_last_used(&json("keys.json")));
    let expected = [
        ("root", [200, 200, 200, 200]),
        ("reader", [200, 200, 403, 403]),
        ("writer", [200, 200, 200, 403]),
        ("sender", [200, 403, 403, 200]),
        ("sdk", [200, 200, 200, 200]),
        ("retired", [200, 200, 403, 403]),
        ("manager", [200, 403, 403, 403]),
        ("narrowed", [200, 403, 403, 403]),
        ("Größe ✓", [200, 200, 403, 403]),
        ("deleted", [401; 4]),
    ];
    assert_eq!(secrets.as_object().expect("keys").len(), expected.len());
    for (name, statuses) in expected {
        let caller = served.caller(&text(name));
        let answers = [
            caller.get("/open/x"),
            caller.get("/api/v1/query"),
            caller.get("/api/v1/admin/x"),
            caller.post("/api/v1/write", "{}"),
        ];
        assert_eq!(answers.map(|answer| answer.status), statuses, "{name}");
    }
    served.process.signal("TERM");
    assert_eq!(served.process.wait().code, Some(0));
}

#[test]
fn a_store_of_the_first_format_is_upgraded_with_a_backup_and_every_key_works_as_it_did() {
    let installation = old_installation();
    let before = json("keys.json");
    let served = installation.serve();
    let mut process = served.process;
    let line = process.wait_for(|line| line.contains("store upgraded"));
    assert!(line.contains("portcullis.before-upgrade-1"), "{line}");
    let root = Caller::new(served.public, json("secrets.json")["root"].as_str());
    let listed = root.get("/api/keys").json();
    let used = |keys: &Value, name: &str| -> Value {
        let mut keys = keys.as_array().expect("keys").iter();
        keys.find(|key| key["name"] == name).expect("the key")["last_used"].clone()
    };
    for name in ["reader", "sender", "narrowed", "writer"] {
        assert_eq!(used(&listed["data"], name), used(&before, name), "{name}");
    }
    process.signal("TERM");
    assert_eq!(process.wait().code, Some(0));
    check_old_keys(&installation);
    let sound = store(&installation, "verify", 0);
    assert_eq!(sound.stdout, "sound: 9 keys at revision 12, 12 changes kept, format 2\n");
    // Whoever goes back to the older release finds its files.
    let kept = named(&installation.folder().join("data"), "portcullis.before-upgrade");
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert!(kept[0].join("db").exists() && kept[0].join("conf").exists());
}

#[test]
fn a_running_gate_keeps_its_store_from_every_command() {
    let installation = Installation::new();
    let root = installation.init();
    let served = installation.serve();
    for command in ["verify", "stats", "compact", "repair"] {
        let refused = store(&installation, command, 1);
        assert!(refused.stderr.contains("is in use by another portcullis"), "{command}: {refused:?}");
    }
    check(&served.caller(&root).get("/api/v1/query"), 200);
}

#[test]
fn commands_on_a_store_that_is_not_there_make_none() {
    let installation = Installation::new();
    for command in ["verify", "stats", "compact", "repair"] {
        let refused = store(&installation, command, 1);
        assert!(refused.stderr.contains("portcullis init"), "{command}: {refused:?}");
    }
    assert!(!installation.folder().join("data").exists());
}

#[test]
fn stats_tells_what_is_in_the_store_and_how_large_it_is() {
    let installation = old_installation();
    let told = store(&installation, "stats", 0).stdout;
    for line in
        ["format     1", "revision   12", "keys       9", "custom 7", "changes    12, from revision 1", "db 524287"]
    {
        assert!(told.contains(line), "no {line:?}: {told}");
    }
}

/// Zeros half a block in the middle of what is written of the database.
fn damage(installation: &Installation) {
    let path = installation.folder().join("data/db");
    let mut bytes = fs::read(&path).expect("the database");
    let used = bytes.iter().rposition(|byte| *byte != 0).expect("something");
    bytes[used / 2..used / 2 + 256].fill(0);
    fs::write(&path, bytes).expect("written");
}

#[test]
fn a_damaged_store_is_refused_and_repaired_without_a_word_too_few() {
    let installation = Installation::new();
    let root = installation.init();
    let served = installation.serve();
    let admin = served.caller(&root);
    let mut keys: BTreeMap<String, String> = BTreeMap::new();
    for _ in 0..12 {
        let key = admin.create(&["monitor:read", "monitor:write"]);
        check(&admin.put(&format!("/api/keys/{}", key.id()), r#"{"scopes":["monitor:read"]}"#), 200);
        keys.insert(key.id().to_owned(), key.secret().to_owned());
    }
    served.process.signal("TERM");
    assert_eq!(served.process.wait().code, Some(0));
    damage(&installation);
    let damaged = fs::read(installation.folder().join("data/db")).expect("the database");

    let problems = store(&installation, "verify", 1);
    assert!(!problems.stdout.is_empty() && problems.stderr.contains("store repair"), "{problems:?}");
    assert_eq!(fs::read(installation.folder().join("data/db")).expect("the database"), damaged);
    let repaired = store(&installation, "repair", 0);
    assert!(
        repaired.stdout.contains("found: ") && repaired.stderr.contains("portcullis.before-repair-1"),
        "{repaired:?}"
    );
    let gone = |id: &str| repaired.stdout.lines().any(|line| line.starts_with(&format!("gone: {id} ")));
    let aside = installation.folder().join("data/portcullis.before-repair-1/db");
    assert_eq!(fs::read(aside).expect("kept"), damaged);

    let served = installation.serve();
    for (id, secret) in &keys {
        let caller = served.caller(secret);
        let read = caller.get("/api/v1/query").status;
        assert_eq!(read, if gone(id) { 401 } else { 200 }, "{id}: {repaired:?}");
        // None is as wide as it was before it was narrowed.
        assert_ne!(caller.get("/api/v1/admin/x").status, 200, "{id}: {repaired:?}");
    }
    assert!(keys.keys().filter(|id| gone(id)).count() <= 3, "{repaired:?}");
    served.process.signal("TERM");
    served.process.wait();
    store(&installation, "repair", 0);
}

#[test]
fn a_sound_store_is_not_repaired() {
    let installation = Installation::new();
    installation.init();
    let told = store(&installation, "repair", 0).stdout;
    assert_eq!(told, "sound: 1 keys at revision 1; nothing was done\n");
    assert!(named(&installation.folder().join("data"), "portcullis.before").is_empty());
}

/// How often a process is killed, at moments spread over how long it takes. `PORTCULLIS_STORE_KILLS=N` tries N.
fn kills() -> u32 {
    std::env::var("PORTCULLIS_STORE_KILLS").map_or(3, |kills| kills.parse().expect("a number"))
}

/// Starts a command on a copy of a store, kills it after some time, and asserts that everything is there.
fn check_killed(command: &[String], original: &Path, installation: &Installation, after: Duration) {
    let data = installation.folder().join("data");
    let _ = fs::remove_dir_all(&data);
    copied(original, &data);
    let process = Process::start(command);
    // Not to wait for something, but to be anywhere: any moment will do.
    std::thread::park_timeout(after);
    process.signal("KILL");
    process.wait();
    let found = store(installation, "verify", 0);
    assert!(found.stdout.starts_with("sound: 9 keys at revision 12, 12 changes kept"), "after {after:?}: {found:?}");
}

#[test]
fn a_command_that_is_killed_at_any_moment_leaves_a_store_with_everything() {
    let installation = old_installation();
    let folder = tempfile::tempdir().expect("a folder");
    let (old, new) = (folder.path().join("old"), folder.path().join("new"));
    copied(&fixture("data"), &old);
    let begun = Instant::now();
    store(&installation, "compact", 0);
    copied(&installation.folder().join("data"), &new);
    let whole = begun.elapsed();
    for kill in 0..kills() {
        let after = whole * (kill + 1) / (kills() + 1);
        check_killed(&installation.arguments("serve"), &old, &installation, after);
        check_killed(&arguments(&installation, "compact"), &new, &installation, after);
        check_killed(&arguments(&installation, "compact"), &old, &installation, after);
        check_killed(&arguments(&installation, "verify"), &new, &installation, after);
    }
    check_old_keys(&installation);
}

#[test]
fn a_repair_that_is_killed_at_any_moment_can_be_repeated() {
    let installation = old_installation();
    store(&installation, "compact", 0);
    damage(&installation);
    let folder = tempfile::tempdir().expect("a folder");
    copied(&installation.folder().join("data"), folder.path());
    let last = |exit: Exit| exit.stdout.lines().last().expect("a line").to_owned();
    let begun = Instant::now();
    let expected = last(store(&installation, "repair", 0));
    let whole = begun.elapsed();
    let data = installation.folder().join("data");
    for kill in 0..kills() {
        fs::remove_dir_all(&data).expect("removed");
        copied(folder.path(), &data);
        let process = Process::start(&arguments(&installation, "repair"));
        std::thread::park_timeout(whole * (kill + 1) / (kills() + 1));
        process.signal("KILL");
        process.wait();
        let again = last(store(&installation, "repair", 0));
        // Either it is done now, or it was done before it was killed.
        let kept = |line: &str| line.split(" keys").next().and_then(|line| line.rsplit(' ').next()).map(str::to_owned);
        assert_eq!(kept(&again), kept(&expected), "{again} {expected}");
        store(&installation, "verify", 0);
    }
}
