//! `init`: the store and its first key.

use anyhow::Context;
use clap::Args;

use crate::clock::Clock;
use crate::key::{KeyName, KeyRecord, KeySecret, Kind};
use crate::policy::operator_grant;
use crate::store::{Actor, Change, Operation, SledStore, Store};

use super::{ConfigArgument, Exit, output};

/// Make the store and its first key
///
/// The key is called `root` and holds all scopes. It is printed once, alone on stdout, and cannot be shown again. A store
/// that has keys is left alone. Do this once, before the first `serve`.
#[derive(Args)]
#[command(after_help = "Example: (umask 077; portcullis init --config portcullis.toml > root.key)")]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    let settings = arguments.config.load()?.store;
    let store = SledStore::create(&settings)?;
    let secret = KeySecret::generate().context("the operating system has no randomness to give")?;
    let root = root_record(&secret)?;
    let revision = root.revision;
    let change = Change { revision, at: root.created, actor: Actor::OPERATOR, operation: Operation::Create(root) };
    store.commit(&change)?;
    // Not an error to pass over when a reader has left: this was the one chance to see the key.
    output::print(secret.expose()).map_err(|error| {
        let path = settings.path.display();
        anyhow::anyhow!("the key is in the store but could not be printed ({error}); remove {path} and run init again")
    })?;
    output::note(&format!(
        "The store in {} is ready. Above is its root key, which holds all scopes: keep it, it cannot be shown again.",
        settings.path.display()
    ));
    Ok(Exit::Success)
}

fn root_record(secret: &KeySecret) -> anyhow::Result<KeyRecord> {
    let now = Clock::System.now();
    Ok(KeyRecord {
        id: secret.id(),
        digest: secret.digest(),
        name: KeyName::parse("root")?,
        kind: Kind::Custom,
        scopes: operator_grant().scopes().clone(),
        created: now,
        updated: now,
        created_revision: 1,
        revision: 1,
    })
}
