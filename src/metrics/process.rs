//! What the operating system knows about this process, read from `/proc` at each scrape.
//!
//! Elsewhere than on Linux there is no `/proc`, and the families are absent.

use std::fs;

/// The unit of `/proc/self/stat`: USER_HZ, which is 100 on every architecture that Rust's standard library supports.
const TICKS_PER_SECOND: f64 = 100.0;

pub(super) struct Process {
    pub(super) cpu_seconds: f64,
    pub(super) start_time_seconds: f64,
    pub(super) threads: f64,
    pub(super) resident_bytes: f64,
    pub(super) virtual_bytes: f64,
    pub(super) open_fds: f64,
    pub(super) max_fds: f64,
}

impl Process {
    /// `None` when `/proc` is not there or does not read as documented in proc(5).
    pub(super) fn read() -> Option<Self> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        // The second field is the program's name in parentheses, and may itself hold blanks and parentheses.
        let (_, after_name) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
        // proc(5) counts from 1 and `state`, the first one here, is its field 3.
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        let status = fs::read_to_string("/proc/self/status").ok()?;
        let boot = value_of(&fs::read_to_string("/proc/stat").ok()?, "btime")?;
        let limits = fs::read_to_string("/proc/self/limits").ok()?;
        Some(Self {
            cpu_seconds: (field(14)? + field(15)?) / TICKS_PER_SECOND,
            start_time_seconds: boot + field(22)? / TICKS_PER_SECOND,
            threads: field(20)?,
            resident_bytes: value_of(&status, "VmRSS:")? * 1_024.0,
            virtual_bytes: value_of(&status, "VmSize:")? * 1_024.0,
            open_fds: open_fds()?,
            max_fds: value_of(&limits, "Max open files").unwrap_or(f64::INFINITY),
        })
    }
}

/// The number that follows `name` at the start of a line.
fn value_of(text: &str, name: &str) -> Option<f64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

fn open_fds() -> Option<f64> {
    let listed = fs::read_dir("/proc/self/fd").ok()?.count();
    // One of them is the listing's own.
    let open = u32::try_from(listed.saturating_sub(1)).ok()?;
    Some(f64::from(open))
}
