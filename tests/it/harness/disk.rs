//! A disk under recorded calls: what is certainly on it, what may be, and how it may look after the power went.
//!
//! The rules are those of POSIX at their strictest. A file's bytes and length are safe once a sync of that file, begun after
//! the write had ended, has ended. A name is safe once its directory was synced, one that has moved once its new directory
//! was. Anything else may be there, be missing or
//! be torn between blocks, later writes without earlier ones too; of what was never written, blocks are zeros.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use super::dice::Dice;
use super::file_calls::{Effect, FileCall};

/// Where a disk loses power: sectors are written whole on old disks, pages on new ones.
const BLOCKS: [usize; 2] = [512, 4096];

/// A moment of a recording, in the order in which a disk must take them.
pub enum Moment<'c> {
    /// A call began that changes something or tells somebody.
    Began(&'c FileCall),
    /// A sync has ended.
    Synced(&'c FileCall),
}

/// The moments of a recording. What is told counts from the beginning of the call, what is synced from its end.
pub fn moments(calls: &[FileCall]) -> Vec<Moment<'_>> {
    let mut moments: Vec<(usize, Moment<'_>)> = calls
        .iter()
        .map(|call| match call.effect {
            Effect::Sync { .. } => (call.ended, Moment::Synced(call)),
            _ => (call.began, Moment::Began(call)),
        })
        .collect();
    moments.sort_by_key(|(line, _)| *line);
    moments.into_iter().map(|(_, moment)| moment).collect()
}

#[derive(Clone, Default)]
pub struct Disk {
    files: Vec<Content>,
    /// The names as programs see them.
    names: BTreeMap<PathBuf, Node>,
    /// The names that are safe.
    safe: BTreeMap<PathBuf, Node>,
    renamed: Vec<(usize, NameChange)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Node {
    Directory,
    File(usize),
}

#[derive(Clone, Debug)]
enum NameChange {
    Add(PathBuf, Node),
    Move(PathBuf, PathBuf),
    Remove(PathBuf),
}

#[derive(Clone, Default)]
struct Content {
    safe: Vec<u8>,
    /// With the line on which each had ended.
    pending: Vec<(usize, Change)>,
}

#[derive(Clone)]
enum Change {
    Resize(usize),
    Write { at: usize, bytes: Vec<u8> },
}

impl Disk {
    /// A disk on which everything in and below `folder` is safe.
    pub fn holding(folder: &Path) -> Self {
        let mut disk = Self::default();
        disk.take_in(folder);
        disk.safe = disk.names.clone();
        disk
    }

    fn take_in(&mut self, folder: &Path) {
        self.names.insert(folder.to_owned(), Node::Directory);
        for path in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            if path.is_dir() {
                self.take_in(&path);
            } else {
                self.names.insert(path.clone(), Node::File(self.files.len()));
                self.files.push(Content { safe: fs::read(&path).expect("readable"), pending: Vec::new() });
            }
        }
    }

    /// How much of a file is safe; 0 when there is none.
    pub fn length(&self, path: &Path) -> usize {
        match self.safe.get(path) {
            Some(Node::File(file)) => self.files[*file].safe.len(),
            _ => 0,
        }
    }

    /// The next moment of a recording happens.
    pub fn pass(&mut self, moment: &Moment<'_>) {
        match moment {
            Moment::Began(call) => self.change(call),
            Moment::Synced(call) => {
                let Effect::Sync { path } = &call.effect else { unreachable!("only syncs are passed as synced") };
                self.sync(path, call.began);
            }
        }
    }

    fn change(&mut self, call: &FileCall) {
        match &call.effect {
            Effect::Create { path } if !self.names.contains_key(path) => {
                self.files.push(Content::default());
                self.rename(call, NameChange::Add(path.clone(), Node::File(self.files.len() - 1)));
            }
            Effect::Copy { from, from_at, path, at, length } => {
                let Some(Node::File(from)) = self.names.get(from) else { panic!("a copy of what is not there") };
                let bytes = self.files[*from].written_whole()[*from_at..from_at + length].to_vec();
                self.alter(path, call, Change::Write { at: *at, bytes });
            }
            Effect::MakeDirectory { path } => self.rename(call, NameChange::Add(path.clone(), Node::Directory)),
            Effect::Remove { path } => self.rename(call, NameChange::Remove(path.clone())),
            Effect::Rename { from, to } => self.rename(call, NameChange::Move(from.clone(), to.clone())),
            Effect::Resize { path, length } => self.alter(path, call, Change::Resize(*length)),
            Effect::Write { path, at, bytes } => {
                self.alter(path, call, Change::Write { at: *at, bytes: bytes.clone() });
            }
            Effect::Create { .. } | Effect::Say { .. } | Effect::Sync { .. } => {}
        }
    }

    fn rename(&mut self, call: &FileCall, change: NameChange) {
        change.apply(&mut self.names);
        self.renamed.push((call.ended, change));
    }

    fn alter(&mut self, path: &Path, call: &FileCall, change: Change) {
        // A file that has no name any more is nobody's loss.
        if let Some(Node::File(file)) = self.names.get(path) {
            self.files[*file].pending.push((call.ended, change));
        }
    }

    fn sync(&mut self, path: &Path, began: usize) {
        match self.names.get(path) {
            Some(Node::File(file)) => self.files[*file].sync(began),
            Some(Node::Directory) => {
                let safe = &mut self.safe;
                self.renamed.retain(|(ended, change)| {
                    let synced = *ended < began && change.is_in(path);
                    if synced {
                        change.apply(safe);
                    }
                    !synced
                });
            }
            None => {}
        }
    }

    /// Asserts that programs see on this disk what is in and below `folder`: that the recording has missed nothing.
    ///
    /// Zeros at the end of a file count for nothing. While it starts, the database writes zeros over a segment in one
    /// thread and cuts the file off before it in another; a trace has when both began and ended, not which came first.
    #[track_caller]
    pub fn check_is_like(&self, folder: &Path) {
        let seen = Self::holding(folder);
        let names = |disk: &Self| -> Vec<PathBuf> {
            disk.names.keys().filter(|path| path.starts_with(folder)).cloned().collect()
        };
        assert_eq!(names(self), names(&seen), "the recording has missed a name");
        for (path, node) in &seen.names {
            let (Node::File(real), Some(Node::File(recorded))) = (node, self.names.get(path)) else { continue };
            let recorded = self.files[*recorded].written_whole();
            let (recorded, real) = (without_zeros_at_end(&recorded), without_zeros_at_end(&seen.files[*real].safe));
            let differs = recorded.iter().zip(real).position(|(recorded, real)| recorded != real);
            assert!(
                recorded == real,
                "the recording has missed a change of {} at {differs:?}, {} bytes of {}",
                path.display(),
                recorded.len(),
                real.len()
            );
        }
    }

    /// Writes to `target` what may be found below `folder` after the power went now.
    pub fn write_image(&self, folder: &Path, dice: &mut Dice, target: &Path) {
        let mut names = self.safe.clone();
        let mode = dice.below(4);
        let kept = dice.below(self.renamed.len() + 1);
        for (index, (_, change)) in self.renamed.iter().enumerate() {
            let happened = match mode {
                0 => true,
                // As a file system with a journal does it.
                1 => index < kept,
                2 => index != kept,
                _ => dice.once_in(2),
            };
            if happened {
                change.apply(&mut names);
            }
        }
        for (path, node) in names {
            let Ok(below) = path.strip_prefix(folder) else { continue };
            // Joining nothing would end the path in a slash.
            let path = if below == Path::new("") { target.to_owned() } else { target.join(below) };
            // A directory whose own name is lost takes with it what was in it.
            if !path.parent().is_some_and(Path::is_dir) {
                continue;
            }
            match node {
                Node::Directory => fs::create_dir(&path).expect("a directory of the image"),
                Node::File(file) => fs::write(&path, self.files[file].after_loss(dice)).expect("a file of the image"),
            }
        }
    }
}

fn without_zeros_at_end(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)]
}

