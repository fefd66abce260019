//! `portcullis store backup | restore | export | import`, and backups of a running gate: from outside, with real files.

mod hostile;
mod kills;
mod periodic;

use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use portcullis::key::KeySecret;
use serde_json::{Value, json};

use crate::harness::*;

/// Runs a `store` command on an installation's configuration and asserts the exit code.
#[track_caller]
fn store(installation: &Installation, command: &str, more: &[&str], code: i32) -> Exit {
    let exit = Process::run(&arguments(installation, command, more));
    assert_eq!(exit.code, Some(code), "store {command} {more:?}: {exit:?}");
    exit
}

fn arguments(installation: &Installation, command: &str, more: &[&str]) -> Vec<String> {
    let config = installation.config().display().to_string();
    let command = ["store", command, "--config", &config];
    command.iter().chain(more).map(|argument| (*argument).to_owned()).collect()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The lines of a file of the format.
#[track_caller]
fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

fn of_type(lines: &[Value], kind: &str) -> Vec<Value> {
    lines.iter().filter(|line| line["type"] == kind).cloned().collect()
}

/// The file of these lines, with an end that fits them.
fn sealed(lines: &[Value]) -> String {
    let mut text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let sum: String = digest(&SHA256, text.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let count = |kind| of_type(lines, kind).len();
    let end = json!({"type": "end", "keys": count("key"), "changes": count("change"), "sha256": sum});
    text += &format!("{end}\n");
    text
}

fn header(keys: usize) -> Value {
    json!({"type": "header", "format": "portcullis-store", "version": 1, "content": "export", "revision": 1_000_000,
        "created": "2026-01-01T00:00:00Z", "keys": keys, "product": "portcullis 0.1.0"})
}

/// A key that nobody knows the text of but the caller, and its line.
fn fresh(scopes: &[&str]) -> (String, Value) {
    let secret = KeySecret::generate().expect("randomness");
    let sum: String = secret.digest().as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let line = json!({"type": "key", "id": secret.id().to_string(), "sha256": sum, "name": "a key", "kind": "custom",
        "scopes": scopes, "created": "2025-01-01T00:00:00Z", "updated": "2025-01-02T00:00:00Z", "last_used": null,
        "created_revision": 7, "revision": 8});
    (secret.expose().to_owned(), line)
}

/// An export of so many fresh keys.
fn many(count: usize) -> String {
    let keys = (0..count).map(|_| fresh(&["monitor:read"]).1);
    sealed(&std::iter::once(header(count)).chain(keys).collect::<Vec<_>>())
}

/// Writes a file into the installation's folder.
fn file(installation: &Installation, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = installation.folder().join(name);
    std::fs::write(&path, content).expect("writable");
    path
}

/// What a key says about itself.
fn own(served: &Served, secret: &str) -> Value {
    let answer = served.caller(secret).get("/api/keys/self");
    check(&answer, 200);
    answer.json()
}

fn end(served: Served) {
    served.process.signal("TERM");
    assert_eq!(served.process.wait().code, Some(0));
}

/// An installation with a root key and one of each kind; their texts, the root's first.
fn populated() -> (Installation, Vec<String>) {
    let installation = Installation::new();
    let root = installation.init();
    let served = installation.serve();
    let caller = served.caller(&root);
    let bodies = [
        json!({"name": "Größe ✓ \"quoted\" \\", "kind": "custom", "scopes": ["issue:read", "monitor:write"]}),
        json!({"name": "pings", "kind": "telemetry"}),
        json!({"name": "sdk", "kind": "sdk_integration"}),
        json!({"name": "manager", "kind": "custom", "scopes": ["key:write", "key:read"]}),
    ];
    let secrets = bodies.iter().map(|body| caller.create_from(body).secret().to_owned());
    let secrets = std::iter::once(root.clone()).chain(secrets).collect();
    let gone = caller.create(&["monitor:read"]);
    check(&caller.delete(gone.id()), 204);
    end(served);
    (installation, secrets)
}

#[test]
fn every_key_of_a_store_is_admitted_with_its_scopes_by_one_that_imported_its_export() {
    let (old, secrets) = populated();
    let served = old.serve();
    let mut views: Vec<Value> = secrets.iter().map(|secret| own(&served, secret)).collect();
    let names = |served: &Served| -> Vec<Value> {
        let page = served.caller(&secrets[0]).get("/api/keys").json();
        page["data"].as_array().expect("a page").iter().map(|key| key["name"].clone()).collect()
    };
    let order = names(&served);
    end(served);
    let exported = store(&old, "export", &[], 0).stdout;
    // Once where there is no store, once where there is one with a key of its own.
    for has_own in [false, true] {
        let new = Installation::new();
        let own_root = has_own.then(|| new.init());
        let path = file(&new, "keys.jsonl", &exported);

        let said = store(&new, "import", &[text(&path)], 0);

        assert_eq!(said.stdout, "created 5, updated 0, unchanged 0, skipped 0\n");
        let served = new.serve();
        for (secret, view) in secrets.iter().zip(&mut views) {
            let mut found = own(&served, secret);
            for field in ["last_used", "id"] {
                found[field] = Value::Null;
                view[field] = Value::Null;
            }
            assert_eq!(found, *view);
        }
        assert_eq!(names(&served)[usize::from(has_own)..], order, "in another order");
        own_root.iter().for_each(|root| drop(own(&served, root)));
        // The imported root key rules there.
        check(&served.caller(&secrets[0]).delete(&secrets[1][..16]), 204);
        check(&served.caller(&secrets[1]).get("/open/x"), 401);
        end(served);
        let backup = new.folder().join("log.jsonl");
        store(&new, "backup", &["--output", text(&backup)], 0);
        let made = of_type(&lines(&read(&backup)), "change").into_iter().filter(|change| change["before"].is_null());
        assert!(made.clone().count() >= 5 && made.clone().all(|change| change["actor"] == "operator"));
    }
}

#[test]
fn a_restored_store_admits_and_refuses_as_it_did_at_the_backup() {
    let (installation, secrets) = populated();
    let backup = installation.folder().join("backup.jsonl");
    store(&installation, "backup", &["--output", text(&backup)], 0);
    let served = installation.serve();
    let root = served.caller(&secrets[0]);
    let later = root.create(&["monitor:read"]).secret().to_owned();
    check(&root.put(&format!("/api/keys/{}", &secrets[1][..16]), r#"{"scopes":["monitor:read"]}"#), 200);
    check(&root.delete(&secrets[2][..16]), 204);
    end(served);

    let refused = store(&installation, "restore", &[text(&backup)], 1);

    assert!(
        refused.stderr.contains("has keys already") && refused.stderr.contains("move the store away"),
        "{refused:?}"
    );
    let served = installation.serve();
    own(&served, &later);
    end(served);
    let data = installation.folder().join("data");
    std::fs::rename(&data, installation.folder().join("data.old")).expect("movable");

    let restored = store(&installation, "restore", &[text(&backup)], 0);

    let head = lines(&read(&backup)).remove(0);
    let created = head["created"].as_str().expect("a time");
    assert_eq!(restored.stdout, format!("restored 5 keys at revision 7, as of {created}\n"));
    assert!(restored.stderr.contains("deleted") && restored.stderr.contains("revision 7"), "{restored:?}");
    let again = installation.folder().join("again.jsonl");
    store(&installation, "backup", &["--output", text(&again)], 0);
    let rest = |path: &Path| read(path).lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
    let (before, after) = (rest(&backup), rest(&again));
    assert_eq!(before[..before.len() - 1], after[..after.len() - 1]);
    let served = installation.serve();
    secrets.iter().for_each(|secret| drop(own(&served, secret)));
    assert_eq!(own(&served, &secrets[1])["scopes"], json!(["monitor:write", "issue:read"]));
    check(&served.caller(&later).get("/open/x"), 401);
    // It is a store like any other.
    check(&served.caller(&secrets[0]).delete(&secrets[2][..16]), 204);
    end(served);
    own(&installation.serve(), &secrets[3]);
}

#[test]
fn times_of_last_use_are_kept_by_restore_and_import() {
    let (installation, secrets) = populated();
    let served = installation.serve();
    check(&served.caller(&secrets[1]).get("/open/x"), 200);
    end(served);
    let used = |text: &str| of_type(&lines(text), "key")[1]["last_used"].clone();
    let exported = store(&installation, "export", &[], 0).stdout;
    assert!(used(&exported).is_string(), "{exported}");
    let (backup, keys) = (installation.folder().join("b"), file(&installation, "k", &exported));
    store(&installation, "backup", &["--output", text(&backup)], 0);
    for (command, path) in [("restore", &backup), ("import", &keys)] {
        let new = Installation::new();
        store(&new, command, &[text(path)], 0);
        assert_eq!(used(&store(&new, "export", &[], 0).stdout), used(&exported), "{command}");
    }
}

#[test]
fn no_secret_is_in_a_backup_or_an_export() {
    let (installation, secrets) = populated();
    let backup = installation.folder().join("backup.jsonl");
    store(&installation, "backup", &["--output", text(&backup)], 0);
    let files = [store(&installation, "export", &[], 0).stdout, read(&backup)];

    for secret in &secrets {
        // The part behind the id, and both in the base64 of each alignment, less what its neighbours change.
        let mut forms = vec![secret.clone(), secret[17..].to_owned()];
        for skipped in 0..3 {
            let cut = &secret.as_bytes()[skipped..];
            let encoded = [STANDARD.encode(cut), URL_SAFE_NO_PAD.encode(cut)];
            forms.extend(encoded.map(|text| text[..text.len() - 6].to_owned()));
        }
        for form in forms {
            assert!(files.iter().all(|file| !file.contains(&form)), "a form of {} is in a file", &secret[..16]);
        }
        assert!(files.iter().all(|file| file.contains(&secret[..16])), "the search finds what is there");
    }
}

#[test]
fn files_of_backups_are_for_their_owner_alone_and_replaced_whole() {
    use std::os::unix::fs::PermissionsExt as _;
    let (installation, _) = populated();
    let path = file(&installation, "backup.jsonl", "older");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("ours");
    for command in ["backup", "export"] {
        store(&installation, command, &["--output", text(&path)], 0);
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600, "{command}");
        assert_eq!(lines(&read(&path)).last().expect("an end")["type"], "end");
    }
    let names = std::fs::read_dir(installation.folder()).expect("readable");
    let names: Vec<_> = names.map(|entry| entry.expect("an entry").file_name().into_string().expect("plain")).collect();
    assert!(names.iter().all(|name| !name.contains("partial")), "{names:?}");

    let refused = store(&installation, "backup", &["--output", "/dev/null"], 1);
    assert!(refused.stderr.contains("is not a file"), "{refused:?}");
    store(&installation, "backup", &["--output", "/nonexistent/backup"], 1);
}

#[test]
fn commands_on_a_store_with_a_running_gate_say_whose_it_is_and_what_to_do() {
    let (installation, secrets) = populated();
    let exported = file(&installation, "keys", store(&installation, "export", &[], 0).stdout);
    let backup = installation.folder().join("backup");
    store(&installation, "backup", &["--output", text(&backup)], 0);
    let served = installation.serve();
    let output = installation.folder().join("output");
    let commands = [
        ("export", vec![]),
        ("backup", vec!["--output", text(&output)]),
        ("import", vec![text(&exported)]),
        ("restore", vec![text(&backup)]),
    ];
    for (command, more) in commands {
        let refused = store(&installation, command, &more, 1);
        let parts = [format!("process {}", served.process.pid()), "store.backup.directory".to_owned()];
        assert!(parts.iter().all(|part| refused.stderr.contains(part)), "{command}: {refused:?}");
        assert_eq!(refused.stdout, "");
    }
    assert!(!output.exists());
    own(&served, &secrets[0]);
}

#[test]
fn a_repeated_import_changes_nothing() {
    let (old, _) = populated();
    let new = Installation::new();
    let path = file(&new, "keys", store(&old, "export", &[], 0).stdout);
    store(&new, "import", &[text(&path)], 0);
    let first = store(&new, "export", &[], 0).stdout;

    let said = store(&new, "import", &[text(&path)], 0);

    assert_eq!(said.stdout, "created 0, updated 0, unchanged 5, skipped 0\n");
    let rest = |text: &str| text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(rest(&first)[..5], rest(&store(&new, "export", &[], 0).stdout)[..5]);
}

#[test]
fn a_key_that_differs_is_refused_skipped_or_updated_as_asked() {
    let (installation, secrets) = populated();
    let exported = lines(&store(&installation, "export", &[], 0).stdout);
    let mut changed = exported[..exported.len() - 1].to_vec();
    changed[2]["name"] = "renamed".into();
    changed[2]["scopes"] = json!(["monitor:read"]);
    let (new_secret, new_line) = fresh(&["issue:read"]);
    let added: Vec<Value> = changed.iter().cloned().chain([new_line]).collect();
    let added: Vec<Value> = std::iter::once(header(6)).chain(added.into_iter().skip(1)).collect();
    let path = file(&installation, "changed", sealed(&added));
    let before = store(&installation, "export", &[], 0).stdout;

    let refused = store(&installation, "import", &[text(&path)], 1);

    let place = format!("line 3: {}: is in the store with another name or other scopes", &secrets[1][..16]);
    assert!(refused.stderr.contains(&place) && refused.stderr.contains("--on-conflict"), "{refused:?}");
    let rest = |text: &str| text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(rest(&before)[..5], rest(&store(&installation, "export", &[], 0).stdout)[..5]);

    let dry = store(&installation, "import", &[text(&path), "--on-conflict", "update", "--dry-run"], 0);
    assert_eq!(dry.stdout, "created 1, updated 1, unchanged 4, skipped 0\n");
    let skipped = store(&installation, "import", &[text(&path), "--on-conflict", "skip"], 0);
    assert_eq!(skipped.stdout, "created 1, updated 0, unchanged 4, skipped 1\n");
    let served = installation.serve();
    assert_eq!(own(&served, &secrets[1])["scopes"], json!(["monitor:write", "issue:read"]));
    assert_eq!(own(&served, &new_secret)["scopes"], json!(["issue:read"]));
    end(served);

    let updated = store(&installation, "import", &[text(&path), "--on-conflict", "update"], 0);
    assert_eq!(updated.stdout, "created 0, updated 1, unchanged 5, skipped 0\n");
    let served = installation.serve();
    let view = own(&served, &secrets[1]);
    assert_eq!((&view["scopes"], &view["name"]), (&json!(["monitor:read"]), &"renamed".into()));
}

#[test]
fn a_key_never_gets_another_secret_or_kind() {
    let (installation, secrets) = populated();
    let exported = lines(&store(&installation, "export", &[], 0).stdout);
    let other_secret = |line: &mut Value| line["sha256"] = "0".repeat(64).into();
    let other_kind = |line: &mut Value| {
        line["kind"] = "custom".into();
        line["scopes"] = json!(["*"]);
    };
    for (change, part) in [(&other_secret as &dyn Fn(&mut Value), "another secret"), (&other_kind, "kind telemetry")] {
        let mut changed = exported[..exported.len() - 1].to_vec();
        change(&mut changed[3]);
        let path = file(&installation, "changed", sealed(&changed));
        for what in ["refuse", "skip", "update"] {
            let refused = store(&installation, "import", &[text(&path), "--on-conflict", what], 1);
            assert!(refused.stderr.contains("line 4: ") && refused.stderr.contains(part), "{what}: {refused:?}");
        }
    }
    let view = own(&installation.serve(), &secrets[2]);
    assert_eq!((&view["kind"], &view["scopes"]), (&"telemetry".into(), &json!(["telemetry:write"])));
}

#[test]
fn scopes_that_nobody_declared_are_refused_unless_they_are_to_be_kept() {
    let installation = Installation::new();
    installation.init();
    let (secret, line) = fresh(&["monitor:read", "team:secret"]);
    let path = file(&installation, "keys", sealed(&[header(1), line]));

    let refused = store(&installation, "import", &[text(&path)], 1);

    assert!(
        refused.stderr.contains("line 2: ") && refused.stderr.contains("undeclared scope team:secret"),
        "{refused:?}"
    );
    store(&installation, "import", &[text(&path), "--undeclared-scopes", "keep"], 0);
    assert_eq!(own(&installation.serve(), &secret)["scopes"], json!(["monitor:read", "team:secret"]));
}

#[test]
fn an_import_leaves_somebody_who_manages_keys_and_keeps_to_the_limit() {
    let installation = Installation::with(|setup| setup.option("keys", "keys_max = 3"));
    let root = installation.init();
    let exported = lines(&store(&installation, "export", &[], 0).stdout);
    let mut stripped = exported[1].clone();
    stripped["scopes"] = json!(["monitor:read"]);
    let path = file(&installation, "stripped", sealed(&[header(1), stripped]));
    let refused = store(&installation, "import", &[text(&path), "--on-conflict", "update"], 1);
    assert!(refused.stderr.contains("no key would be left that can manage keys"), "{refused:?}");

    let path = file(&installation, "three", many(3));
    let refused = store(&installation, "import", &[text(&path)], 1);
    assert!(refused.stderr.contains("there would be 4 keys"), "{refused:?}");
    let path = file(&installation, "four", many(4));
    let refused = store(&installation, "import", &[text(&path)], 1);
    assert!(refused.stderr.contains("line 1: ") && refused.stderr.contains("keys.keys_max"), "{refused:?}");
    let path = file(&installation, "two", many(2));
    store(&installation, "import", &[text(&path)], 0);
    own(&installation.serve(), &root);
}

#[test]
fn a_store_without_any_manager_is_told_of() {
    let installation = Installation::new();
    let path = file(&installation, "keys", many(2));
    let said = store(&installation, "import", &[text(&path)], 0);
    assert!(said.stderr.contains("no key in the store can manage keys"), "{said:?}");
}

#[test]
fn an_export_that_nobody_takes_is_no_success() {
    let (installation, _) = populated();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("a full device");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(arguments(&installation, "export", &[]))
        .stdout(full)
        .output()
        .expect("the program runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("No space left"), "{output:?}");
}

#[test]
fn a_last_use_in_the_future_does_not_hide_the_next_ones() {
    let installation = Installation::new();
    let root = installation.init();
    let (secret, mut line) = fresh(&["monitor:read"]);
    line["last_used"] = "9998-01-01T00:00:00Z".into();
    let path = file(&installation, "keys", sealed(&[header(1), line]));
    store(&installation, "import", &[text(&path)], 0);
    let served = installation.serve();
    let view = served.caller(&root).get(&format!("/api/keys/{}", &secret[..16])).json();
    assert!(view["last_used"].as_str().is_some_and(|at| at.starts_with("20")), "{view}");
}

#[test]
fn a_restore_takes_no_export_and_says_what_does() {
    let installation = Installation::new();
    let path = file(&installation, "keys", many(2));
    let refused = store(&installation, "restore", &[text(&path)], 1);
    assert!(refused.stderr.contains("store import"), "{refused:?}");
    assert!(!installation.folder().join("data").exists());
}

#[test]
fn a_backup_can_be_imported() {
    let (old, secrets) = populated();
    let new = Installation::new();
    let path = new.folder().join("backup");
    store(&old, "backup", &["--output", text(&path)], 0);
    store(&new, "import", &[text(&path)], 0);
    let served = new.serve();
    secrets.iter().for_each(|secret| drop(own(&served, secret)));
}
