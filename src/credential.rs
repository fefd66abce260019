//! The key that a request carries: found, read, and never repaired.
//!
//! Pure. Does not know whether a key exists or what it may do. Invariant: a request presents at most one key; two
//! different ones are an error, since choosing between them would be a guess.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use crate::key::{KEY_BYTES, KeySecret};
use crate::settings::{Node, Value, settings};

/// Longest accepted user:password pair in bytes, before base64.
const PAIR_BYTES_MAX: usize = 1_024;
const ENCODED_BYTES_MAX: usize = PAIR_BYTES_MAX.div_ceil(3) * 4;

settings! {
    /// `[credentials]`: where a request may carry its key.
    pub struct Settings {
        /// Any of `"basic"`, `"bearer"` and `"header:NAME"`. A route with a `{credential}` segment reads that alone.
        pub from: Vec<Source> = vec![Source::Basic, Source::Bearer],
        /// The realm of the Basic challenge.
        pub realm: Realm = Realm("portcullis".to_owned()),
    }
}

/// A place where a request may carry its key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Source {
    /// `Authorization: Basic`: the user name, or the password when the user name is not a key.
    Basic,
    /// `Authorization: Bearer` (RFC 6750).
    Bearer,
    /// A header whose whole value is the key.
    Header(HeaderName),
}

impl Value for Source {
    fn read(node: &Node<'_>) -> Option<Self> {
        let text = node.text()?;
        let header = text.strip_prefix("header:").and_then(|name| name.parse().ok());
        match (text.as_str(), header) {
            ("basic", _) => Some(Self::Basic),
            ("bearer", _) => Some(Self::Bearer),
            (_, Some(AUTHORIZATION)) => node.problem("use \"basic\" or \"bearer\" for the Authorization header"),
            (_, Some(name)) if is_reserved(&name) => {
                node.problem(format!("the {name} header has a meaning of its own and cannot carry the key"))
            }
            (_, Some(name)) => Some(Self::Header(name)),
            _ => node.problem(format!("\"{text}\" is not \"basic\", \"bearer\" or \"header:NAME\"")),
        }
    }
}

fn is_reserved(name: &HeaderName) -> bool {
    use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
    [CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE].contains(name)
}

/// A realm that can stand inside a quoted string: visible ASCII and blanks, no quote, no backslash.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Realm(String);

impl Realm {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Value for Realm {
    fn read(node: &Node<'_>) -> Option<Self> {
        let text = node.text()?;
        if text.is_empty() || !text.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\') {
            return node.problem(format!("{} must be visible ASCII without quotes or backslashes", node.path()));
        }
        Some(Self(text))
    }
}

/// Why no key could be taken from a request that carries something.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CredentialError {
    #[error("the request carries two different keys")]
    Conflicting,
    #[error("the credentials hold no key")]
    Malformed,
}

/// The key that the headers carry in one of `sources`; `None` when they carry nothing at all.
///
/// # Errors
/// [`CredentialError::Malformed`] when there are credentials but no key in them; [`CredentialError::Conflicting`] when
/// two sources hold different keys.
pub fn in_headers(headers: &HeaderMap, sources: &[Source]) -> Result<Option<KeySecret>, CredentialError> {
    let mut found = None;
    let mut carried = false;
    for source in sources {
        let header = match source {
            Source::Basic | Source::Bearer => &AUTHORIZATION,
            Source::Header(name) => name,
        };
        let mut values = headers.get_all(header).iter();
        let Some(value) = values.next() else { continue };
        if values.next().is_some() {
            return Err(CredentialError::Malformed);
        }
        carried = true;
        if let Some(secret) = read(source, value) {
            found = Some(join(found, secret)?);
        }
    }
    match found {
        None if carried => Err(CredentialError::Malformed),
        found => Ok(found),
    }
}

/// The key of two places: the one that is there, or either when they are the same.
///
/// # Errors
/// [`CredentialError::Conflicting`] when they are different.
pub fn one_of(first: Option<KeySecret>, second: Option<KeySecret>) -> Result<Option<KeySecret>, CredentialError> {
    match second {
        Some(second) => join(first, second).map(Some),
        None => Ok(first),
    }
}

fn join(found: Option<KeySecret>, secret: KeySecret) -> Result<KeySecret, CredentialError> {
    match found {
        Some(other) if !bool::from(other.expose().as_bytes().ct_eq(secret.expose().as_bytes())) => {
            Err(CredentialError::Conflicting)
        }
        _ => Ok(secret),
    }
}

/// The key that a `{credential}` path segment is.
///
/// # Errors
/// [`CredentialError::Malformed`] when the segment is not a key.
pub fn in_text(segment: &str) -> Result<KeySecret, CredentialError> {
    KeySecret::parse(segment.as_bytes()).map_err(|_| CredentialError::Malformed)
}

/// The key that the query parameter `name` is, for routes that say so; `None` when the query does not have it.
///
/// # Errors
/// [`CredentialError`] when it is not a key, or given twice.
pub fn in_query(query: &str, name: &str) -> Result<Option<KeySecret>, CredentialError> {
    let mut values = query.split('&').filter_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(CredentialError::Conflicting);
    }
    in_text(value).map(Some)
}

fn read(source: &Source, value: &HeaderValue) -> Option<KeySecret> {
    match source {
        Source::Basic => basic(after_scheme(value, b"basic")?),
        Source::Bearer => KeySecret::parse(after_scheme(value, b"bearer")?).ok(),
        Source::Header(_) => KeySecret::parse(value.as_bytes()).ok(),
    }
}

/// What follows the scheme and exactly one blank (RFC 9110 §11.4: the scheme's case does not matter).
fn after_scheme<'v>(value: &'v HeaderValue, scheme: &[u8]) -> Option<&'v [u8]> {
    let (given, rest) = value.as_bytes().split_at_checked(scheme.len())?;
    if !given.eq_ignore_ascii_case(scheme) {
        return None;
    }
    rest.strip_prefix(b" ")
}

/// RFC 7617: base64 of `user:password`, no control characters in either. The user name decides when it is a key.
fn basic(encoded: &[u8]) -> Option<KeySecret> {
    if encoded.len() > ENCODED_BYTES_MAX {
        return None;
    }
    let mut buffer = [0; ENCODED_BYTES_MAX / 4 * 3];
    let length = STANDARD.decode_slice(encoded, &mut buffer).ok()?;
    let secret = secret_of_pair(&buffer[..length]);
    buffer[..length].zeroize();
    secret
}

fn secret_of_pair(pair: &[u8]) -> Option<KeySecret> {
    // The usual pair is a key and nothing: no search for the colon, and nothing after it to look at.
    let colon = match pair.get(KEY_BYTES) {
        Some(b':') => KEY_BYTES,
        _ => pair.iter().position(|byte| *byte == b':')?,
    };
    let (user, password) = (&pair[..colon], &pair[colon + 1..]);
    if password.iter().any(u8::is_ascii_control) {
        return None;
    }
    match KeySecret::parse(user) {
        Ok(secret) => Some(secret),
        Err(_) if user.iter().any(u8::is_ascii_control) => None,
        Err(_) => KeySecret::parse(password).ok(),
    }
}
