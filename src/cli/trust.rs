//! What the commands that talk to a gate over TLS are told about trust.

use std::path::PathBuf;

use clap::Args;

use crate::tls::ClientSettings;

/// Flags for `https` URLs; without effect on others.
#[derive(Args)]
#[command(next_help_heading = "TLS")]
pub(super) struct Trust {
    /// PEM certificates of the authorities to trust, in place of the system's
    #[arg(long, global = true, value_name = "FILE")]
    cacert: Option<PathBuf>,
    /// PEM certificate to show to a gate that asks for one
    #[arg(long, global = true, value_name = "FILE", requires = "client_key")]
    client_cert: Option<PathBuf>,
    /// PEM private key of --client-cert
    #[arg(long, global = true, value_name = "FILE", requires = "client_cert")]
    client_key: Option<PathBuf>,
    /// The name that the gate's certificate must have, in place of the URL's
    #[arg(long, global = true, value_name = "NAME")]
    server_name: Option<String>,
}

impl Trust {
    pub(super) fn settings(&self) -> ClientSettings {
        ClientSettings {
            ca: self.cacert.clone(),
            cert: self.client_cert.clone(),
            key: self.client_key.clone(),
            server_name: self.server_name.clone(),
        }
    }
}
