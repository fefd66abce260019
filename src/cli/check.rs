//! `check`: all that is wrong with a configuration, and what of it is worth a second thought.

use clap::Args;

use crate::clock::Clock;
use crate::config::Config;
use crate::policy::Requirement;
use crate::tls::{self, OwnCertificate, ServerSettings, Validity};

use super::{ConfigArgument, Exit, output};

/// Check a configuration file
///
/// Tells every problem at once, each with its line and column, and what is allowed but worth a second thought. Ends with
/// 0 when `serve` would take the file, else with 1. Opens no store and no connection;
/// certificates and their keys are read.
#[derive(Args)]
#[command(after_help = "Example: portcullis check --config portcullis.toml")]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    let config = arguments.config.load_with_files()?;
    for warning in warnings(&config) {
        output::note(&format!("warning: {warning}"));
    }
    output::print(&format!(
        "{}: ok ({}, {})",
        arguments.config.config.display(),
        counted(config.upstreams.len(), "upstream"),
        counted(config.routes.lines().len(), "route"),
    ))?;
    Ok(Exit::Success)
}

fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    if config.routes.lines().len() == 0 {
        warnings.push("there are no routes: every request is refused".to_owned());
    }
    let public = config.routes.lines().filter(|(_, line)| line.settings.requirement == Requirement::Public);
    let public: Vec<String> = public.map(|(pattern, _)| pattern.to_string()).collect();
    if !public.is_empty() {
        warnings.push(format!("public, so that no key is needed: {}", public.join("; ")));
    }
    let listen = &config.listen;
    if !listen.public.ip().is_loopback() && config.tls.public.is_none() {
        let message = format!("listen.public is {}, without TLS: keys can be read on the network", listen.public);
        warnings.push(message);
    }
    if !listen.ops.ip().is_loopback() {
        warnings.push(format!("listen.ops is {}: metrics can be read there with no key", listen.ops));
    }
    warnings.extend([&config.tls.public, &config.tls.ops].into_iter().flatten().flat_map(expiring));
    warnings
}

fn expiring(settings: &ServerSettings) -> Vec<String> {
    let now = Clock::System.now();
    // That they can be used was checked with the file.
    let certificates = tls::own_certificates(settings).unwrap_or_default().into_iter();
    let warning = |own: OwnCertificate| match own.validity(now) {
        Validity::Good => None,
        Validity::EndsSoon => Some(format!("{} expires soon: {}", own.path.display(), own.expiry)),
        Validity::Over => Some(format!("{} has expired: {}", own.path.display(), own.expiry)),
    };
    certificates.filter_map(warning).collect()
}

fn counted(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}
