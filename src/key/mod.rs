//! What a key is: its texts, kind, scopes, name and record. Pure: no I/O, no clock, no idea of HTTP.
//!
//! Invariants: a secret exists only as [`KeySecret`], which no `Debug` prints; a record holds a digest, never a text.

mod scope;
mod text;

use std::fmt;
use std::str::FromStr;

use crate::clock::Timestamp;

pub use scope::{ALL, AlreadyDeclared, DECLARED_MAX, KEY_READ, KEY_WRITE, NotAScope, Scope, ScopeCatalog, ScopeSet};
pub use text::{Digest, KEY_BYTES, KeyId, KeyReference, KeySecret, NotAKey, Tag};

const NAME_CHARS_MAX: usize = 255;

/// The type of a key. The two fixed kinds have scopes that nobody chooses or changes.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    Custom,
    SdkIntegration,
    Telemetry,
}

impl Kind {
    pub const EVERY: [Self; 3] = [Self::Custom, Self::SdkIntegration, Self::Telemetry];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Custom => "custom",
            Self::SdkIntegration => "sdk_integration",
            Self::Telemetry => "telemetry",
        }
    }

    /// The scopes of a fixed kind; `None` for a kind whose scopes are chosen.
    pub fn fixed_scopes(self) -> Option<ScopeSet> {
        match self {
            Self::Custom => None,
            Self::SdkIntegration => Some(ScopeSet::of(&["monitor:read", "monitor:write", "telemetry:write"])),
            Self::Telemetry => Some(ScopeSet::of(&["telemetry:write"])),
        }
    }

    pub fn is_immutable(self) -> bool {
        self != Self::Custom
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no kind.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("a kind is telemetry, sdk_integration or custom")]
pub struct NotAKind;

impl FromStr for Kind {
    type Err = NotAKind;

    fn from_str(text: &str) -> Result<Self, NotAKind> {
        Self::EVERY.into_iter().find(|kind| kind.as_str() == text).ok_or(NotAKind)
    }
}

/// A display name: trimmed, 1 to 255 characters, no control characters.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeyName(String);

/// The text cannot be a display name.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("a name has 1 to 255 characters, none of them a control character, and is not a key")]
pub struct NotAName;

impl KeyName {
    /// # Errors
    /// [`NotAName`] when the trimmed text is empty, too long, or holds a control or line-separating character or a key's text.
    pub fn parse(text: &str) -> Result<Self, NotAName> {
        let trimmed = text.trim();
        let breaks_line = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
        let is_legal =
            !trimmed.is_empty() && trimmed.chars().count() <= NAME_CHARS_MAX && !trimmed.chars().any(breaks_line);
        // A key pasted in the wrong place would be stored, listed and logged.
        if !is_legal || trimmed.as_bytes().windows(KEY_BYTES).any(|window| KeySecret::parse(window).is_ok()) {
            return Err(NotAName);
        }
        Ok(Self(trimmed.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// All that is kept of a key but the time of its last use, which lives apart since it changes with traffic.
#[derive(Clone, Debug)]
pub struct KeyRecord {
    pub id: KeyId,
    pub digest: Digest,
    pub name: KeyName,
    pub kind: Kind,
    pub scopes: ScopeSet,
    pub created: Timestamp,
    pub updated: Timestamp,
    /// The revision that created the key: listings are in this order.
    pub created_revision: u64,
    /// The revision that changed the key last: what its ETag is made of.
    pub revision: u64,
}

impl KeyRecord {
    /// Whether this key can create and change keys: what the last-admin rule counts.
    pub fn manages_keys(&self) -> bool {
        self.scopes.holds_named(KEY_WRITE)
    }
}
