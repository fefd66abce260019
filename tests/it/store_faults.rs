//! Faults of the store: what is known goes on, what is acknowledged stays, and the store works again without a restart.

pub mod disk;

use std::time::{Duration, Instant};

use crate::harness::{Answer, Caller, DEADLINE, Fault, FaultyDisk, Gate, Struck, check, check_problem, pause, until};

const QUERY: &str = "/api/v1/query";
const NEW_KEY: &str = r#"{"name": "new", "kind": "custom", "scopes": ["monitor:read"]}"#;
/// How long after a fault's end the store may be of no use.
const HEALS_WITHIN: Duration = Duration::from_secs(5);
/// Gates that run at a time: most of them wait.
const AT_ONCE: usize = 12;

#[test]
fn whichever_call_to_the_store_fails_what_was_acknowledged_stays_and_what_is_known_goes_on() {
    at_every_call(Fault::Error);
}

#[test]
fn whichever_call_finds_the_disk_full_what_was_acknowledged_stays_and_what_is_known_goes_on() {
    at_every_call(Fault::Full);
}

#[test]
fn whichever_call_panics_what_was_acknowledged_stays_and_what_is_known_goes_on() {
    at_every_call(Fault::Panic);
}

#[test]
fn whichever_call_hangs_what_was_acknowledged_stays_and_what_is_known_goes_on() {
    at_every_call(Fault::Hang);
}

/// Lets the store fail at the first call, at the second and so on, until the scenario makes no more calls.
fn at_every_call(fault: Fault) {
    for struck in [Struck::Lost, Struck::Made] {
        let mut first = 0;
        loop {
            let last = first + AT_ONCE;
            let runs: Vec<_> =
                (first..last).map(|call| std::thread::spawn(move || Run::at(call, fault, struck))).collect();
            let met: Vec<bool> = runs.into_iter().map(|run| run.join().expect("the run holds")).collect();
            if met.contains(&false) {
                // Times of last use are written beside it: where the last call is, is not the same each time.
                assert!(
                    last > AT_ONCE || met.iter().filter(|met| **met).count() > 4,
                    "hardly a call was made: {met:?}"
                );
                break;
            }
            first = last;
        }
        // What hangs has no end of its own, and a full disk is an error of another name.
        if matches!(fault, Fault::Hang | Fault::Full) {
            break;
        }
    }
}

/// One gate, its keys, and what was acknowledged of them.
struct Run {
    gate: Gate,
    disk: std::sync::Arc<FaultyDisk>,
    /// In the cache, and changed by nobody.
    known: Caller,
    /// In the store alone, and renamed.
    cold: Caller,
    doomed: Caller,
    created: Option<Caller>,
    is_renamed: bool,
    is_deleted: bool,
}

