//! The key that a request carries: found, read, and never repaired.
//!
//! Pure. Does not know whether a key exists or what it may do. Invariant: a request presents at most one key; two
//! different ones are an error, since choosing between them would be a guess.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use subtle::ConstantTimeEq;
use zeroize::{DefaultIsZeroes, Zeroize, Zeroizing};

use crate::key::{KEY_BYTES, KeySecret};
use crate::settings::{Node, Value, settings};

/// Longest accepted user:password pair in bytes, before base64.
const PAIR_BYTES_MAX: usize = 1_024;
const ENCODED_BYTES_MAX: usize = PAIR_BYTES_MAX.div_ceil(3) * 4;
/// A key as the user name and no password.
const USUAL_BYTES: usize = KEY_BYTES + 1;

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
    let mut authorization = None;
    for source in sources {
        let value = match (source, authorization) {
            (Source::Header(name), _) => sole(headers, name)?,
            // Looked for once, and not at all when no source is there.
            (Source::Basic | Source::Bearer, Some(known)) => known,
            (Source::Basic | Source::Bearer, None) => *authorization.insert(sole(headers, &AUTHORIZATION)?),
        };
        let Some(value) = value else { continue };
        carried = true;
        if let Some(secret) = read(source, value) {
            found = one_of(found, Some(secret))?;
        }
    }
    match found {
        None if carried => Err(CredentialError::Malformed),
        found => Ok(found),
    }
}

fn sole<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h HeaderValue>, CredentialError> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        (_, Some(_)) => Err(CredentialError::Malformed),
    }
}

/// The key of two places: the one that is there, or either when they are the same.
///
/// # Errors
/// [`CredentialError::Conflicting`] when they are different.
pub fn one_of(first: Option<KeySecret>, second: Option<KeySecret>) -> Result<Option<KeySecret>, CredentialError> {
    let (Some(one), Some(other)) = (&first, &second) else { return Ok(first.or(second)) };
    let same = bool::from(one.expose().as_bytes().ct_eq(other.expose().as_bytes()));
    if same { Ok(first) } else { Err(CredentialError::Conflicting) }
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
    let mut usual = Zeroizing::new(Usual::default());
    if decode_usual(encoded, &mut usual.0).is_some() {
        return secret_of_pair(&usual.0);
    }
    let mut buffer = [0; ENCODED_BYTES_MAX / 4 * 3];
    let length = STANDARD.decode_slice(encoded, &mut buffer).ok()?;
    let secret = secret_of_pair(&buffer[..length]);
    buffer[..length].zeroize();
    secret
}

/// The usual pair, decoded. Wiped in one go, and not byte by byte.
#[derive(Clone, Copy)]
#[repr(align(8))]
struct Usual([u8; USUAL_BYTES]);

impl Default for Usual {
    fn default() -> Self {
        Self([0; USUAL_BYTES])
    }
}

impl DefaultIsZeroes for Usual {}

/// Decodes the usual pair, a key and a colon, in a third of the general decoder's time. `None`: ask that one.
fn decode_usual(encoded: &[u8], pair: &mut [u8; USUAL_BYTES]) -> Option<()> {
    let encoded: &[u8; USUAL_BYTES.div_ceil(3) * 4] = encoded.try_into().ok()?;
    let (groups, _) = encoded.as_chunks::<4>();
    let (last, whole) = groups.split_last()?;
    let (threes, left) = pair.as_chunks_mut::<3>();
    let mut all = 0;
    for (three, group) in threes.iter_mut().zip(whole) {
        let bits = bits_of(group);
        all |= bits;
        let [_, bytes @ ..] = bits.to_be_bytes();
        *three = bytes;
    }
    let &[first, second, third, b'='] = last else { return None };
    let bits = bits_of(&[first, second, third, b'A']);
    // The bits that are left over must be zero: one text has one spelling.
    let [_, bytes @ .., 0] = bits.to_be_bytes() else { return None };
    left.copy_from_slice(&bytes);
    ((all | bits) <= BITS_MAX).then_some(())
}

/// What four characters of base64 stand for; more than [`BITS_MAX`] when one of them stands for nothing.
fn bits_of(group: &[u8; 4]) -> u32 {
    let [first, second, third, fourth] = group.map(|character| SEXTETS[usize::from(character)]);
    first << 18 | second << 12 | third << 6 | fourth
}

const BITS_MAX: u32 = (1 << 24) - 1;

