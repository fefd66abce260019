//! `[reload]`, and when the configuration's files have changed.
//!
//! Reads nothing but the files' identities. Polled: what watches of the kernel cost in special cases (files replaced by
//! renaming, turned links, network file systems) a look every few seconds does without.

use std::time::Duration;

use crate::settings::{FileState, settings};

settings! {
    /// `[reload]`: when the configuration is read again without being asked to.
    pub struct Settings {
        /// How often to look whether the file has changed, or one that it names; SIGHUP works in any case.
        pub watch: Option<Duration> = None,
    }
}

/// Watches files for changes since they were read.
#[derive(Debug)]
pub struct FileWatch {
    read: Vec<FileState>,
    /// What was there at the last look, if it was not what was read.
    changed: Option<Vec<FileState>>,
}

impl FileWatch {
    /// From the states that files had before they were read.
    pub fn new(read: Vec<FileState>) -> Self {
        Self { read, changed: None }
    }

    /// Looks at the files. Whether they have changed, and are now as they were at the look before: a file that is still
    /// being written is left alone. Blocking.
    pub fn look(&mut self) -> bool {
        let now: Vec<FileState> = self.read.iter().map(|file| FileState::of(&file.path)).collect();
        if now == self.read {
            self.changed = None;
            return false;
        }
        let is_settled = self.changed.as_ref() == Some(&now);
        self.changed = Some(now);
        is_settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permission_to_read_a_file_counts_as_a_change() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        std::fs::write(&file, "1").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o200)).unwrap();
        let mut watch = FileWatch::new(vec![FileState::of(&file)]);
        assert!(!watch.look());
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(!watch.look());
        assert!(watch.look());
    }

    #[test]
    fn change_is_told_once_it_has_settled() {
        let folder = tempfile::tempdir().unwrap();
        let (file, other, link) = (folder.path().join("a"), folder.path().join("b"), folder.path().join("link"));
        std::fs::write(&file, "1").unwrap();
        std::fs::write(&other, "1").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let watch = |path| FileWatch::new(vec![FileState::of(path)]);

        let mut written = watch(&file);
        assert!(!written.look());
        std::fs::write(&file, "12").unwrap();
        assert!(!written.look());
        std::fs::write(&file, "123").unwrap();
        assert!(!written.look(), "still being written");
        assert!(written.look());

        let mut turned = watch(&link);
        std::fs::remove_file(&link).unwrap();
        assert!(!turned.look());
        std::os::unix::fs::symlink(&other, &link).unwrap();
        assert!(!turned.look());
        assert!(turned.look());

        let mut undone = watch(&other);
        std::fs::rename(&other, &file).unwrap();
        assert!(!undone.look());
        std::fs::rename(&file, &other).unwrap();
        assert!(!undone.look() && !undone.look(), "what is there is what was read");
    }
}
