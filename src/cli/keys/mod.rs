//! `keys`: the key API of a running gate, from the command line.

mod api;
mod view;

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::key::{KeyReference, KeySecret, Kind};

use super::client::Address;
use super::exit::UsageError;
use super::output::OutputError;
use super::trust::Trust;
use super::{Exit, output};

use api::{Api, Change, Draft};

const KEY_VARIABLE: &str = "PORTCULLIS_KEY";

/// Manage the keys of a running gate
///
/// Talks to the key API with a key that may manage keys (scopes key:read, key:write). A key is named by its id, as
/// listings show it; `self` is the calling key.
#[derive(Args)]
#[command(after_help = "Example: PORTCULLIS_KEY=$(cat root.key) portcullis keys list")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    trust: Trust,
}

#[derive(Args)]
#[command(next_help_heading = "Connection")]
struct Connection {
    /// The gate; with a path, that of its key API (default /api/keys)
    // The value of the variable is not shown: it may be refused for a key in it, and help goes to terminals and logs.
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "PORTCULLIS_URL",
        hide_env_values = true,
        default_value = "http://127.0.0.1:8080"
    )]
    url: String,
    /// A file that holds the calling key
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "key")]
    key_file: Option<PathBuf>,
    /// The calling key; other users of this machine can read it in the list of processes, so rather set
    /// PORTCULLIS_KEY or use --key-file
    #[arg(long, global = true, value_name = "KEY")]
    key: Option<String>,
}

#[derive(Subcommand)]
enum Command {
    /// List all keys, in order of creation
    List {
        /// Print a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Show one key
    Get {
        /// Its id (pcl_ and 12 characters), or `self`
        #[arg(value_name = "ID")]
        target: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Create a key and print it, once
    #[command(after_help = "Example: portcullis keys create --name 'CI pipeline' --kind custom --scope monitor:read")]
    Create {
        /// A name for people
        #[arg(long)]
        name: String,
        /// The kind; only `custom` takes scopes
        #[arg(long, value_parser = kinds())]
        kind: Kind,
        /// A scope of a custom key; repeat it, or separate scopes by commas
        #[arg(long = "scope", value_name = "SCOPE", value_delimiter = ',')]
        scopes: Vec<String>,
        /// Print the whole answer as JSON
        #[arg(long)]
        json: bool,
    },
    /// Rename a key, or replace the scopes of a custom one: give --name, --scope or both
    #[command(after_help = "Example: portcullis keys update pcl_0123456789Ab --scope monitor:read,issue:read")]
    Update {
        /// Its id (pcl_ and 12 characters)
        #[arg(value_name = "ID")]
        target: String,
        /// The new name
        #[arg(long, required_unless_present = "scopes")]
        name: Option<String>,
        /// A scope of the new set; repeat it, or separate scopes by commas
        #[arg(long = "scope", id = "scopes", value_name = "SCOPE", value_delimiter = ',')]
        scopes: Option<Vec<String>>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Delete a key: it is refused from then on, and cannot be brought back
    Delete {
        /// Its id (pcl_ and 12 characters), or `self`
        #[arg(value_name = "ID")]
        target: String,
    },
}

fn kinds() -> impl TypedValueParser<Value = Kind> {
    PossibleValuesParser::new(Kind::EVERY.map(Kind::as_str)).try_map(|name| name.parse::<Kind>())
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    let mut api = arguments.connection.api(&arguments.trust)?;
    let text = match &arguments.command {
        Command::List { json } => {
            let keys = api.list()?;
            if *json { output::json(&Value::Array(keys)) } else { view::table(&keys)? }
        }
        Command::Get { target, json } => shown(&api.get(&segment(target)?)?, *json)?,
        Command::Create { name, kind, scopes, json } => {
            let key = api.create(&Draft { name, kind: kind.as_str(), scopes })?;
            return created(&key, *json);
        }
        Command::Update { target, name, scopes, json } => {
            let change = Change { name: name.as_deref(), scopes: scopes.as_deref() };
            shown(&api.update(&segment(target)?, &change)?, *json)?
        }
        Command::Delete { target } => {
            let segment = segment(target)?;
            api.delete(&segment)?;
            format!("deleted {segment}")
        }
    };
    output::print(&text)?;
    Ok(Exit::Success)
}

/// The key alone on stdout, so that `KEY=$(portcullis keys create ...)` holds it.
fn created(key: &Value, json: bool) -> anyhow::Result<Exit> {
    let text = if json { output::json(key) } else { view::secret(key)? };
    // Not an error to pass over when a reader has left: the key works, and nobody has it.
    output::print(&text).map_err(|error| not_shown(key, error))?;
    output::note("This is the only time that the key is shown: keep it.");
    Ok(Exit::Success)
}

fn not_shown(key: &Value, error: OutputError) -> anyhow::Error {
    let id = output::escaped(key["id"].as_str().unwrap_or_default());
    anyhow::anyhow!(
        "key {id} was created but could not be printed ({:#}); remove it with `portcullis keys delete {id}`",
        anyhow::Error::new(error)
    )
}

fn shown(key: &Value, json: bool) -> anyhow::Result<String> {
    if json { Ok(output::json(key)) } else { view::details(key) }
}

/// How the path names a key. A secret does not go there: proxies log paths, and its id names the key as well.
fn segment(target: &str) -> Result<String, UsageError> {
    if target == "self" {
        return Ok(target.to_owned());
    }
    let reference: Result<KeyReference, _> = target.parse();
    // The text is not repeated: it may be somebody's secret with a slip in it.
    let reference = reference.map_err(|_| UsageError("a key is named by its id: pcl_ and 12 characters".to_owned()))?;
    Ok(reference.id().to_string())
}

impl Connection {
    fn api(&self, trust: &Trust) -> anyhow::Result<Api> {
        let address = Address::parse(&self.url).map_err(|message| UsageError(format!("--url: {message}")))?;
        Api::new(address, &trust.settings(), &self.secret()?)
    }

    fn secret(&self) -> anyhow::Result<KeySecret> {
        let (place, text) = match (&self.key_file, &self.key) {
            (Some(path), _) => (path.display().to_string(), read_key(path)?),
            (None, Some(key)) => ("--key".to_owned(), Zeroizing::new(key.clone())),
            (None, None) => (KEY_VARIABLE.to_owned(), key_of_environment()?),
        };
        KeySecret::parse(text.trim().as_bytes())
            .map_err(|_| UsageError(format!("{place} holds no key: pcl_, 12 characters, _ and 38 characters")).into())
    }
}

fn read_key(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Zeroizing::new(text))
}

/// Not left to the command line's parser, which prints the values of variables in its help.
fn key_of_environment() -> Result<Zeroizing<String>, UsageError> {
    let text = std::env::var(KEY_VARIABLE).ok().filter(|text| !text.is_empty());
    text.map(Zeroizing::new)
        .ok_or_else(|| UsageError(format!("no key to call with: set {KEY_VARIABLE}, or give --key-file FILE")))
}
