//! What a create or an update asks for, read out of its JSON body: every wrong field at once, nothing guessed.
//!
//! Refuses repeated members and names of another case: two readers of one body must not see two different requests.
//! Whether the caller may have what it asks for is the keyring's to say.

use std::fmt;

use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::error::Category;

use crate::http::{FieldError, Refusal};
use crate::key::{KeyName, Kind, Scope, ScopeCatalog, ScopeSet};
use crate::keyring::{Changes, Draft};
use crate::settings::nearest;

const WRITABLE: [&str; 3] = ["name", "kind", "scopes"];
/// What an answer holds besides: an update may echo it, a create may not claim it.
const READ_ONLY: [&str; 6] = ["key", "id", "immutable", "last_used", "created", "updated"];
/// Enough to mend a body by; a hostile one must not be answered with a larger one.
const ERRORS_MAX: usize = 32;
const FIELD_CHARS_MAX: usize = 32;

/// An update, and the kind that it echoes: the kind of a key never changes.
pub struct Update {
    pub changes: Changes,
    pub kind: Option<Kind>,
}

/// Reads the body of a create.
///
/// # Errors
/// [`Refusal::MediaTypeUnsupported`], or [`Refusal::InvalidBody`] naming every field that is wrong.
pub fn draft(headers: &HeaderMap, body: &[u8], catalog: &ScopeCatalog) -> Result<Draft, Refusal> {
    require_json(headers)?;
    let mut fields = Fields::read(body)?;
    let name = fields.name();
    let kind = fields.kind();
    let scopes = fields.scopes(catalog);
    let name = fields.required("name", name);
    let kind = fields.required("kind", kind);
    let scopes = match kind.map(Kind::fixed_scopes) {
        Some(Some(fixed)) => fields.fixed(scopes, &fixed),
        Some(None) => fields.required("scopes", scopes),
        None => None,
    };
    fields.refuse_rest(&[]);
    fields.finish(name.zip(kind).map(|(name, kind)| Draft { name, kind, scopes }))
}

/// Reads the body of an update.
///
/// # Errors
/// As [`draft`].
pub fn update(headers: &HeaderMap, body: &[u8], catalog: &ScopeCatalog) -> Result<Update, Refusal> {
    require_json(headers)?;
    let mut fields = Fields::read(body)?;
    let name = fields.name().value();
    let kind = fields.kind().value();
    let scopes = fields.scopes(catalog).value();
    fields.refuse_rest(&READ_ONLY);
    fields.finish(Some(Update { changes: Changes { name, scopes }, kind }))
}

/// The refusal of an update that names another kind than the key has.
pub fn kind_differs(present: Kind) -> Refusal {
    let message = format!("never changes, and the kind of this key is {present}");
    invalid(vec![FieldError { field: "kind".to_owned(), code: "read_only", message }])
}

/// The refusal of scopes for a kind that has its own.
pub fn scopes_are_fixed(fixed: &ScopeSet) -> Refusal {
    let (code, message) = fixed_scopes(fixed);
    invalid(vec![FieldError { field: "scopes".to_owned(), code, message }])
}

/// The refusal of a custom key without scopes.
pub fn scopes_are_missing() -> Refusal {
    let (code, message) = required();
    invalid(vec![FieldError { field: "scopes".to_owned(), code, message }])
}

fn require_json(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let one_json_type = match (types.next(), types.next()) {
        (Some(only), None) => only.to_str().is_ok_and(is_json),
        _ => false,
    };
    let identity = |coding: &http::HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"identity");
    if !one_json_type || !headers.get_all(CONTENT_ENCODING).iter().all(identity) {
        return Err(Refusal::MediaTypeUnsupported);
    }
    Ok(())
}

/// `application/json`, with no parameter but the only character set that JSON has (RFC 8259 §8.1).
fn is_json(media_type: &str) -> bool {
    let mut parts = media_type.split(';').map(str::trim);
    let is_utf8 = |parameter: &str| {
        parameter.eq_ignore_ascii_case("charset=utf-8") || parameter.eq_ignore_ascii_case("charset=\"utf-8\"")
    };
    parts.next().is_some_and(|essence| essence.eq_ignore_ascii_case("application/json")) && parts.all(is_utf8)
}

fn invalid(errors: Vec<FieldError>) -> Refusal {
    Refusal::InvalidBody { detail: "The body has invalid fields.".to_owned(), errors }
}

/// What became of one field.
enum Given<T> {
    Absent,
    /// Wrong, and reported.
    Refused,
    Value(T),
}

impl<T> Given<T> {
    fn value(self) -> Option<T> {
        match self {
            Self::Absent | Self::Refused => None,
            Self::Value(value) => Some(value),
        }
    }
}

/// The members of a JSON object in their order, repeated ones too: a map would hide them.
struct Members(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Collect)
    }
}

/// A body that is being read: the members not asked for yet, and what was wrong so far.
struct Fields {
    members: Vec<(String, Value)>,
    errors: Vec<FieldError>,
}

impl Fields {
    fn read(body: &[u8]) -> Result<Self, Refusal> {
        let Members(members) = serde_json::from_slice(body).map_err(|error| not_an_object(&error))?;
        Ok(Self { members, errors: Vec::new() })
    }

    fn name(&mut self) -> Given<KeyName> {
        self.field("name", |value| {
            let text = value.as_str().ok_or_else(|| wrong_type("a string", value))?;
            KeyName::parse(text).map_err(|error| ("invalid_name", error.to_string()))
        })
    }

    fn kind(&mut self) -> Given<Kind> {
        self.field("kind", |value| {
            let text = value.as_str().ok_or_else(|| wrong_type("a string", value))?;
            let near = nearest(text, Kind::EVERY.into_iter().map(Kind::as_str));
            text.parse::<Kind>().map_err(|error| ("invalid_kind", suggesting(error.to_string(), near)))
        })
    }

