//! Every key's id in order of creation, small enough to hold them all in memory.
//!
//! Lets listings find their page, and unknown ids be refused, without a look at the disk. Knows no names and no scopes.
//!
//! Invariant: `order` is sorted by revision of creation, then id, and holds exactly the ids of `places`.

use std::collections::HashMap;

use crate::key::{KeyId, KeyRecord, Kind};

pub(super) struct Directory {
    order: Vec<Entry>,
    /// The revision that created each key: with the id, its place in `order`.
    places: HashMap<KeyId, u64>,
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
    created_revision: u64,
    revision: u64,
}

impl From<&KeyRecord> for Entry {
    fn from(record: &KeyRecord) -> Self {
        Self {
            id: record.id,
            kind: record.kind,
            manages_keys: record.manages_keys(),
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
        let places = entries.iter().map(|entry| (entry.id, entry.created_revision)).collect();
        Self { order: entries, places, counts }
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

    pub(super) fn page(&self, offset: usize, limit: usize) -> Vec<KeyId> {
        self.order.iter().skip(offset).take(limit).map(|entry| entry.id).collect()
    }

    /// Adds the key, or replaces what is known of it.
    pub(super) fn insert(&mut self, entry: Entry) {
        self.counts.add(&entry);
        if let Some(index) = self.find(&entry.id) {
            let replaced = std::mem::replace(&mut self.order[index], entry);
            self.counts.remove(&replaced);
            return;
        }
        let index = self.order.partition_point(|other| other.place() < entry.place());
        self.order.insert(index, entry);
        self.places.insert(entry.id, entry.created_revision);
    }

    pub(super) fn remove(&mut self, id: &KeyId) {
        if let Some(index) = self.find(id) {
            let entry = self.order.remove(index);
            self.places.remove(id);
            self.counts.remove(&entry);
        }
    }

    fn find(&self, id: &KeyId) -> Option<usize> {
        let created_revision = *self.places.get(id)?;
        self.order.binary_search_by_key(&(created_revision, *id), Entry::place).ok()
    }
}
