//! A run of the real program with many changes, its calls recorded, and what each revision holds.

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use portcullis::clock::Clock;
use portcullis::key::{KeyName, KeyRecord, KeySecret, Kind, Scope, ScopeSet};
use portcullis::store::{Actor, Change, Expiry, Operation, Settings, SledStore, Store};

use crate::harness::{
    Caller, Dice, Disk, Effect, Exit, FileCall, Installation, Moment, Process, Served, check, moments,
};
use crate::harness::{read_trace, traced};

/// The keys of a revision: their ids, and their names and scopes as a number.
pub type State = BTreeMap<String, u64>;

/// Scopes that are declared: about as many as may be, with names as long as may be.
pub const SCOPES: usize = 250;

/// What new stores have.
const SEGMENT_BYTES: usize = 4 * 1024 * 1024;
/// Filled, cleaned and used again after few changes.
pub const SHORT_SEGMENT_BYTES: usize = 32 * 1024;
/// With so many scopes of the longest names at most, every page finds room in a quarter of a short segment.
pub const SHORT_SEGMENT_SCOPES: usize = 2;

/// How many changes are made after a start that is recorded for itself.
const AFTER_START: usize = 8;
/// Enough to begin a segment that the start has emptied.
const AFTER_CLEANING: usize = 60;

/// What a recording is made of.
pub struct Plan {
    /// The segments of the store's file: `None` for what new stores have. Short ones are filled, cleaned and used again
    /// after few changes.
    pub segment_bytes: Option<usize>,
    /// Each key has so many scopes at most.
    pub scopes: usize,
    /// How often the gate is started.
    pub sessions: usize,
    /// How many changes are made in each session.
    pub changes: usize,
}

pub struct Recording {
    /// The disk before anything was done.
    pub start: Disk,
    pub calls: Vec<FileCall>,
    /// What each revision holds.
    pub states: Vec<State>,
    /// The directory of the store.
    pub store: PathBuf,
    /// The last revision that was acknowledged before the recording.
    pub acknowledged: u64,
    segment_bytes: usize,
    root: String,
}

#[derive(Debug, Default)]
pub struct Reached {
    pub segments_used_again: usize,
    pub pages_apart: usize,
    pub snapshots: usize,
}

impl Recording {
    /// Makes a store by `init` and runs a gate on it several times.
    pub fn make(plan: &Plan) -> Self {
        let installation = installation();
        let folder = installation.folder();
        if let Some(bytes) = plan.segment_bytes {
            sled::Config::new().path(folder.join("data")).segment_size(bytes).open().expect("an empty store");
        }
        let mut recording = Self::begin(folder, plan.segment_bytes.unwrap_or(SEGMENT_BYTES));
        let root = recording.take(folder, |trace| {
            let exit = Process::spawn(traced(&installation.program("init"), trace)).wait();
            assert_eq!(exit.code, Some(0), "{exit:?}");
            exit.stdout.trim_end().to_owned()
        });
        recording.root.clone_from(&root);
        let mut changes = Changes::new(&root, plan.scopes);
        for _ in 0..plan.sessions {
            recording.take(folder, |trace| {
                let served = installation.serve_traced(trace);
                (0..plan.changes).for_each(|_| changes.make_one(&served));
                installation.end_traced(served, "data");
            });
        }
        recording.states = changes.states;
        recording
    }

