//! portcullis: an authenticating reverse proxy with a key admin API.
pub mod admin;
pub mod clock;
pub mod credential;
pub mod http;
pub mod key;
pub mod keyring;
pub mod limit;
pub mod metrics;
pub mod policy;
pub mod route;
pub mod settings;
pub mod store;
