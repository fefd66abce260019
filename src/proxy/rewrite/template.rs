//! The value of a header field that a route sets: text, and names of what differs from request to request.
//!
//! Refuses at load what could not be a field value, so that filling in cannot fail for what a client sent.

use std::fmt;
use std::net::IpAddr;

use http::HeaderValue;

use crate::http::RequestId;
use crate::keyring::Identity;
use crate::route::{Path, Pattern};
use crate::settings::{Node, Value};

#[derive(Clone, Eq, PartialEq)]
pub struct Template {
    /// Never empty.
    parts: Vec<Part>,
    /// As the configuration writes it, when it names secrets by placeholders: what is shown in place of the value.
    written: Option<Box<str>>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Part {
    ClientIp,
    KeyId,
    KeyKind,
    KeyName,
    KeyScopes,
    /// Visible ASCII and blanks, which may be none.
    Literal(HeaderValue),
    /// A parameter of the route's pattern.
    Path(Box<str>),
    RequestId,
}

/// Why a text is no template. The texts say what to write.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TemplateError {
    #[error("a blank at the start or end would not arrive; leave it out")]
    Blank,
    #[error("{0:?} cannot stand in a header; write visible ASCII characters and blanks")]
    Character(char),
    #[error("{{path.credential}} is the key itself; write {{key.id}}")]
    Credential,
    #[error("a {{ or }} stands alone; write {{{{ or }}}} for the character itself")]
    Unbalanced,
    #[error(
        "{{{0}}} is not known; known: {{key.id}}, {{key.name}}, {{key.kind}}, {{key.scopes}}, {{path.NAME}}, \
         {{request.id}}, {{client.ip}}"
    )]
    Unknown(String),
}

/// What one request fills templates with.
pub(super) struct Values<'v> {
    pub(super) identity: Option<&'v Identity>,
    pub(super) pattern: &'v Pattern,
    /// As the client sent it.
    pub(super) path: Path<'v>,
    pub(super) client: IpAddr,
    /// Made when a template asks for it and nothing did before.
    pub(super) request_id: &'v mut Option<RequestId>,
}

impl Template {
    /// # Errors
    /// [`TemplateError`].
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        if text.trim_matches(' ') != text {
            return Err(TemplateError::Blank);
        }
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            literal.push_str(&rest[..at]);
            let (brace, after) = rest[at..].split_at(1);
            if let Some(after) = after.strip_prefix(brace) {
                literal.push_str(brace);
                rest = after;
                continue;
            }
            let (name, after) = after.split_once('}').filter(|_| brace == "{").ok_or(TemplateError::Unbalanced)?;
            parts.extend(literal_part(std::mem::take(&mut literal))?);
            parts.push(Part::parse(name)?);
            rest = after;
        }
        literal.push_str(rest);
        parts.extend(literal_part(literal)?);
        if parts.is_empty() {
            parts.push(Part::Literal(HeaderValue::from_static("")));
        }
        Ok(Self { parts, written: None })
    }

    /// The same, shown as it is written: its value came out of the environment or a file, and may be a secret.
    fn written_as(mut self, written: &str) -> Self {
        self.written = Some(written.into());
        for part in &mut self.parts {
            if let Part::Literal(value) = part {
                value.set_sensitive(true);
            }
        }
        self
    }

    /// The parameters of a pattern that this needs.
    pub fn parameters(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Path(name) => Some(&**name),
            _ => None,
        })
    }

    /// Whether only a request with a key can fill this in.
    pub fn needs_key(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::KeyId | Part::KeyKind | Part::KeyName | Part::KeyScopes))
    }

    /// The value for one request. `None` when `values` lacks what [`Template::needs_key`] and
    /// [`Template::parameters`] tell.
    pub(super) fn fill(&self, values: &mut Values<'_>) -> Option<HeaderValue> {
        if let [part] = &self.parts[..] {
            return part.value(values);
        }
        let mut bytes = Vec::new();
        for part in &self.parts {
            bytes.extend_from_slice(part.value(values)?.as_bytes());
        }
        let mut value = HeaderValue::from_maybe_shared(bytes::Bytes::from(bytes)).ok()?;
        value.set_sensitive(self.written.is_some());
        Some(value)
    }
}

