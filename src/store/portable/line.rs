//! The lines as JSON, and what they mean.
//!
//! Invariants: a field that nobody knows is an error, and so is a value that the key API would refuse; what is said about
//! a line never repeats its values, since a wrong file may hold secrets.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use serde_json::error::Category;

use super::{Content, FORMAT, Header, Ported, VERSION};
use crate::clock::Timestamp;
use crate::key::{Digest, KeyId, KeyName, KeyRecord, Kind, Scope, ScopeSet};
use crate::store::{Actor, Facts, LoggedChange, Who};

const OPERATOR: &str = "operator";
/// How long the name of an unknown field may be to be repeated: shorter than a secret.
const SHOWN_NAME_BYTES_MAX: usize = 24;

#[derive(Deserialize, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Line {
    Change(ChangeLine),
    End(EndLine),
    Header(HeaderLine),
    Key(KeyLine),
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HeaderLine {
    format: String,
    version: u32,
    content: String,
    revision: u64,
    created: String,
    keys: u64,
    product: String,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyLine {
    id: String,
    sha256: String,
    name: String,
    kind: String,
    scopes: Vec<String>,
    created: String,
    updated: String,
    last_used: Option<String>,
    created_revision: u64,
    revision: u64,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChangeLine {
    revision: u64,
    at: String,
    actor: String,
    address: Option<String>,
    key: String,
    before: Option<FactsLine>,
    after: Option<FactsLine>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct FactsLine {
    name: String,
    kind: String,
    scopes: Vec<String>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EndLine {
    pub(super) keys: u64,
    pub(super) changes: u64,
    pub(super) sha256: String,
}

/// What a header of any version says.
#[derive(Deserialize)]
struct Probe {
    format: String,
    version: u64,
}

impl Line {
    /// Reads a line that is not the first one.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|error| told(&error))
    }

    /// Reads the first line.
    pub(super) fn parse_header(text: &str) -> Result<Header, String> {
        let probe: Option<Probe> = serde_json::from_str(text).ok();
        match probe {
            Some(Probe { format, .. }) if format != FORMAT => Err(not_ours()),
            None => Err(not_ours()),
            Some(Probe { version, .. }) if version > u64::from(VERSION) => Err(format!(
                "was written by a newer portcullis (format {version}, this one knows {VERSION}); use that version"
            )),
            Some(Probe { version: 0, .. }) => Err("there is no format 0".to_owned()),
            Some(_) => match Self::parse(text)? {
                Self::Header(header) => header.read(),
                _ => Err(not_ours()),
            },
        }
    }
}

fn not_ours() -> String {
    "is not the first line of a portcullis export or backup".to_owned()
}

impl From<&Header> for HeaderLine {
    fn from(header: &Header) -> Self {
        Self {
            format: FORMAT.to_owned(),
            version: VERSION,
            content: header.content.as_str().to_owned(),
            revision: header.revision,
            created: header.created.to_string(),
            keys: header.keys,
            product: concat!("portcullis ", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

impl HeaderLine {
    fn read(&self) -> Result<Header, String> {
        let content = [Content::Backup, Content::Export].into_iter().find(|content| content.as_str() == self.content);
        Ok(Header {
            content: content.ok_or("its content is neither \"backup\" nor \"export\"")?,
            revision: self.revision,
            created: time("created", &self.created)?,
            keys: self.keys,
        })
    }
}

impl Content {
    fn as_str(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Export => "export",
        }
    }
}

impl KeyLine {
    pub(super) fn of(record: &KeyRecord, last_used: Option<Timestamp>) -> Self {
        Self {
            id: record.id.to_string(),
            sha256: hex(record.digest.as_bytes()),
            name: record.name.as_str().to_owned(),
            kind: record.kind.as_str().to_owned(),
            scopes: names(&record.scopes),
            created: record.created.to_string(),
            updated: record.updated.to_string(),
            last_used: last_used.map(|at| at.to_string()),
            created_revision: record.created_revision,
            revision: record.revision,
        }
    }

    /// The key, if a store could hold it whose revision is `revision`.
    pub(super) fn read(&self, revision: u64) -> Result<Ported, String> {
        let Facts { name, kind, scopes } = read_facts(&self.name, &self.kind, &self.scopes)?;
        if self.revision > revision || self.created_revision > self.revision {
            return Err("its revisions are not in order".to_owned());
        }
        let record = KeyRecord {
            id: id("id", &self.id)?,
            digest: unhex(&self.sha256).map(Digest::from_bytes).ok_or("sha256 is not 64 digits of 0-9 a-f")?,
            name,
            kind,
            scopes,
            created: time("created", &self.created)?,
            updated: time("updated", &self.updated)?,
            created_revision: self.created_revision,
            revision: self.revision,
        };
        let last_used = self.last_used.as_deref().map(|text| time("last_used", text)).transpose()?;
        Ok(Ported { record, last_used })
    }
}

impl From<&LoggedChange> for ChangeLine {
    fn from(change: &LoggedChange) -> Self {
        Self {
            revision: change.revision,
            at: change.at.to_string(),
            actor: change.actor.who.to_string(),
            address: change.actor.address.map(|address| address.to_string()),
            key: change.key.to_string(),
            before: change.before.as_ref().map(FactsLine::from),
            after: change.after.as_ref().map(FactsLine::from),
        }
    }
}

impl ChangeLine {
    pub(super) fn read(&self) -> Result<LoggedChange, String> {
        let who = if self.actor == OPERATOR { Who::Operator } else { Who::Key(id("actor", &self.actor)?) };
        let address = self.address.as_deref().map(str::parse).transpose();
        let address = address.map_err(|_| "address is not an IP address")?;
        let facts = |facts: &Option<FactsLine>| facts.as_ref().map(FactsLine::read).transpose();
        let (before, after) = (facts(&self.before)?, facts(&self.after)?);
        if before.is_none() && after.is_none() {
            return Err("a change needs before or after".to_owned());
        }
        let (at, key) = (time("at", &self.at)?, id("key", &self.key)?);
        Ok(LoggedChange { revision: self.revision, at, actor: Actor { who, address }, key, before, after })
    }
}

impl From<&Facts> for FactsLine {
    fn from(facts: &Facts) -> Self {
        Self {
            name: facts.name.as_str().to_owned(),
            kind: facts.kind.as_str().to_owned(),
            scopes: names(&facts.scopes),
        }
    }
}

impl FactsLine {
    fn read(&self) -> Result<Facts, String> {
        read_facts(&self.name, &self.kind, &self.scopes)
    }
}

fn read_facts(name: &str, kind: &str, scopes: &[String]) -> Result<Facts, String> {
    let kind: Kind = kind.parse().map_err(|error| format!("kind: {error}"))?;
    let scopes: Result<Vec<Scope>, _> = scopes.iter().map(|name| Scope::parse(name)).collect();
    let scopes = ScopeSet::new(scopes.map_err(|error| format!("scopes: {error}"))?);
    match kind.fixed_scopes() {
        Some(fixed) if fixed != scopes => {
            return Err(format!("a key of kind {kind} has the scopes {} and no others", fixed.names().join(", ")));
        }
        None if scopes.is_empty() => return Err("scopes: a custom key needs at least one".to_owned()),
        _ => {}
    }
    Ok(Facts { name: KeyName::parse(name).map_err(|error| format!("name: {error}"))?, kind, scopes })
}

fn names(scopes: &ScopeSet) -> Vec<String> {
    scopes.names().into_iter().map(str::to_owned).collect()
}

fn id(field: &str, text: &str) -> Result<KeyId, String> {
    text.parse().map_err(|_| format!("{field} is not a key's id (pcl_ and 12 characters)"))
}

fn time(field: &str, text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|error| format!("{field} is {error}"))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 2 * bytes.len() {
        return None;
    }
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// What is wrong with the JSON, without what stands in it.
fn told(error: &serde_json::Error) -> String {
    if error.classify() != Category::Data {
        return format!("is not valid JSON, at column {}", error.column());
    }
    let message = error.to_string();
    let message = message.split(" at line ").next().unwrap_or_default();
    let ours = ["missing field `", "duplicate field `"].iter().any(|start| message.starts_with(start));
    if ours {
        return message.to_owned();
    }
    let plain = |name: &&str| {
        name.len() <= SHOWN_NAME_BYTES_MAX && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    match message.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next()).filter(plain) {
        Some(name) => format!("has an unknown field, {name}"),
        None if message.starts_with("unknown field") => "has an unknown field".to_owned(),
        None if message.starts_with("unknown variant") => {
            "is of an unknown type (known: header, key, change, end)".to_owned()
        }
        None => "has a field of a wrong type".to_owned(),
    }
}
