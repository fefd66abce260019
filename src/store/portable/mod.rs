//! A store as text: the one format of exports and backups, in JSON lines.
//!
//! Reads and writes lines, and checks them; what becomes of them is decided by whoever restores or imports.
//!
//! A header, then a line for each key in order of creation, then, in a backup, a line for each change in the log, then an
//! end with the SHA-256 of all bytes before it: a file that was cut or edited is refused whole. That is no signature;
//! whoever can write the file can make another one. No line holds a secret: a key's SHA-256 stands for 190 random bits,
//! which nobody finds by trying.

mod line;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

use crate::clock::Timestamp;
use crate::key::KeyRecord;

use super::{LoggedChange, StoreError};

pub use self::reader::{FileError, FileSum, Reader};
pub use self::writer::{WriteError, Writer, write_store};

const FORMAT: &str = "portcullis-store";
/// Grows with every change that an older portcullis would misread.
const VERSION: u32 = 1;
/// More than a change of a key with hundreds of scopes takes.
const LINE_BYTES_MAX: u64 = 512 << 10;

/// What a file is made for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Content {
    /// Keys and the log of their changes: what `restore` makes the same store of.
    Backup,
    /// Keys alone: what another store can import.
    Export,
}

/// The first line.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    pub content: Content,
    /// The store's, of which the file is a picture.
    pub revision: u64,
    /// When the file was written.
    pub created: Timestamp,
    pub keys: u64,
}

/// A key as it is carried from store to store.
#[derive(Clone, Debug)]
pub struct Ported {
    pub record: KeyRecord,
    pub last_used: Option<Timestamp>,
}

/// A line between the first and the last.
#[derive(Debug)]
pub enum Item {
    Change(LoggedChange),
    Key(Ported),
}
