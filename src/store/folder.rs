//! The directory that a store on disk lives in: who holds it, what marks it as a store, what makes it durable.
//!
//! Knows the names of the database's files and nothing of their content.
//!
//! Invariant: the mark never names a revision that is not on disk, so a store that ends before it has lost something.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::{StoreError, swap};

const CONFIGURATION: &str = "conf";
/// A page over a quarter of a segment goes to a file of its own, and a loss of power that takes this file takes a part of
/// a transaction, or all of the store. The largest page, 21 changes between keys with 263 scopes of 64 characters, has
/// 760 KiB.
pub(super) const SEGMENT_BYTES: usize = 4 * 1024 * 1024;
/// The database's own file, beside which it has a few small ones.
pub(super) const DATABASE: &str = "db";
/// Files that are made while a store is opened anew.
pub(super) const COPY: &str = "portcullis.copy";
pub(super) const PROBE: &str = "portcullis.probe";
const LOCK: &str = "portcullis.lock";
pub(super) const MARK: &str = "portcullis.mark";

/// A directory that this process holds, for as long as the value lives.
pub(super) struct Folder {
    path: PathBuf,
    lock: File,
}

/// What the mark says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Mark {
    Damaged,
    None,
    Revision(u64),
}

impl Mark {
    /// 0 for one that cannot be read; `None` when there is none.
    pub(super) fn revision(self) -> Option<u64> {
        match self {
            Self::Damaged => Some(0),
            Self::None => None,
            Self::Revision(revision) => Some(revision),
        }
    }
}

