//! TLS by rustls: certificates and keys from files, and the client's side of a connection.
//!
//! No other module names rustls, and nothing here touches its process-wide default: each configuration gets the
//! cryptography explicitly. Knows nothing of HTTP.
//!
//! Invariants: a certificate that does not verify ends its connection, there is no option against it and no fall-back;
//! TLS 1.2 is the oldest version; a file that cannot be used is an error that names it.

mod client;
mod files;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

pub use client::{Client, ClientSettings, ClientStream};
pub use files::Error;

/// The cryptography that every configuration is built with.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
