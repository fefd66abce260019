//! `explain`: what the gate would do with a request, and why.

mod judge;
mod request;

use std::collections::BTreeSet;

use anyhow::Context;
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::config::Config;
use crate::http::{Challenge, RequestId};
use crate::key::{Kind, Scope, ScopeSet};
use crate::settings::nearest;

use super::exit::UsageError;
use super::{ConfigArgument, Exit, output, show};

use judge::{Admitted, Caller, Judgement};
use request::Request;

/// Explain what happens to a request
///
/// Tells which line of the route table governs it and why, the verdict, and the status that the client would get. Says
/// it for a stranger, or for a key with the scopes of `--scopes` or the kind of `--kind`. Ends with 0 when the request
/// is admitted, with 1 when it is refused. Rates, limits and what the upstream answers are left out. Opens no store and
/// no connection.
#[derive(Args)]
#[command(
    after_help = "Example: portcullis explain --config portcullis.toml 'POST /api/v1/write' --scopes metrics:write"
)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Method and path, as in 'GET /api/v1/query?query=up'
    request: Request,
    /// The Host that the request names
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// Suppose a key with these scopes, separated by commas
    #[arg(long, value_name = "SCOPES", value_delimiter = ',', value_parser = Scope::parse, conflicts_with = "kind")]
    scopes: Vec<Scope>,
    /// Suppose a key of this kind
    #[arg(long, value_parser = fixed_kinds())]
    kind: Option<Kind>,
}

fn fixed_kinds() -> impl TypedValueParser<Value = Kind> {
    let names = Kind::EVERY.into_iter().filter(|kind| kind.is_immutable()).map(Kind::as_str);
    PossibleValuesParser::new(names.collect::<Vec<&str>>()).try_map(|name| name.parse::<Kind>())
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    let config = arguments.config.load()?;
    let caller = caller(arguments, &config)?;
    let host = arguments.host.clone().or_else(|| judge::assumed_host(&config));
    let judgement = judge::judge(&config, &arguments.request, host.as_deref(), &caller);
    let exit = if judgement.verdict.is_ok() { Exit::Success } else { Exit::Refused };
    output::print(&text(&config, arguments, &caller, judgement)?)?;
    Ok(exit)
}

fn caller(arguments: &Arguments, config: &Config) -> Result<Caller, UsageError> {
    if let Some(scopes) = arguments.kind.and_then(Kind::fixed_scopes) {
        return Ok(Caller::Key(scopes));
    }
    if arguments.scopes.is_empty() {
        return Ok(Caller::Stranger);
    }
    if let Some(unknown) = arguments.scopes.iter().find(|scope| !config.scopes.contains(scope)) {
        let near = nearest(unknown.as_str(), config.scopes.iter().map(|(declared, _)| declared.as_str()));
        let hint = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
        return Err(UsageError(format!("scope {unknown} is not declared, so no key can hold it{hint}")));
    }
    Ok(Caller::Key(ScopeSet::new(arguments.scopes.iter().cloned())))
}

fn text(config: &Config, arguments: &Arguments, caller: &Caller, judgement: Judgement<'_>) -> anyhow::Result<String> {
    let mut fields = vec![("request", arguments.request.to_string()), ("caller", caller.to_string())];
    if let Some((pattern, line)) = judgement.line {
        fields.push(("line", pattern.to_string()));
        fields.push(("needs", show::requirement(&line.settings.requirement)));
        fields.push(("key from", show::sources(&line.settings, pattern.has_credential())));
        fields.push(("limits", show::limits(&line.settings)));
    }
    fields.push(("why", judgement.reasons.join("\n")));
    let (verdict, status) = match judgement.verdict {
        Ok(Admitted::KeyApi) => ("admitted to the key API".to_owned(), "what the key API answers".to_owned()),
        Ok(Admitted::Upstream(position)) => {
            fields.extend(judgement.target.map(|target| ("target", target)));
            let changes = judgement.line.map(|(_, line)| show::changes(&line.settings.rewrite));
            fields.extend(changes.filter(|changes| !changes.is_empty()).map(|changes| ("changes", changes.join("\n"))));
            let upstream = config.upstreams.get(position).context("a route names an upstream that is not there")?;
            (format!("admitted to {} ({})", upstream.name, upstream.urls), "what the upstream answers".to_owned())
        }
        Err(refusal) => {
            // The refusal's own response: nothing else says which status a client gets.
            let response =
                refusal.into_response(RequestId::new(), &Challenge::basic(config.credentials.realm.as_str()));
            let problem: Problem = serde_json::from_slice(response.body())?;
            (format!("refused ({}): {}", problem.code, problem.detail), response.status().to_string())
        }
    };
    fields.push(("verdict", verdict));
    fields.push(("status", status));
    Ok(output::escaped_lines(&output::fields(&fields)))
}

#[derive(serde::Deserialize)]
struct Problem {
    code: String,
    detail: String,
}

/// The texts of lines, none twice.
fn listed<'p>(patterns: impl Iterator<Item = &'p crate::route::Pattern>) -> String {
    patterns.map(ToString::to_string).collect::<BTreeSet<String>>().into_iter().collect::<Vec<String>>().join(", ")
}