impl Run {
    /// `false` when no call met the fault.
    fn at(call: usize, fault: Fault, struck: Struck) -> bool {
        let disk = FaultyDisk::new();
        let gate = Gate::with(|setup| {
            setup
                .store(disk.open())
                .option("keys", r#"change_timeout = "300ms""#)
                .option("keys", r#"lookup_timeout = "200ms""#)
                .option("keys", r#"last_used_flush = "20ms""#)
        });
        let key = || gate.key(&["monitor:read"]);
        let (known, cold, doomed) = (key(), key(), key());
        check(&known.get(QUERY), 200);
        check(&doomed.get(QUERY), 200);
        disk.fail_at(call, fault, struck);
        let mut run = Self { gate, disk, known, cold, doomed, created: None, is_renamed: false, is_deleted: false };
        run.play();
        let had_struck = run.disk.mend();
        run.heals();
        run.holds_what_was_acknowledged();
        if had_struck && fault != Fault::Hang {
            // That it is broken may be noticed before the call has come back with what broke it.
            let of_kind = |kind: &str| run.gate.metric(&format!("portcullis_store_faults_total{{kind=\"{kind}\"}}"));
            assert!(of_kind(&format!("{fault:?}").to_lowercase()) + of_kind("error") >= 1.0);
            assert!(run.gate.metric("portcullis_store_reopenings_total{result=\"success\"}") >= 1.0);
        }
        had_struck
    }

    fn play(&mut self) {
        let root = self.gate.root();
        let created = root.post("/api/keys", NEW_KEY);
        if self.acknowledged(&created, 201) {
            let secret = created.json()["key"].as_str().expect("the key").to_owned();
            self.created = Some(self.gate.caller(&secret));
        }
        let renamed = root.put(&format!("/api/keys/{}", self.cold.id()), r#"{"name": "renamed"}"#);
        self.is_renamed = self.acknowledged(&renamed, 200);
        self.answered(&self.cold.get(QUERY), 200);
        let deleted = root.delete(self.doomed.id());
        self.is_deleted = self.acknowledged(&deleted, 204);
        self.answered(&root.get("/api/keys"), 200);
        self.answered(&root.get(&format!("/api/keys/{}", self.cold.id())), 200);
    }

    /// Whether a change was acknowledged; if not, it was refused as it ought to be. Looks at all else meanwhile.
    #[track_caller]
    fn acknowledged(&self, answer: &Answer, status: u16) -> bool {
        self.answered(answer, status);
        check(&self.known.get(QUERY), 200);
        let stranger = portcullis::key::KeySecret::generate().expect("randomness");
        check(&self.gate.caller(stranger.expose()).get(QUERY), 401);
        if self.is_deleted {
            check(&self.doomed.get(QUERY), 401);
        }
        answer.status == status
    }

    #[track_caller]
    fn answered(&self, answer: &Answer, status: u16) {
        if answer.status != status {
            check_problem(answer, 503, "store_unavailable");
            assert!(answer.header("retry-after").is_some(), "{answer:?}");
        }
    }

    #[track_caller]
    fn heals(&self) {
        let begun = Instant::now();
        while self.gate.root().post("/api/keys", NEW_KEY).status != 201 {
            assert!(begun.elapsed() < HEALS_WITHIN, "still fails");
            pause();
        }
        self.gate.wait_for_metric("portcullis_store_up", 1.0);
    }

    fn holds_what_was_acknowledged(&self) {
        let listed = self.gate.root().get("/api/keys?page_size=1000").json();
        let rows: Vec<_> = listed["data"].as_array().expect("rows").iter().collect();
        let name = |key: &Caller| {
            rows.iter().find(|row| row["id"] == key.id()).map(|row| row["name"].as_str().expect("a name"))
        };
        if let Some(created) = &self.created {
            assert_eq!(name(created), Some("new"));
            check(&created.get(QUERY), 200);
        }
        check(&self.known.get(QUERY), 200);
        check(&self.cold.get(QUERY), 200);
        let names: &[&str] = if self.is_renamed { &["renamed"] } else { &["test key", "renamed"] };
        assert!(name(&self.cold).is_some_and(|name| names.contains(&name)), "{listed}");
        assert!(!self.is_deleted || name(&self.doomed).is_none(), "{listed}");
        check(&self.doomed.get(QUERY), if name(&self.doomed).is_some() { 200 } else { 401 });
        let used = || !self.gate.root().get(&format!("/api/keys/{}", self.cold.id())).json()["last_used"].is_null();
        until("the last use is written", used);
    }
}

#[test]
fn a_store_that_hangs_is_told_of_and_takes_no_more_changes_until_it_answers() {
    let disk = FaultyDisk::new();
    let gate = Gate::with(|setup| setup.store(disk.open()).option("keys", r#"change_timeout = "1s""#));
    let known = gate.key(&["monitor:read"]);
    check(&known.get(QUERY), 200);
    let root = gate.root();
    check(&root.get(QUERY), 200);
    let hit = |call| disk.fail_at(call, Fault::Hang, Struck::Lost);
    // The reads of the caller's key come first, then the change.
    hit(2);
    let begun = Instant::now();
    check_problem(&root.post("/api/keys", NEW_KEY), 503, "store_unavailable");
    assert!(begun.elapsed() < DEADLINE / 4, "{:?}", begun.elapsed());
    gate.wait_for_metric("portcullis_store_up", 0.0);
    gate.wait_for_metric("portcullis_store_faults_total{kind=\"hang\"}", 1.0);
    for page in ["/-/healthy", "/-/ready"] {
        let text = check(&gate.ops_get(page), 200).text();
        assert!(text.contains("the key store does not answer"), "{text}");
    }
    let begun = Instant::now();
    for _ in 0..300 {
        check_problem(&root.post("/api/keys", NEW_KEY), 503, "store_unavailable");
        check(&known.get(QUERY), 200);
    }
    assert!(begun.elapsed() < DEADLINE / 2, "changes wait behind one that hangs: {:?}", begun.elapsed());

    disk.mend();

    gate.wait_for_metric("portcullis_store_up", 1.0);
    check(&root.post("/api/keys", NEW_KEY), 201);
    assert_eq!(check(&gate.ops_get("/-/ready"), 200).text(), "ready\n");
    assert_eq!(gate.metric("portcullis_store_reopenings_total{result=\"success\"}"), 0.0);
}

#[test]
fn a_gate_whose_store_has_failed_stays_ready_and_says_so() {
    let disk = FaultyDisk::new();
    let gate = Gate::with(|setup| setup.store(disk.open()));
    let known = gate.key(&["monitor:read"]);
    check(&known.get(QUERY), 200);
    disk.fail_at(0, Fault::Full, Struck::Lost);
    check_problem(&gate.root().post("/api/keys", NEW_KEY), 503, "store_unavailable");
    for page in ["/-/healthy", "/-/ready"] {
        let text = check(&gate.ops_get(page), 200).text();
        assert!(text.contains("the key store has failed"), "{text}");
    }
    assert_eq!(gate.metric("portcullis_store_up"), 0.0);
    disk.mend();
    gate.wait_for_metric("portcullis_store_up", 1.0);
    assert_eq!(check(&gate.ops_get("/-/healthy"), 200).text(), "healthy\n");
}

#[test]
fn a_root_key_that_is_new_in_its_file_is_stored_when_the_fault_of_the_store_has_passed() {
    let disk = FaultyDisk::new();
    let mut gate = Gate::with(|setup| setup.store(disk.open()));
    let secret = portcullis::key::KeySecret::generate().expect("randomness");
    std::fs::write(gate.folder().join("root.key"), secret.expose()).expect("writable");
    disk.fail_at(0, Fault::Error, Struck::Lost);
    check_problem(&gate.root().post("/api/keys", NEW_KEY), 503, "store_unavailable");
    let mending = std::thread::spawn({
        let disk = std::sync::Arc::clone(&disk);
        move || disk.mend()
    });
    gate.reload(|setup| setup.option("keys", r#"root_key_file = "root.key""#));
    assert!(mending.join().expect("no panic"));
    check(&gate.caller(secret.expose()).get("/api/keys"), 200);
}
