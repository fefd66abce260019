//! Backups that a running gate makes by itself.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::harness::*;

use super::{end, file, lines, many, of_type, own, read, store, text};

fn backing_up(every: &str, keep: u32) -> Installation {
    Installation::with(|setup| options(setup, every, keep))
}

fn options(setup: Setup, every: &str, keep: u32) -> Setup {
    let section = "store.backup";
    let setup = setup.option(section, r#"directory = "backups""#).option(section, &format!("every = {every:?}"));
    setup.option(section, &format!("keep = {keep}"))
}

/// The names in a folder, in order; none when it is not there.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("plain")).collect();
    names.sort();
    names
}

fn whole(folder: &Path) -> Vec<PathBuf> {
    names(folder).iter().filter(|name| name.ends_with(".jsonl")).map(|name| folder.join(name)).collect()
}

fn metric(served: &Served, name: &str) -> f64 {
    let text = served.ops_get("/metrics").text();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).expect("such a metric");
    line.parse().expect("a number")
}

const LAST: &str = "portcullis_store_backup_last_success_timestamp_seconds";
const FAILURES: &str = "portcullis_store_backup_failures_total";

#[test]
fn a_gate_backs_its_store_up_while_it_runs_and_keeps_so_many() {
    use std::os::unix::fs::PermissionsExt as _;
    let installation = backing_up("1s", 2);
    let folder = installation.folder().join("backups");
    let root = installation.init();
    // What is not called as backups are is nobody's to remove, an old backup that was renamed too.
    std::fs::create_dir(&folder).expect("a folder");
    let others = ["mine.jsonl", "portcullis-20200101T000000Z.jsonl.old", "portcullis-2020-01-01T00:00:00Z.jsonl"];
    others.iter().for_each(|name| std::fs::write(folder.join(name), "").expect("writable"));
    let left = ".portcullis-20200101T000000Z.jsonl.abcdef.partial";
    for name in [left, "portcullis-20200101T000000Z.jsonl", "portcullis-99980101T000000Z.jsonl"] {
        std::fs::write(folder.join(name), "").expect("writable");
    }
    let served = installation.serve();
    let secret = served.caller(&root).create(&["monitor:read"]).secret().to_owned();
    let ours = || {
        let ours =
            |path: &PathBuf| text(path).contains("/portcullis-2") && !others.iter().any(|other| path.ends_with(other));
        whole(&folder).into_iter().filter(ours).collect::<Vec<_>>()
    };
    let first = {
        until("a first backup", || ours().len() == 2);
        ours()
    };
    until("two more", || ours().iter().all(|path| !first.contains(path)));

    assert!(ours().len() <= 3, "{:?}", ours());
    assert!(metric(&served, LAST) > 1_700_000_000.0);
    assert_eq!(metric(&served, FAILURES), 0.0);
    end(served);
    let (kept, present) = (ours(), names(&folder));
    assert!((2..=3).contains(&kept.len()), "{kept:?}");
    assert!(others.iter().all(|other| present.contains(&(*other).to_owned())), "{present:?}");
    assert!(present.contains(&"portcullis-99980101T000000Z.jsonl".to_owned()), "{present:?}");
    assert!(present.iter().all(|name| !name.contains("partial")), "{present:?}");
    let newest = kept.last().expect("one");
    assert_eq!(std::fs::metadata(newest).expect("there").permissions().mode() & 0o777, 0o600);

    std::fs::rename(installation.folder().join("data"), installation.folder().join("lost")).expect("movable");
    store(&installation, "restore", &[text(newest)], 0);
    own(&installation.serve(), &secret);
}

#[test]
fn the_time_between_backups_goes_on_over_restarts_and_settings_change_while_it_runs() {
    let installation = backing_up("1h", 5);
    let folder = installation.folder().join("backups");
    installation.init();
    let served = installation.serve();
    until("a first backup", || whole(&folder).len() == 1);
    until("the metric", || metric(&served, LAST) > 0.0);
    let first = metric(&served, LAST);
    end(served);

    let served = installation.serve();

    until("the time of the one before", || metric(&served, LAST) == first);
    assert_eq!(whole(&folder).len(), 1, "backed up again at once");
    installation.rewrite(|setup| options(setup, "1s", 5));
    served.process.signal("HUP");
    until("the new pace", || whole(&folder).len() > 1);
    installation.rewrite(|setup| setup);
    served.process.signal("HUP");
    let mut served = served;
    let known = served.process.stderr().len();
    served.process.wait_for_after(known.min(1), |line| line.contains("configuration reloaded"));
    end(served);
}

#[test]
fn a_backup_that_fails_is_told_and_counted_and_leaves_nothing_under_its_name() {
    let installation = backing_up("1s", 5);
    let root = installation.init();
    let folder = file(&installation, "backups", "in the way");
    let mut served = installation.serve();

    served.process.wait_for(|line| line.contains("no backup was made") && line.contains("ERROR"));

    until("a count", || metric(&served, FAILURES) >= 1.0);
    check(&served.caller(&root).get("/open/x"), 200);
    let made = served.caller(&root).create(&["monitor:read"]);
    own(&served, made.secret());
    std::fs::remove_file(&folder).expect("ours");
    until("a backup once there is room", || whole(&folder).len() == 1);
    until("the metric", || metric(&served, LAST) > 0.0);
    end(served);
}

