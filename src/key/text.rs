//! The texts of a key: the public id, the secret, and the digest that is kept instead of the secret.
//!
//! A key reads `pcl_` + 12 base62 (the id) + `_` + 32 base62 (190 random bits) + 6 base62 (CRC-32 of all before).
//! The prefix lets secret scanners find leaks; the checksum lets junk be refused with no look-up.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};
use subtle::ConstantTimeEq;
use zeroize::{DefaultIsZeroes, Zeroizing};

const PREFIX: &[u8] = b"pcl_";
const ID_CHARS: usize = 12;
const ID_END: usize = PREFIX.len() + ID_CHARS;
const CHECKSUM_START: usize = ID_END + 1 + 32;
/// The length of a key's text in bytes, all ASCII.
pub const KEY_BYTES: usize = CHECKSUM_START + 6;
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The text is not a key, an id or a masked id. Deliberately says no more: the text may be somebody's secret.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a portcullis key")]
pub struct NotAKey;

/// The public name of a key (`pcl_` + 12 base62). Safe to log.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct KeyId([u8; ID_CHARS]);

impl KeyId {
    /// The 12 characters that follow `pcl_`: what the store uses as the record's key.
    pub fn as_bytes(&self) -> &[u8; ID_CHARS] {
        &self.0
    }

    /// The id as listings show it in the `key` field: `pcl_XXXXXXXXXXXX...`.
    pub fn masked(&self) -> String {
        format!("{self}...")
    }

    /// # Errors
    /// [`NotAKey`] unless `chars` is exactly 12 base62 characters.
    pub fn from_bytes(chars: &[u8]) -> Result<Self, NotAKey> {
        let chars: [u8; ID_CHARS] = chars.try_into().map_err(|_| NotAKey)?;
        if !chars.iter().all(u8::is_ascii_alphanumeric) {
            return Err(NotAKey);
        }
        Ok(Self(chars))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("pcl_")?;
        // Base62 by construction, so every byte is one ASCII character.
        self.0.iter().try_for_each(|byte| fmt::Write::write_char(f, char::from(*byte)))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for KeyId {
    type Err = NotAKey;

    fn from_str(text: &str) -> Result<Self, NotAKey> {
        Self::from_bytes(text.as_bytes().strip_prefix(PREFIX).ok_or(NotAKey)?)
    }
}

/// What `:key` in an admin path names: an id, an id followed by `...`, or a key's full text.
#[derive(Debug)]
pub enum KeyReference {
    Id(KeyId),
    /// The full text: it names the key only if the secret is right too.
    Secret(KeySecret),
}

impl KeyReference {
    pub fn id(&self) -> KeyId {
        match self {
            Self::Id(id) => *id,
            Self::Secret(secret) => secret.id(),
        }
    }
}

impl FromStr for KeyReference {
    type Err = NotAKey;

    fn from_str(text: &str) -> Result<Self, NotAKey> {
        if text.len() == KEY_BYTES {
            return KeySecret::parse(text.as_bytes()).map(Self::Secret);
        }
        text.strip_suffix("...").unwrap_or(text).parse().map(Self::Id)
    }
}

/// The full text of a key whose checksum is right. Wiped from memory on drop; `Debug` shows the id alone.
pub struct KeySecret(Zeroizing<Text>);

// In whole words: what is moved in words that overlap is slow to be read again.
#[derive(Clone, Copy)]
#[repr(align(8))]
struct Text([u8; KEY_BYTES]);

impl Default for Text {
    fn default() -> Self {
        Self([0; KEY_BYTES])
    }
}

// Wiped in one go, and not byte by byte.
impl DefaultIsZeroes for Text {}

impl KeySecret {
    /// # Errors
    /// [`NotAKey`] unless `text` has a key's shape and its checksum is right. No look-up, no allocation.
    pub fn parse(text: &[u8]) -> Result<Self, NotAKey> {
        let text: &[u8; KEY_BYTES] = text.try_into().map_err(|_| NotAKey)?;
        let (body, checksum) = text.split_at(CHECKSUM_START);
        let alphabet_ok = is_base62(&body[PREFIX.len()..ID_END]) && is_base62(&body[ID_END + 1..]);
        if !body.starts_with(PREFIX) || body[ID_END] != b'_' || !alphabet_ok || checksum != base62_crc(body) {
            return Err(NotAKey);
        }
        Ok(Self(Zeroizing::new(Text(*text))))
    }

    /// A new key from the operating system's randomness. `None` when there is none to be had.
    pub fn generate() -> Option<Self> {
        Self::generate_from(&mut |bytes| getrandom::fill(bytes).ok())
    }

    /// As [`KeySecret::generate`], from the random bytes that `fill` gives.
    pub fn generate_from(fill: &mut dyn FnMut(&mut [u8]) -> Option<()>) -> Option<Self> {
        let mut secret = Self(Zeroizing::new(Text([b'_'; KEY_BYTES])));
        let text = &mut secret.0.0;
        text[..PREFIX.len()].copy_from_slice(PREFIX);
        let mut random = Random { bytes: Zeroizing::new([0; RANDOM_BYTES]), used: RANDOM_BYTES, fill };
        for position in (PREFIX.len()..ID_END).chain(ID_END + 1..CHECKSUM_START) {
            text[position] = random.base62()?;
        }
        let checksum = base62_crc(&text[..CHECKSUM_START]);
        text[CHECKSUM_START..].copy_from_slice(&checksum);
        Some(secret)
    }

    pub fn id(&self) -> KeyId {
        let mut chars = [0; ID_CHARS];
        chars.copy_from_slice(&self.0.0[PREFIX.len()..ID_END]);
        KeyId(chars)
    }

    /// SHA-256 of the text. A fast hash is right for 190 bits of randomness.
    pub fn digest(&self) -> Digest {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, &self.0.0).as_ref());
        Digest(bytes)
    }

