//! The demonstration: every command line that it prints, run as printed.

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::harness::*;

/// A running demonstration and what it has printed.
struct Demo {
    child: Child,
    lines: Vec<String>,
    rest: BufReader<ChildStdout>,
    /// Its `TMPDIR`.
    folder: tempfile::TempDir,
}

impl Demo {
    /// Starts one on free ports and waits until its guide is complete.
    #[track_caller]
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut child = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(["demo", "--listen", "127.0.0.1:0", "--ops", "127.0.0.1:0"])
            .env("TMPDIR", folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program runs");
        let mut rest = BufReader::new(child.stdout.take().expect("piped"));
        let mut lines = Vec::new();
        while !lines.last().is_some_and(|line: &String| line.starts_with("Ctrl-C")) {
            let mut line = String::new();
            assert!(rest.read_line(&mut line).is_ok_and(|bytes| bytes > 0), "ended after {lines:?}");
            lines.push(line.trim_end().to_owned());
        }
        secrets::issued_in(&lines.join("\n"));
        Self { child, lines, rest, folder }
    }

    /// The command lines, as a user would copy them.
    fn commands(&self) -> Vec<&str> {
        self.lines.iter().filter_map(|line| line.strip_prefix("    ")).collect()
    }

    /// What follows `label` among the addresses.
    #[track_caller]
    fn address(&self, label: &str) -> SocketAddr {
        let line = self.lines.iter().find_map(|line| line.trim_start().strip_prefix(label));
        let url = line.map(str::trim).and_then(|url| url.strip_prefix("http://")).unwrap_or_else(|| panic!("{label}"));
        url.split('/').next().and_then(|address| address.parse().ok()).unwrap_or_else(|| panic!("{url}"))
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.folder.path()).expect("readable");
        entries.map(|entry| entry.expect("readable").path()).collect()
    }

    /// Sends a signal and returns the exit code and all that was printed after the guide.
    #[track_caller]
    fn end(&mut self, signal: &str) -> (Option<i32>, String) {
        secrets::check_files(self.folder.path());
        crate::harness::signal(&self.child, signal);
        let mut rest = String::new();
        self.rest.read_to_string(&mut rest).expect("text");
        (self.child.wait().expect("it ends").code(), rest)
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn has_curl() -> bool {
    Command::new("curl").arg("--version").stdout(Stdio::null()).status().is_ok_and(|status| status.success())
}

#[test]
fn every_printed_command_works_when_pasted_in_order() {
    if !has_curl() {
        println!("SKIPPED: every_printed_command_works_when_pasted_in_order needs curl");
        return;
    }
    let demo = Demo::start();

    let outputs = paste(&demo.commands());

    let key = outputs[0].trim();
    assert!(key.starts_with("pcl_") && key.len() == 55, "{key:?}");
    check_status(&outputs[1], 403, "\"code\":\"scope_missing\"");
    check_status(&outputs[2], 204, &key[..16]);
    check_status(&outputs[3], 200, "\"status\": \"success\"");
    check_status(&outputs[4], 200, &key[..16]);
    assert!(!outputs[4].contains(key), "a listing shows a secret");
    check_status(&outputs[5], 204, "");
    check_status(&outputs[6], 401, "\"code\":\"unauthenticated\"");
    assert!(outputs[7].contains("outcome=\"admitted\""), "{}", outputs[7]);
    assert_eq!(outputs.len(), 8);
}

/// Runs the lines in one shell and returns what each of them wrote to stdout.
#[track_caller]
fn paste(commands: &[&str]) -> Vec<String> {
    const MARK: &str = "=== next ===";
    let script = commands.join(&format!("\necho '{MARK}'\n"));
    let output = Command::new("sh").args(["-c", &script]).output().expect("sh runs");
    let text = String::from_utf8(output.stdout).expect("text");
    text.split(&format!("{MARK}\n")).map(str::to_owned).collect()
}

#[track_caller]
fn check_status(output: &str, status: u16, part: &str) {
    assert!(output.starts_with(&format!("HTTP/1.1 {status} ")) && output.contains(part), "{output}");
}

#[test]
fn the_printed_addresses_answer_once_they_are_printed() {
    let demo = Demo::start();

    check(&Caller::new(demo.address("the gate"), None).get("/-/healthy"), 200);
    check(&Caller::new(demo.address("its metrics"), None).get("/-/ready"), 200);
}

#[test]
fn a_signal_ends_the_demonstration_and_leaves_nothing_behind() {
    for signal in ["HUP", "INT", "TERM"] {
        let mut demo = Demo::start();
        assert_eq!(demo.files().len(), 1);

        let (code, _) = demo.end(signal);

        assert_eq!(code, Some(0), "{signal}");
        assert!(demo.files().is_empty(), "{signal}: {:?}", demo.files());
    }
}

#[test]
fn an_address_that_was_asked_for_and_is_taken_is_an_error() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();

    let exit = Process::run(&["demo", "--listen", &address, "--ops", "127.0.0.1:0"]);

    assert_eq!(exit.code, Some(1), "{exit:?}");
    assert!(exit.stderr.contains(&format!("cannot listen on {address}")), "{exit:?}");
}
