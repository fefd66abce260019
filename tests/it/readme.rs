//! What a first-time visitor meets: every command line of README.md, run as written, and the recipe of the image.
//!
//! A block of `sh` is run in a shell of its own, one after the other, in one folder; `# 403` behind a curl line is the
//! status that it must get. Only the ports are others than those in the text.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::harness::{Exit, Process, Upstream};

/// Compares the status of a curl line with the one that its comment names.
const PRELUDE: &str = r#"
expect() {
    wanted=$1; shift
    got=$("$@" -sS -o answer -w '%{http_code}')
    [ "$got" = "$wanted" ] || { echo "$*: $got, not $wanted: $(cat answer)" >&2; exit 1; }
}
"#;

#[test]
fn every_command_of_the_readme_does_what_it_says() {
    if Command::new("curl").arg("--version").output().is_err() {
        assert!(std::env::var_os("PORTCULLIS_CI").is_none(), "curl is not installed");
        println!("SKIPPED: curl is not installed");
        return;
    }
    let readme = read("README.md");
    let upstream = Upstream::start();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = folder.path().join("portcullis.toml");
    let toml = blocks(&readme, "toml").remove(0).replace("127.0.0.1:9090", &upstream.address().to_string());
    std::fs::write(&config, on_ports(&toml, "127.0.0.1:0", "127.0.0.1:0")).expect("writable");

    let mut served: Option<(Process, String, String)> = None;
    let mut statuses = 0;
    for block in blocks(&readme, "sh") {
        if let Some(arguments) = block.trim().strip_prefix("portcullis serve ") {
            let (process, public, ops) = serve(arguments, folder.path());
            // The commands that follow read the addresses from the file, as a user would have written them there.
            std::fs::write(&config, on_ports(&toml, &public, &ops)).expect("writable");
            served = Some((process, public, ops));
            continue;
        }
        let (public, ops) = served.as_ref().map_or(("", ""), |(_, public, ops)| (public, ops));
        statuses += block.matches("curl ").count();
        let exit = run(&on_ports(&block, public, ops), public, folder.path());
        assert_eq!(exit.code, Some(0), "{block}{exit:?}");
    }
    assert!(statuses > 10, "only {statuses} curl lines were found");
    let mode = std::fs::metadata(folder.path().join("root.key")).expect("README.md makes a key").permissions().mode();
    assert_eq!(mode & 0o077, 0, "others can read the root key");
    let (process, ..) = served.expect("README.md serves");
    process.signal("TERM");
    assert_eq!(process.wait().code, Some(0));
}

#[test]
fn every_curl_line_of_the_readme_names_its_status() {
    let script = blocks(&read("README.md"), "sh").concat();
    for line in joined(&script).lines().filter(|line| line.starts_with("curl ")) {
        assert!(status_of(line).is_some(), "{line}");
    }
}

#[test]
fn the_readme_names_every_command_and_exit_code() {
    let readme = read("README.md");
    let help = Process::run(&["--help"]).stdout;
    let section = |title: &str| {
        let lines = help.lines().skip_while(|line| !line.starts_with(title)).skip(1);
        lines.take_while(|line| !line.is_empty()).map(|line| line.trim().to_owned()).collect::<Vec<_>>()
    };
    let commands = section("Commands:");
    assert!(commands.len() > 8, "{help}");
    for command in commands.iter().filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help") {
        let forms = [format!("portcullis {command}"), format!("-- {command}"), format!("`{command}`")];
        assert!(forms.iter().any(|form| readme.contains(form)), "{command}");
    }
    let codes = section("Exit codes:");
    assert!(codes.len() > 2, "{help}");
    for (code, meaning) in codes.iter().filter_map(|line| line.split_once("  ")) {
        assert!(readme.contains(&format!("| {code} | {meaning} |")), "{code} {meaning}");
    }
}

