//! Every key's id in order of creation, small enough to hold them all in memory.
//!
//! Lets listings find their page, and unknown secrets be refused, without a look at the disk. Knows no names and no
//! scopes.
//!
//! Invariants: `order` is sorted by revision of creation, then id, and holds exactly the ids of `places`; `tags` counts
//! the tags of its entries.

use std::collections::HashMap;

use crate::key::{KeyId, KeyRecord, Kind, Tag};

pub(super) struct Directory {
    order: Vec<Entry>,
    /// The revision that created each key: with the id, its place in `order`. As bytes, since a number would be aligned,
    /// which costs four bytes a key.
    places: HashMap<KeyId, [u8; 8]>,
    /// How many keys have each tag: one, but for a wonder.
    tags: HashMap<Tag, u8>,
    /// Of the one key that may have been made, and may not.
    doubted: Option<Tag>,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    by_kind: [usize; Kind::EVERY.len()],
    managers: usize,
}

impl Counts {
    fn add(&mut self, entry: &Entry) {
        self.by_kind[entry.kind as usize] += 1;
        self.managers += usize::from(entry.manages_keys);
    }

    fn remove(&mut self, entry: &Entry) {
        self.by_kind[entry.kind as usize] -= 1;
        self.managers -= usize::from(entry.manages_keys);
    }
}

#[derive(Clone, Copy)]
pub(super) struct Entry {
    id: KeyId,
    kind: Kind,
    manages_keys: bool,
    tag: Tag,
    created_revision: u64,
    revision: u64,
}

impl From<&KeyRecord> for Entry {
    fn from(record: &KeyRecord) -> Self {
        Self {
            id: record.id,
            kind: record.kind,
            manages_keys: record.manages_keys(),
            tag: record.digest.tag(),
            created_revision: record.created_revision,
            revision: record.revision,
        }
    }
}

impl Entry {
    fn place(&self) -> (u64, KeyId) {
        (self.created_revision, self.id)
    }
}

impl Directory {
    /// `entries` in any order, no id twice.
    pub(super) fn new(mut entries: Vec<Entry>) -> Self {
        entries.sort_unstable_by_key(Entry::place);
        let mut counts = Counts::default();
        entries.iter().for_each(|entry| counts.add(entry));
        let places = entries.iter().map(|entry| (entry.id, entry.created_revision.to_ne_bytes())).collect();
        let mut directory =
            Self { order: Vec::new(), places, tags: HashMap::with_capacity(entries.len()), doubted: None, counts };
        entries.iter().for_each(|entry| directory.count_tag(entry.tag));
        directory.order = entries;
        directory
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    pub(super) fn count(&self, kind: Kind) -> usize {
        self.counts.by_kind[kind as usize]
    }

    /// How many keys can create and change keys.
    pub(super) fn managers(&self) -> usize {
        self.counts.managers
    }

    /// The revision that changed the key last; `None` when there is no such key.
    pub(super) fn revision(&self, id: &KeyId) -> Option<u64> {
        self.find(id).map(|index| self.order[index].revision)
    }

    pub(super) fn contains(&self, id: &KeyId) -> bool {
        self.places.contains_key(id)
    }

    /// Whether a key has this tag. Takes as long for a wrong secret of a key as for one of nobody's: the id has no part.
    pub(super) fn holds(&self, tag: &Tag) -> bool {
        self.tags.contains_key(tag)
    }

    /// Whether it is unknown if a key has this tag.
    pub(super) fn doubts(&self, tag: &Tag) -> bool {
        self.doubted.as_ref() == Some(tag)
    }

    /// There is one at most: nothing else is changed before its outcome is known.
    pub(super) fn doubt(&mut self, tag: Option<Tag>) {
        self.doubted = tag;
    }

    pub(super) fn tag(&self, id: &KeyId) -> Option<Tag> {
        self.find(id).map(|index| self.order[index].tag)
    }

    pub(super) fn page(&self, offset: usize, limit: usize) -> Vec<KeyId> {
        self.order.iter().skip(offset).take(limit).map(|entry| entry.id).collect()
    }

    /// Adds the key, or replaces what is known of it.
    pub(super) fn insert(&mut self, entry: Entry) {
        self.counts.add(&entry);
        self.count_tag(entry.tag);
        if let Some(index) = self.find(&entry.id) {
            let replaced = std::mem::replace(&mut self.order[index], entry);
            self.counts.remove(&replaced);
            self.discount_tag(replaced.tag);
            return;
        }
        let index = self.order.partition_point(|other| other.place() < entry.place());
        self.order.insert(index, entry);
        self.places.insert(entry.id, entry.created_revision.to_ne_bytes());
    }

    pub(super) fn remove(&mut self, id: &KeyId) {
        if let Some(index) = self.find(id) {
            let entry = self.order.remove(index);
            self.places.remove(id);
            self.counts.remove(&entry);
            self.discount_tag(entry.tag);
        }
    }

    fn count_tag(&mut self, tag: Tag) {
        let count = self.tags.entry(tag).or_default();
        *count = count.saturating_add(1);
    }

    fn discount_tag(&mut self, tag: Tag) {
        match self.tags.get_mut(&tag) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(self.tags.remove(&tag)),
        }
    }

    fn find(&self, id: &KeyId) -> Option<usize> {
        let created_revision = u64::from_ne_bytes(*self.places.get(id)?);
        self.order.binary_search_by_key(&(created_revision, *id), Entry::place).ok()
    }
}
