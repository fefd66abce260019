//! A file that appears under its name whole and durable, or not at all, for its owner alone.
//!
//! Knows nothing of what is in it.

use std::fs::{self, File};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use tempfile::{Builder, NamedTempFile};

/// What the name of a file ends with that is not whole yet.
pub(super) const PARTIAL: &str = ".partial";

/// A file that is being written under another name in the same folder; removed when dropped.
pub struct WholeFile {
    output: BufWriter<NamedTempFile>,
    path: PathBuf,
    folder: PathBuf,
}

impl WholeFile {
    /// Begins a file that is to be at `path`, in a folder that is there. Blocking, as all of it.
    ///
    /// # Errors
    /// When there cannot be a file, or something else is there than one.
    pub fn create(path: &Path) -> io::Result<Self> {
        // Through links, so that what they lead to is replaced and not they.
        let path = match fs::canonicalize(path) {
            Ok(present) => present,
            Err(error) if error.kind() == ErrorKind::NotFound => path.to_owned(),
            Err(error) => return Err(error),
        };
        if fs::metadata(&path).is_ok_and(|present| !present.is_file()) {
            return Err(io::Error::new(ErrorKind::AlreadyExists, "is not a file"));
        }
        let name = path.file_name().ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "names no file"))?;
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder.to_owned(),
            _ => PathBuf::from("."),
        };
        let prefix = format!(".{}.", name.to_string_lossy());
        // Made with the mode 0600, and never through a link that somebody has put there.
        let partial = Builder::new().prefix(&prefix).suffix(PARTIAL).tempfile_in(&folder)?;
        Ok(Self { output: BufWriter::with_capacity(1 << 16, partial), path, folder })
    }

    /// Brings the file to disk, then its name.
    ///
    /// # Errors
    /// When it may not be there: what was there before still is, or the whole new file.
    pub fn publish(self) -> io::Result<()> {
        let partial = self.output.into_inner().map_err(io::IntoInnerError::into_error)?;
        partial.as_file().sync_all()?;
        partial.persist(&self.path)?;
        File::open(&self.folder)?.sync_all()
    }
}

impl Write for WholeFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}
