//! The real program on a disk that fails by the system's own doing: `strace` makes its calls fail or hang, limits make
//! its files too large, its directory goes away and comes back.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use portcullis::clock::Clock;
use portcullis::store::MemoryStore;
use portcullis::store::portable::{Content, write_store};

use super::{NEW_KEY, QUERY};
use crate::harness::{
    Answer, Caller, DEADLINE, Installation, Process, Served, check, check_problem, is_installed, pause, until,
};
use crate::power_loss::record;

/// To how many calls each fault is put off: `PORTCULLIS_STORE_FAULTS=12` takes a minute or two.
const CALLS: u32 = 2;
/// More than these changes need no fault to meet: it was put off too far.
const CHANGES_MAX: usize = 12;

#[test]
fn a_disk_that_refuses_to_sync_loses_nothing_and_is_forgiven() {
    at_every_call("fdatasync:error=EIO", true);
}

#[test]
fn a_disk_that_loses_writes_loses_nothing_acknowledged_and_is_forgiven() {
    at_every_call("sync_file_range:error=EIO", true);
}

#[test]
fn a_disk_that_is_full_loses_nothing_and_is_forgiven_when_there_is_room() {
    at_every_call("pwrite64:error=ENOSPC", true);
}

#[test]
fn a_single_write_that_fails_is_forgiven() {
    at_every_call("pwrite64,fsync:error=EIO", false);
}

#[test]
fn a_disk_that_hangs_is_waited_for_by_nobody_and_goes_on_by_itself() {
    at_every_call("fdatasync:delay_enter=2600000", false);
}

/// Lets a system call fail from the first time on, from the second and so on, each in a process of its own. Counted by
/// thread, as `strace` does.
fn at_every_call(fault: &'static str, lasts: bool) {
    if !is_installed("strace") {
        return;
    }
    let calls = std::env::var("PORTCULLIS_STORE_FAULTS").map_or(CALLS, |calls| calls.parse().expect("a number"));
    let first = Ill::start(&format!("{fault}:when=1{}", if lasts { "+" } else { "" }));
    assert!(first, "{fault} was not met");
    for call in 2..=calls {
        if !Ill::start(&format!("{fault}:when={call}{}", if lasts { "+" } else { "" })) {
            break;
        }
    }
}

/// A program on an ill disk, and what it has acknowledged.
struct Ill {
    installation: Installation,
    served: Served,
    root: String,
    known: Caller,
    cold: Caller,
    doomed: Caller,
    created: Vec<Caller>,
    is_deleted: bool,
}

/// How many more keys are in the store: `PORTCULLIS_STORE_KEYS=100000` shows how the time of healing grows with them.
fn more_keys() -> Option<u64> {
    std::env::var("PORTCULLIS_STORE_KEYS").ok().map(|count| count.parse().expect("a number"))
}

/// Puts so many more keys into a store that nobody has open.
#[track_caller]
pub fn fill(installation: &Installation, count: u64) {
    let records = (1..=count).map(|revision| {
        let secret = portcullis::key::KeySecret::generate().expect("randomness");
        record(&secret, "one of many", &["monitor:read", "issue:read"], revision)
    });
    let path = installation.folder().join("many");
    let file = std::io::BufWriter::new(std::fs::File::create(&path).expect("writable"));
    let (store, now) = (MemoryStore::with_records(records), Clock::System.now());
    drop(write_store(&store, Content::Export, now, file).expect("a file").into_inner().expect("written"));
    let config = installation.config();
    let arguments = ["store", "import", "--config"].map(Path::new).into_iter().chain([&*config, &*path]);
    let exit = Process::run(&arguments.map(|argument| argument.to_str().expect("UTF-8")).collect::<Vec<_>>());
    assert_eq!(exit.code, Some(0), "{exit:?}");
    let bytes = std::fs::metadata(installation.folder().join("data/db")).expect("a store").len();
    println!("{count} keys in {bytes} bytes");
}

