//! Writes a file line by line, whatever it goes to.

use std::io::{self, Write};

use aws_lc_rs::digest::{Context, SHA256};

use super::line::{ChangeLine, EndLine, HeaderLine, KeyLine, Line, hex};
use super::{Content, Header, Ported, StoreError};
use crate::clock::Timestamp;
use crate::key::KeyId;
use crate::store::{LoggedChange, Store};

/// Lines of the log that are read at once.
const CHANGES_AT_ONCE: usize = 512;

/// Why a store was not written out.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("the store changed while it was read")]
    Changed,
    #[error("the log has dropped changes that were still to be read: store.changes_max is too small for so many")]
    Expired,
    #[error(transparent)]
    Output(#[from] io::Error),
    #[error("stopped")]
    Stopped,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A file that is being written. Without [`Writer::finish`] it is cut, and refused by every reader.
pub struct Writer<W> {
    output: W,
    hash: Context,
    header: Header,
    keys: u64,
    changes: u64,
}

impl<W: Write> Writer<W> {
    /// Writes the header. `output` gets many small writes.
    ///
    /// # Errors
    /// Those of `output`.
    pub fn begin(output: W, header: Header) -> io::Result<Self> {
        let mut writer = Self { output, hash: Context::new(&SHA256), header, keys: 0, changes: 0 };
        writer.line(&Line::Header(HeaderLine::from(&header)))?;
        Ok(writer)
    }

    /// To be called in order of creation, before any change.
    ///
    /// # Errors
    /// Those of the output.
    pub fn key(&mut self, key: &Ported) -> io::Result<()> {
        self.keys += 1;
        self.line(&Line::Key(KeyLine::of(&key.record, key.last_used)))
    }

    /// Writes the log up to the header's revision, if it belongs into the file.
    ///
    /// # Errors
    /// [`WriteError`]; the file is then to be thrown away.
    pub fn log(&mut self, store: &dyn Store, stop: &dyn Fn() -> bool) -> Result<(), WriteError> {
        let Header { content, revision, .. } = self.header;
        let mut after = 0;
        while content == Content::Backup && after < revision {
            let changes = store.changes(after, CHANGES_AT_ONCE)?;
            let Some(last) = changes.last() else { break };
            after = last.revision;
            for change in changes.iter().take_while(|change| change.revision <= revision) {
                self.change(change)?;
            }
            if stop() {
                return Err(WriteError::Stopped);
            }
        }
        Ok(())
    }

    fn change(&mut self, change: &LoggedChange) -> io::Result<()> {
        self.changes += 1;
        self.line(&Line::Change(ChangeLine::from(change)))
    }

    /// Writes the end, and hands the output back, which may hold bytes that are not yet written.
    ///
    /// # Errors
    /// [`WriteError::Changed`] when there were not as many keys as the header says; those of the output.
    pub fn finish(mut self) -> Result<W, WriteError> {
        if self.keys != self.header.keys {
            return Err(WriteError::Changed);
        }
        let sha256 = hex(self.hash.clone().finish().as_ref());
        self.line(&Line::End(EndLine { keys: self.keys, changes: self.changes, sha256 }))?;
        Ok(self.output)
    }

    fn line(&mut self, line: &Line) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        self.hash.update(&bytes);
        self.output.write_all(&bytes)
    }
}

/// Writes out a store that nobody changes meanwhile. Blocking; holds some bytes for each key in memory.
///
/// # Errors
/// [`WriteError`]; the output is then to be thrown away. Another's change meanwhile is noticed.
pub fn write_store<W: Write>(
    store: &dyn Store,
    content: Content,
    created: Timestamp,
    output: W,
) -> Result<W, WriteError> {
    let revision = store.revision()?;
    let mut order: Vec<(u64, KeyId)> = Vec::new();
    store.scan(&mut |record| order.push((record.created_revision, record.id)))?;
    order.sort_unstable();
    let mut writer = Writer::begin(output, Header { content, revision, created, keys: order.len() as u64 })?;
    for (_, id) in order {
        let record = store.record(&id)?.ok_or(WriteError::Changed)?;
        writer.key(&Ported { record, last_used: store.last_used(&id)? })?;
    }
    writer.log(store, &|| false)?;
    if store.revision()? != revision {
        return Err(WriteError::Changed);
    }
    writer.finish()
}
