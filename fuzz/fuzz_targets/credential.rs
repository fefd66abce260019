//! Headers, a path segment, a query: the key that a request carries is the one that a plain reading of RFC 7617 and RFC
//! 6750 finds, or none.

#![no_main]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use portcullis::credential::{CredentialError, Source, in_headers, in_query, in_text};
use portcullis::key::{KeyId, KeyReference, KeySecret};
use portcullis_fuzz::{Choices, key};

const X_KEY: HeaderName = HeaderName::from_static("x-key");

fuzz_target!(|bytes: &[u8]| {
    let mut choices = Choices(bytes);
    let all = [Source::Basic, Source::Bearer, Source::Header(X_KEY)];
    let wanted = choices.byte();
    let sources: Vec<Source> =
        all.into_iter().enumerate().filter(|(bit, _)| wanted >> bit & 1 == 1).map(|(_, source)| source).collect();
    let mut headers = HeaderMap::new();
    for _ in 0..choices.below(4) {
        let name = choices.one_of(&[AUTHORIZATION, AUTHORIZATION, X_KEY].each_ref()).clone();
        if let Ok(value) = HeaderValue::from_bytes(&value(&mut choices)) {
            headers.append(name, value);
        }
    }
    assert_eq!(shown(in_headers(&headers, &sources)), naive(&headers, &sources), "{headers:?} {sources:?}");
    let text = text(&mut choices);
    check_text(&text);
    check_query(&String::from_utf8_lossy(&text), choices.byte());
});

fn shown(result: Result<Option<KeySecret>, CredentialError>) -> Result<Option<String>, CredentialError> {
    result.map(|secret| secret.map(|secret| secret.expose().to_owned()))
}

/// A header's value: as the fuzzer has it, or the pieces in base64.
fn value(choices: &mut Choices<'_>) -> Vec<u8> {
    let scheme: &[u8] =
        choices.one_of(&[&b"Basic "[..], b"basic ", b"BASIC  ", b"Bearer ", b"bearer\t", b"", b"Digest "]);
    let (is_encoded, text) = (choices.byte() % 4 < 3, text(choices));
    let text = if is_encoded && scheme.to_ascii_lowercase().starts_with(b"basic") {
        let mut encoded = STANDARD.encode(text).into_bytes();
        // Sometimes not quite.
        let place = usize::from(choices.byte());
        if place < encoded.len() {
            encoded[place] = choices.byte();
        }
        encoded
    } else {
        text
    };
    [scheme, &text].concat()
}

/// Pieces of which some are keys.
fn text(choices: &mut Choices<'_>) -> Vec<u8> {
    let mut text = Vec::new();
    for _ in 0..choices.below(4) {
        match choices.below(6) {
            0 => text.extend_from_slice(key(1).expose().as_bytes()),
            1 => text.extend_from_slice(key(2).expose().as_bytes()),
            2 => text.push(b':'),
            3 => text.extend_from_slice(choices.one_of(&["...", "key=", "&", "=", "agent", " ", "\0"]).as_bytes()),
            _ => text.extend_from_slice(choices.bytes()),
        }
    }
    if let (Some(byte), true) = (text.get_mut(usize::from(choices.byte())), choices.byte() > 0xe0) {
        *byte = choices.byte();
    }
    text
}

fn naive(headers: &HeaderMap, sources: &[Source]) -> Result<Option<String>, CredentialError> {
    let mut keys: Vec<String> = Vec::new();
    let mut carried = false;
    for source in sources {
        let name = match source {
            Source::Header(name) => name.clone(),
            Source::Basic | Source::Bearer => AUTHORIZATION,
        };
        let values: Vec<&[u8]> = headers.get_all(&name).iter().map(HeaderValue::as_bytes).collect();
        let value = match values[..] {
            [] => continue,
            [value] => value,
            _ => return Err(CredentialError::Malformed),
        };
        carried = true;
        let found = match source {
            Source::Basic => after(value, b"basic ").and_then(of_pair),
            Source::Bearer => after(value, b"bearer ").and_then(as_key),
            Source::Header(_) => as_key(value),
        };
        keys.extend(found);
        keys.dedup();
        if keys.len() > 1 {
            return Err(CredentialError::Conflicting);
        }
    }
    match keys.pop() {
        None if carried => Err(CredentialError::Malformed),
        found => Ok(found),
    }
}

fn after<'v>(value: &'v [u8], scheme: &[u8]) -> Option<&'v [u8]> {
    value.to_ascii_lowercase().starts_with(scheme).then(|| &value[scheme.len()..])
}

fn of_pair(encoded: &[u8]) -> Option<String> {
    let pair = STANDARD.decode(encoded).ok().filter(|_| encoded.len() <= 1_368)?;
    let colon = pair.iter().position(|byte| *byte == b':')?;
    let (user, password) = (&pair[..colon], &pair[colon + 1..]);
    if pair.iter().any(u8::is_ascii_control) {
        return None;
    }
    as_key(user).or_else(|| as_key(password))
}

/// `pcl_`, twelve and thirty-two of 62 characters, and six that are the CRC-32 of all before.
fn as_key(text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(text).ok()?;
    let (id, secret) = text.strip_prefix("pcl_")?.split_once('_')?;
    let is_plain = |part: &str| part.chars().all(|char| char.is_ascii_alphanumeric());
    if id.len() != 12 || secret.len() != 38 || !is_plain(id) || !is_plain(secret) {
        return None;
    }
    let (body, checksum) = text.split_at(text.len() - 6);
    let digit = |char: char| "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz".find(char);
    let number = checksum.chars().try_fold(0_u64, |number, char| Some(number * 62 + digit(char)? as u64))?;
    (number == u64::from(crc32fast::hash(body.as_bytes()))).then(|| text.to_owned())
}

fn check_text(text: &[u8]) {
    let key = KeySecret::parse(text).ok().map(|secret| secret.expose().to_owned());
    assert_eq!(key, as_key(text), "{}", text.escape_ascii());
    let Ok(text) = std::str::from_utf8(text) else { return };
    assert_eq!(in_text(text).ok().map(|secret| secret.expose().to_owned()), key);
    match text.parse::<KeyReference>() {
        Ok(KeyReference::Secret(secret)) => assert_eq!(Some(secret.expose()), key.as_deref()),
        Ok(KeyReference::Id(id)) => {
            assert!(text == id.to_string() || text == id.masked(), "{text:?}");
            assert_eq!(id.to_string().parse::<KeyId>(), Ok(id));
        }
        Err(_) => assert!(key.is_none(), "a key names itself"),
    }
}

fn check_query(query: &str, name: u8) {
    let name = ["key", "k", "", "a"][usize::from(name) % 4];
    let values: Vec<&str> = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .filter(|(given, _)| *given == name)
        .map(|(_, value)| value)
        .collect();
    let expected = match values[..] {
        [] => Ok(None),
        [value] => as_key(value.as_bytes()).map(Some).ok_or(CredentialError::Malformed),
        _ => Err(CredentialError::Conflicting),
    };
    assert_eq!(shown(in_query(query, name)), expected, "{query:?} {name:?}");
}
