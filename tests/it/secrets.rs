//! Secrets: that the search for them finds what is there, in every place that it looks at, and that those places are what
//! a gate says, sends and writes.
//!
//! That nothing is found is not asserted here but by the rig, in every test of this binary: see `harness::secrets`.

use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Stdio;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use portcullis::clock::Timestamp;
use portcullis::config::Config;
use portcullis::key::{KEY_BYTES, KeyName, KeyRecord, KeyReference, KeySecret, Kind};
use portcullis::keyring::KeyView;
use portcullis::settings::Source;

use crate::harness::secrets::{Secrets, find};
use crate::harness::*;

const QUERY: &str = "/api/v1/query";

fn fresh_key() -> String {
    KeySecret::generate().expect("randomness").expose().to_owned()
}

/// The failure of what must fail: its message.
#[track_caller]
fn failure_of(what: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(what)).expect_err("the search finds what was planted");
    panic.downcast_ref::<String>().expect("a message").clone()
}

#[test]
fn every_form_of_a_secret_is_found_wherever_it_lies() {
    let (key, other) = (fresh_key(), fresh_key());
    let mut secrets = Secrets::default();
    secrets.issue(&other);
    secrets.issue(&key);
    let random = &key[17..49];
    let joined = |write: fn(u8) -> String| key.bytes().map(write).collect::<String>();
    let forms = [
        ("plain text", key.clone()),
        ("plain text", random.to_owned()),
        ("plain text", format!("\"{key}\\u0000")),
        ("base64", STANDARD.encode(&key)),
        ("base64", STANDARD.encode(format!("{key}:"))),
        ("base64", STANDARD.encode(format!("{key}:password"))),
        ("base64", STANDARD.encode(format!("user:{key}"))),
        ("base64", STANDARD.encode(format!("agent:{key}"))),
        ("base64", STANDARD.encode(format!(":{key}"))),
        ("base64", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(format!("{key}:"))),
        ("hex", joined(|byte| format!("{byte:02x}"))),
        ("hex", joined(|byte| format!("{byte:02X}"))),
        ("percent-encoding", joined(|byte| format!("%{byte:02X}"))),
        ("a list of bytes", format!("{:?}", key.as_bytes())),
    ];
    for (form, text) in forms {
        for shift in 0..20 {
            let seen = format!("{}{text}{}", "x".repeat(shift), "y".repeat(20 - shift));
            let found = secrets.find(seen.as_bytes()).unwrap_or_else(|| panic!("{form} at {shift}"));
            assert_eq!(found.form, form);
            assert!(!found.to_string().contains(random), "{found}");
        }
    }
    let (id, masked) = (&key[..16], format!("{}...", &key[..16]));
    for harmless in [id, &masked, &fresh_key(), "", &"x".repeat(1_000)] {
        assert!(secrets.find(harmless.as_bytes()).is_none(), "{harmless}");
    }
}

#[test]
fn keys_of_every_origin_are_searched_for() {
    let gate = Gate::start();
    let created = gate.key(&["monitor:read"]);
    let over_http2 = H2Client::connect(gate.public());
    let body = br#"{"name": "n", "kind": "telemetry"}"#;
    let authorization = gate.root().authorization();
    let fields = [("authorization", &*authorization), ("content-type", "application/json")];
    let answer = over_http2.request("POST", "/api/keys", &fields, body);
    let by_http2 = check(&answer, 201).json()["key"].as_str().expect("a key").to_owned();
    let by_keygen = Process::run(&["keygen"]).stdout;
    let by_init = Installation::new().init();
    for key in [gate.root().secret(), created.secret(), &by_http2, by_keygen.trim(), &by_init] {
        assert!(find(key.as_bytes()).is_some());
    }
}

#[test]
fn a_secret_that_reaches_the_upstream_fails_the_test() {
    let failure = failure_of(|| {
        let gate = Gate::with(|setup| {
            let needs = r#"{ require = "telemetry:write", credential_segment = "keep" }"#;
            setup.route("GET /p/{credential}/x", needs)
        });
        let key = gate.telemetry_key();
        check(&gate.anonymous().get(&format!("/p/{}/x", key.secret())), 200);
    });
    assert!(failure.contains("what an upstream got: plain text"), "{failure}");
}

#[test]
fn a_secret_in_an_answer_fails_the_test() {
    let failure = failure_of(|| {
        let gate = Gate::start();
        gate.upstream()
            .reply_always(Reply::bytes(format!("HTTP/1.1 200 OK\r\nX-A: {}\r\n\r\n", gate.root().secret())).close());
        gate.root().get("/open/x");
    });
    assert!(failure.contains("an answer: plain text"), "{failure}");
}

#[test]
fn a_secret_in_a_file_of_the_gate_fails_the_test() {
    let failure = failure_of(|| {
        let gate = Gate::start();
        let folder = gate.folder().join("data");
        std::fs::create_dir_all(&folder).expect("writable");
        std::fs::write(folder.join("db"), format!("\0\0{}\0", gate.root().authorization())).expect("writable");
    });
    assert!(failure.contains("data/db: base64"), "{failure}");
}

