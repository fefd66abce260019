//! How the store on disk is opened again after a fault, in the process that had it open.
//!
//! Never makes a store, and never opens one that ends elsewhere than where this process left it.
//!
//! What is read back after a failed write or fsync may be in the system's memory alone, and the system may take it for
//! written: a later fsync says nothing of it. So everything is written once more, and made durable, before it is built
//! upon. The database that failed keeps its file locked until it is closed. If it does not close, a copy takes the
//! file's place: whatever is still under way in it ends in a file that nobody opens any more.
//!
//! So healing takes longer the larger the file is, by what the disk takes to read it a few times and write it once.
//!
//! Invariant: the file under the database's name is whole at every moment, so a crash anywhere in here loses nothing.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::folder::{COPY, DATABASE, Folder, PROBE, at, remove_if_present, sync_directory};
use super::healing::{Engine, Extent, HealingStore};
use super::{Settings, SledStore, Store, StoreError, swap};

/// How long a database that has failed may take to close.
const CLOSING_MAX: Duration = Duration::from_secs(1);
const CLOSING_POLL: Duration = Duration::from_millis(10);
/// Databases that did not close and were left behind, each with its memory and threads.
const LEFT_BEHIND_MAX: u32 = 4;
const PIECE_BYTES: usize = 1 << 20;

/// Takes over a store on disk, and opens it again whenever it fails.
///
/// # Errors
/// As [`HealingStore::start`].
pub fn open(store: SledStore, settings: &Settings) -> Result<HealingStore, StoreError> {
    let reopening = Reopening::of(&store, settings);
    HealingStore::start(Box::new(store), reopening)
}

pub(super) struct Reopening {
    settings: Settings,
    held: Mutex<Held>,
}

struct Held {
    /// Kept while the store is closed, so that no other process comes in between.
    folder: Arc<Folder>,
    left_behind: u32,
    /// What the database's file was like when it was seen first, after files were gone.
    returned: Returned,
}

#[derive(PartialEq)]
enum Returned {
    No,
    /// With this length, and changed at this time.
    Seen(u64, Option<SystemTime>),
    Yes,
}

impl Engine for Reopening {
    fn probe(&self) -> Result<(), StoreError> {
        self.with_folder(|held| {
            held.check_still()?;
            let path = held.folder.path().join(PROBE);
            let written = probe(&path).map_err(at(&path));
            let removed = remove_if_present(&path);
            written.and(removed)
        })
    }

    fn reopen(&self, extent: Extent) -> Result<Box<dyn Store>, StoreError> {
        self.with_folder(|held| {
            // Of an upgrade that was cut off by the fault.
            swap::finish(held.folder.path())?;
            held.folder.check_whole()?;
            held.renew()?;
            let store = SledStore::start(Arc::clone(&held.folder), &self.settings)?;
            let revision = store.state()?.map_or(0, |state| state.revision);
            if revision < extent.acknowledged {
                let path = self.settings.path.clone();
                return Err(StoreError::Lost { path, acknowledged: extent.acknowledged, found: revision });
            }
            if !extent.holds(revision) {
                return Err(StoreError::Foreign { path: self.settings.path.clone(), found: revision });
            }
            // What the database took for the end of its log may have been a place that could not be read.
            store.scan(&mut |_| {})?;
            store.try_write()?;
            // The database that failed may have set it to a change that came too late to be copied.
            store.mark(revision)?;
            Ok(Box::new(store) as Box<dyn Store>)
        })
    }
}

impl Reopening {
    pub(super) fn of(store: &SledStore, settings: &Settings) -> Self {
        let held = Mutex::new(Held { folder: store.folder(), left_behind: 0, returned: Returned::Yes });
        Self { settings: settings.clone(), held }
    }

    /// With the directory as it is now: one that was put back is another to the system.
    fn with_folder<T>(&self, run: impl FnOnce(&mut Held) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if !held.folder.is_in_place()? {
            held.returned = Returned::No;
            held.folder = match Folder::existing(&self.settings.path) {
                Err(StoreError::Missing { .. }) => return Err(held.folder.gone()),
                folder => Arc::new(folder?),
            };
        }
        run(&mut held)
    }
}

