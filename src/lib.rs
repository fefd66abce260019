//! portcullis: an authenticating reverse proxy with a key admin API.
pub mod clock;
pub mod key;
pub mod keyring;
pub mod limit;
pub mod metrics;
pub mod policy;
pub mod settings;
pub mod store;
