//! portcullis: an authenticating reverse proxy with a key admin API.
pub mod clock;
pub mod key;
pub mod policy;
pub mod settings;

pub mod metrics;

pub mod http;
pub mod server;
