//! The folder of backups that a gate makes by itself: what they are called, which is the newest, which are too many.
//!
//! Touches no file that is not called as ours are.

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::num::NonZeroU32;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::whole_file::PARTIAL;
use crate::clock::Timestamp;
use crate::settings::{Node, Value, settings};

const PREFIX: &str = "portcullis-";
const SUFFIX: &str = ".jsonl";
const EVERY_MIN: Duration = Duration::from_secs(1);

settings! {
    /// `[store.backup]`
    pub struct Settings {
        /// `None`: no backups are made.
        pub directory: Option<PathBuf> = None,
        pub every: Interval = Interval(Duration::from_secs(86_400)),
        pub keep: NonZeroU32 = const { NonZeroU32::new(7).expect("is not zero") },
    }
}

/// A time of at least a second: names of backups differ by so much.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Interval(Duration);

impl Interval {
    pub fn duration(self) -> Duration {
        self.0
    }
}

impl Value for Interval {
    fn read(node: &Node<'_>) -> Option<Self> {
        let interval = Duration::read(node)?;
        if interval < EVERY_MIN {
            return node.problem(format!("{} must be at least 1s", node.path()));
        }
        Some(Self(interval))
    }
}

/// What a backup made at `at` is called.
pub fn file_name(at: Timestamp) -> String {
    format!("{PREFIX}{}{SUFFIX}", at.to_string().replace(['-', ':'], ""))
}

/// When the newest backup in the folder was made, of those that are not from a time yet to come. Blocking.
///
/// # Errors
/// When the folder cannot be read; one that is not there has none.
pub fn newest(directory: &Path, now: Timestamp) -> io::Result<Option<Timestamp>> {
    Ok(made(directory)?.into_iter().filter(|at| *at <= now).max())
}

/// Makes the folder, but none above it, and removes what an interrupted backup has left. Blocking.
///
/// # Errors
/// When there is no folder to write into.
pub fn prepare(directory: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        made => {
            made?;
            directory.canonicalize()?.parent().map_or(Ok(()), |above| File::open(above)?.sync_all())?;
        }
    }
    for name in names(directory)? {
        let whole = name.strip_prefix('.').and_then(|name| name.strip_suffix(PARTIAL));
        // Between the two stands what makes the name one of its own.
        if whole.and_then(|whole| whole.rsplit_once('.')).and_then(|(name, _)| moment(name)).is_some() {
            fs::remove_file(directory.join(name))?;
        }
    }
    Ok(())
}

/// Removes all but the newest `keep`. One from a time yet to come counts once that has come. Blocking.
///
/// # Errors
/// When one cannot be removed.
pub fn prune(directory: &Path, keep: NonZeroU32, now: Timestamp) -> io::Result<()> {
    let mut made: Vec<Timestamp> = made(directory)?.into_iter().filter(|at| *at <= now).collect();
    made.sort_unstable();
    let excess = made.len().saturating_sub(usize::try_from(keep.get()).unwrap_or(usize::MAX));
    for at in &made[..excess] {
        fs::remove_file(directory.join(file_name(*at)))?;
    }
    if excess > 0 { File::open(directory)?.sync_all() } else { Ok(()) }
}

fn made(directory: &Path) -> io::Result<Vec<Timestamp>> {
    Ok(names(directory)?.iter().filter_map(|name| moment(name)).collect())
}

/// When the file of this name was made, if that is one of ours.
fn moment(name: &str) -> Option<Timestamp> {
    let digits = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    let at: Timestamp = digits.parse().ok()?;
    // Other ways to write a time are other people's.
    (file_name(at) == name).then_some(at)
}

fn names(directory: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let names: io::Result<Vec<_>> = entries.map(|entry| Ok(entry?.file_name().into_string().ok())).collect();
    Ok(names?.into_iter().flatten().collect())
}