impl Folder {
    /// Takes hold of a directory that has a store in it.
    pub(super) fn existing(path: &Path) -> Result<Self, StoreError> {
        // Before the lock file is made: a wrong path must not leave our files behind.
        let database = path.join(DATABASE);
        match fs::metadata(&database) {
            Ok(metadata) if metadata.is_file() => {
                let folder = Self::hold(path)?;
                if folder.is_untouched()? { Err(StoreError::Missing { path: path.to_owned() }) } else { Ok(folder) }
            }
            Ok(_) => Err(StoreError::Missing { path: path.to_owned() }),
            // A replacement that was cut off between the two databases.
            Err(_) if swap::is_pending(path) => Self::hold(path),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Err(StoreError::Missing { path: path.to_owned() })
            }
            Err(source) => Err(at(&database)(source)),
        }
    }

    /// Takes hold of a directory that may or may not be there yet.
    pub(super) fn created(path: &Path) -> Result<Self, StoreError> {
        // The names of new directories on the way are lost as easily as the last.
        let above = path.ancestors().skip(1);
        let new: Vec<&Path> = above.take_while(|above| !above.as_os_str().is_empty() && !above.exists()).collect();
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(at(path))?;
        new.into_iter().try_for_each(sync_parent)?;
        let folder = Self::hold(path)?;
        folder.restrict(path, 0o700)?;
        // One that was cut off is taken for damage. While the database is empty nothing has been built upon it.
        if folder.is_untouched()? {
            remove_if_present(&path.join(CONFIGURATION))?;
            ensure_configuration(path, SEGMENT_BYTES)?;
        }
        Ok(folder)
    }

    /// Whether there is no database, or an empty one, in a directory where nothing was acknowledged.
    ///
    /// # Errors
    /// [`StoreError::Lost`] or [`StoreError::Damaged`] where something was.
    fn is_untouched(&self) -> Result<bool, StoreError> {
        let database = self.path.join(DATABASE);
        match fs::metadata(&database) {
            Ok(metadata) if metadata.len() > 0 => return Ok(false),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(at(&database)(source)),
        }
        let path = || self.path.clone();
        match self.mark()? {
            Mark::None | Mark::Revision(0) => Ok(true),
            Mark::Revision(acknowledged) => Err(StoreError::Lost { path: path(), acknowledged, found: 0 }),
            Mark::Damaged if !self.was_mark_whole()? => Ok(true),
            Mark::Damaged => Err(StoreError::Damaged { path: path(), source: None }),
        }
    }

    /// Whether the mark was ever written to its end: one that a first start was writing when the power went was not, and
    /// later ones replace it in its place.
    pub(super) fn was_mark_whole(&self) -> Result<bool, StoreError> {
        let path = self.path.join(MARK);
        let text = fs::read(&path).map_err(at(&path))?;
        Ok(text.len() >= mark_text(0).len() && !text.contains(&0))
    }

    fn hold(path: &Path) -> Result<Self, StoreError> {
        let lock_path = path.join(LOCK);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut lock = options.open(&lock_path).map_err(at(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Only for the message: a holder that has not written its number yet is still a holder.
                let _ = lock.read_to_string(&mut holder);
                return Err(StoreError::Locked { path: path.to_owned(), pid: holder.trim().parse().ok() });
            }
            Err(TryLockError::Error(source)) => return Err(at(&lock_path)(source)),
        }
        let pid = format!("{}\n", std::process::id());
        lock.set_len(0).and_then(|()| lock.write_all_at(pid.as_bytes(), 0)).map_err(at(&lock_path))?;
        swap::finish(path)?;
        Ok(Self { path: path.to_owned(), lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// # Errors
    /// [`StoreError::Gone`] when the database that is open is no longer the one in the directory, or the directory is
    /// another.
    pub(super) fn check_place_of(&self, database: &File) -> Result<(), StoreError> {
        if is_at(&self.path.join(DATABASE), database)? { Ok(()) } else { Err(self.gone()) }
    }

    /// Whether this is the directory that was taken hold of: what holds it is in it.
    pub(super) fn is_in_place(&self) -> Result<bool, StoreError> {
        is_at(&self.path.join(LOCK), &self.lock)
    }

    /// # Errors
    /// [`StoreError::Gone`] when the directory does not hold all files of a store that was open once.
    pub(super) fn check_whole(&self) -> Result<(), StoreError> {
        for name in [DATABASE, "conf", MARK] {
            let path = self.path.join(name);
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_file() && (metadata.len() > 0 || name == MARK) => {}
                Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(at(&path)(source)),
                _ => return Err(self.gone()),
            }
        }
        Ok(())
    }

    pub(super) fn gone(&self) -> StoreError {
        StoreError::Gone { path: self.path.clone() }
    }

    /// Removes the snapshot that a crash left half-written: the database would take it for its newest one.
    pub(super) fn clear_half_written(&self) -> Result<(), StoreError> {
        for entry in fs::read_dir(&self.path).map_err(at(&self.path))? {
            let path = entry.map_err(at(&self.path))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with("snap.") && name.ends_with(".generating") || name == COPY || name == PROBE {
                remove_if_present(&path)?;
            }
        }
        Ok(())
    }

    /// Opens the database's file for [`Folder::sync`], and keeps it from other users.
    pub(super) fn database_file(&self) -> Result<File, StoreError> {
        let path = self.path.join(DATABASE);
        self.restrict(&path, 0o600)?;
        File::open(&path).map_err(at(&path))
    }

    /// Makes durable what the database has written.
    pub(super) fn sync(&self, database: &File) -> Result<(), StoreError> {
        // Pages too large for a segment of an older store go to files of their own, which nobody else syncs.
        let blobs = self.path.join("blobs");
        let mut any = false;
        for entry in fs::read_dir(&blobs).map_err(at(&blobs))? {
            let path = entry.map_err(at(&blobs))?.path();
            match File::open(&path).and_then(|blob| blob.sync_data()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                synced => synced.map_err(at(&path))?,
            }
            any = true;
        }
        if any {
            sync_directory(&blobs)?;
        }
        database.sync_data().map_err(at(&self.path.join(DATABASE)))
    }

    /// Makes the presence of the files durable.
    pub(super) fn sync_names(&self) -> Result<(), StoreError> {
        sync_directory(&self.path)?;
        sync_parent(&self.path)
    }

    /// The last revision that was acknowledged, as far as the mark knows: it may be behind, never ahead.
    pub(super) fn marked(&self) -> Result<Option<u64>, StoreError> {
        // A mark that cannot be read proves nothing against a store that can.
        Ok(self.mark()?.revision())
    }

    pub(super) fn mark(&self) -> Result<Mark, StoreError> {
        let path = self.path.join(MARK);
        match fs::read(&path) {
            // Made and not written yet: nothing was acknowledged.
            Ok(text) if text.is_empty() => Ok(Mark::None),
            Ok(text) => Ok(str::from_utf8(&text).ok().and_then(read_mark).map_or(Mark::Damaged, Mark::Revision)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Mark::None),
            Err(source) => Err(at(&path)(source)),
        }
    }

    pub(super) fn mark_file(&self) -> Result<File, StoreError> {
        let path = self.path.join(MARK);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(at(&path))
    }

    fn restrict(&self, path: &Path, mode: u32) -> Result<(), StoreError> {
        match fs::set_permissions(path, Permissions::from_mode(mode)) {
            // A mounted volume belongs to somebody else, who also decides who may read it.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            set => set.map_err(at(path)),
        }
    }
}

/// How large the segments of the database in a folder are: it keeps those that it was made with, and takes what it has for
/// garbage with others. `None`: the configuration is missing or damaged.
pub(super) fn known_segment_bytes(folder: &Path) -> Option<usize> {
    let written = fs::read(folder.join(CONFIGURATION)).ok()?;
    let (text, crc) = written.split_last_chunk()?;
    let line = text.split(|byte| *byte == b'\n').next().and_then(|line| std::str::from_utf8(line).ok())?;
    let bytes = line.strip_prefix("segment_size: ")?.parse().ok()?;
    (*crc == crc32fast::hash(text).to_le_bytes()).then_some(bytes)
}

/// Writes the configuration of the database in a folder, if it is not there, and makes it durable.
///
/// The database would write it in two steps and not sync it: after a loss of power its file could be there and the
/// configuration be torn, which makes both unusable.
pub(super) fn ensure_configuration(folder: &Path, segment_bytes: usize) -> Result<(), StoreError> {
    let path = folder.join(CONFIGURATION);
    if path.exists() {
        return Ok(());
    }
    let text = format!("segment_size: {segment_bytes}\nuse_compression: false\nversion: 0.34\n");
    let mut text = text.into_bytes();
    text.extend(crc32fast::hash(&text).to_le_bytes());
    // Under its name once it is whole.
    let new = folder.join("portcullis.conf");
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&new, &path)
    };
    write().map_err(at(&path))?;
    sync_directory(folder)
}

