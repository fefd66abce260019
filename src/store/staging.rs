//! A store that is made in a folder of its own inside of the one where it belongs, and takes its place whole.
//!
//! Inside, since the place may be a mounted volume, which cannot be renamed, and its parent somebody else's.
//!
//! Invariant: the database's file comes last. Before it is there, the place holds no store; from then on a whole one.

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::folder::{Folder, at};
use super::{Settings, SledStore, Store, StoreError};

const STAGING: &str = "portcullis.new";
/// What a store consists of, in the order in which it takes its place. Snapshots are left out: the database does
/// without, and one beside a database that it does not belong to would be taken for damage.
const CONTENT: [&str; 4] = ["conf", "blobs", "db", "portcullis.mark"];
/// How long a database that was closed in this process may take to let go of its file.
const CLOSING_MAX: Duration = Duration::from_secs(10);
const CLOSING_POLL: Duration = Duration::from_millis(5);

/// An empty place that is held, and what will fill it.
pub struct Staging {
    place: PathBuf,
    folder: Folder,
}

impl Staging {
    /// Takes hold of the place that the settings name, and makes an empty store beside, to be filled and then
    /// [published](Staging::publish). A store without keys is cleared away.
    ///
    /// # Errors
    /// [`StoreError::Initialised`] when there are keys; those of [`SledStore::open`] and [`SledStore::create`].
    pub fn begin(settings: &Settings) -> Result<(Self, SledStore), StoreError> {
        let place = settings.path.clone();
        match SledStore::open(settings) {
            // Nothing, or a first start that was cut off.
            Err(StoreError::Missing { .. }) => {}
            Ok(present) if present.revision()? == 0 => {}
            Ok(present) => {
                let mut keys = 0;
                present.scan(&mut |_| keys += 1)?;
                return Err(StoreError::Initialised { path: place, keys });
            }
            Err(error) => return Err(error),
        }
        released(&place.join("db"))?;
        let folder = Folder::created(&place)?;
        let staging = Self { place, folder };
        staging.clear()?;
        let new = SledStore::create(&Settings { path: staging.path(), ..settings.clone() })?;
        Ok((staging, new))
    }

    fn path(&self) -> PathBuf {
        self.place.join(STAGING)
    }

    /// Removes what an interrupted attempt has left, and a store without keys.
    fn clear(&self) -> Result<(), StoreError> {
        // The database first: without it there is no store, whatever else is left when this is cut off.
        remove(&self.place.join("db"))?;
        for entry in fs::read_dir(&self.place).map_err(at(&self.place))? {
            let path = entry.map_err(at(&self.place))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with("snap.") || name == STAGING || CONTENT.contains(&&*name) {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// Puts the store into its place. It is durable when this returns.
    ///
    /// # Errors
    /// [`StoreError`]: there is no store in the place then, or the whole one.
    pub fn publish(self, new: SledStore) -> Result<(), StoreError> {
        new.flush()?;
        drop(new);
        let path = self.path();
        released(&path.join("db"))?;
        for name in CONTENT {
            // Everything else has to be there before the database is, and stay there; the mark tells of a database that is.
            if matches!(name, "db" | "portcullis.mark") {
                self.folder.sync_names()?;
            }
            fs::rename(path.join(name), self.place.join(name)).map_err(at(&path.join(name)))?;
        }
        self.folder.sync_names()
    }
}

/// What is left over, if only the emptied folder.
impl Drop for Staging {
    fn drop(&mut self) {
        // What cannot be removed now is so by the next attempt.
        if let Err(error) = remove(&self.path()) {
            tracing::debug!(%error, "what was staged was not removed");
        }
    }
}

/// Waits until the database's own threads have let go of its file, if there is one.
fn released(database: &Path) -> Result<(), StoreError> {
    let file = match File::open(database) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        opened => opened.map_err(at(database))?,
    };
    let mut left = CLOSING_MAX;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if !left.is_zero() => {
                std::thread::sleep(CLOSING_POLL);
                left = left.saturating_sub(CLOSING_POLL);
            }
            Err(error) => return Err(at(database)(error.into())),
        }
    }
}

fn remove(path: &Path) -> Result<(), StoreError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(at(path)),
    }
}
