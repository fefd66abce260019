//! Keys as people read them.

use anyhow::Context;
use serde::Deserialize;
use serde_json::Value;

use crate::cli::output::{self, escaped};

#[derive(Deserialize)]
struct Key {
    key: String,
    id: String,
    name: String,
    kind: String,
    scopes: Vec<String>,
    last_used: Option<String>,
    created: String,
    updated: String,
}

impl Key {
    fn read(key: &Value) -> anyhow::Result<Self> {
        Self::deserialize(key).context("the gate's answer is not a key")
    }

    fn last_used(&self) -> String {
        self.last_used.as_deref().map_or_else(|| "never".to_owned(), escaped)
    }

    fn scopes(&self) -> String {
        escaped(&self.scopes.join(", "))
    }
}

/// One key a line.
pub(super) fn table(keys: &[Value]) -> anyhow::Result<String> {
    let rows: Vec<[String; 6]> =
        keys.iter().map(|key| Key::read(key).map(|key| row(&key))).collect::<Result<_, _>>()?;
    Ok(output::table(["ID", "NAME", "KIND", "LAST USED", "CREATED", "SCOPES"], &rows))
}

fn row(key: &Key) -> [String; 6] {
    let (id, name, kind) = (escaped(&key.id), escaped(&key.name), escaped(&key.kind));
    [id, name, kind, key.last_used(), escaped(&key.created), key.scopes()]
}

/// One field a line.
pub(super) fn details(key: &Value) -> anyhow::Result<String> {
    let key = Key::read(key)?;
    Ok(output::fields(&[
        ("id", escaped(&key.id)),
        ("name", escaped(&key.name)),
        ("kind", escaped(&key.kind)),
        ("scopes", key.scopes()),
        ("last used", key.last_used()),
        ("created", escaped(&key.created)),
        ("updated", escaped(&key.updated)),
    ]))
}

/// The full text of a key that was just made.
pub(super) fn secret(key: &Value) -> anyhow::Result<String> {
    Ok(escaped(&Key::read(key)?.key))
}
