//! `routes`: the table that is in force, every line with what it inherits.

use clap::Args;
use serde_json::{Value, json};

use crate::admin::ListenerName;
use crate::config::{Config, RouteConfig, UpstreamConfig};
use crate::policy::Requirement;
use crate::proxy::{FieldRules, PathPrefix};
use crate::route::Pattern;

use super::{ConfigArgument, Exit, output, show};

/// Show the route table of a configuration
///
/// Each line with what it needs, where it goes and what bounds it, general options included. A request that no line
/// matches is refused.
#[derive(Args)]
#[command(after_help = "Example: portcullis routes --config portcullis.toml")]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    let config = arguments.config.load()?;
    let text = if arguments.json { output::json(&as_json(&config)) } else { as_table(&config) };
    output::print(&text)?;
    Ok(Exit::Success)
}

fn as_table(config: &Config) -> String {
    let mut rows: Vec<[String; 4]> = config.routes.lines().map(|(pattern, line)| row(config, pattern, line)).collect();
    let listeners = listeners(config);
    if !listeners.is_empty() {
        let needs = "key:read, key:write".to_owned();
        let upstream = format!("the key API ({})", listeners.join(", "));
        rows.push([format!("ANY {}/{{*rest}}", config.admin.path.as_str()), needs, upstream, String::new()]);
    }
    let table = output::table(["ROUTE", "NEEDS", "UPSTREAM", "LIMITS"], &rows);
    match show::key_limits(&config.limits.key) {
        Some(limits) => format!("{table}\n\nEach key: {limits}"),
        None => table,
    }
}

fn row(config: &Config, pattern: &Pattern, line: &RouteConfig) -> [String; 4] {
    let upstream = show::upstream(config, line.upstream).to_owned();
    [pattern.to_string(), show::requirement(&line.settings.requirement), upstream, show::limits(&line.settings)]
}

fn as_json(config: &Config) -> Value {
    let routes: Vec<Value> = config.routes.lines().map(|(pattern, line)| line_json(config, pattern, line)).collect();
    json!({
        "key_api": { "path": config.admin.path.as_str(), "listeners": listeners(config) },
        "routes": routes,
    })
}

fn line_json(config: &Config, pattern: &Pattern, line: &RouteConfig) -> Value {
    let settings = &line.settings;
    let rewrite = &settings.rewrite;
    json!({
        "route": pattern.to_string(),
        "requirement": requirement_json(&settings.requirement),
        "upstream": show::upstream(config, line.upstream),
        "urls": config.upstreams.get(line.upstream).map(urls),
        "timeout": settings.timeout.map(show::duration),
        "response_timeout": settings.response_timeout.map(show::duration),
        "body_timeout": settings.body_timeout.map(show::duration),
        "upgrade": settings.upgrade,
        "max_body": settings.max_body.map(show::size),
        "rate": settings.rate.map(show::rate),
        "burst": settings.burst,
        "limit_status": http::StatusCode::from(settings.limit_status).as_u16(),
        "key_from": show::sources(settings, pattern.has_credential()),
        "allow_encoded_slash": settings.allow_encoded_slash,
        "allow_semicolon": settings.allow_semicolon,
        "strip_prefix": rewrite.strip_prefix.as_ref().map(PathPrefix::as_str),
        "add_prefix": rewrite.add_prefix.as_ref().map(PathPrefix::as_str),
        "host": show::host(&rewrite.host),
        "set_headers": set_json(&rewrite.request),
        "remove_headers": removed_json(&rewrite.request),
        "set_response_headers": set_json(&rewrite.response),
        "remove_response_headers": removed_json(&rewrite.response),
    })
}

fn urls(upstream: &UpstreamConfig) -> Vec<String> {
    upstream.urls.iter().map(ToString::to_string).collect()
}

fn set_json(rules: &FieldRules) -> Value {
    rules.set().iter().map(|(name, template)| (name.to_string(), json!(template.to_string()))).collect()
}

fn removed_json(rules: &FieldRules) -> Value {
    rules.removed().iter().map(|name| json!(name.as_str())).collect()
}

/// As the configuration writes it.
fn requirement_json(requirement: &Requirement) -> Value {
    match requirement {
        Requirement::AllOf(scopes) => json!({ "all": scopes.names() }),
        Requirement::AnyOf(scopes) => json!({ "any": scopes.names() }),
        Requirement::AnyKey | Requirement::Nobody | Requirement::Public => json!(show::requirement(requirement)),
    }
}

fn listeners(config: &Config) -> Vec<&'static str> {
    let name = |listener: &ListenerName| match listener {
        ListenerName::Ops => "ops",
        ListenerName::Public => "public",
    };
    config.admin.listeners.iter().map(name).collect()
}