impl Ill {
    /// `false`: all changes were made before the fault was met.
    fn start(fault: &str) -> bool {
        let mut ill = Self::new();
        let strace = attached(&ill.served.process, fault);
        let met = ill.play();
        strace.signal("TERM");
        strace.wait();
        let began = Instant::now();
        ill.heals();
        println!("{fault}: met {met}, a change {:?} after the end", began.elapsed());
        ill.holds_what_was_acknowledged();
        // Also on the disk, for the next process.
        ill.served.process.kill();
        ill.served = ill.installation.serve();
        let at = ill.served.public;
        let moved = |key: &Caller| Caller::new(at, Some(key.secret()));
        (ill.known, ill.cold, ill.doomed) = (moved(&ill.known), moved(&ill.cold), moved(&ill.doomed));
        ill.created = ill.created.iter().map(moved).collect();
        ill.holds_what_was_acknowledged();
        met
    }

    fn new() -> Self {
        let installation = Installation::with(|setup| {
            setup
                .option("keys", r#"change_timeout = "1s""#)
                .option("keys", r#"lookup_timeout = "500ms""#)
                .option("keys", r#"last_used_flush = "50ms""#)
        });
        let root = installation.init();
        more_keys().into_iter().for_each(|count| fill(&installation, count));
        let served = installation.serve();
        let key = || served.caller(&root).create(&["monitor:read"]);
        let (known, cold, doomed) = (key(), key(), key());
        check(&known.get(QUERY), 200);
        check(&doomed.get(QUERY), 200);
        Self { installation, root, known, cold, doomed, created: Vec::new(), is_deleted: false, served }
    }

    fn root(&self) -> Caller {
        self.served.caller(&self.root)
    }

    /// Changes keys until one change is refused.
    fn play(&mut self) -> bool {
        for change in 0..CHANGES_MAX {
            let (answer, status) = match change {
                1 => (self.root().delete(self.doomed.id()), 204),
                _ => (self.root().post("/api/keys", NEW_KEY), 201),
            };
            check(&self.known.get(QUERY), 200);
            let stranger = portcullis::key::KeySecret::generate().expect("randomness");
            check(&self.served.caller(stranger.expose()).get(QUERY), 401);
            self.known_or_unavailable(&self.cold.get(QUERY));
            if answer.status != status {
                check_problem(&answer, 503, "store_unavailable");
                assert!(answer.header("retry-after").is_some(), "{answer:?}");
                return true;
            }
            match change {
                1 => self.is_deleted = true,
                _ => self.created.push(self.served.caller(answer.json()["key"].as_str().expect("the key"))),
            }
            if self.is_deleted {
                check(&self.doomed.get(QUERY), 401);
            }
        }
        false
    }

    #[track_caller]
    fn known_or_unavailable(&self, answer: &Answer) {
        assert!([200, 503].contains(&answer.status), "{answer:?}");
    }

    /// How long it takes is printed and not bound here: this disk is shared with all that runs beside.
    #[track_caller]
    fn heals(&self) {
        let begun = Instant::now();
        while self.root().post("/api/keys", NEW_KEY).status != 201 {
            assert!(begun.elapsed() < DEADLINE, "still fails: {:?}", self.served.ops_get("/metrics").text());
            pause();
        }
        until("the store is up", || self.served.ops_get("/metrics").text().contains("portcullis_store_up 1"));
    }

    #[track_caller]
    fn holds_what_was_acknowledged(&self) {
        for key in self.created.iter().chain([&self.known, &self.cold]) {
            check(&key.get(QUERY), 200);
        }
        if self.is_deleted {
            check(&self.doomed.get(QUERY), 401);
        }
        check(&self.root().get("/api/keys?page_size=1000"), 200);
    }
}

#[track_caller]
fn attached(process: &Process, fault: &str) -> Process {
    let pid = process.pid().to_string();
    let mut command = Command::new("strace");
    command.args(["-f", "-o", "/dev/null", "-e", &format!("inject={fault}"), "-p", &pid]);
    let mut strace = Process::spawn(command);
    strace.wait_for(|line| line.contains("attached"));
    strace
}

#[test]
fn a_limit_of_file_sizes_that_is_reached_is_no_end_and_is_forgiven_when_it_is_lifted() {
    let mut ill = Ill::new();
    limit_files(&ill.served.process, "1024");
    check_problem(&ill.root().post("/api/keys", NEW_KEY), 503, "store_unavailable");
    check(&ill.known.get(QUERY), 200);
    check(&ill.cold.get(QUERY), 200);
    let told = ill.served.process.wait_for(|line| line.contains("store failed"));
    assert!(told.contains(r#""fault":"full""#), "{told}");
    // It holds the directory while it has nothing open in it.
    let second = Process::run(&ill.installation.arguments("serve"));
    assert!(second.code.is_some_and(|code| code != 0) && second.stderr.contains("in use"), "{second:?}");
    assert!(second.stderr.contains(&format!("process {}", ill.served.process.pid())), "{second:?}");

    limit_files(&ill.served.process, "unlimited");

    ill.heals();
    ill.served.process.wait_for(|line| line.contains("store works again"));
    ill.holds_what_was_acknowledged();
}

/// The largest file that a process may write, in bytes or `unlimited`.
pub fn limit_files(process: &Process, soft: &str) {
    let mut command = Command::new("prlimit");
    command.args(["--pid", &process.pid().to_string(), &format!("--fsize={soft}:unlimited")]);
    assert_eq!(Process::spawn(command).wait().code, Some(0));
}

#[test]
fn a_directory_that_goes_away_is_not_made_anew_and_is_used_again_when_it_is_back() {
    let mut ill = Ill::new();
    let (data, away) = (ill.installation.folder().join("data"), ill.installation.folder().join("away"));
    std::fs::rename(&data, &away).expect("movable");
    // Noticed by itself: an acknowledged change would be lost with the files.
    let told = ill.served.process.wait_for(|line| line.contains("store failed"));
    assert!(told.contains(r#""fault":"gone""#), "{told}");
    check_problem(&ill.root().post("/api/keys", NEW_KEY), 503, "store_unavailable");
    check(&ill.known.get(QUERY), 200);
    ill.served.process.wait_for(|line| line.contains("put them back"));
    assert!(!data.exists(), "made anew");
    // A volume that is mounted with nothing in it, and then with the files: others, to the system.
    std::fs::create_dir(&data).expect("can be made");
    let attempts = "portcullis_store_reopenings_total{result=\"failure\"}";
    let failed = || sample(&ill.served, attempts);
    let before = failed();
    until("it has tried", || failed() > before + 1.0);
    assert_eq!(std::fs::read_dir(&data).expect("readable").count(), 0, "files were made");
    copy(&away, &data);

    ill.heals();
    ill.holds_what_was_acknowledged();
    ill.served.process.kill();
    std::fs::remove_dir_all(&away).expect("removable");
    ill.served = ill.installation.serve();
    check(&ill.root().get("/api/keys"), 200);
}

#[test]
fn an_older_copy_of_the_files_is_not_taken_for_the_store() {
    let mut ill = Ill::new();
    let (data, older) = (ill.installation.folder().join("data"), ill.installation.folder().join("older"));
    let away = ill.installation.folder().join("away");
    copy(&data, &older);
    check(&ill.root().delete(ill.doomed.id()), 204);
    ill.is_deleted = true;
    std::fs::rename(&data, &away).expect("movable");
    std::fs::rename(&older, &data).expect("movable");
    let told = ill.served.process.wait_for(|line| line.contains("was acknowledged"));
    assert!(told.contains("restore the directory from a backup"), "{told}");
    check(&ill.doomed.get(QUERY), 401);
    check(&ill.known.get(QUERY), 200);
    check_problem(&ill.root().post("/api/keys", NEW_KEY), 503, "store_unavailable");

    std::fs::rename(&data, &older).expect("movable");
    std::fs::rename(&away, &data).expect("movable");

    ill.heals();
    ill.holds_what_was_acknowledged();
}

fn sample(served: &Served, name: &str) -> f64 {
    let text = served.ops_get("/metrics").text();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.expect("the sample").parse().expect("a number")
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("can be made");
    for entry in std::fs::read_dir(from).expect("readable") {
        let entry = entry.expect("readable");
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).expect("can be copied");
        }
    }
}