/// # Errors
/// The first character that no field value can hold.
fn literal_part(text: String) -> Result<Option<Part>, TemplateError> {
    if let Some(character) = text.chars().find(|character| !matches!(character, ' '..='~')) {
        return Err(TemplateError::Character(character));
    }
    // Checked above.
    Ok(HeaderValue::try_from(text).ok().filter(|value| !value.is_empty()).map(Part::Literal))
}

impl Part {
    fn parse(name: &str) -> Result<Self, TemplateError> {
        match name {
            "client.ip" => Ok(Self::ClientIp),
            "key.id" => Ok(Self::KeyId),
            "key.kind" => Ok(Self::KeyKind),
            "key.name" => Ok(Self::KeyName),
            "key.scopes" => Ok(Self::KeyScopes),
            "path.credential" => Err(TemplateError::Credential),
            "request.id" => Ok(Self::RequestId),
            _ => match name.strip_prefix("path.") {
                Some(parameter) if !parameter.is_empty() => Ok(Self::Path(parameter.into())),
                _ => Err(TemplateError::Unknown(name.to_owned())),
            },
        }
    }

    fn value(&self, values: &mut Values<'_>) -> Option<HeaderValue> {
        match self {
            Self::ClientIp => HeaderValue::try_from(values.client.to_string()).ok(),
            Self::KeyId => Some(values.identity?.id.clone()),
            Self::KeyKind => Some(values.identity?.kind.clone()),
            Self::KeyName => Some(values.identity?.name.clone()),
            Self::KeyScopes => Some(values.identity?.scopes.clone()),
            Self::Literal(value) => Some(value.clone()),
            Self::Path(name) => HeaderValue::try_from(one_spelling(values.pattern.parameter(name, &values.path)?)).ok(),
            Self::RequestId => {
                HeaderValue::try_from(values.request_id.get_or_insert_with(RequestId::new).to_string()).ok()
            }
        }
    }
}

/// A part of a path, percent-encoded in one way however it was sent: only what a path cannot hold plainly.
///
/// Always visible ASCII, and never a character that separates values in a field but those that a path holds plainly:
/// `a%7Cb` does not become `a|b`, which Loki and Mimir would take for two tenants.
fn one_spelling(raw: &str) -> String {
    let mut text = String::with_capacity(raw.len());
    let mut left = raw;
    while let Some(at) = left.find('%') {
        let (before, escape) = left.split_at(at);
        let (escape, after) = escape.split_at_checked(3).unwrap_or((escape, ""));
        text.push_str(before);
        match u8::from_str_radix(&escape[1..], 16) {
            Ok(byte) if b"!$&'()*+,;=:@".contains(&byte) => text.push(char::from(byte)),
            _ => text.push_str(&escape.to_ascii_uppercase()),
        }
        left = after;
    }
    text + left
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(written) = &self.written {
            return f.write_str(written);
        }
        self.parts.iter().try_for_each(|part| match part {
            Part::ClientIp => f.write_str("{client.ip}"),
            Part::KeyId => f.write_str("{key.id}"),
            Part::KeyKind => f.write_str("{key.kind}"),
            Part::KeyName => f.write_str("{key.name}"),
            Part::KeyScopes => f.write_str("{key.scopes}"),
            Part::Literal(value) => {
                f.write_str(&value.to_str().unwrap_or_default().replace('{', "{{").replace('}', "}}"))
            }
            Part::Path(name) => write!(f, "{{path.{name}}}"),
            Part::RequestId => f.write_str("{request.id}"),
        })
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Template({:?})", self.to_string())
    }
}

impl Value for Template {
    fn read(node: &Node<'_>) -> Option<Self> {
        match Self::parse(&node.text()?) {
            Ok(template) => Some(match node.placeholders() {
                Some(written) => template.written_as(written),
                None => template,
            }),
            Err(error) => node.problem(format!("{}: {error}", node.path())),
        }
    }
}