#[test]
fn a_secret_that_a_command_says_fails_the_test() {
    let failure = failure_of(|| {
        let key = Process::run(&["keygen"]).stdout;
        // A program that is none of ours repeats what it is told.
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "echo \"$1\" >&2", env!("CARGO_BIN_EXE_portcullis"), key.trim()]);
        Process::spawn(command).wait();
    });
    assert!(failure.contains("a command's stderr: plain text"), "{failure}");
}

#[test]
fn what_gates_log_is_searched_down_to_each_request() {
    let gate = Gate::start();
    let key = gate.key(&["monitor:read"]);
    check(&key.get(QUERY), 200);
    until("the request is in the log", || {
        secrets::log_has(|text| text.contains("\"target\":\"access\"") && text.contains(key.id()))
    });
    until("the creation is in the log", || {
        secrets::log_has(|text| text.contains("\"target\":\"audit\"") && text.contains(key.id()))
    });
}

#[test]
fn a_secret_in_the_log_is_found() {
    let (gate, key) = (Gate::start(), fresh_key());
    // Not issued yet: no other test may find it.
    tracing::warn!(target: "portcullis::planted", "{key}");
    let planted = |text: &str| text.contains(&key);
    until("the line is in the log", || secrets::log_has(planted));
    let mut own = Secrets::default();
    own.issue(&key);
    assert!(secrets::log_has(|text| own.find(text.as_bytes()).is_some()));
    drop(gate);
}

#[test]
fn what_libraries_say_of_http2_is_not_logged() {
    let gate = Gate::start();
    let (reader, client) = (gate.key(&["monitor:read"]), H2Client::connect(gate.public()));
    check(&client.get(&reader, QUERY), 200);
    check(&client.request("GET", "/api//x", &[("authorization", &reader.authorization())], b""), 400);
    until("the refusal is in the log", || secrets::log_has(|text| text.contains("\"level\":\"DEBUG\"")));
    // At their own debug and trace levels they show header fields.
    for library in ["h2", "hyper", "hyper_util", "rustls", "tokio_rustls", "sled"] {
        assert!(!secrets::log_has(|text| text.contains(&format!("\"target\":\"{library}"))), "{library}");
    }
}

#[test]
fn no_debug_shows_a_secret() {
    let key = KeySecret::generate().expect("randomness");
    let mut secrets = Secrets::default();
    secrets.issue(key.expose());
    let digest = key.digest();
    let record = KeyRecord {
        id: key.id(),
        digest,
        name: KeyName::parse("a name").expect("a name"),
        kind: Kind::Telemetry,
        scopes: Kind::Telemetry.fixed_scopes().expect("fixed"),
        created: Timestamp::from_unix(0),
        updated: Timestamp::from_unix(0),
        created_revision: 1,
        revision: 1,
    };
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("token"), key.expose()).expect("writable");
    std::fs::write(folder.path().join("root.key"), key.expose()).expect("writable");
    let text = "[keys]\nroot_key_file = \"root.key\"\n[upstream.u]\nurl = \"http://127.0.0.1:9\"\n\
                set_headers = { Authorization = \"Bearer ${file:token}\" }\n[upstream.u.routes]\n\"GET /\" = \"public\"\n";
    let source = Source { path: folder.path().join("portcullis.toml"), text: text.to_owned() };
    let config = Config::parse(&source).unwrap_or_else(|problems| panic!("{problems}"));
    let reference: KeyReference = key.expose().parse().expect("a key");
    let view = KeyView { record: record.clone(), last_used: None };
    for shown in [
        format!("{key:?} {key:#?}"),
        format!("{reference:?}"),
        format!("{digest:?} {:?}", digest.tag()),
        format!("{record:?} {view:?}"),
        format!("{config:?} {config:#?}"),
    ] {
        assert!(secrets.find(shown.as_bytes()).is_none(), "{shown}");
        let shows_digest = |bytes: &[u8]| shown.contains(&format!("{bytes:?}")[1..20]);
        assert!(!shows_digest(digest.as_bytes()) && !shows_digest(digest.tag().as_bytes()), "{shown}");
    }
    assert!(format!("{key:?}").contains(&key.id().to_string()));
    assert!(format!("{config:?}").contains("Bearer ${file:token}"));
}