impl Held {
    /// Whether all files are there, and nobody is about to put them back: what is opened half copied is damaged.
    fn check_still(&mut self) -> Result<(), StoreError> {
        if let Err(gone) = self.folder.check_whole() {
            self.returned = Returned::No;
            return Err(gone);
        }
        if self.returned == Returned::Yes {
            return Ok(());
        }
        let path = self.folder.path().join(DATABASE);
        let metadata = fs::metadata(&path).map_err(at(&path))?;
        let seen = Returned::Seen(metadata.len(), metadata.modified().ok());
        let is_still = self.returned == seen;
        self.returned = if is_still { Returned::Yes } else { seen };
        if is_still { Ok(()) } else { Err(self.folder.gone()) }
    }

    /// Brings to disk what is in the store's files.
    fn renew(&mut self) -> Result<(), StoreError> {
        let path = self.folder.path();
        match locked(&path.join(DATABASE))? {
            Some(database) => write_again(&database).map_err(at(&path.join(DATABASE)))?,
            None => self.replace()?,
        }
        let path = self.folder.path();
        for file in small_files(path)? {
            let opened = OpenOptions::new().read(true).write(true).open(&file);
            opened.and_then(|opened| write_again(&opened)).map_err(at(&file))?;
        }
        self.folder.sync_names()
    }

    /// Puts a copy in the place of a database that is still open.
    fn replace(&mut self) -> Result<(), StoreError> {
        let path = self.folder.path();
        let wedged = || StoreError::Wedged { path: path.to_owned() };
        // Files of their own for large rows are found by name, also by the database that is left behind.
        let blobs = path.join("blobs");
        let has_blobs = fs::read_dir(&blobs).map_err(at(&blobs))?.next().is_some();
        if has_blobs || self.left_behind == LEFT_BEHIND_MAX {
            return Err(wedged());
        }
        let (database, copy) = (path.join(DATABASE), path.join(COPY));
        if !copied(&database, &copy).map_err(at(&copy))? {
            remove_if_present(&copy)?;
            return Err(wedged());
        }
        fs::rename(&copy, &database).map_err(at(&database))?;
        sync_directory(path)?;
        self.left_behind += 1;
        tracing::warn!(store.path = %path.display(), "the failed store does not close; it was left behind, with a copy in its place");
        Ok(())
    }
}

fn probe(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all_at(&[0; 4096], 0)?;
    file.sync_all()
}

/// The file, once the database that failed has closed it; `None` when that does not happen in time. It is locked for as
/// long as it is open: nobody else writes to it meanwhile.
fn locked(path: &Path) -> Result<Option<File>, StoreError> {
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(at(path))?;
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::WouldBlock) if begun.elapsed() < CLOSING_MAX => std::thread::sleep(CLOSING_POLL),
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(source)) => return Err(at(path)(source)),
        }
    }
}

/// Writes a file's content over itself and waits until it is on disk.
fn write_again(file: &File) -> io::Result<()> {
    for_each_piece(file, |piece, offset| file.write_all_at(piece, offset))?;
    file.sync_all()
}

/// Copies a file that may be written to; `false` when it was, while it was read.
///
/// A file that is found to be the same after it was copied was the same at the moment in between.
fn copied(from: &Path, to: &Path) -> io::Result<bool> {
    let from = File::open(from)?;
    let to = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(to)?;
    for_each_piece(&from, |piece, offset| to.write_all_at(piece, offset))?;
    to.sync_all()?;
    let mut is_same = from.metadata()?.len() == to.metadata()?.len();
    let mut copy = vec![0; PIECE_BYTES];
    for_each_piece(&from, |piece, offset| {
        is_same =
            is_same && to.read_exact_at(&mut copy[..piece.len()], offset).is_ok() && copy[..piece.len()] == *piece;
        Ok(())
    })?;
    Ok(is_same)
}

fn for_each_piece(file: &File, mut run: impl FnMut(&[u8], u64) -> io::Result<()>) -> io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut offset = 0;
    loop {
        match file.read_at(&mut piece, offset) {
            Ok(0) => return Ok(()),
            Ok(read) => {
                run(&piece[..read], offset)?;
                offset += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The files beside the database's own that belong to it.
fn small_files(path: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut files = vec![path.join("conf")];
    for folder in [path.to_owned(), path.join("blobs")] {
        for entry in fs::read_dir(&folder).map_err(at(&folder))? {
            let file = entry.map_err(at(&folder))?.path();
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if file.is_file() && (name.starts_with("snap.") || folder != path) {
                files.push(file);
            }
        }
    }
    Ok(files)
}
