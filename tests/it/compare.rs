//! The comparison with other proxies, and what is measured beside it, at their smallest: whether they start, measure, and
//! end what they started.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::harness::{Process, is_installed};

const PROGRAMS: [&str; 6] = ["python3", "h2load", "nginx", "openssl", "taskset", "wrk"];

#[test]
fn the_comparison_prints_what_it_measured_and_leaves_nothing_running() {
    let Some(folder) = folder() else { return };
    let work = ["--peers", "portcullis", "--works", "GET, 64", "--rounds", "1", "--seconds", "1"];
    let exit = Process::spawn(compare(folder.path(), &work)).wait();
    assert_eq!(exit.code, Some(0), "{exit:?}");
    let row = exit.stdout.lines().find(|line| line.starts_with("| GET, 64 "));
    let cost = row.and_then(|row| row.split('|').nth(2)).map(str::trim);
    assert!(cost.is_some_and(|cost| cost.parse::<f64>().is_ok_and(|cost| cost > 0.0)), "{exit:?}");
    assert_eq!(running(folder.path()), Vec::<String>::new());
}

#[test]
fn what_is_measured_beside_requests_is_printed_and_leaves_nothing_running() {
    let Some(folder) = folder() else { return };
    let little =
        ["--starts", "1", "--connections", "10", "--idle-seconds", "1", "--rest-seconds", "1", "--rounds", "0"];
    let exit = Process::spawn(script("scale", folder.path(), &little)).wait();
    assert_eq!(exit.code, Some(0), "{exit:?}");
    for what in
        ["the program", "started with an empty store", "an idle connection", "CPU when nothing", "demo", "last page"]
    {
        assert!(exit.stdout.lines().any(|line| line.starts_with(what)), "{what}: {exit:?}");
    }
    assert_eq!(running(folder.path()), Vec::<String>::new());
}

#[test]
fn peers_of_the_comparison_do_what_is_compared() {
    let Some(folder) = folder() else { return };
    let exit = Process::spawn(compare(folder.path(), &["--check", "--peers", "portcullis", "nginx"])).wait();
    assert_eq!(exit.code, Some(0), "{exit:?}");
    for peer in ["portcullis", "nginx"] {
        assert!(exit.stdout.contains(&format!("{peer}: does what is compared\n")), "{exit:?}");
    }
}

#[test]
fn an_interrupted_comparison_leaves_nothing_running() {
    for signal in ["INT", "TERM"] {
        let Some(folder) = folder() else { return };
        let work = ["--peers", "portcullis", "--works", "memory"];
        let mut comparison = Process::spawn(compare(folder.path(), &work));
        comparison.wait_for(|line| line.contains("measuring"));
        assert_ne!(running(folder.path()), Vec::<String>::new());
        comparison.signal(signal);
        let exit = comparison.wait();
        assert_ne!(exit.code, Some(0), "{exit:?}");
        assert_eq!(running(folder.path()), Vec::<String>::new(), "after SIG{signal}");
    }
}

/// Where a comparison may write, if it can run here.
fn folder() -> Option<TempDir> {
    PROGRAMS.iter().all(|program| is_installed(program)).then(|| TempDir::new().expect("a folder"))
}

fn compare(folder: &Path, arguments: &[&str]) -> Command {
    script("compare", folder, arguments)
}

fn script(name: &str, folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("python3");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/compare").join(name)).args(arguments);
    command.args(["--keys", "10", "--proxy-cores", "0", "--other-cores", "0"]);
    command.args(["--program", env!("CARGO_BIN_EXE_portcullis")]).env("TMPDIR", folder);
    command
}

/// The command lines of processes that have something to do with `folder`.
fn running(folder: &Path) -> Vec<String> {
    let command_line = |process: std::io::Result<std::fs::DirEntry>| {
        let bytes = std::fs::read(process.ok()?.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&bytes).replace('\0', " "))
    };
    let processes = std::fs::read_dir("/proc").expect("the processes").filter_map(command_line);
    processes.filter(|line| line.contains(&folder.display().to_string())).collect()
}
