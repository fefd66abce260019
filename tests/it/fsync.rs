//! Between the write to the store and the answer there is a sync, in the order in which the kernel was asked.
//!
//! The same checker is run on recordings from which the syncs are taken out, or come too late: it must object.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use crate::harness::{Caller, Effect, FileCall, Installation, Process, Served};
use crate::harness::{check, is_installed, read_trace, traced};

/// What the store can do without: the mark may be behind, the lock is the process's own, a snapshot only saves time.
const MAY_BE_BEHIND: [&str; 3] = ["portcullis.mark", "portcullis.lock", "snap."];

/// Below directories that are not there yet either.
const STORE: &str = "lib/portcullis/data";

#[test]
fn every_change_is_synced_between_its_write_and_its_answer() {
    if !is_installed("strace") {
        return;
    }
    let installation = Installation::with(|setup| {
        setup.option("keys", r#"last_used_flush = "1h""#).option("store", &format!("path = {STORE:?}"))
    });
    let (root, made) = recorded(&installation, |trace| {
        let exit = Process::spawn(traced(&installation.program("init"), trace)).wait();
        assert_eq!(exit.code, Some(0), "{exit:?}");
        exit.stdout.trim_end().to_owned()
    });
    hold(&made, 1);

    let ((), changed) = recorded(&installation, |trace| {
        let served = installation.serve_traced(trace);
        change_in_every_way(&served, &root);
        installation.end_traced(served, STORE);
    });
    hold(&changed, CHANGES);
}

#[test]
fn a_key_from_a_root_key_file_is_synced_before_anything_is_served() {
    if !is_installed("strace") {
        return;
    }
    let secret = Process::run(&["keygen"]).stdout.trim_end().to_owned();
    let installation = Installation::with(|setup| {
        setup.option("keys", r#"root_key_file = "root.key""#).option("store", &format!("path = {STORE:?}"))
    });
    std::fs::write(installation.folder().join("root.key"), &secret).expect("writable");
    let ((), made) = recorded(&installation, |trace| {
        let served = installation.serve_traced(trace);
        check(&served.caller(&secret).get("/api/keys/self"), 200);
        installation.end_traced(served, STORE);
    });
    hold(&made, 1);
}

/// How many changes [`change_in_every_way`] makes.
const CHANGES: usize = 7;

fn change_in_every_way(served: &Served, root: &str) {
    let root = served.caller(root).keep_alive();
    let keys: Vec<Caller> = (0..3).map(|_| root.create(&["monitor:read"])).collect();
    let path = |key: &Caller| format!("/api/keys/{}", key.id());
    check(&root.put(&path(&keys[0]), r#"{"name": "renamed"}"#), 200);
    let json = [("Content-Type", "application/json")];
    check(&root.request("PATCH", &path(&keys[0]), &json, br#"{"scopes": ["monitor:write"]}"#), 200);
    check(&root.delete(keys[0].id()), 204);
    check(&keys[1].request("DELETE", "/api/keys/self", &[], b""), 204);
}

struct Recording {
    calls: Vec<FileCall>,
    store: PathBuf,
    /// What was there before.
    names: HashSet<PathBuf>,
}

fn recorded<T>(installation: &Installation, run: impl FnOnce(&Path) -> T) -> (T, Recording) {
    let trace = tempfile::NamedTempFile::new().expect("a temporary file");
    let store = installation.folder().join(STORE);
    let entries: Vec<_> = std::fs::read_dir(&store).map(|entries| entries.flatten().collect()).unwrap_or_default();
    let names = entries.iter().map(std::fs::DirEntry::path).collect();
    let result = run(trace.path());
    (result, Recording { calls: read_trace(trace.path(), installation.folder()), store, names })
}

/// Asserts that each of so many answers comes after its syncs, and that the same recording is objected to without them.
#[track_caller]
fn hold(recording: &Recording, answers: usize) {
    assert_eq!(recording.objections(), (answers, Vec::new()));

    let is_sync = |call: &FileCall| matches!(&call.effect, Effect::Sync { .. });
    let without = recording.calls.iter().filter(|call| !is_sync(call)).cloned().collect();
    let (seen, objections) = recording.with(without).objections();
    assert_eq!((seen, objections.len()), (answers, answers), "without syncs: {objections:?}");

    let last = recording.calls.iter().map(|call| call.ended).max().expect("some calls");
    let late = |call: &FileCall| FileCall { ended: call.ended + if is_sync(call) { last } else { 0 }, ..call.clone() };
    let (_, objections) = recording.with(recording.calls.iter().map(late).collect()).objections();
    assert_eq!(objections.len(), answers, "with late syncs: {objections:?}");
}

impl Recording {
    fn with(&self, calls: Vec<FileCall>) -> Self {
        Self { calls, store: self.store.clone(), names: self.names.clone() }
    }

    /// How many answers acknowledge a change, and what was not on disk before each.
    fn objections(&self) -> (usize, Vec<String>) {
        let (mut answers, mut objections, mut names) = (0, Vec::new(), self.names.clone());
        // By path, the line on which the last change of the file, or of a name in the directory, had ended.
        let mut changed: HashMap<&Path, usize> = HashMap::new();
        for call in &self.calls {
            match &call.effect {
                Effect::Write { path, .. } | Effect::Resize { path, .. } if self.needs(path) => {
                    changed.insert(path, call.ended);
                }
                Effect::Create { path } | Effect::MakeDirectory { path }
                    if self.needs(path) && names.insert(path.clone()) =>
                {
                    changed.insert(path.parent().expect("a file is in a directory"), call.ended);
                }
                Effect::Say { bytes } if acknowledges(bytes) => {
                    answers += 1;
                    let wrote = changed.keys().any(|path| path.ends_with("db"));
                    let synced = |(path, ended): &(&Path, usize)| self.is_synced(path, *ended, call.began);
                    let unsynced: Vec<_> = changed.drain().filter(|change| !synced(change)).collect();
                    if !wrote || !unsynced.is_empty() {
                        objections.push(format!(
                            "answer {answers}: the store was written: {wrote}, not synced: {unsynced:?}"
                        ));
                    }
                }
                _ => {}
            }
        }
        (answers, objections)
    }

    fn needs(&self, path: &Path) -> bool {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        (path.starts_with(&self.store) || self.store.starts_with(path))
            && !MAY_BE_BEHIND.iter().any(|behind| name.starts_with(behind))
    }

    /// Whether a sync of the path began after one line and had ended before another.
    fn is_synced(&self, path: &Path, after: usize, before: usize) -> bool {
        self.calls.iter().any(|call| {
            matches!(&call.effect, Effect::Sync { path: synced } if synced == path)
                && call.began > after
                && call.ended < before
        })
    }
}

/// Whether somebody is told that a change was made: by `init`, by the API, or after a first start by its key's first use.
fn acknowledges(said: &[u8]) -> bool {
    let head = String::from_utf8_lossy(&said[..said.len().min(2_000)]).to_ascii_lowercase();
    let is_change = head.starts_with("http/1.1 201 ")
        || head.starts_with("http/1.1 204 ")
        || (head.starts_with("http/1.1 200 ") && head.contains("\r\netag: "));
    said.starts_with(b"pcl_") || is_change
}