    /// The secret itself: for the one answer that shows it, and nothing else.
    pub fn expose(&self) -> &str {
        std::str::from_utf8(&self.0.0).expect("a key is ASCII: checked in parse and built so in generate")
    }
}

impl fmt::Debug for KeySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_[redacted]", self.id())
    }
}

/// SHA-256 of a key's text: what is stored. Compared in constant time.
#[derive(Clone, Copy)]
pub struct Digest([u8; 32]);

impl Digest {
    pub fn matches(&self, other: &Self) -> bool {
        let words = |digest: &[u8; 32]| {
            let (words, _) = digest.as_chunks::<8>();
            [words[0], words[1], words[2], words[3]].map(u64::from_ne_bytes)
        };
        let (ours, theirs) = (words(&self.0), words(&other.0));
        // Every word is looked at, whatever the others say.
        let difference = ours.iter().zip(theirs).fold(0, |difference, (our, their)| difference | (our ^ their));
        difference.ct_eq(&0).into()
    }

    /// What finds a key by its whole text, where there is no room for whole digests.
    pub fn tag(&self) -> Tag {
        let (words, _) = self.0.as_chunks::<8>();
        Tag(words[0])
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[digest]")
    }
}

/// The first eight bytes of a [`Digest`]. Two keys in 2^64 share one, so whoever finds a key by it compares the digests.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct Tag([u8; 8]);

impl Tag {
    pub fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[tag]")
    }
}

fn is_base62(chars: &[u8]) -> bool {
    // No way out at the first wrong one, and no table: so many are judged at once.
    chars.iter().fold(true, |all, char| all & char.is_ascii_alphanumeric())
}

/// CRC-32 (IEEE) as six base62 digits, most significant first: 62^6 > 2^32.
fn base62_crc(bytes: &[u8]) -> [u8; 6] {
    let mut rest = crc32fast::hash(bytes);
    let mut digits = [b'0'; 6];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[(rest % 62) as usize];
        rest /= 62;
    }
    digits
}

/// Enough for a key's 44 characters nearly always: one call of the operating system.
const RANDOM_BYTES: usize = 64;

struct Random<'f> {
    bytes: Zeroizing<[u8; RANDOM_BYTES]>,
    used: usize,
    fill: &'f mut dyn FnMut(&mut [u8]) -> Option<()>,
}

impl Random<'_> {
    /// Rejection sampling over six bits keeps every character equally likely.
    fn base62(&mut self) -> Option<u8> {
        loop {
            if self.used == RANDOM_BYTES {
                (self.fill)(&mut *self.bytes)?;
                self.used = 0;
            }
            let index = usize::from(self.bytes[self.used] & 0x3f);
            self.used += 1;
            if index < BASE62.len() {
                return Some(BASE62[index]);
            }
        }
    }
}
