//! `healthcheck`: whether a gate on this machine is alive, for containers that have no curl.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use http::Method;

use crate::config::Config;
use crate::tls::{self, OwnCertificate};

use super::client::{Address, Client, Patience, Question};
use super::exit::UsageError;
use super::trust::Trust;
use super::{Exit, output};

const HEALTHY: &str = "/-/healthy";
const PATIENCE: Patience = Patience { connect: Duration::from_secs(2), answer: Duration::from_secs(3) };

/// Ask a gate whether it is healthy
///
/// Says `healthy` and ends with 0, or says why not and ends with 1. Gives up after some seconds.
#[derive(Args)]
#[command(after_help = "Example, in a Dockerfile: HEALTHCHECK CMD [\"portcullis\", \"healthcheck\"]")]
pub(super) struct Arguments {
    /// What to ask; `/-/ready` instead of `/-/healthy` tells whether it takes requests
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9900/-/healthy")]
    url: String,
    /// Take the ops address from this configuration file instead, and how to trust it over TLS: its own certificate
    /// is believed, even when it has expired; a client certificate that [tls.ops] requires is given by flags
    #[arg(long, value_name = "FILE", conflicts_with = "url")]
    config: Option<PathBuf>,
    #[command(flatten)]
    trust: Trust,
}

/// What to ask, and the certificate of who answers, if that is known.
struct Target {
    url: String,
    certificate: Option<OwnCertificate>,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    let Target { url, certificate } = match &arguments.config {
        Some(path) => own_listener(&Config::load(path)?),
        None => Target { url: arguments.url.clone(), certificate: None },
    };
    let address = Address::parse(&url).map_err(|message| UsageError(format!("--url: {message}")))?;
    let path = if address.path().is_empty() { HEALTHY } else { address.path() }.to_owned();
    let mut trust = arguments.trust.settings();
    let mut client = Client::new(address, PATIENCE, || match certificate {
        None => tls::Client::new(&trust),
        Some(own) => {
            trust.server_name = trust.server_name.or(name_of(&own));
            tls::Client::for_own_listener(&trust, &own.path)
        }
    })?;
    let question = Question { method: Method::GET, target: &path, authorization: None, json: None };
    let reason = match client.ask(question) {
        Ok(answer) if answer.status.is_success() => {
            output::print("healthy")?;
            return Ok(Exit::Success);
        }
        Ok(answer) => answer.status.to_string(),
        Err(error) => format!("{:#}", anyhow::Error::new(error)),
    };
    output::print(&format!("unhealthy: {}{path}: {reason}", client.address()))?;
    Ok(Exit::Refused)
}

fn own_listener(config: &Config) -> Target {
    let address = reachable(config.listen.ops);
    let Some(settings) = &config.tls.ops else {
        return Target { url: format!("http://{address}{HEALTHY}"), certificate: None };
    };
    // Of the pair, the certificate alone: with a key that does not fit, the gate runs on with the one before, which the
    // same authorities have issued.
    let first = settings.certificates.first();
    let certificate = first.and_then(|files| OwnCertificate::read(&files.cert).ok());
    Target { url: format!("https://{address}{HEALTHY}"), certificate }
}

/// A name that the certificate is for: it is for names, and the listener is connected to by its address.
fn name_of(own: &OwnCertificate) -> Option<String> {
    own.names.first().map(|name| name.replacen('*', "healthcheck", 1))
}

/// A listener on all addresses is reached through the loopback one.
fn reachable(listener: SocketAddr) -> SocketAddr {
    let ip = match listener.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listener.port())
}
