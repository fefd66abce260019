//! The audit line of each change that was made: who, what, to which key, from where. Never a secret.

use std::net::IpAddr;

use tracing::info;

use crate::key::KeyId;
use crate::keyring::KeyView;

/// A change that is on disk.
pub enum Change<'k> {
    Create { key: &'k KeyView },
    Delete { key: &'k KeyView },
    Update { before: &'k KeyView, after: &'k KeyView },
}

/// Writes the line. An update that changed nothing is not a change.
pub fn record(actor: KeyId, address: IpAddr, change: &Change<'_>) {
    let (operation, before, after) = match change {
        Change::Create { key } => ("create", None, Some(*key)),
        Change::Delete { key } => ("delete", Some(*key), None),
        Change::Update { before, after } => ("update", Some(*before), Some(*after)),
    };
    let name = |view: Option<&KeyView>| view.map(|view| view.record.name.as_str().to_owned());
    let scopes = |view: Option<&KeyView>| view.map(|view| view.record.scopes.names().join(","));
    let (name_before, name_after) = changed(name(before), name(after));
    let (scopes_before, scopes_after) = changed(scopes(before), scopes(after));
    let Some(key) = after.or(before) else { return };
    if [&name_before, &name_after, &scopes_before, &scopes_after].iter().all(|value| value.is_none()) {
        return;
    }
    info!(
        target: "audit",
        actor = %actor,
        operation,
        key.id = %key.record.id,
        key.kind = key.record.kind.as_str(),
        name.before = name_before,
        name.after = name_after,
        scopes.before = scopes_before,
        scopes.after = scopes_after,
        client.address = %address,
        "key changed"
    );
}

/// Both sides of a field, or neither when they agree.
fn changed(before: Option<String>, after: Option<String>) -> (Option<String>, Option<String>) {
    if before == after { (None, None) } else { (before, after) }
}
