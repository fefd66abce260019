//! Reads a file line by line, and believes none of it.
//!
//! Holds one line and the keys' ids: memory is bounded by the longest line and the number of keys that are allowed.

use std::collections::HashMap;
use std::io::{self, BufRead, Read};

use aws_lc_rs::digest::{Context, SHA256};

use super::line::{EndLine, Line, hex};
use super::{Content, Header, Item, LINE_BYTES_MAX};
use crate::clock::Timestamp;
use crate::key::KeyId;

/// What is wrong with a file, and where.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("line {line}: {problem}")]
    Line { line: u64, problem: String },
    #[error("cannot be read")]
    Unreadable(#[source] io::Error),
}

/// The SHA-256 of a file up to some line.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FileSum([u8; 32]);

/// A file that is being read. Only once [`Reader::next`] has told its end is any of it to be believed.
pub struct Reader<R> {
    input: R,
    header: Header,
    buffer: Vec<u8>,
    /// Of all lines before the present one.
    hash: Context,
    line: u64,
    /// Each with its line.
    ids: HashMap<KeyId, u64>,
    changes: u64,
    /// The revision of the last change.
    revision: u64,
    keys_max: u64,
}

impl<R: BufRead> Reader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// [`FileError`], also when there are more than `keys_max` keys.
    pub fn open(input: R, keys_max: u64) -> Result<Self, FileError> {
        // Until the first line is read.
        let header = Header { content: Content::Export, revision: 0, created: Timestamp::from_unix(0), keys: 0 };
        let mut reader = Self {
            input,
            header,
            buffer: Vec::new(),
            hash: Context::new(&SHA256),
            line: 0,
            ids: HashMap::new(),
            changes: 0,
            revision: 0,
            keys_max,
        };
        let header = match reader.read_line()? {
            Some(text) => Line::parse_header(text),
            None => Err("is missing: the file is empty".to_owned()),
        };
        reader.header = header.map_err(|problem| reader.problem(problem))?;
        if reader.header.keys > keys_max {
            let problem = format!(
                "there are {} keys in it, and keys.keys_max allows {keys_max}; raise that option if they are wanted",
                reader.header.keys
            );
            return Err(reader.problem(problem));
        }
        Ok(reader)
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The number of the line that [`Reader::next`] has told last.
    pub fn line(&self) -> u64 {
        self.line
    }

    /// The sum of all lines up to the one that [`Reader::next`] has told last: the same again for the same lines alone.
    pub fn sum(&self) -> FileSum {
        let mut hash = self.hash.clone();
        hash.update(&self.buffer);
        FileSum(*hash.finish().as_ref().first_chunk().expect("SHA-256 has 32 bytes"))
    }

    /// The next line; `None` at the end of a file that is whole.
    ///
    /// # Errors
    /// [`FileError`]: nothing of the file is to be believed then.
    #[expect(clippy::should_implement_trait, reason = "an iterator goes on after errors")]
    pub fn next(&mut self) -> Result<Option<Item>, FileError> {
        let line = match self.read_line()? {
            Some(text) => Line::parse(text),
            None => Err("is missing: the file is cut off; take a whole copy of it".to_owned()),
        };
        let item = line.and_then(|line| self.read_item(line));
        match item.map_err(|problem| self.problem(problem))? {
            Some(item) => Ok(Some(item)),
            None => self.check_nothing_follows(),
        }
    }

    fn read_item(&mut self, line: Line) -> Result<Option<Item>, String> {
        match line {
            Line::Header(_) => Err("is a second header; two files are not one".to_owned()),
            Line::Key(key) => {
                let key = key.read(self.header.revision)?;
                self.count_key(key.record.id)?;
                Ok(Some(Item::Key(key)))
            }
            Line::Change(change) => {
                let change = change.read()?;
                if change.revision <= self.revision || change.revision > self.header.revision {
                    return Err("its revision is not in order".to_owned());
                }
                (self.revision, self.changes) = (change.revision, self.changes + 1);
                Ok(Some(Item::Change(change)))
            }
            Line::End(end) => self.check_end(&end).map(|()| None),
        }
    }

    fn count_key(&mut self, id: KeyId) -> Result<(), String> {
        if self.changes > 0 {
            return Err("is a key behind the changes, where none belongs".to_owned());
        }
        if self.ids.len() as u64 == self.header.keys.min(self.keys_max) {
            return Err(format!("is one key more than the {} that the first line tells of", self.header.keys));
        }
        match self.ids.insert(id, self.line) {
            None => Ok(()),
            Some(first) => Err(format!("{id} is on line {first} already")),
        }
    }

    fn check_end(&self, end: &EndLine) -> Result<(), String> {
        let keys = self.ids.len() as u64;
        if (end.keys, end.changes) != (keys, self.changes) || keys != self.header.keys {
            return Err("tells other numbers of lines than there are: some are missing or were added".to_owned());
        }
        if hex(self.hash.clone().finish().as_ref()) != end.sha256 {
            return Err("the checksum is wrong: the file was damaged or edited; take a whole copy of it".to_owned());
        }
        Ok(())
    }

    fn check_nothing_follows(&mut self) -> Result<Option<Item>, FileError> {
        match self.read_line()? {
            None => Ok(None),
            Some(_) => Err(self.problem("comes after the end".to_owned())),
        }
    }

    /// The next line without its end, which it must have. `None`: there is none.
    fn read_line(&mut self) -> Result<Option<&str>, FileError> {
        self.hash.update(&self.buffer);
        self.buffer.clear();
        self.line += 1;
        let mut limited = (&mut self.input).take(LINE_BYTES_MAX + 1);
        limited.read_until(b'\n', &mut self.buffer).map_err(FileError::Unreadable)?;
        let bytes = match self.buffer.as_slice() {
            [] => return Ok(None),
            [line @ .., b'\n'] => line,
            long if long.len() as u64 > LINE_BYTES_MAX => {
                return Err(self.problem(format!("is longer than {} KiB", LINE_BYTES_MAX >> 10)));
            }
            _ => return Err(self.problem("is cut off; take a whole copy of the file".to_owned())),
        };
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Some(text)),
            Err(error) => Err(FileError::Line {
                line: self.line,
                problem: format!("is not UTF-8 at byte {}", error.valid_up_to() + 1),
            }),
        }
    }

    fn problem(&self, problem: String) -> FileError {
        FileError::Line { line: self.line, problem }
    }
}
