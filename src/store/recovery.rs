//! What the database would take away when it is opened: kept beside it first.
//!
//! At its start the database takes the first place of its log that is not whole for the log's end, and writes zeros over
//! all that follows. After damage, that is what was acknowledged, and what a repair could still read. So its files are
//! read through before it is opened. When all of the log is in order nothing that is whole is behind its end, and nothing
//! can be taken away; that is how a process leaves it that was stopped, or killed. In any other case the files are copied.
//!
//! Invariants: there is one copy at most, made of the earliest files, since each opening may leave less; it is whole and
//! on disk before the database is opened; it stays until a state no older than the mark has passed all checks.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::copy::copy_into;
use super::folder::{DATABASE, Folder, MARK, Mark, at, known_segment_bytes, sync_directory};
use super::segments::{
    CAP, MESSAGE_HEADER_MAX, Message, SEGMENT_HEADER_BYTES, SegmentHeader, is_blob_whole, next_message,
};
use super::{StoreError, swap};

const KEPT: &str = "portcullis.before-recovery";
/// A copy that is not whole yet, and one that is being removed.
const UNFINISHED: [&str; 2] = ["portcullis.keeping", "portcullis.recovered"];

/// The copy of the files as they were before the database was opened, if there is one.
pub(super) struct Kept {
    copy: Mutex<Option<PathBuf>>,
}

/// Makes a directory ready for the database to be opened in it.
///
/// # Errors
/// [`StoreError::Damaged`] when the log is not in order and the mark is damaged too: nobody knows then what the log had to
/// hold. Others when the files cannot be read, or not be copied where they must.
pub(super) fn prepare(folder: &Folder) -> Result<Kept, StoreError> {
    folder.clear_half_written()?;
    let copy = kept(folder.path()).map_or_else(|| keep_unless_in_order(folder), |copy| Ok(Some(copy)))?;
    if copy.is_some() && folder.mark()? == Mark::Damaged && folder.was_mark_whole()? {
        return Err(StoreError::Damaged { path: folder.path().to_owned(), source: None });
    }
    Ok(Kept { copy: Mutex::new(copy) })
}

/// Where the copy is, if there is one.
pub(super) fn kept(store: &Path) -> Option<PathBuf> {
    Some(store.join(KEPT)).filter(|copy| copy.is_dir())
}

/// Removes what an interruption has left.
pub(super) fn clear(store: &Path) -> Result<(), StoreError> {
    UNFINISHED.iter().try_for_each(|name| swap::remove_folder(&store.join(name)))
}

