//! What an upstream is told of a key, as header values made once and not for each request.

use http::HeaderValue;

use crate::key::KeyRecord;

/// The values of `X-Portcullis-Key-Id`, `-Key-Name`, `-Scopes` and `-Kind`.
#[derive(Clone, Debug)]
pub struct Identity {
    pub id: HeaderValue,
    /// Percent-encoded (RFC 3986) but for visible ASCII and blanks.
    pub name: HeaderValue,
    /// Separated by blanks, as in OAuth 2.0 (RFC 6749 §3.3).
    pub scopes: HeaderValue,
    pub kind: HeaderValue,
}

impl Identity {
    pub(super) fn of(record: &KeyRecord) -> Self {
        Self {
            id: value(record.id.to_string()),
            name: value(visible(record.name.as_str())),
            scopes: value(record.scopes.names().join(" ")),
            kind: HeaderValue::from_static(record.kind.as_str()),
        }
    }
}

fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

fn visible(text: &str) -> String {
    let mut visible = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' => visible.push_str("%25"),
            b' '..=b'~' => visible.push(char::from(byte)),
            _ => visible.push_str(&format!("%{byte:02X}")),
        }
    }
    visible
}
