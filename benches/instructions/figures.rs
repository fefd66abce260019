//! The recorded counts in `benches/instructions.toml`: read, compared with, written.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

const FILE: &str = "benches/instructions.toml";
const RECORD: &str = "cargo bench --bench instructions -- --record";

/// What is above its record by more percent than this fails. See the file for how much counts vary.
const ABOVE_MAX: f64 = 2.0;
/// What is below by more than this is said, so that the record follows.
const BELOW_MAX: f64 = 4.0;

#[derive(Default)]
pub struct Figures {
    made_with: String,
    instructions: BTreeMap<String, u64>,
}

pub enum Verdict {
    TooMany,
    Within,
}

impl Figures {
    pub fn load() -> Self {
        let text =
            std::fs::read_to_string(path()).unwrap_or_else(|error| panic!("{FILE}: {error}; make it with {RECORD}"));
        let mut figures = Self::default();
        // Nothing but what `record` writes: comments, and a name and a value on each line.
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            match line.split_once(" = ") {
                Some(("made_with", tools)) => figures.made_with = tools.trim_matches('"').to_owned(),
                Some((name, count)) => {
                    let count = count.parse().unwrap_or_else(|error| panic!("{FILE}: {line}: {error}"));
                    figures.instructions.insert(name.trim_matches('"').to_owned(), count);
                }
                None => {}
            }
        }
        figures
    }

    /// Writes these counts down, and leaves those of other cases as they are.
    pub fn record(counted: &[(&str, u64)]) {
        let mut instructions = if path().exists() { Self::load().instructions } else { BTreeMap::new() };
        instructions.extend(counted.iter().map(|(name, count)| ((*name).to_owned(), *count)));
        let mut text = format!(
            "# Instructions of one request, start and kernel left out. Made by: {RECORD}\n\
             # How they are counted and what they depend on: benches/instructions/main.rs.\n\
             # Above by more than {ABOVE_MAX} %: `cargo bench --bench instructions` fails, and with it .ci/run.\n\n\
             made_with = \"{}\"\n\n[instructions]\n",
            tools()
        );
        for (name, count) in &instructions {
            let _ = writeln!(text, "\"{name}\" = {count}");
        }
        std::fs::write(path(), text).unwrap_or_else(|error| panic!("{FILE}: {error}"));
        println!("written to {FILE}");
    }

    /// Whether so many are no more than what is recorded and its margin. Also when nothing is.
    pub fn allow(&self, name: &str, count: u64) -> bool {
        self.instructions.get(name).is_none_or(|recorded| change(count, *recorded) <= ABOVE_MAX)
    }

    pub fn compare(&self, counted: &[(&str, u64)]) -> Verdict {
        let (mut too_many, mut far_below) = (Vec::new(), Vec::new());
        for (name, count) in counted {
            let Some(recorded) = self.instructions.get(*name) else {
                too_many.push(format!("{name}: {count}, and none is recorded"));
                continue;
            };
            let change = change(*count, *recorded);
            let line = format!("{name}: {count}, recorded {recorded} ({change:+.1} %)");
            if change > ABOVE_MAX {
                too_many.push(line);
            } else if change < -BELOW_MAX {
                far_below.push(line);
            }
        }
        if !far_below.is_empty() {
            println!("\nfewer instructions than recorded; write the new figures down with: {RECORD}");
            println!("  {}", far_below.join("\n  "));
        }
        if too_many.is_empty() {
            return Verdict::Within;
        }
        println!("\nmore instructions than recorded, by more than {ABOVE_MAX} %:\n  {}", too_many.join("\n  "));
        println!("what they are spent on: callgrind_annotate target/tmp/instructions/CASE.callgrind");
        println!("if it is meant, write the new figures down and say why: {RECORD}");
        let tools = tools();
        if tools != self.made_with {
            println!("the record was made with {}, this is {tools}", self.made_with);
        }
        Verdict::TooMany
    }
}

/// In percent.
fn change(count: u64, recorded: u64) -> f64 {
    (count as f64 / recorded as f64 - 1.0) * 100.0
}

/// The instructions that a profile has in all.
pub fn total(profile: &Path) -> u64 {
    let text = std::fs::read_to_string(profile).unwrap_or_else(|error| panic!("{}: {error}", profile.display()));
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    total.and_then(|total| total.trim().parse().ok()).unwrap_or_else(|| panic!("{}: no totals", profile.display()))
}

/// What counts depend on besides this repository.
fn tools() -> String {
    let first_line = |program: &str, argument: &str| {
        let output = Command::new(program).arg(argument).output().map(|output| output.stdout).unwrap_or_default();
        String::from_utf8_lossy(&output).lines().next().unwrap_or("unknown").to_owned()
    };
    format!(
        "{}, {}, {}",
        first_line("rustc", "--version"),
        first_line("valgrind", "--version"),
        first_line("ldd", "--version")
    )
}

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE)
}
