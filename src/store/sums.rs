//! What is known of all records together: how many there are, and a sum over them that no other set of rows has.
//!
//! A row's own checksum cannot tell that the row is an old one, or that another is gone. The sum can: each change takes
//! the old row out of it and puts the new one in, in its own transaction.
//!
//! Not a signature: whoever can write the files can write a fitting sum as well.

use aws_lc_rs::digest::{Context, SHA256};

/// The number of rows of a set, and the sum of their hashes modulo 2^128.
///
/// A sum and not an exclusive or: a row that is there twice does not cancel itself out.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct SetSum {
    pub(super) keys: u64,
    sum: u128,
}

impl SetSum {
    pub(super) fn from_bytes(keys: u64, sum: [u8; 16]) -> Self {
        Self { keys, sum: u128::from_le_bytes(sum) }
    }

    /// So many keys of which no sum is known.
    pub(super) fn counted(keys: u64) -> Self {
        Self { keys, sum: 0 }
    }

    pub(super) fn to_bytes(self) -> [u8; 16] {
        self.sum.to_le_bytes()
    }

    pub(super) fn insert(&mut self, id: &[u8], row: &[u8]) {
        self.keys = self.keys.wrapping_add(1);
        self.sum = self.sum.wrapping_add(hash(id, row));
    }

    pub(super) fn remove(&mut self, id: &[u8], row: &[u8]) {
        self.keys = self.keys.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(hash(id, row));
    }

    pub(super) fn join(&mut self, other: Self) {
        self.keys = self.keys.wrapping_add(other.keys);
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

/// 128 bits of SHA-256. A CRC would not do: it is linear, so that errors can cancel each other out.
fn hash(id: &[u8], row: &[u8]) -> u128 {
    let mut context = Context::new(&SHA256);
    // Ids are all of one length, so their end is known.
    context.update(id);
    context.update(row);
    let digest = context.finish();
    let half = digest.as_ref().first_chunk().expect("SHA-256 has 32 bytes");
    u128::from_le_bytes(*half)
}

/// A part of the keys that has a sum of its own, so that damage in one does not make all others doubtful.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct Bucket(u8);

impl Bucket {
    pub(super) const COUNT: usize = 256;

    pub(super) fn of(id: &[u8]) -> Self {
        Self(crc32fast::hash(id).to_le_bytes()[0])
    }

    pub(super) fn every() -> impl Iterator<Item = Self> {
        (0..=u8::MAX).map(Self)
    }

    pub(super) fn index(self) -> usize {
        usize::from(self.0)
    }

    /// Where the bucket's sum is kept, beside the state.
    pub(super) fn row_key(self) -> [u8; 4] {
        [b's', b'u', b'm', self.0]
    }
}