impl NameChange {
    fn is_in(&self, directory: &Path) -> bool {
        match self {
            Self::Add(path, _) | Self::Remove(path) | Self::Move(_, path) => path.parent() == Some(directory),
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, Node>) {
        match self {
            Self::Add(path, node) => {
                names.insert(path.clone(), *node);
            }
            Self::Move(from, to) => {
                // A directory takes with it what is in it.
                let moved: Vec<PathBuf> = names.range(from.clone()..).map(|(path, _)| path.clone()).collect();
                for path in moved.iter().take_while(|path| path.starts_with(from)) {
                    let below = path.strip_prefix(from).expect("it is below");
                    let to = if below == Path::new("") { to.clone() } else { to.join(below) };
                    let node = names.remove(path).expect("it is there");
                    names.insert(to, node);
                }
            }
            Self::Remove(path) => {
                names.remove(path);
            }
        }
    }
}

impl Content {
    fn sync(&mut self, began: usize) {
        let Self { safe, pending } = self;
        pending.retain(|(ended, change)| {
            let synced = *ended < began;
            if synced {
                change.apply(safe);
            }
            !synced
        });
    }

    fn written_whole(&self) -> Vec<u8> {
        let mut bytes = self.safe.clone();
        self.pending.iter().for_each(|(_, change)| change.apply(&mut bytes));
        bytes
    }