impl Kept {
    pub(super) fn is_there(&self) -> bool {
        self.copy.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// To be called once all keys of a state that is no older than the mark have passed their checks.
    pub(super) fn settle(&self, is_log_whole: bool) {
        if is_log_whole {
            self.release();
        } else {
            tracing::warn!(
                "all keys are as they were acknowledged, but lines of the log of their changes are lost: `portcullis store \
                 repair` may find them in the copy of the files that is kept",
            );
        }
    }

    /// To be called when all that the store held is known to be there: the copy has nothing more.
    pub(super) fn release(&self) {
        let Some(copy) = self.copy.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        // Under another name first: a part of it must not be taken for the copy.
        let removed = copy.with_file_name(UNFINISHED[1]);
        match fs::rename(&copy, &removed).map_err(at(&copy)).and_then(|()| swap::remove_folder(&removed)) {
            Ok(()) => tracing::info!("the store is whole: the copy of its files from before it was opened is removed"),
            Err(error) => {
                tracing::warn!(%error, "the copy of the store's files from before it was opened was not removed")
            }
        }
    }
}

/// Moves the copy, if there is one, to where the damaged files are kept for good.
pub(super) fn put_aside(store: &Path, aside: &Path) -> Result<(), StoreError> {
    let Some(copy) = kept(store) else { return Ok(()) };
    fs::rename(&copy, aside.join(KEPT)).map_err(at(&copy))?;
    sync_directory(aside)?;
    sync_directory(store)
}

fn keep_unless_in_order(folder: &Folder) -> Result<Option<PathBuf>, StoreError> {
    if is_in_order(folder.path())? {
        return Ok(None);
    }
    let store = folder.path();
    let (unfinished, copy) = (store.join(UNFINISHED[0]), store.join(KEPT));
    swap::remove_folder(&unfinished)?;
    swap::make_folder(&unfinished)?;
    for file in swap::database_files(store)?.into_iter().chain(Some(store.join(MARK)).filter(|mark| mark.exists())) {
        copy_into(&file, &unfinished)?;
    }
    swap::sync_tree(&unfinished)?;
    fs::rename(&unfinished, &copy).map_err(at(&copy))?;
    sync_directory(store)?;
    tracing::warn!(
        copy = %copy.display(),
        "the store's log is not in order: a write was cut off, or it is damaged; its files are kept as they are now, \
         until the store is known to be whole",
    );
    Ok(Some(copy))
}

/// Whether nothing that is whole is behind what the database will take for the end of its log. Reads all of its files:
/// what cannot be read it would take for the end as well.
///
/// # Errors
/// When one cannot be read.
pub(super) fn is_in_order(store: &Path) -> Result<bool, StoreError> {
    let (path, blobs) = (store.join(DATABASE), store.join("blobs"));
    let mut is_in_order = are_whole(&blobs).map_err(at(&blobs))?;
    let mut file = match File::open(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
        opened => opened.map_err(at(&path))?,
    };
    let Some(segment_bytes) = known_segment_bytes(store).filter(|bytes| *bytes > MESSAGE_HEADER_MAX) else {
        // Without its configuration it is not opened.
        return io::copy(&mut file, &mut io::sink()).map(|_| true).map_err(at(&path));
    };
    let mut segments = Vec::new();
    let mut segment = Vec::with_capacity(segment_bytes);
    loop {
        segment.clear();
        // To the end in any case: it must be readable.
        (&mut file).take(segment_bytes as u64).read_to_end(&mut segment).map_err(at(&path))?;
        if segment.is_empty() {
            break;
        }
        match Segment::read(&segment, segment_bytes) {
            Found::Nothing => {}
            Found::Disorder => is_in_order = false,
            Found::Whole(segment) => segments.push(segment),
        }
    }
    Ok(is_in_order && do_follow(segments, snapshot_lsn(store)?, segment_bytes as u64))
}

/// A segment whose messages are all whole, to its end or to where the log ends.
#[derive(Clone, Copy, Debug)]
struct Segment {
    header: SegmentHeader,
    is_full: bool,
}

enum Found {
    Disorder,
    Nothing,
    Whole(Segment),
}

impl Segment {
    fn read(segment: &[u8], segment_bytes: usize) -> Found {
        if segment.len() < SEGMENT_HEADER_BYTES || is_zero(segment) {
            return Found::Nothing;
        }
        let Some(header) = SegmentHeader::read(segment, segment_bytes) else { return Found::Disorder };
        let number = header.lsn / segment_bytes as u64;
        let mut position = SEGMENT_HEADER_BYTES;
        while position + MESSAGE_HEADER_MAX <= segment_bytes {
            let Some(message) = Message::at(segment, position, number) else {
                let rest = &segment[position.min(segment.len())..];
                // What was there before the segment was used again has other numbers.
                let is_end = is_zero(rest) || next_message(segment, position + 1, number).is_none();
                return if is_end { Found::Whole(Self { header, is_full: false }) } else { Found::Disorder };
            };
            if message.kind == CAP {
                break;
            }
            position = message.end;
        }
        Found::Whole(Self { header, is_full: true })
    }
}

/// Whether segments make one log: all that may not have been used again yet are there, and each but the last is full.
fn do_follow(mut segments: Vec<Segment>, snapshot_lsn: u64, segment_bytes: u64) -> bool {
    segments.sort_unstable_by_key(|segment| segment.header.lsn);
    let stable = segments.iter().map(|segment| segment.header.stable).max().unwrap_or(0);
    let from = u64::try_from(stable).unwrap_or(0).max(snapshot_lsn) / segment_bytes * segment_bytes;
    let tail: Vec<u64> = segments.iter().map(|segment| segment.header.lsn).filter(|lsn| *lsn >= from).collect();
    let earlier = segments.split_last().map_or(&[][..], |(_, earlier)| earlier);
    earlier.iter().all(|segment| segment.is_full)
        && segments.windows(2).all(|pair| pair[0].header.lsn < pair[1].header.lsn)
        && tail.windows(2).all(|pair| pair[0] + segment_bytes == pair[1])
        && tail.first().is_none_or(|first| *first == from)
}

/// Up to where the log is in the newest snapshot: its name says so.
fn snapshot_lsn(store: &Path) -> Result<u64, StoreError> {
    let mut newest = 0;
    for entry in fs::read_dir(store).map_err(at(store))? {
        let name = entry.map_err(at(store))?.file_name();
        let lsn = name.to_str().and_then(|name| u64::from_str_radix(name.strip_prefix("snap.")?, 16).ok());
        newest = newest.max(lsn.unwrap_or(0));
    }
    Ok(newest)
}

/// A broken file of a large page ends the log as a broken message does.
fn are_whole(blobs: &Path) -> io::Result<bool> {
    let entries = match fs::read_dir(blobs) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
        entries => entries?,
    };
    let mut are_whole = true;
    for entry in entries {
        are_whole &= is_blob_whole(&fs::read(entry?.path())?);
    }
    Ok(are_whole)
}

fn is_zero(bytes: &[u8]) -> bool {
    const ZEROS: [u8; 4_096] = [0; 4_096];
    bytes.chunks(ZEROS.len()).all(|chunk| chunk == &ZEROS[..chunk.len()])
}
