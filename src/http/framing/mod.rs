//! What a byte stream must look like before hyper may see it: strict HTTP/1 framing, on both sides; and what a request
//! over HTTP/2 must be.
//!
//! hyper is lenient where a proxy must not be: it merges repeated lengths, drops Content-Length beside
//! Transfer-Encoding, takes bare line feeds, absolute targets and loose chunk syntax. So each socket is read through a
//! [`Sieve`] that holds a message head back until all of it is valid, then counts or walks the body, and so always
//! knows where the next message starts. Knows nothing of routes, keys or deadlines.
//!
//! Invariants: a verdict depends on the bytes alone, never on how they were cut into reads; nothing invalid is passed
//! on; at most one head is held back.

pub mod allowance;
mod chunked;
mod field;
pub mod frames;
mod host;
mod http2;
pub mod interim;
mod lengths;
mod malformed;
mod parsed;
mod request;
mod response;
mod response_head;
mod sieve;
mod upgrade;

#[cfg(test)]
mod tests;

pub(crate) use http2::normalize;
pub use malformed::Malformed;
pub use parsed::check_response;
pub(crate) use request::check_head;
pub use request::{DISARMED, RequestLimits, Requests};
pub(crate) use response::INTERIM_MAX;
pub use response::{BadResponse, Part, ResponseLimits, Responses};
pub use sieve::{Progress, Rules, Sieve, Stop};

/// Whether `value` is what a `Host` field may hold.
pub(crate) fn is_host(value: &[u8]) -> bool {
    host::is_valid(value)
}

/// How the fields of a head say that its body ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Body {
    Chunked,
    Sized(u64),
}