    /// Every scope that is wrong is reported, so the field is not read through [`Fields::field`].
    fn scopes(&mut self, catalog: &ScopeCatalog) -> Given<ScopeSet> {
        let Some(value) = self.take("scopes") else { return Given::Absent };
        let Some(elements) = value.as_array() else {
            return self.refuse("scopes", wrong_type("an array of strings", &value));
        };
        if elements.is_empty() {
            return self.refuse("scopes", ("empty", "a key needs at least one scope".to_owned()));
        }
        let mut scopes = Vec::with_capacity(elements.len());
        let reported = self.errors.len();
        for element in elements {
            match scope(element, catalog) {
                Ok(scope) => scopes.push(scope),
                Err(reason) => self.report("scopes", reason),
            }
        }
        if self.errors.len() > reported { Given::Refused } else { Given::Value(ScopeSet::new(scopes)) }
    }

    fn required<T>(&mut self, name: &str, given: Given<T>) -> Option<T> {
        if matches!(given, Given::Absent) {
            self.report(name, required());
        }
        given.value()
    }

    /// The scopes of a kind that fixes them: stating the same ones is harmless, stating others is a mistake.
    fn fixed(&mut self, given: Given<ScopeSet>, fixed: &ScopeSet) -> Option<ScopeSet> {
        if given.value().is_some_and(|scopes| scopes != *fixed) {
            self.report("scopes", fixed_scopes(fixed));
        }
        None
    }

    /// Reports every member that was not asked for, but those named in `ignored`.
    fn refuse_rest(&mut self, ignored: &[&str]) {
        while self.errors.len() < ERRORS_MAX
            && let Some((name, _)) = self.members.first()
        {
            let name = name.clone();
            let _ = self.take(&name);
            if READ_ONLY.contains(&name.as_str()) {
                if !ignored.contains(&name.as_str()) {
                    self.report(&name, ("read_only", "is set by the server".to_owned()));
                }
                continue;
            }
            let near = nearest(&name.to_ascii_lowercase(), WRITABLE.into_iter());
            self.report(&shown(&name), ("unknown_field", suggesting("is not a field of a key".to_owned(), near)));
        }
    }

    fn finish<T>(self, request: Option<T>) -> Result<T, Refusal> {
        match request {
            Some(request) if self.errors.is_empty() => Ok(request),
            _ => Err(invalid(self.errors)),
        }
    }

    fn field<T>(&mut self, name: &str, read: impl FnOnce(&Value) -> Result<T, Reason>) -> Given<T> {
        let Some(value) = self.take(name) else { return Given::Absent };
        match read(&value) {
            Ok(value) => Given::Value(value),
            Err(reason) => self.refuse(name, reason),
        }
    }

    /// Removes the member of that name; a second one of the same name is reported.
    fn take(&mut self, name: &str) -> Option<Value> {
        let mut taken = Vec::new();
        self.members.retain_mut(|(member, value)| {
            let wanted = member == name;
            if wanted {
                taken.push(value.take());
            }
            !wanted
        });
        if taken.len() > 1 {
            self.report(&shown(name), ("duplicate_field", "is given more than once".to_owned()));
        }
        taken.pop()
    }

    fn refuse<T>(&mut self, name: &str, reason: Reason) -> Given<T> {
        self.report(name, reason);
        Given::Refused
    }

    fn report(&mut self, field: &str, (code, message): Reason) {
        if self.errors.len() < ERRORS_MAX {
            self.errors.push(FieldError { field: field.to_owned(), code, message });
        }
    }
}

/// The stable code of what is wrong with a field, and the text for people.
type Reason = (&'static str, String);

fn required() -> Reason {
    ("required", "is required".to_owned())
}

fn fixed_scopes(fixed: &ScopeSet) -> Reason {
    ("fixed_scopes", format!("the scopes of this kind are fixed: {}", fixed.names().join(", ")))
}

fn scope(element: &Value, catalog: &ScopeCatalog) -> Result<Scope, Reason> {
    let text = element.as_str().ok_or_else(|| wrong_type("an array of strings", element))?;
    // A text that no scope can have is not repeated: it may be a key in the wrong place.
    let scope = Scope::parse(text).map_err(|error| ("invalid_scope", error.to_string()))?;
    if !catalog.contains(&scope) {
        let near = nearest(text, catalog.iter().map(|(declared, _)| declared.as_str()));
        return Err(("unknown_scope", suggesting(format!("{scope} is not a declared scope"), near)));
    }
    Ok(scope)
}

fn wrong_type(wanted: &str, value: &Value) -> Reason {
    let given = match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    ("wrong_type", format!("must be {wanted}, not {given}"))
}

fn suggesting(message: String, near: Option<&str>) -> String {
    match near {
        Some(near) => format!("{message}; did you mean {near}?"),
        None => message,
    }
}

/// A field's name as an answer may repeat it. Cut where a key's public id ends: the name may be a key in the wrong place.
fn shown(name: &str) -> String {
    if name.chars().count() <= FIELD_CHARS_MAX {
        return name.to_owned();
    }
    let start: String = name.chars().take(16).collect();
    format!("{start}...")
}

fn not_an_object(error: &serde_json::Error) -> Refusal {
    let detail = match error.classify() {
        Category::Data => "The body must be a JSON object.".to_owned(),
        Category::Eof | Category::Io | Category::Syntax => {
            format!("The body is not valid JSON: see line {}, column {}.", error.line(), error.column())
        }
    };
    Refusal::InvalidBody { detail, errors: Vec::new() }
}