#[test]
fn what_a_placeholder_stands_for_is_shown_by_no_command() {
    const TOKEN: &str = "upstream-token-1234567890";
    let installation = Installation::with(|setup| {
        setup.upstream(r#"set_headers = { Authorization = "Bearer ${file:token}", X-Plain = "shown" }"#)
    });
    std::fs::write(installation.folder().join("token"), TOKEN).expect("writable");
    let run = |command: &str, more: &[&str]| {
        let mut arguments = installation.arguments(command);
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        let exit = Process::run(&arguments);
        assert!(!format!("{exit:?}").contains(TOKEN), "{exit:?}");
        exit
    };
    for (command, more) in
        [("check", &[][..]), ("routes", &[]), ("routes", &["--json"]), ("explain", &["GET /public/x"])]
    {
        let exit = run(command, more);
        let shows = !more.contains(&"--json") || exit.stdout.contains("${file:token}") && exit.stdout.contains("shown");
        assert!(exit.code == Some(0) && shows, "{command} {more:?}: {exit:?}");
    }
    installation.init();
    let served = installation.serve();
    check(&served.anonymous().get("/public/x"), 200);
    assert_eq!(installation.upstream().last().header("authorization"), Some(&*format!("Bearer {TOKEN}")));
    served.process.signal("TERM");
    let exit = served.process.wait();
    assert!(!exit.stderr.contains(TOKEN), "{exit:?}");

    // In the wrong place it is told by its name too.
    for line in ["strip_prefix = \"${file:token}\"", "host = \"${file:token} \"", "protocol = \"${file:token}\""] {
        installation.rewrite(|setup| setup.upstream(line));
        let exit = run("check", &[]);
        assert!(exit.code != Some(0) && exit.stderr.contains("${file:token}"), "{line}: {exit:?}");
    }
}

/// This process's memory, by way of a file: no pointer is followed. Allocates nothing once it is made, or else it would be
/// given the memory that it is to look at.
struct Memory {
    file: std::fs::File,
    buffer: Box<[u8; 4_096]>,
}

impl Memory {
    fn open() -> Self {
        let file = std::fs::File::open("/proc/self/mem").expect("this process's memory");
        Self { file, buffer: Box::new([0; 4_096]) }
    }

    /// What lies where a key lay, but for the allocator's own few words at its start.
    fn behind(&mut self, address: usize) -> &[u8] {
        let bytes = &mut self.buffer[..KEY_BYTES - 24];
        self.file.read_exact_at(bytes, address as u64 + 24).expect("memory that is mapped");
        bytes
    }
}

#[test]
fn a_key_is_wiped_when_it_is_let_go() {
    let mut memory = Memory::open();
    let key = Box::new(KeySecret::generate().expect("randomness"));
    let text = key.expose().to_owned();
    let copy = Box::new(<[u8; KEY_BYTES]>::try_from(text.as_bytes()).expect("as long"));
    let (at, copied_at) = (std::ptr::from_ref(&*key).addr(), std::ptr::from_ref(&*copy).addr());
    assert!(memory.behind(at) == &text.as_bytes()[24..] && memory.behind(copied_at) == &text.as_bytes()[24..]);
    drop(key);
    let wiped = memory.behind(at).iter().all(|byte| *byte == 0);
    drop(copy);
    let stays = memory.behind(copied_at) == &text.as_bytes()[24..];
    assert!(wiped, "the key is still there");
    assert!(stays, "the negative control: what nobody wipes stays");
}

#[test]
fn a_gate_that_is_aborted_leaves_no_core_dump() {
    let aborted = |folder: &std::path::Path, program: &str, arguments: &[String]| {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "ulimit -c unlimited && exec \"$0\" \"$@\"", program]).args(arguments);
        command.current_dir(folder).stdin(Stdio::null());
        command
    };
    let folder = tempfile::tempdir().expect("a folder");
    let control = aborted(folder.path(), "sh", &["-c".to_owned(), "kill -ABRT $$".to_owned()]).status();
    if !control.expect("a shell").core_dumped() {
        // A limit that cannot be raised, or a handler that takes dumps elsewhere: nothing to see here then.
        println!("SKIPPED: this machine writes no core dumps");
        return;
    }
    let installation = Installation::new();
    installation.init();
    let served = installation.serve_by(aborted(
        installation.folder(),
        env!("CARGO_BIN_EXE_portcullis"),
        &installation.arguments("serve"),
    ));
    served.process.signal("ABRT");
    let status = served.process.status();
    assert_eq!((status.signal(), status.core_dumped()), (Some(6), false), "{status:?}");
}

#[test]
fn nobody_but_a_superuser_looks_into_a_process_of_a_gate() {
    let folder = tempfile::tempdir().expect("a folder");
    let is_root = std::fs::metadata("/proc/self").expect("of this process").uid() == 0;
    let program = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.args(arguments).env("TMPDIR", folder.path()).current_dir("/");
        if is_root {
            // The user `nobody`.
            command.uid(65_534);
        }
        command
    };
    if !program(&["--version"]).stdout(Stdio::null()).status().is_ok_and(|status| status.success()) {
        println!("SKIPPED: other users cannot run the program here");
        return;
    }
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).expect("our folder");
    let mut demo = Process::spawn(program(&["demo", "--listen", "127.0.0.1:0", "--ops", "127.0.0.1:0"]));
    demo.wait_for(|line| line.contains("audit"));
    let owner = |path: &str| std::fs::metadata(format!("/proc/{}{path}", demo.pid())).expect("it runs").uid();
    // The kernel takes what can be looked into away from a user whose process wants no looking.
    assert_ne!(owner(""), 0);
    assert_eq!([owner("/environ"), owner("/mem"), owner("/fd")], [0, 0, 0]);
    demo.signal("TERM");
    assert_eq!(demo.wait().code, Some(0));
}