/// RFC 4648 §4. All ones: not in the alphabet.
static SEXTETS: [u32; 256] = {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut sextets = [u32::MAX; 256];
    let mut index = 0;
    while index < alphabet.len() {
        sextets[alphabet[index] as usize] = index as u32;
        index += 1;
    }
    sextets
};

fn secret_of_pair(pair: &[u8]) -> Option<KeySecret> {
    // The usual pair is a key and nothing: no search for the colon, since a key has none, and nothing after it to look at.
    if let Some((user, [b':', password @ ..])) = pair.split_at_checked(KEY_BYTES)
        && let Ok(secret) = KeySecret::parse(user)
    {
        return (!password.iter().any(u8::is_ascii_control)).then_some(secret);
    }
    // RFC 7617 §2: the first colon, since no user name has any.
    let colon = pair.iter().position(|byte| *byte == b':')?;
    let (user, password) = (&pair[..colon], &pair[colon + 1..]);
    if pair.iter().any(u8::is_ascii_control) {
        return None;
    }
    KeySecret::parse(user).or_else(|_| KeySecret::parse(password)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_basic(encoded: &[u8]) -> Option<KeySecret> {
        let value = HeaderValue::from_bytes(&[b"Basic ", encoded].concat()).ok()?;
        in_headers(&HeaderMap::from_iter([(AUTHORIZATION, value)]), &[Source::Basic]).ok()?
    }

    /// The usual pair has a decoder of its own: the general one is its oracle.
    #[test]
    fn no_other_spelling_of_the_usual_pair_is_taken() {
        let key = KeySecret::generate().unwrap();
        let usual = STANDARD.encode(format!("{}:", key.expose())).into_bytes();
        assert_eq!(in_basic(&usual).unwrap().expose(), key.expose());
        for place in 0..usual.len() {
            for byte in (0..=u8::MAX).filter(|byte| *byte != usual[place]) {
                let mut other = usual.clone();
                other[place] = byte;
                let decoded = STANDARD.decode(&other).unwrap_or_default();
                let expected = decoded
                    .split_at_checked(KEY_BYTES)
                    .filter(|(_, rest)| rest.starts_with(b":") && !rest.iter().any(u8::is_ascii_control))
                    .and_then(|(user, _)| KeySecret::parse(user).ok());
                let expected = expected.as_ref().map(KeySecret::expose);
                assert_eq!(in_basic(&other).as_ref().map(KeySecret::expose), expected, "{place} {byte}");
            }
        }
    }

    #[test]
    fn key_is_read_from_pairs_of_any_length() {
        let key = KeySecret::generate().unwrap();
        for length in 0..=PAIR_BYTES_MAX - USUAL_BYTES {
            let pair = format!("{}:{}", key.expose(), "p".repeat(length));
            assert_eq!(in_basic(STANDARD.encode(pair).as_bytes()).unwrap().expose(), key.expose(), "{length}");
        }
        let pair = format!("agent:{}", key.expose());
        assert_eq!(in_basic(STANDARD.encode(pair).as_bytes()).unwrap().expose(), key.expose());
    }

    #[test]
    fn first_colon_ends_the_user_name_wherever_another_one_is() {
        let secret = KeySecret::generate().unwrap();
        let rest = "x".repeat(KEY_BYTES - 3);
        // Where a key would end there is a colon too, and a key behind that.
        let pair = format!("pc:{rest}:{}", secret.expose());
        assert!(in_basic(STANDARD.encode(&pair).as_bytes()).is_none(), "{pair}");
        let key_first = format!("{}:a:b", secret.expose());
        assert!(in_basic(STANDARD.encode(key_first).as_bytes()).is_some());
    }

    #[test]
    fn authorization_counts_only_where_it_is_a_source() {
        let key = KeySecret::generate().unwrap();
        let name = HeaderName::from_static("x-key");
        let bearer: HeaderValue = format!("Bearer {}", key.expose()).parse().unwrap();
        let mut headers = HeaderMap::from_iter([(name.clone(), key.expose().parse().unwrap())]);
        headers.append(AUTHORIZATION, bearer.clone());
        headers.append(AUTHORIZATION, bearer);
        let found = |sources: &[Source]| in_headers(&headers, sources).map(|secret| secret.map(|secret| secret.id()));
        assert_eq!(found(&[Source::Header(name.clone())]), Ok(Some(key.id())));
        assert_eq!(found(&[Source::Header(name), Source::Bearer]), Err(CredentialError::Malformed));
        assert_eq!(found(&[]), Ok(None));
    }

    #[test]
    fn credentials_without_a_key_are_malformed_and_none_are_none() {
        let key = KeySecret::generate().unwrap();
        let found = |value: &str| {
            let headers = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_bytes(value.as_bytes()).unwrap())]);
            in_headers(&headers, &[Source::Basic, Source::Bearer]).map(|secret| secret.map(|secret| secret.id()))
        };
        let pair = |user: &str, password: &str| format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
        let text = key.expose();
        for value in [
            "",
            "Basic",
            "Basic ",
            "Bearer x",
            "Digest x",
            text,
            &format!("Bearer\t{text}"),
            &format!("Bearer  {text}"),
        ] {
            assert_eq!(found(value), Err(CredentialError::Malformed), "{value}");
        }
        for (user, password) in
            [("a\nb", text), (text, "a\nb"), ("a", "b"), ("", ""), (&text[1..], ""), ("a", &format!("{text}:"))]
        {
            assert_eq!(found(&pair(user, password)), Err(CredentialError::Malformed), "{user:?}:{password:?}");
        }
        for length in 0..=PAIR_BYTES_MAX + 1 {
            let junk = format!("Basic {}", STANDARD.encode("x".repeat(length)));
            assert_eq!(found(&junk), Err(CredentialError::Malformed), "{length}");
        }
        for value in [pair(text, ""), pair(text, "x"), pair("", text), format!("bEaReR {text}")] {
            assert_eq!(found(&value), Ok(Some(key.id())), "{value}");
        }
        assert_eq!(in_headers(&HeaderMap::new(), &[Source::Basic]).map(|secret| secret.is_none()), Ok(true));
    }

    #[test]
    fn a_query_carries_one_key_under_its_name() {
        let (key, other) = (KeySecret::generate().unwrap(), KeySecret::generate().unwrap());
        let (key, other) = (key.expose(), other.expose());
        let found = |query: &str| in_query(query, "key").map(|secret| secret.map(|secret| secret.expose().to_owned()));
        for query in ["", "key", "keys=x", "a=key", &format!("akey={key}"), &format!("Key={key}")] {
            assert_eq!(found(query), Ok(None), "{query}");
        }
        for query in [format!("key={key}"), format!("a=b&key={key}&c"), format!("&&key={key}&keys={other}")] {
            assert_eq!(found(&query), Ok(Some(key.to_owned())), "{query}");
        }
        for query in ["key=".to_owned(), format!("key={key}x"), format!("key=%20{key}")] {
            assert_eq!(found(&query), Err(CredentialError::Malformed), "{query}");
        }
        assert_eq!(found(&format!("key={key}&key={key}")), Err(CredentialError::Conflicting));
    }

    #[track_caller]
    fn settings(text: &str) -> Result<Settings, String> {
        let source = crate::settings::Source { path: "portcullis.toml".into(), text: text.to_owned() };
        let reading = crate::settings::Reading::new(&source);
        let settings = reading.document();
        reading.finish().map_err(|problems| problems.to_string())?;
        Ok(settings.expect("no problem means that there are settings"))
    }

    #[test]
    fn sources_are_basic_bearer_and_headers_without_a_meaning_of_their_own() {
        let header = |name: &'static str| Source::Header(HeaderName::from_static(name));
        let read = settings(r#"from = ["bearer", "header:X-Key", "basic", "header:api_key"]"#).unwrap();
        assert_eq!(read.from, [Source::Bearer, header("x-key"), Source::Basic, header("api_key")]);
        assert_eq!(settings("").unwrap().from, [Source::Basic, Source::Bearer]);
        for (source, why) in [
            ("Basic", "is not \"basic\""),
            ("header:", "is not \"basic\""),
            ("header:a b", "is not \"basic\""),
            ("x-key", "is not \"basic\""),
            ("header:Authorization", "for the Authorization header"),
            ("header:Host", "has a meaning of its own"),
            ("header:transfer-encoding", "has a meaning of its own"),
        ] {
            let problems = settings(&format!("from = [{source:?}]")).unwrap_err();
            assert!(problems.contains(why), "{source}: {problems}");
        }
    }

    #[test]
    fn a_realm_can_stand_between_quotes() {
        assert_eq!(settings("").unwrap().realm.as_str(), "portcullis");
        assert_eq!(settings("realm = '~ any, =visible= !'").unwrap().realm.as_str(), "~ any, =visible= !");
        for realm in ["", "a\"b", "a\\b", "a\tb", "\u{7f}", "é"] {
            assert!(settings(&format!("realm = {realm:?}").replace("\\u{7f}", "\\u007f")).is_err(), "{realm:?}");
        }
    }
}