    /// Runs a gate that makes its store itself, with a root key from a file.
    pub fn first_start() -> Self {
        let secret = Process::run(&["keygen"]).stdout.trim_end().to_owned();
        let installation = Installation::with(|setup| setup.option("keys", r#"root_key_file = "root.key""#));
        let folder = installation.folder();
        std::fs::write(folder.join("root.key"), &secret).expect("writable");
        let mut recording = Self::begin(folder, SEGMENT_BYTES);
        recording.take(folder, |trace| {
            let served = installation.serve_traced(trace);
            check(&served.caller(&secret).get("/api/keys/self"), 200);
            installation.end_traced(served, "data");
        });
        recording.states = Changes::new(&secret, 1).states;
        recording
    }

    /// Runs one command of the program on what is in the installation's folder.
    pub fn of_command(installation: &Installation, command: &[String]) -> (Self, Exit) {
        let folder = installation.folder();
        let mut recording = Self::begin(folder, SEGMENT_BYTES);
        let exit = recording.take(folder, |trace| Process::spawn(traced(command, trace)).wait());
        (recording, exit)
    }

    fn begin(folder: &Path, segment_bytes: usize) -> Self {
        let (calls, states) = (Vec::new(), Vec::new());
        let (start, store, root) = (Disk::holding(folder), folder.join("data"), String::new());
        Self { start, calls, states, store, acknowledged: 0, segment_bytes, root }
    }

    /// Starts a gate on a store in which many keys were made, and most of them changed or deleted.
    pub fn of_cleaning(keys: usize) -> Self {
        let memory = super::scratch();
        let data = memory.path().join("data");
        sled::Config::new().path(&data).segment_size(SHORT_SEGMENT_BYTES).open().expect("an empty store");
        let changes_max = std::num::NonZeroU32::new(20).expect("is not zero");
        let settings = Settings { path: data.clone(), changes_max, ..Settings::default() };
        let root = KeySecret::generate().expect("randomness");
        let mut records = vec![record(&root, "root", &["*"], 1)];
        let store = SledStore::create(&settings).expect("an empty store");
        let commit = |operation, revision| store.commit(&change(operation, revision)).expect("a change that fits");
        commit(Operation::Create(records[0].clone()), 1);
        let mut dice = Dice::new(11);
        for revision in 2..=u64::try_from(2 * keys).expect("fits") {
            let index = dice.below(records.len());
            if records.len() < keys && revision < u64::try_from(keys).expect("fits") {
                let secret = KeySecret::generate().expect("randomness");
                records.push(record(&secret, &format!("made {revision}"), &[scope(0)], revision));
                commit(Operation::Create(records[records.len() - 1].clone()), revision);
            } else if index > 0 && dice.once_in(2) {
                commit(Operation::Delete(records.swap_remove(index)), revision);
            } else {
                let from = records[index].clone();
                let to = KeyRecord { revision, ..from.clone() };
                records[index] = to.clone();
                commit(Operation::Update { from, to }, revision);
            }
        }
        let revision = store.revision().expect("readable");
        drop(store);
        let installation = installation();
        Disk::holding(memory.path()).write_image(&data, &mut dice, &installation.folder().join("data"));
        let state = records.iter().map(|record| (record.id.to_string(), facts(record))).collect();
        let mut states = vec![State::new(); usize::try_from(revision).expect("fits")];
        states.push(state);
        Self::go_on(&installation, root.expose(), AFTER_CLEANING, states)
    }

    /// Starts a gate on a store of short segments that is there and makes some changes.
    fn go_on(installation: &Installation, root: &str, count: usize, states: Vec<State>) -> Self {
        let folder = installation.folder();
        let acknowledged = u64::try_from(states.len() - 1).expect("fits");
        let mut recording = Self { acknowledged, root: root.to_owned(), ..Self::begin(folder, SHORT_SEGMENT_BYTES) };
        let mut changes = Changes::new(root, SHORT_SEGMENT_SCOPES);
        changes.state.clone_from(&states[states.len() - 1]);
        changes.states = states;
        recording.take(folder, |trace| {
            let served = installation.serve_traced(trace);
            let listed = check(&served.caller(root).get("/api/keys"), 200).json();
            assert_eq!(listed["total_count"], changes.state.len());
            (0..count).for_each(|_| changes.make_one(&served));
            installation.end_traced(served, "data");
        });
        recording.states = changes.states;
        recording
    }

    /// Starts a gate on what the power left of `before` when it went at the moment `cut`, and makes some changes.
    /// `revision_of` says which revision a copy of that holds.
    pub fn of_start_after(before: &Self, cut: usize, dice: &mut Dice, revision_of: &dyn Fn(&Path) -> u64) -> Self {
        let mut disk = before.start.clone();
        before.moments()[..cut].iter().for_each(|moment| disk.pass(moment));
        let seed = dice.next();
        let copy = tempfile::tempdir().expect("a temporary folder");
        disk.write_image(&before.store, &mut Dice::new(seed), &copy.path().join("data"));
        let revision = revision_of(&copy.path().join("data"));

        let installation = installation();
        disk.write_image(&before.store, &mut Dice::new(seed), &installation.folder().join("data"));
        let states = before.states[..=usize::try_from(revision).expect("fits")].to_vec();
        Self::go_on(&installation, &before.root, AFTER_START, states)
    }

    /// Adds what `run` has recorded in the file that it is given, and makes sure that this is all there was.
    fn take<T>(&mut self, folder: &Path, run: impl FnOnce(&Path) -> T) -> T {
        let trace = tempfile::NamedTempFile::new().expect("a temporary file");
        let result = run(trace.path());
        let lines = self.calls.last().map_or(0, |call| call.ended.max(call.began) + 1);
        let shifted = |call: FileCall| FileCall { began: call.began + lines, ended: call.ended + lines, ..call };
        self.calls.extend(read_trace(trace.path(), folder).into_iter().map(shifted));
        let mut disk = self.start.clone();
        self.moments().iter().for_each(|moment| disk.pass(moment));
        disk.check_is_like(&self.store);
        result
    }

    /// How often a segment was used again, how many pages went to files of their own, and how many snapshots were made: the
    /// paths on which most can go wrong.
    pub fn reached(&self) -> Reached {
        let there = self.start.length(&self.store.join("db"));
        let mut begun: HashSet<usize> = (0..there).step_by(self.segment_bytes).collect();
        let mut reached = Reached::default();
        for call in &self.calls {
            let in_blobs = |path: &Path| path.parent().is_some_and(|parent| parent.ends_with("blobs"));
            match &call.effect {
                Effect::Write { path, at, bytes }
                    if path.ends_with("db") && at % self.segment_bytes == 0 && bytes[4] != 0 =>
                {
                    reached.segments_used_again += usize::from(!begun.insert(*at));
                }
                Effect::Create { path } if in_blobs(path) => reached.pages_apart += 1,
                Effect::Rename { .. } => reached.snapshots += 1,
                _ => {}
            }
        }
        reached
    }

    pub fn moments(&self) -> Vec<Moment<'_>> {
        moments(&self.calls)
    }

    /// A moment for the power to go: often just before or after a sync or an answer, else any.
    pub fn cut(&self, moments: &[Moment<'_>], dice: &mut Dice) -> usize {
        let at = dice.below(moments.len());
        if dice.once_in(3) {
            return at;
        }
        let marked = |moment: &Moment<'_>| match moment {
            Moment::Synced(_) => true,
            Moment::Began(call) => matches!(&call.effect, Effect::Say { bytes } if bytes.starts_with(b"HTTP/1.1 ")),
        };
        let next = moments.iter().skip(at).position(marked).map_or(at, |ahead| at + ahead);
        (next + dice.below(2)).min(moments.len() - 1)
    }
}

fn installation() -> Installation {
    Installation::with(|setup| {
        let setup = setup.option("store", "changes_max = 20").option("keys", r#"last_used_flush = "20ms""#);
        (0..SCOPES).fold(setup, |setup, number| setup.option("scopes", &format!("{:?} = \"\"", scope(number))))
    })
}

/// The last revision that was acknowledged once this moment has passed.
pub fn acknowledged(moment: &Moment<'_>, before: u64) -> u64 {
    let Moment::Began(FileCall { effect: Effect::Say { bytes }, .. }) = moment else { return before };
    if bytes.starts_with(b"pcl_") {
        return 1;
    }
    if bytes.starts_with(b"HTTP/1.1 204 ") {
        return before + 1;
    }
    let head = String::from_utf8_lossy(&bytes[..bytes.len().min(2_000)]).to_ascii_lowercase();
    let Some((_, tag)) = head.strip_prefix("http/1.1 20").and_then(|head| head.split_once("\r\netag: \"")) else {
        return before;
    };
    tag.split_once('"').and_then(|(revision, _)| revision.parse().ok()).expect("a revision as ETag")
}

/// A custom key as it is stored.
pub fn record<S: AsRef<str>>(secret: &KeySecret, name: &str, scopes: &[S], revision: u64) -> KeyRecord {
    let now = Clock::System.now();
    KeyRecord {
        id: secret.id(),
        digest: secret.digest(),
        name: KeyName::parse(name).expect("a name"),
        kind: Kind::Custom,
        scopes: ScopeSet::new(scopes.iter().map(|scope| Scope::parse(scope.as_ref()).expect("a scope"))),
        created: now,
        updated: now,
        created_revision: revision,
        revision,
    }
}

pub fn change(operation: Operation, revision: u64) -> Change {
    Change { revision, at: Clock::System.now(), actor: Actor::OPERATOR, operation, expiry: Expiry::Due }
}

/// What of a key is compared.
pub fn facts(record: &KeyRecord) -> u64 {
    fingerprint(record.name.as_str(), &record.scopes.names())
}

fn fingerprint<S: AsRef<str>>(name: &str, scopes: &[S]) -> u64 {
    let mut hasher = DefaultHasher::new();
    let mut scopes: Vec<&str> = scopes.iter().map(AsRef::as_ref).collect();
    scopes.sort_unstable();
    (name, scopes).hash(&mut hasher);
    hasher.finish()
}

fn scope(number: usize) -> String {
    format!("team:{number:03}{}", "x".repeat(56))
}

/// Changes of keys, one after the other, and what each revision holds.
struct Changes {
    root: String,
    scopes_max: usize,
    dice: Dice,
    keys: Vec<Key>,
    state: State,
    states: Vec<State>,
}

struct Key {
    secret: String,
    name: String,
    scopes: Vec<String>,
}

impl Changes {
    fn new(root: &str, scopes_max: usize) -> Self {
        let state = State::from([(root[..16].to_owned(), fingerprint("root", &["*"]))]);
        let states = vec![State::new(), state.clone()];
        Self { root: root.to_owned(), scopes_max, dice: Dice::new(7), keys: Vec::new(), state, states }
    }

    fn make_one(&mut self, served: &Served) {
        let root = served.caller(&self.root);
        match self.dice.below(10) {
            _ if self.keys.len() < 12 => self.create(&root),
            0..=3 if self.keys.len() < 40 => self.create(&root),
            0..=5 => self.update(&root),
            6..=7 => self.delete(&root),
            _ => self.rename(&root),
        }
        let user = served.caller(&self.keys[self.dice.below(self.keys.len())].secret);
        assert!(matches!(user.get("/open/x").status, 200), "a key that is there is admitted");
        self.states.push(self.state.clone());
    }

    fn create(&mut self, root: &Caller) {
        let (name, scopes) = (format!("key {}", self.dice.next()), self.some_scopes());
        let body = serde_json::json!({"name": name, "kind": "custom", "scopes": scopes});
        let secret = root.create_from(&body).secret().to_owned();
        self.state.insert(secret[..16].to_owned(), fingerprint(&name, &scopes));
        self.keys.push(Key { secret, name, scopes });
    }

    fn update(&mut self, root: &Caller) {
        let (index, scopes) = (self.dice.below(self.keys.len()), self.some_scopes());
        let name = format!("updated {}", self.dice.next());
        self.put(root, index, name, scopes);
    }

    fn rename(&mut self, root: &Caller) {
        let index = self.dice.below(self.keys.len());
        let name = format!("renamed {}", self.dice.next());
        let scopes = self.keys[index].scopes.clone();
        self.put(root, index, name, scopes);
    }

    fn put(&mut self, root: &Caller, index: usize, name: String, scopes: Vec<String>) {
        let key = &mut self.keys[index];
        let body = serde_json::json!({"name": name, "scopes": scopes});
        check(&root.put(&format!("/api/keys/{}", &key.secret[..16]), &body.to_string()), 200);
        self.state.insert(key.secret[..16].to_owned(), fingerprint(&name, &scopes));
        (key.name, key.scopes) = (name, scopes);
    }

    fn delete(&mut self, root: &Caller) {
        let key = self.keys.swap_remove(self.dice.below(self.keys.len()));
        check(&root.delete(&key.secret[..16]), 204);
        self.state.remove(&key.secret[..16]);
    }

    /// Few scopes, or about as many as the plan allows.
    fn some_scopes(&mut self) -> Vec<String> {
        let many = self.scopes_max - self.dice.below(self.scopes_max.div_ceil(4));
        let count = if self.dice.once_in(4) { 1 + self.dice.below(2) } else { many };
        let first = self.dice.below(SCOPES - count + 1);
        (first..first + count).map(scope).collect()
    }
}