#[test]
fn a_full_disk_leaves_no_half_backup_under_its_name() {
    // A mount of its own, which needs a namespace of its own.
    let can_mount = Command::new("unshare").args(["--map-root-user", "--mount", "true"]).stderr(Stdio::null()).status();
    if !can_mount.is_ok_and(|status| status.success()) {
        assert!(std::env::var_os("PORTCULLIS_CI").is_none(), "no namespaces to mount in");
        println!("SKIPPED: no namespaces to mount in");
        return;
    }
    let installation = backing_up("1s", 5);
    let root = installation.init();
    let keys = file(&installation, "keys", many(2_000));
    store(&installation, "import", &[text(&keys)], 0);
    std::fs::create_dir(installation.folder().join("backups")).expect("a folder");
    let mut command = Command::new("unshare");
    let mount = r#"mount -t tmpfs -o size=256k none "$1" && shift && exec "$@""#;
    command.args(["--map-root-user", "--mount", "sh", "-c", mount, "sh"]).arg(installation.folder().join("backups"));
    command.arg(env!("CARGO_BIN_EXE_portcullis")).args(installation.arguments("serve"));
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut served = installation.served(command);

    served.process.wait_for(|line| line.contains("no backup was made") && line.contains("No space left"));

    check(&served.caller(&root).get("/open/x"), 200);
    check(&served.caller(&root).post("/api/keys", r#"{"name":"x","kind":"telemetry"}"#), 201);
    let inside = PathBuf::from(format!("/proc/{}/root", served.process.pid()));
    let inside = inside.join(installation.folder().join("backups").strip_prefix("/").expect("absolute"));
    until("nothing is left of it", || {
        let names = names(&inside);
        assert!(names.iter().all(|name| name.ends_with(".partial")), "{names:?}");
        names.is_empty()
    });
}

#[test]
fn a_backup_made_under_changes_is_the_store_of_one_moment() {
    let installation = backing_up("1s", 50);
    let folder = installation.folder().join("backups");
    let root = installation.init();
    let keys = file(&installation, "keys", many(1_000));
    store(&installation, "import", &[text(&keys)], 0);
    let served = installation.serve();
    let caller = served.caller(&root).keep_alive();
    let present = lines(&read(&keys));
    let ids: Vec<&str> = present.iter().filter_map(|line| line["id"].as_str()).collect();
    let (changed, deleted) = ids.split_at(ids.len() / 2);
    let mut deleted = deleted.iter();
    // Each backup meets changes of keys that it has read and of those that it has not.
    for (round, id) in changed.iter().cycle().enumerate() {
        let body = json!({"name": format!("change {round}"), "scopes": ["issue:read"]});
        check(&caller.put(&format!("/api/keys/{id}"), &body.to_string()), 200);
        check(&caller.post("/api/keys", r#"{"name":"new","kind":"telemetry"}"#), 201);
        deleted.next_back().into_iter().for_each(|id| drop(check(&caller.delete(id), 204).clone()));
        if whole(&folder).len() == 2 {
            break;
        }
    }
    end(served);

    for path in whole(&folder) {
        let lines = lines(&read(&path));
        let (keys, changes) = (of_type(&lines, "key"), of_type(&lines, "change"));
        let facts = |value: &Value| json!({"name": value["name"], "kind": value["kind"], "scopes": value["scopes"]});
        // The log says how each key must be: what its last change up to there has made of it.
        let mut expected: std::collections::BTreeMap<String, Value> = std::collections::BTreeMap::new();
        for change in &changes {
            let id = change["key"].as_str().expect("an id").to_owned();
            match &change["after"] {
                Value::Null => drop(expected.remove(&id)),
                after => drop(expected.insert(id, facts(after))),
            }
        }
        let found = keys.iter().map(|key| (key["id"].as_str().expect("an id").to_owned(), facts(key))).collect();
        assert_eq!(expected, found);
        assert_eq!(changes.last().expect("changes")["revision"], lines[0]["revision"]);
    }
    assert!(whole(&folder).iter().any(|path| lines(&read(path))[0]["revision"].as_u64() > Some(1_001)));
}

#[test]
fn a_folder_inside_of_the_store_is_refused() {
    for directory in ["data", "data/backups", "./data/x"] {
        let installation =
            Installation::with(|setup| setup.option("store.backup", &format!("directory = {directory:?}")));
        let exit = Process::run(&installation.arguments("check"));
        assert_eq!(exit.code, Some(1), "{directory}: {exit:?}");
        assert!(exit.stderr.contains("store.backup.directory is inside of store.path"), "{directory}: {exit:?}");
    }
}
