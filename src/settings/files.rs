//! Files as they were when they were read, to find out whether they have changed since.
//!
//! By identity, never by content: which file it is, its size, and when it was written last. Symbolic links are followed,
//! so that a link that is turned to another file counts as a change.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A file at one moment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FileState {
    pub path: PathBuf,
    /// `None`: it was not there, or could not be looked at.
    identity: Option<Identity>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Identity {
    device: u64,
    inode: u64,
    bytes: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
}

impl FileState {
    /// Looks at the file. Taken before it is read: a change after that is then seen. Blocking.
    pub fn of(path: &Path) -> Self {
        let identity = std::fs::metadata(path).ok().map(|metadata| Identity {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        });
        Self { path: path.to_owned(), identity }
    }
}
