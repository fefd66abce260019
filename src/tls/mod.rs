//! TLS by rustls: certificates and keys from files, and both sides of a connection.
//!
//! No other module names rustls, and nothing here touches its process-wide default: each configuration gets the
//! cryptography explicitly. Knows nothing of HTTP but the names of its versions.
//!
//! Invariants: a certificate that does not verify ends its connection, there is no option against it and no fall-back;
//! TLS 1.2 is the oldest version; a file that cannot be used is an error that names it, and replaces nothing; a session
//! is not resumed under other rules than those that it began with.

mod certificate;
mod client;
mod failure;
mod files;
mod material;
mod resolver;
mod server;
mod settings;
mod verifier;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

pub use certificate::{OwnCertificate, Validity};
pub use client::{Client, ClientSettings, ClientStream};
pub use files::Error;
pub use material::Place;
pub use server::{HandshakeError, Prepared, Server, ServerStream, TlsPeer, own_certificates};
pub use settings::{CertificateFiles, ClientAuth, MinVersion, ServerSettings, Settings, Subject};

/// HTTP/1.1 in ALPN.
pub const HTTP1: &[u8] = b"http/1.1";
/// HTTP/2 in ALPN.
pub const H2: &[u8] = b"h2";

/// The cryptography that every configuration is built with.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
