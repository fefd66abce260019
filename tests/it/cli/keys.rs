//! `keys` against running gates, and against servers that are none.

use std::process::{Command, Stdio};

use crate::harness::*;

use super::{dead_url, fresh_key, run};

/// Runs `keys` with a key in the environment, as the help recommends.
#[track_caller]
fn keys(url: &str, key: &str, arguments: &[&str], code: i32) -> Exit {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.arg("keys").args(arguments).env("PORTCULLIS_URL", url).env("PORTCULLIS_KEY", key);
    let exit = Process::spawn(command).wait();
    assert_eq!(exit.code, Some(code), "{arguments:?}: {exit:?}");
    assert!(!exit.stderr.contains(key), "{exit:?}");
    exit
}

fn url(gate: &Gate) -> String {
    format!("http://{}", gate.public())
}

#[test]
fn a_key_is_created_shown_changed_and_deleted() {
    let gate = Gate::start();
    let (url, root) = (url(&gate), gate.root());
    let call = |arguments: &[&str]| keys(&url, root.secret(), arguments, 0);

    let created = call(&["create", "--name", "CI", "--kind", "custom", "--scope", "monitor:read,issue:read"]);
    let secret = created.stdout.trim_end();
    let caller = gate.caller(secret);
    check(&caller.get("/api/v1/query"), 200);

    let shown = call(&["get", caller.id()]).stdout;
    assert!(shown.contains("name       CI\n") && shown.contains("scopes     monitor:read, issue:read\n"), "{shown}");
    let updated = call(&["update", caller.id(), "--name", "CD", "--scope", "issue:read"]).stdout;
    assert!(updated.contains("name       CD\n") && updated.contains("scopes     issue:read\n"), "{updated}");
    check(&caller.get("/api/v1/query"), 403);

    // The full text names the key too; its secret part is kept out of the request.
    assert_eq!(call(&["delete", secret]).stdout, format!("deleted {}\n", caller.id()));
    check(&caller.get("/api/v1/query"), 401);
}

#[test]
fn a_listing_is_a_table_and_as_json_an_array() {
    let gate = Gate::start();
    let telemetry = gate.telemetry_key();
    let (url, root) = (url(&gate), gate.root());

    let table = keys(&url, root.secret(), &["list"], 0).stdout;
    let json = keys(&url, root.secret(), &["list", "--json"], 0).stdout;

    assert!(table.starts_with("ID                NAME "), "{table}");
    let line = table.lines().find(|line| line.starts_with(telemetry.id())).expect("a line a key");
    assert!(line.contains("  test telemetry key  telemetry  never  ") && line.ends_with("  telemetry:write"), "{line}");
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json.as_array().map(Vec::len), Some(2));
    assert_eq!(json[1]["id"], telemetry.id());
}

#[test]
fn a_listing_goes_on_to_the_last_page_on_one_connection() {
    let server = Upstream::start();
    server.sees_credentials();
    for (id, name) in [("pcl_000000000001", "first"), ("pcl_000000000002", "second")] {
        server.reply(json_reply(&serde_json::json!({"page_size": 1, "total_count": 2, "data": [key(id, name)]})));
    }

    let table = keys(&format!("http://{}", server.address()), &fresh_key(), &["list"], 0).stdout;

    assert_eq!(table.lines().count(), 3, "{table}");
    let targets: Vec<String> = server.requests().into_iter().map(|request| request.target).collect();
    assert_eq!(targets, ["/api/keys?page=1&page_size=1000", "/api/keys?page=2&page_size=1000"]);
    assert_eq!(server.connections(), 1);
}

#[test]
fn self_is_the_calling_key() {
    let gate = Gate::start();
    let reader = gate.key(&["monitor:read"]);

    let shown = keys(&url(&gate), reader.secret(), &["get", "self"], 0).stdout;
    keys(&url(&gate), reader.secret(), &["delete", "self"], 0);

    assert!(shown.starts_with(&format!("id         {}\n", reader.id())), "{shown}");
    check(&reader.get("/api/v1/query"), 401);
}

#[test]
fn a_refusal_is_told_with_its_code_and_every_wrong_field() {
    let gate = Gate::start();
    let reader = gate.key(&["monitor:read"]);
    let root = gate.root();

    let scope = keys(&url(&gate), reader.secret(), &["list"], 1);
    let fields = keys(&url(&gate), root.secret(), &["create", "--name", " ", "--kind", "custom", "--scope", "x:y"], 1);

    assert!(scope.stderr.starts_with("error: 403 Forbidden (scope_missing): The key needs"), "{scope:?}");
    assert!(fields.stderr.contains("(invalid_body)"), "{fields:?}");
    assert!(fields.stderr.contains("\n  name: ") && fields.stderr.contains("\n  scopes: "), "{fields:?}");
    assert_eq!((scope.stdout, fields.stdout), (String::new(), String::new()));
}

#[test]
fn a_key_file_wins_over_the_environment() {
    let gate = Gate::start();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("root.key");
    std::fs::write(&file, format!("{}\n", gate.root().secret())).expect("writable");

    keys(&url(&gate), &fresh_key(), &["list"], 1);
    keys(&url(&gate), &fresh_key(), &["list", "--key-file", &file.display().to_string()], 0);
}

#[test]
fn a_gate_that_cannot_be_reached_ends_with_3() {
    let exit = keys(&dead_url(), &fresh_key(), &["list"], 3);

    assert!(exit.stderr.starts_with("error: no answer from http://127.0.0.1:"), "{exit:?}");
    assert!(exit.stderr.contains("cannot connect: "), "{exit:?}");
}