#[test]
fn every_link_of_the_readme_leads_somewhere() {
    let readme = read("README.md");
    let targets = readme.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let files: Vec<&str> = targets.filter(|target| !target.starts_with("https://")).collect();
    assert!(!files.is_empty());
    for file in files {
        assert!(root().join(file).exists(), "{file}");
    }
}

#[test]
fn the_image_is_made_of_what_is_here() {
    let recipe = read("Dockerfile");
    let sources = recipe.lines().filter_map(|line| line.strip_prefix("COPY ")).filter(|line| !line.contains("--from"));
    let sources: Vec<&str> = sources.flat_map(|line| line.split(' ').rev().skip(1)).collect();
    let sent: Vec<String> =
        read(".dockerignore").lines().filter_map(|line| line.strip_prefix('!')).map(str::to_owned).collect();
    assert!(!sources.is_empty());
    for source in &sources {
        assert!(root().join(source).exists(), "{source}");
        assert!(sent.iter().any(|name| name == source), "{source} is not sent to the builder");
    }
    // What Cargo.toml names must be there when it is read.
    assert!(!read("Cargo.toml").contains("[[bench]]") || sources.contains(&"benches"));
    assert!(recipe.contains("--bin portcullis") && env!("CARGO_BIN_EXE_portcullis").ends_with("/portcullis"));
}

#[test]
fn the_image_names_the_compiler_that_the_program_is_tested_with() {
    let channel = read("rust-toolchain.toml");
    let channel = channel.lines().find_map(|line| line.strip_prefix("channel = \"")).expect("a channel");
    let minor = channel.trim_end_matches('"').rsplit_once('.').expect("MAJOR.MINOR.PATCH").0;
    assert!(read("Dockerfile").contains(&format!("FROM rust:{minor}-")), "{minor}");
    assert!(read("Cargo.toml").contains(&format!("rust-version = \"{minor}\"")), "{minor}");
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The fenced blocks of one language.
fn blocks(markdown: &str, language: &str) -> Vec<String> {
    let fence = format!("\n```{language}\n");
    let blocks = markdown.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap_or_default().to_owned());
    let blocks: Vec<String> = blocks.collect();
    assert!(!blocks.is_empty(), "no {language}");
    blocks
}

fn on_ports(text: &str, public: &str, ops: &str) -> String {
    text.replace("127.0.0.1:8080", public).replace("127.0.0.1:9900", ops)
}

fn joined(script: &str) -> String {
    script.replace("\\\n", " ")
}

fn status_of(line: &str) -> Option<&str> {
    let status = line.rsplit_once("# ")?.1.get(..3)?;
    status.bytes().all(|byte| byte.is_ascii_digit()).then_some(status)
}

#[track_caller]
fn serve(arguments: &str, folder: &Path) -> (Process, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.arg("serve").args(arguments.split(' ')).current_dir(folder);
    let mut process = Process::spawn(command);
    let line = process.wait_for(|line| line.contains(" listening "));
    let field = |name: &str| {
        let address: SocketAddr = line.split(name).nth(1)?.split_whitespace().next()?.parse().ok()?;
        Some(address.to_string())
    };
    let addresses = field(" public=").zip(field(" ops=")).unwrap_or_else(|| panic!("{line}"));
    (process, addresses.0, addresses.1)
}

#[track_caller]
fn run(block: &str, public: &str, folder: &Path) -> Exit {
    let mut script = String::from(PRELUDE);
    for line in joined(block).lines() {
        if let Some(status) = status_of(line).filter(|_| line.starts_with("curl ")) {
            script += &format!("expect {status} ");
        }
        script += line;
        script.push('\n');
    }
    let program = Path::new(env!("CARGO_BIN_EXE_portcullis")).parent().expect("it is in a folder");
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new("sh");
    command.args(["-euc", &script]).current_dir(folder);
    command.env("PATH", format!("{}:{path}", program.display()));
    command.env("PORTCULLIS_URL", format!("http://{public}"));
    Process::spawn(command).wait()
}
