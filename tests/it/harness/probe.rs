//! What a process takes of the machine, as the kernel tells it.

use std::path::PathBuf;
use std::time::Duration;

/// A running process, looked at from outside.
#[derive(Clone, Debug)]
pub struct Probe {
    folder: PathBuf,
}

impl Probe {
    pub fn of(pid: u32) -> Self {
        Self { folder: PathBuf::from(format!("/proc/{pid}")) }
    }

    /// Bytes in memory now.
    #[track_caller]
    pub fn memory(&self) -> u64 {
        self.status("VmRSS:") * 1_024
    }

    /// The most bytes that were in memory at any time since [`Probe::forget_peak`].
    #[track_caller]
    pub fn peak(&self) -> u64 {
        self.status("VmHWM:") * 1_024
    }

    #[track_caller]
    pub fn forget_peak(&self) {
        const PEAK: &str = "5";
        std::fs::write(self.folder.join("clear_refs"), PEAK).expect("the peak can be forgotten");
    }

    /// The time that processors have spent on it, in its own code and in the kernel's.
    #[track_caller]
    pub fn cpu(&self) -> Duration {
        // Ticks of a hundredth of a second: the kernel shows no other unit, whatever it counts in.
        const TICK: Duration = Duration::from_millis(10);
        let stat = self.read("stat");
        // The name before it may have anything in it.
        let (_, fields) = stat.rsplit_once(')').expect("a name in parentheses");
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let ticks = |at: usize| fields[at].parse::<u32>().expect("a number");
        TICK * (ticks(11) + ticks(12))
    }

    /// Open descriptors.
    #[track_caller]
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(self.folder.join("fd")).expect("a running process").count()
    }

    #[track_caller]
    pub fn threads(&self) -> u64 {
        self.status("Threads:")
    }

    /// Bytes that were read from and written to disks, or were to be.
    #[track_caller]
    pub fn disk_bytes(&self) -> (u64, u64) {
        let io = self.read("io");
        let bytes = |name: &str| number_behind(&io, name).unwrap_or_else(|| panic!("no {name} in {io}"));
        (bytes("read_bytes:"), bytes("write_bytes:"))
    }

    #[track_caller]
    fn status(&self, name: &str) -> u64 {
        let status = self.read("status");
        number_behind(&status, name).unwrap_or_else(|| panic!("no {name} in {status}"))
    }

    #[track_caller]
    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.folder.join(file)).unwrap_or_else(|error| panic!("{file} of {self:?}: {error}"))
    }
}

fn number_behind(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.split_whitespace().next()?.parse().ok()
}