/// Writes the revision into the mark. Always the same length in one sector, so that it is replaced whole.
pub(super) fn write_mark(mark: &File, revision: u64) -> io::Result<()> {
    mark.write_all_at(mark_text(revision).as_bytes(), 0)
}

fn mark_text(revision: u64) -> String {
    let digits = format!("{revision:020}");
    format!("revision {digits} {:08x}\n", crc32fast::hash(digits.as_bytes()))
}

/// The revision in a mark, if it is whole.
fn read_mark(text: &str) -> Option<u64> {
    let digits = text.strip_prefix("revision ")?;
    let digits = match digits.split_once(' ') {
        Some((digits, _)) => digits,
        // As it was written with format 1 of the rows.
        None => return digits.strip_suffix('\n').filter(|digits| digits.len() == 20)?.parse().ok(),
    };
    let revision = digits.parse().ok()?;
    (text == mark_text(revision)).then_some(revision)
}

pub(super) fn at(path: &Path) -> impl Fn(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::File { path: path.clone(), source }
}

/// Whether a path leads to this very file.
fn is_at(path: &Path, file: &File) -> Result<bool, StoreError> {
    let open = file.metadata().map_err(at(path))?;
    match fs::metadata(path) {
        Ok(found) => Ok((found.dev(), found.ino()) == (open.dev(), open.ino())),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
        Err(source) => Err(at(path)(source)),
    }
}

pub(super) fn sync_directory(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(at(path))
}

/// Makes durable that the directory is where it is.
fn sync_parent(path: &Path) -> Result<(), StoreError> {
    path.canonicalize().ok().as_deref().and_then(Path::parent).map_or(Ok(()), sync_directory)
}

pub(super) fn remove_if_present(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(at(path)),
    }
}
