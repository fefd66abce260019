//! How many instructions one admission and one proxied request take, counted by valgrind: a regression shows without a
//! quiet machine.
//!
//! Each case runs twice under callgrind, in a process of its own, with a few requests and with many: the difference is
//! what the requests took, without start, end and warming. Client and upstream are in this process, which is not counted.
//! They send when the gate's worker sleeps, so that each of its reads finds the same.
//!
//!     cargo bench --bench instructions                    # compares with benches/instructions.toml, fails above it
//!     cargo bench --bench instructions -- --record        # writes what it finds there
//!     cargo bench --bench instructions -- proxied/get     # one case (or all with that in their name)
//!
//! callgrind_annotate shows where they are: the profiles stay in `target/tmp/instructions/`. What the counts depend on: the
//! compiler (which rust-toolchain.toml names), the locked crates, the C library's malloc and memcpy, valgrind. They do not
//! depend on the processor, as long as it has AVX2: valgrind shows programs one of its own making, without SHA or AVX-512
//! instructions. So SHA-256 counts some 2,000 instructions here for the 200 that it is on a present-day machine. Kernel
//! time is not in them.

mod counted;
mod drive;
mod figures;
#[path = "../rig/mod.rs"]
mod rig;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use drive::{Gate, Upstream, Wire};
use figures::{Figures, Verdict};

/// What the counted process does.
#[derive(Clone, Copy)]
enum Load {
    Admission(counted::Class),
    Proxied(Wire),
}

struct Case {
    name: &'static str,
    load: Load,
    /// Requests of the two runs.
    few: u32,
    many: u32,
}

impl Case {
    const fn admission(name: &'static str, class: counted::Class) -> Self {
        Self { name, load: Load::Admission(class), few: 1_000, many: 21_000 }
    }

    const fn proxied(name: &'static str, wire: Wire) -> Self {
        Self { name, load: Load::Proxied(wire), few: 100, many: 700 }
    }
}

const CASES: [Case; 8] = [
    Case::admission("admission/known", counted::Class::Known),
    Case::admission("admission/unknown", counted::Class::Unknown),
    Case::admission("admission/missing-scope", counted::Class::MissingScope),
    Case::proxied("proxied/get", Wire::Get),
    Case::proxied("proxied/get-http2", Wire::GetHttp2),
    Case::proxied("proxied/response-64k", Wire::Response64K),
    Case::proxied("proxied/unknown-key", Wire::UnknownKey),
    Case::proxied("proxied/upload-64k", Wire::Upload64K),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [role, rest @ ..] = arguments.as_slice()
        && role == counted::ROLE
    {
        counted::run(rest);
        return ExitCode::SUCCESS;
    }
    let given = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let wanted: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let cases = CASES.iter().filter(|case| wanted.is_empty() || wanted.iter().any(|part| case.name.contains(*part)));
    if let Some(obstacle) = obstacle() {
        println!("instructions are not counted: {obstacle}");
        return ExitCode::SUCCESS;
    }
    // Cargo says so in `cargo bench` alone: a test only tries whether everything still runs.
    if !given("--bench") {
        cases.for_each(|case| run(case, 2, Counter::Nobody));
        return ExitCode::SUCCESS;
    }
    let valgrind = Command::new("valgrind").arg("--version").stdout(Stdio::null()).status();
    if !valgrind.is_ok_and(|status| status.success()) {
        println!("instructions are not counted: valgrind is not installed (apt-get install valgrind)");
        return if std::env::var_os("PORTCULLIS_CI").is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    if given("--record") {
        let counted: Vec<(&str, u64)> = cases.map(|case| (case.name, count(case))).collect();
        Figures::record(&counted);
        return ExitCode::SUCCESS;
    }
    let figures = Figures::load();
    let counted: Vec<(&str, u64)> = cases.map(|case| (case.name, count_fairly(case, &figures))).collect();
    match figures.compare(&counted) {
        Verdict::TooMany => ExitCode::FAILURE,
        Verdict::Within => ExitCode::SUCCESS,
    }
}

/// Why the recorded figures say nothing about this machine.
fn obstacle() -> Option<&'static str> {
    if !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        return Some("the recorded figures are of Linux on x86-64");
    }
    let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let has_avx2 = processor.split_whitespace().any(|flag| flag == "avx2");
    (!has_avx2).then_some("the recorded figures are of processors with AVX2")
}

/// A machine that does much else lets a worker wake amid a body that is being written, which then takes more reads. That
/// only ever adds: what is too much each time is the program's own.
const ATTEMPTS: u32 = 3;

/// The least of some attempts, of which the first that is within what is recorded is the last.
fn count_fairly(case: &Case, figures: &Figures) -> u64 {
    let mut least = count(case);
    for _ in 1..ATTEMPTS {
        if figures.allow(case.name, least) {
            break;
        }
        least = least.min(count(case));
    }
    least
}

/// Instructions of one request.
fn count(case: &Case) -> u64 {
    let total = |requests: u32| {
        let profile = profile(case, requests);
        run(case, requests, Counter::Callgrind(&profile));
        figures::total(&profile)
    };
    let (few, many) = (total(case.few), total(case.many));
    let each = (many - few) / u64::from(case.many - case.few);
    println!("{:24} {each:>9} instructions a request", case.name);
    each
}

fn profile(case: &Case, requests: u32) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("instructions");
    std::fs::create_dir_all(&folder).expect("a folder");
    folder.join(format!("{}.{requests}.callgrind", case.name.replace('/', "-")))
}

#[derive(Clone, Copy)]
enum Counter<'a> {
    Callgrind(&'a PathBuf),
    Nobody,
}

fn run(case: &Case, requests: u32, counter: Counter) {
    match case.load {
        Load::Admission(class) => {
            let arguments = ["admit".to_owned(), class.name().to_owned(), requests.to_string()];
            finish(spawn(counter, &arguments), case);
        }
        Load::Proxied(wire) => {
            let upstream = Upstream::start(wire);
            let mut child = spawn(counter, &["gate".to_owned(), upstream.address().to_string()]);
            let mut line = String::new();
            BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("an address and a key");
            let (address, key) = line.trim().split_once(' ').expect("an address and a key");
            let gate = Gate::new(address.parse().expect("an address"), key, child.id());
            upstream.serve(&gate);
            drive::drive(&gate, wire, requests);
            // At the end of its input it ends.
            drop(child.stdin.take());
            finish(child, case);
        }
    }
}

fn spawn(counter: Counter, arguments: &[String]) -> Child {
    let program = std::env::current_exe().expect("this program");
    let mut command = match counter {
        Counter::Callgrind(profile) => {
            let mut command = Command::new("valgrind");
            command.args(["--tool=callgrind", "--quiet"]);
            command.arg(format!("--callgrind-out-file={}", profile.display())).arg(program);
            command
        }
        Counter::Nobody => Command::new(program),
    };
    command.arg(counted::ROLE).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
    command.spawn().expect("a process")
}

fn finish(mut child: Child, case: &Case) {
    let status = child.wait().expect("a child");
    assert!(status.success(), "{}: {status}", case.name);
}