#[test]
fn a_server_that_is_no_gate_is_told_as_such() {
    let server = Upstream::start();
    server.sees_credentials();
    let address = format!("http://{}", server.address());

    server.answer_with("HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nnope!");
    let refused = keys(&address, &fresh_key(), &["list"], 1);
    server.answer_with("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>");
    let odd = keys(&address, &fresh_key(), &["list"], 1);
    server.answer_with("SSH-2.0-OpenSSH_9.9\r\n");
    let other = keys(&address, &fresh_key(), &["list"], 3);

    assert!(refused.stderr.contains("404 Not Found") && refused.stderr.contains("is this the key API?"), "{refused:?}");
    assert!(odd.stderr.contains("answers with no key API"), "{odd:?}");
    assert!(other.stderr.contains("does not speak HTTP"), "{other:?}");
}

#[test]
fn what_a_server_says_cannot_act_on_the_terminal() {
    let server = Upstream::start();
    server.sees_credentials();
    let hostile = "\u{1b}[2J\u{202e}\u{9b}evil";
    let address = format!("http://{}", server.address());
    let page = serde_json::json!({"total_count": 1, "data": [key("pcl_000000000001", hostile)]});
    server.reply(json_reply(&page));
    server.reply(json_reply(&page));

    let table = keys(&address, &fresh_key(), &["list"], 0).stdout;
    let json = keys(&address, &fresh_key(), &["list", "--json"], 0).stdout;

    for text in [table, json] {
        assert!(text.contains("evil") && !text.contains(['\u{1b}', '\u{202e}', '\u{9b}']), "{text:?}");
    }
}

#[test]
fn a_secret_with_a_slip_in_it_is_not_repeated() {
    let mut wrong = fresh_key();
    wrong.pop();
    let dead = dead_url();

    let as_key = run(&["keys", "list", "--url", &dead, "--key", &wrong], 2);
    let as_target = keys(&dead, &fresh_key(), &["delete", &wrong], 2);
    let help = keys(&dead, &wrong, &["list", "--help"], 0);

    for exit in [as_key, as_target, help] {
        assert!(!exit.stderr.contains(&wrong[4..]) && !exit.stdout.contains(&wrong[4..]), "{exit:?}");
    }
}

#[test]
fn a_new_key_that_nobody_could_read_is_told_by_its_id() {
    let gate = Gate::start();
    let (reader, closed) = std::io::pipe().expect("a pipe");
    drop(reader);
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("a full device");

    for (stdout, reason) in [(Stdio::from(closed), "Broken pipe"), (Stdio::from(full), "No space left")] {
        let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(["keys", "create", "--name", "lost", "--kind", "telemetry"])
            .env("PORTCULLIS_URL", url(&gate))
            .env("PORTCULLIS_KEY", gate.root().secret())
            .stdout(stdout)
            .output()
            .expect("the program runs");

        let stderr = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("could not be printed") && stderr.contains(reason), "{stderr}");
        let id = stderr.split(' ').find(|word| word.starts_with("pcl_")).expect("an id");
        assert!(id.len() == 16 && !stderr.contains(&format!("{id}_")), "{stderr}");
        check(&gate.root().delete(id), 204);
    }
}

#[test]
fn help_does_not_show_the_url_of_the_environment() {
    let exit = keys(&format!("http://{}:@gate.test", fresh_key()), &fresh_key(), &["--help"], 0);

    assert!(exit.stdout.contains("PORTCULLIS_URL") && !exit.stdout.contains("gate.test"), "{exit:?}");
}

#[test]
fn a_url_with_a_bad_port_or_a_user_is_a_wrong_command_line() {
    for (url, part) in [
        ("http://127.0.0.1:80800", "the port is not 1 to 65535"),
        ("http://127.0.0.1:", "the port is not 1 to 65535"),
        ("http://127.0.0.1:0", "the port is not 1 to 65535"),
        ("http://[::1]:99999", "the port is not 1 to 65535"),
        ("http://user:word@127.0.0.1:1", "a key does not belong in the URL"),
    ] {
        let exit = keys(url, &fresh_key(), &["list"], 2);
        assert!(exit.stderr.contains(part) && !exit.stderr.contains("word"), "{url}: {exit:?}");
    }
}

#[test]
fn help_of_update_says_that_a_change_is_needed() {
    let help = run(&["keys", "update", "--help"], 0).stdout;

    assert!(help.contains("give --name, --scope or both"), "{help}");
}

#[test]
fn without_a_key_or_with_a_wrong_url_the_command_line_is_wrong() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.args(["keys", "list"]).env_remove("PORTCULLIS_KEY");
    let no_key = Process::spawn(command).wait();

    assert_eq!(no_key.code, Some(2), "{no_key:?}");
    assert!(no_key.stderr.contains("set PORTCULLIS_KEY"), "{no_key:?}");
    let scheme = keys("ftp://gate.test", &fresh_key(), &["list"], 2);
    assert!(scheme.stderr.contains("such as http://"), "{scheme:?}");
    keys(&dead_url(), &fresh_key(), &["update", "pcl_000000000001"], 2);
}

fn key(id: &str, name: &str) -> serde_json::Value {
    serde_json::json!({
        "key": format!("{id}..."), "id": id, "name": name, "kind": "custom", "scopes": ["monitor:read"],
        "immutable": false, "last_used": null, "created": "2023-12-01T10:00:00Z", "updated": "2023-12-01T10:00:00Z",
    })
}

fn json_reply(body: &serde_json::Value) -> Reply {
    let body = body.to_string();
    Reply::bytes(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
}
