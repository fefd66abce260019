//! A copy of a store's database to read from: opening one writes to it, and takes away what lies behind damage.

use std::fs;
use std::path::{Path, PathBuf};

use super::folder::{Folder, at};
use super::{StoreError, swap};

/// A copy in a folder of the store's own, removed when dropped. What an interruption leaves is removed when the store is opened next.
pub(super) struct DatabaseCopy {
    path: PathBuf,
}

impl DatabaseCopy {
    pub(super) fn of(folder: &Folder, name: &str) -> Result<Self, StoreError> {
        Self::from(folder.path(), folder, name)
    }

    /// Of a database that is elsewhere.
    pub(super) fn from(database: &Path, folder: &Folder, name: &str) -> Result<Self, StoreError> {
        let copy = Self { path: swap::copy_path(folder.path(), name) };
        swap::remove_folder(&copy.path)?;
        swap::make_folder(&copy.path)?;
        for file in swap::database_files(database)? {
            copy_into(&file, &copy.path)?;
        }
        Ok(copy)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for DatabaseCopy {
    fn drop(&mut self) {
        // A folder that is left behind is in nobody's way.
        let _ = swap::remove_folder(&self.path);
    }
}

/// Copies a file, or a folder with all that is in it. Where the system can share what both hold, it does.
pub(super) fn copy_into(file: &Path, folder: &Path) -> Result<(), StoreError> {
    let to = folder.join(file.file_name().unwrap_or_default());
    if !file.is_dir() {
        return fs::copy(file, &to).map(drop).map_err(at(file));
    }
    swap::make_folder(&to)?;
    for entry in fs::read_dir(file).map_err(at(file))? {
        copy_into(&entry.map_err(at(file))?.path(), &to)?;
    }
    Ok(())
}
