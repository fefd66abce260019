//! The real program as a child process.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Instant;

use tempfile::TempDir;

use super::DEADLINE;
use super::caller::Caller;
use super::file_calls::traced;
use super::secrets;
use super::service::{self, ServiceManager};
use super::setup::Setup;
use super::upstream::Upstream;

/// A child process whose output is read by threads. Killed on drop if it still runs.
pub struct Process {
    child: Child,
    lines: Receiver<Line>,
    stdout: Vec<String>,
    stderr: Vec<String>,
    is_ours: bool,
    /// Whether it is its job to print a key.
    prints_a_key: bool,
}

enum Line {
    Stderr(String),
    Stdout(String),
}

/// What a process has said and how it ended.
#[derive(Debug)]
pub struct Exit {
    /// `None` when a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Process {
    /// Starts the program with these arguments.
    pub fn start<S: AsRef<std::ffi::OsStr>>(arguments: &[S]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.args(arguments);
        Self::spawn(command)
    }

    /// Runs the program to its end.
    #[track_caller]
    pub fn run<S: AsRef<std::ffi::OsStr>>(arguments: &[S]) -> Exit {
        Self::start(arguments).wait()
    }

    /// Starts any command, its output captured.
    #[track_caller]
    pub fn spawn(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        Self::spawn_as_set_up(command)
    }

    /// Starts a command whose stdin and stdout are set up already.
    #[track_caller]
    pub fn spawn_as_set_up(mut command: Command) -> Self {
        command.stderr(Stdio::piped());
        let words: Vec<String> = [command.get_program()]
            .into_iter()
            .chain(command.get_args())
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        let has = |wanted: &[&str]| words.iter().any(|word| wanted.contains(&word.as_str()));
        let is_ours = has(&[env!("CARGO_BIN_EXE_portcullis")]);
        let prints_a_key = has(&["init", "keygen", "create", "demo"]);
        for (_, value) in command.get_envs().filter(|(name, _)| *name == "PORTCULLIS_KEY") {
            value.iter().for_each(|key| secrets::issued(&key.to_string_lossy()));
        }
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (sender, lines) = channel();
        if let Some(stdout) = child.stdout.take() {
            read_lines(stdout, sender.clone(), Line::Stdout);
        }
        read_lines(child.stderr.take().expect("piped"), sender, Line::Stderr);
        Self { child, lines, stdout: Vec::new(), stderr: Vec::new(), is_ours, prints_a_key }
    }

    /// Waits for a line on stderr that matches.
    #[track_caller]
    pub fn wait_for(&mut self, matches: impl Fn(&str) -> bool) -> String {
        self.wait_for_after(0, matches)
    }

    /// Waits for a line on stderr that matches, among those after so many.
    #[track_caller]
    pub fn wait_for_after(&mut self, known: usize, matches: impl Fn(&str) -> bool) -> String {
        let mut checked = known;
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(line) = self.stderr[checked..].iter().find(|line| matches(line)) {
                return line.clone();
            }
            checked = self.stderr.len();
            assert!(self.read_line(deadline), "ended without the awaited line: {self:?}");
        }
    }

    /// Sends a signal by name (`TERM`, `INT`, `HUP`, `KILL`).
    #[track_caller]
    pub fn signal(&self, name: &str) {
        signal(&self.child, name);
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends the process at once, and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits for the end of the process.
    #[track_caller]
    pub fn wait(mut self) -> Exit {
        let deadline = Instant::now() + DEADLINE;
        while self.read_line(deadline) {}
        let status = self.child.wait().expect("the child can be waited for");
        let text = |lines: &[String]| lines.iter().map(|line| format!("{line}\n")).collect();
        Exit { code: status.code(), stdout: text(&self.stdout), stderr: text(&self.stderr) }
    }

    /// Waits for the end of the process, and tells how it ended.
    #[track_caller]
    pub fn status(mut self) -> ExitStatus {
        let deadline = Instant::now() + DEADLINE;
        while self.read_line(deadline) {}
        self.child.wait().expect("the child can be waited for")
    }

    /// Everything on stderr up to now.
    pub fn stderr(&mut self) -> &[String] {
        while let Ok(line) = self.lines.try_recv() {
            self.keep(line);
        }
        &self.stderr
    }

    /// Everything on stderr that was not taken before. It is the taker's to search.
    pub fn take_stderr(&mut self) -> Vec<String> {
        self.stderr();
        std::mem::take(&mut self.stderr)
    }

    /// `false` once both outputs have ended.
    #[track_caller]
    fn read_line(&mut self, deadline: Instant) -> bool {
        match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => self.keep(line),
            Err(RecvTimeoutError::Disconnected) => return false,
            Err(RecvTimeoutError::Timeout) => panic!("nothing happened in time: {self:?}"),
        }
        true
    }

    fn keep(&mut self, line: Line) {
        match line {
            Line::Stderr(line) => self.stderr.push(line),
            Line::Stdout(line) => {
                if self.is_ours && self.prints_a_key {
                    secrets::issued_in(&line);
                }
                self.stdout.push(line);
            }
        }
    }

    /// Searches what other users of the machine can see of a running process, and more: its environment too.
    #[track_caller]
    fn search_listing(&self) {
        for file in ["cmdline", "environ"] {
            if let Ok(text) = std::fs::read(format!("/proc/{}/{file}", self.pid())) {
                secrets::check(&format!("a gate's /proc/PID/{file}"), text);
            }
        }
    }
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "stdout:\n{}\nstderr:\n{}", self.stdout.join("\n"), self.stderr.join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if self.is_ours {
            secrets::check("a command's stderr", self.stderr().join("\n"));
            if !self.prints_a_key {
                secrets::check("a command's stdout", self.stdout.join("\n"));
            }
        }
    }
}

