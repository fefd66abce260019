//! portcullis: an authenticating reverse proxy with a key admin API.
pub mod clock;
pub mod key;
pub mod limit;
pub mod log;
pub mod metrics;
pub mod ops;
pub mod policy;
pub mod settings;
