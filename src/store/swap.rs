//! Puts a database that was made anew in the place of another, so that an interruption leaves one of them whole.
//!
//! The directory itself cannot be renamed, since it may be a mounted volume; the database is several files. So the new one
//! is made in a folder beside the old, whose name says how far things are:
//!
//! | name | state of things | when the store is opened next |
//! |---|---|---|
//! | `portcullis.building` | not finished: the old one counts | is removed |
//! | `portcullis.fresh` | whole and on disk: the new one counts | the old files are moved aside, then as below |
//! | `portcullis.next` | the old files are all aside | the new files are moved to their place |
//!
//! Invariant: each step can be repeated, and each is on disk before the next begins.

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::folder::{at, sync_directory};
use super::{StoreError, recovery};

const BUILDING: &str = "portcullis.building";
const FRESH: &str = "portcullis.fresh";
const NEXT: &str = "portcullis.next";
/// A file in the new folder that names the folder for the old files.
const ASIDE: &str = "aside";
const COMPACTED: &str = "portcullis.before-compact";

/// Why a database is replaced: what becomes of the old one.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reason {
    /// It is removed once the new one is in its place.
    Compact,
    Repair,
    Upgrade,
}

impl Reason {
    /// A folder that is not there yet.
    fn aside(self, store: &Path) -> String {
        let stem = match self {
            Self::Compact => return COMPACTED.to_owned(),
            Self::Repair => "portcullis.before-repair",
            Self::Upgrade => "portcullis.before-upgrade",
        };
        let names = (1_u32..).map(|number| format!("{stem}-{number}"));
        names.into_iter().find(|name| !store.join(name).exists()).unwrap_or_else(|| stem.to_owned())
    }
}

/// Whether a new database waits for its place: then the old one may be missing from it.
pub(super) fn is_pending(store: &Path) -> bool {
    store.join(FRESH).exists() || store.join(NEXT).exists()
}

/// Makes an empty folder for a new database.
pub(super) fn begin(store: &Path) -> Result<PathBuf, StoreError> {
    let building = store.join(BUILDING);
    remove_folder(&building)?;
    make_folder(&building)?;
    Ok(building)
}

/// Makes the new database the one that counts, and puts it in its place. Its files must be closed. Returns where the old
/// files are, if they are kept.
pub(super) fn commit(store: &Path, reason: Reason) -> Result<Option<PathBuf>, StoreError> {
    let building = store.join(BUILDING);
    let aside = reason.aside(store);
    let note = building.join(ASIDE);
    fs::write(&note, &aside).map_err(at(&note))?;
    sync_tree(&building)?;
    rename(&building, &store.join(FRESH))?;
    sync_directory(store)?;
    finish(store)?;
    Ok(Some(store.join(aside)).filter(|aside| aside.exists()))
}

/// Ends what was interrupted. To be called before the database is opened, by whoever holds the directory.
pub(super) fn finish(store: &Path) -> Result<(), StoreError> {
    let (fresh, next) = (store.join(FRESH), store.join(NEXT));
    if fresh.exists() {
        let note = fresh.join(ASIDE);
        let aside = store.join(fs::read_to_string(&note).map_err(at(&note))?);
        make_folder(&aside)?;
        move_files(store, &aside)?;
        rename(&fresh, &next)?;
        sync_directory(store)?;
    }
    if next.exists() {
        move_files(&next, store)?;
        remove_folder(&next)?;
        sync_directory(store)?;
    }
    remove_folder(&store.join(COMPACTED))?;
    remove_folder(&store.join(BUILDING))?;
    recovery::clear(store)?;
    for copy in ["verify", "stats", "as-it-is", "mended", "kept", "kept-mended"] {
        remove_folder(&copy_path(store, copy))?;
    }
    Ok(())
}

/// Where a copy to read from is made.
pub(super) fn copy_path(store: &Path, name: &str) -> PathBuf {
    store.join(format!("portcullis.copy-{name}"))
}

/// The files of a database, as far as they are in this folder.
pub(super) fn database_files(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(at(folder))? {
        let path = entry.map_err(at(folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if ["blobs", "conf", "db"].contains(&&*name) || name.starts_with("snap.") {
            files.push(path);
        }
    }
    Ok(files)
}

fn move_files(from: &Path, to: &Path) -> Result<(), StoreError> {
    for file in database_files(from)? {
        rename(&file, &to.join(file.file_name().unwrap_or_default()))?;
    }
    sync_directory(to)?;
    sync_directory(from)
}

fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::rename(from, to).map_err(at(from))
}

pub(super) fn make_folder(path: &Path) -> Result<(), StoreError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(at(path))
}

pub(super) fn remove_folder(path: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(at(path)),
    }
}

/// Brings to disk what is in a folder.
pub(super) fn sync_tree(folder: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(folder).map_err(at(folder))? {
        let path = entry.map_err(at(folder))?.path();
        if path.is_dir() {
            sync_tree(&path)?;
        } else {
            fs::File::open(&path).and_then(|file| file.sync_all()).map_err(at(&path))?;
        }
    }
    sync_directory(folder)
}