fn read_lines(output: impl std::io::Read + Send + 'static, sender: Sender<Line>, wrap: fn(String) -> Line) {
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines() {
            let Ok(line) = line else { break };
            if sender.send(wrap(line)).is_err() {
                break;
            }
        }
    });
}

/// A folder with a configuration file, as a user has it, and an upstream for it.
pub struct Installation {
    folder: TempDir,
    upstream: Upstream,
}

/// A `serve` that is up.
pub struct Served {
    pub process: Process,
    pub public: SocketAddr,
    pub ops: SocketAddr,
}

impl Installation {
    pub fn new() -> Self {
        Self::with(|setup| setup)
    }

    /// The default routes and settings with changes; the log is JSON, and what it says is in the process's stderr.
    pub fn with(change: impl FnOnce(Setup) -> Setup) -> Self {
        let upstream = Upstream::start();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let setup = change(Setup::new().option("log", r#"format = "json""#));
        std::fs::write(folder.path().join("portcullis.toml"), setup.toml(upstream.address())).expect("writable");
        Self { folder, upstream }
    }

    pub fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn config(&self) -> PathBuf {
        self.folder.path().join("portcullis.toml")
    }

    /// Writes the configuration anew: the default routes and settings with other changes, the same upstream.
    pub fn rewrite(&self, change: impl FnOnce(Setup) -> Setup) {
        let setup = change(Setup::new().option("log", r#"format = "json""#));
        std::fs::write(self.config(), setup.toml(self.upstream.address())).expect("writable");
    }

    /// The arguments of a command that takes `--config`.
    pub fn arguments(&self, command: &str) -> Vec<String> {
        vec![command.to_owned(), "--config".to_owned(), self.config().display().to_string()]
    }

    /// Runs `init` and returns the root key's text.
    #[track_caller]
    pub fn init(&self) -> String {
        let exit = Process::run(&self.arguments("init"));
        assert_eq!(exit.code, Some(0), "{exit:?}");
        exit.stdout.trim_end_matches('\n').to_owned()
    }

    /// Runs `serve` until it listens.
    #[track_caller]
    pub fn serve(&self) -> Served {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.args(self.arguments("serve")).stdin(Stdio::null()).stdout(Stdio::piped());
        self.served(command)
    }

    /// Runs a command that runs `serve`, until it listens.
    #[track_caller]
    pub fn serve_by(&self, mut command: Command) -> Served {
        command.stdout(Stdio::piped());
        self.served(command)
    }

    /// Runs `serve` until it listens, with a variable in its environment.
    #[track_caller]
    pub fn serve_with(&self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Served {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.args(self.arguments("serve")).env(name, value).stdin(Stdio::null()).stdout(Stdio::piped());
        self.served(command)
    }

    /// Runs `serve` until it listens, its calls recorded in `trace`. What is signalled is the recorder.
    #[track_caller]
    pub fn serve_traced(&self, trace: &Path) -> Served {
        let mut command = traced(&self.program("serve"), trace);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        self.served(command)
    }

    /// Ends a gate whose calls are recorded, which has its store there, and with it the recording.
    #[track_caller]
    pub fn end_traced(&self, served: Served, store: &str) {
        use rustix::process::{Pid, Signal, kill_process};
        let holder =
            std::fs::read_to_string(self.folder().join(store).join("portcullis.lock")).expect("a running gate");
        let pid = holder.trim().parse().ok().and_then(Pid::from_raw).expect("the number of a process");
        kill_process(pid, Signal::TERM).expect("a running gate");
        let exit = served.process.wait();
        assert_eq!(exit.code, Some(0), "{exit:?}");
    }

    /// The program and its arguments for a command that takes `--config`.
    pub fn program(&self, command: &str) -> Vec<String> {
        let mut program = vec![env!("CARGO_BIN_EXE_portcullis").to_owned()];
        program.extend(self.arguments(command));
        program
    }

    /// Runs `serve` until it listens, with no more descriptors than these.
    #[track_caller]
    pub fn serve_within(&self, descriptors: usize) -> Served {
        let mut command = Command::new("sh");
        command.args(["-c", &format!(r#"ulimit -n {descriptors} && exec "$@""#), "sh"]);
        command.arg(env!("CARGO_BIN_EXE_portcullis")).args(self.arguments("serve"));
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        self.served(command)
    }

    /// Runs `serve` until it listens, as the child of a service manager.
    #[track_caller]
    pub fn serve_under(&self, manager: &ServiceManager) -> Served {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.args(self.arguments("serve")).env("NOTIFY_SOCKET", manager.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        self.served(command)
    }

    /// Runs `serve` until it listens, with these sockets passed to it.
    #[track_caller]
    pub fn serve_passing(&self, sockets: &[(&str, &dyn AsFd)]) -> Served {
        self.served(self.command_passing(sockets))
    }

    /// Runs `serve` until it listens, with this file in place of `/etc/hosts`: in a mount namespace of its own.
    #[track_caller]
    pub fn serve_with_hosts(&self, hosts: &Path) -> Served {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-c"]);
        command.arg(r#"mount --bind "$1" /etc/hosts && shift && exec "$@""#).arg("sh").arg(hosts);
        command.arg(env!("CARGO_BIN_EXE_portcullis")).args(self.arguments("serve"));
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        self.served(command)
    }

    /// The command that [`Installation::serve_passing`] runs.
    pub fn command_passing(&self, sockets: &[(&str, &dyn AsFd)]) -> Command {
        service::passing(&self.program("serve"), sockets)
    }

    #[track_caller]
    pub fn served(&self, command: Command) -> Served {
        secrets::issued_by_files(self.folder());
        let mut process = Process::spawn_as_set_up(command);
        let line = process.wait_for(|line| address_in(line, "public").is_some());
        let public = address_in(&line, "public").expect("checked above");
        let ops = address_in(&line, "ops").expect("the ops address beside the public one");
        process.search_listing();
        Served { process, public, ops }
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        secrets::check_files(self.folder.path());
    }
}

impl Served {
    /// A caller with this key.
    pub fn caller(&self, secret: &str) -> Caller {
        Caller::new(self.public, Some(secret))
    }

    pub fn anonymous(&self) -> Caller {
        Caller::new(self.public, None)
    }

    /// Gets a path from the ops listener.
    #[track_caller]
    pub fn ops_get(&self, path: &str) -> super::Answer {
        Caller::new(self.ops, None).get(path)
    }
}

/// The address that a JSON log line gives in a field, at its top or under `fields`.
fn address_in(line: &str, field: &str) -> Option<SocketAddr> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    let value = line.get(field).or_else(|| line.get("fields")?.get(field))?;
    value.as_str()?.parse().ok()
}

/// Sends a signal by name to a child, without the `kill` program, which small images do not have.
#[track_caller]
pub fn signal(child: &Child, name: &str) {
    use rustix::process::{Pid, Signal, kill_process};
    let signal = match name {
        "ABRT" => Signal::ABORT,
        "HUP" => Signal::HUP,
        "INT" => Signal::INT,
        "KILL" => Signal::KILL,
        "PIPE" => Signal::PIPE,
        "TERM" => Signal::TERM,
        other => panic!("no test sends {other}"),
    };
    kill_process(Pid::from_child(child), signal).unwrap_or_else(|error| panic!("{name} to {}: {error}", child.id()));
}