    /// What is left: of each block any of the versions that it has had since it was safe, of the length likewise.
    fn after_loss(&self, dice: &mut Dice) -> Vec<u8> {
        let block = *dice.one_of(&BLOCKS);
        let (mode, chosen) = (dice.below(6), dice.below(self.pending.len().max(1)));
        let mut happened = |index: usize| match mode {
            0 => false,
            1 => true,
            2 => index <= chosen,
            3 => index != chosen,
            4 => index == chosen,
            _ => dice.once_in(2),
        };
        let whole: Vec<bool> = (0..self.pending.len()).map(&mut happened).collect();
        let torn = dice.once_in(2).then_some(chosen);
        let versions = self.versions(block, |index| {
            let is_torn = torn == Some(index) || (mode == 5 && dice.once_in(4));
            if is_torn { dice.once_in(2) } else { whole[index] }
        });
        let lengths = self.lengths();
        let last = whole.iter().rposition(|happened| *happened).map_or(0, |index| index + 1);
        let length = if dice.once_in(3) { *dice.one_of(&lengths) } else { lengths[last] };
        let mut bytes = self.safe.clone();
        for (index, (_, change)) in self.pending.iter().enumerate() {
            change.apply_to_blocks(&mut bytes, block, |block| versions.get(&block).is_some_and(|last| index <= *last));
        }
        bytes.resize(length, 0);
        bytes
    }

    /// The last change that each block has seen. It has seen those before too: a block is written as it is in memory.
    fn versions(&self, block: usize, mut happened: impl FnMut(usize) -> bool) -> HashMap<usize, usize> {
        let mut versions = HashMap::new();
        let mut length = self.safe.len();
        for (index, (_, change)) in self.pending.iter().enumerate() {
            for touched in change.blocks(length, block) {
                if happened(index) {
                    versions.insert(touched, index);
                }
            }
            length = change.length_after(length);
        }
        versions
    }

    /// The lengths that the file has had since it was safe.
    fn lengths(&self) -> Vec<usize> {
        let mut lengths = vec![self.safe.len()];
        for (_, change) in &self.pending {
            lengths.push(change.length_after(lengths[lengths.len() - 1]));
        }
        lengths
    }
}

impl Change {
    fn length_after(&self, length: usize) -> usize {
        match self {
            Self::Resize(length) => *length,
            Self::Write { at, bytes } => length.max(at + bytes.len()),
        }
    }

    fn apply(&self, content: &mut Vec<u8>) {
        content.resize(self.length_after(content.len()), 0);
        if let Self::Write { at, bytes } = self {
            content[*at..at + bytes.len()].copy_from_slice(bytes);
        }
    }

    /// The blocks that the change touches in a file that is so long.
    fn blocks(&self, length: usize, block: usize) -> std::ops::Range<usize> {
        match self {
            Self::Resize(shorter) => shorter / block..length.div_ceil(block),
            Self::Write { at, bytes } => at / block..(at + bytes.len()).div_ceil(block),
        }
    }

    /// Applies what falls into the blocks that are written. The file only grows; its length is chosen apart.
    fn apply_to_blocks(&self, content: &mut Vec<u8>, block: usize, written: impl Fn(usize) -> bool) {
        let (begin, end) = match self {
            Self::Resize(length) => (*length, content.len().max(*length)),
            Self::Write { at, bytes } => (*at, at + bytes.len()),
        };
        if content.len() < end {
            content.resize(end, 0);
        }
        for touched in self.blocks(content.len(), block).filter(|touched| written(*touched)) {
            let (from, to) = (begin.max(touched * block), end.min((touched + 1) * block));
            match self {
                Self::Resize(_) => content[from..to].fill(0),
                Self::Write { at, bytes } => content[from..to].copy_from_slice(&bytes[from - at..to - at]),
            }
        }
    }
}
