//! Files that are read as a whole, and what they were like then, to find out whether they have changed since.
//!
//! By identity, never by content: which file it is, its size, when it was written last, and who may read it. Symbolic
//! links are followed, so that a link that is turned to another file counts as a change.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// More than any configuration has; a path that was mixed up must not fill the memory.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Reads a file. Blocking, for as long as a pipe has no writer.
///
/// # Errors
/// When it cannot be read, or is too large.
pub fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 16 MiB"));
    }
    Ok(bytes)
}

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
    /// Mode, user and group: a file that could not be read is tried again once it can be.
    permissions: (u32, u32, u32),
}

impl FileState {
    /// Looks at the file. Taken before it is read: a change after that is then seen. Blocking.
    pub fn of(path: &Path) -> Self {
        let identity = std::fs::metadata(path).ok().map(|metadata| Identity {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            permissions: (metadata.mode(), metadata.uid(), metadata.gid()),
        });
        Self { path: path.to_owned(), identity }
    }
}
