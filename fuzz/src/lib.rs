//! What fuzz targets share: bytes as choices, and keys that always are the same.
//!
//! Knows nothing of what is judged: each target holds its own properties.

pub mod http1;

use portcullis::key::KeySecret;

/// A fuzzer's bytes as a row of choices. At their end every choice is the first one.
pub struct Choices<'b>(pub &'b [u8]);

impl<'b> Choices<'b> {
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    pub fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end
    }

    pub fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// So many bytes as the next one says, as far as there are any.
    pub fn bytes(&mut self) -> &'b [u8] {
        let length = usize::from(self.byte()).min(self.0.len());
        let (now, rest) = self.0.split_at(length);
        self.0 = rest;
        now
    }
}

/// Pieces of `bytes`, cut where `seed` says: the same ones for the same seed.
pub fn pieces(bytes: &[u8], seed: u8) -> Vec<&[u8]> {
    if bytes.is_empty() {
        return Vec::new();
    }
    match seed % 4 {
        0 => vec![bytes],
        1 => bytes.chunks(1).collect(),
        2 => bytes.chunks(usize::from(seed) / 4 + 2).collect(),
        _ => {
            let (first, second) = bytes.split_at(usize::from(seed) * 7 % bytes.len());
            vec![first, second]
        }
    }
}

/// A key that is the same in every run.
pub fn key(number: u8) -> KeySecret {
    let mut next = number;
    let mut fill = |bytes: &mut [u8]| {
        for byte in bytes {
            *byte = next;
            next = next.wrapping_mul(5).wrapping_add(17);
        }
        Some(())
    };
    KeySecret::generate_from(&mut fill).expect("fill never ends")
}
