//! What a byte stream must look like to be HTTP/1 here, on both sides; and what a request over HTTP/2 must be.
//!
//! Strict where other parsers are lenient and a proxy must not be: no repeated lengths, no Content-Length beside
//! Transfer-Encoding, no bare line feeds, absolute targets or loose chunk syntax. [`Requests`] and [`Responses`] say, part
//! by part, what the next bytes of a connection are: a head once all of it is valid, then its body, counted or walked, so
//! that it is always known where the next message starts. Knows nothing of sockets, routes, keys or deadlines.
//!
//! Invariants: a verdict depends on the bytes alone, never on how they were cut into reads; nothing invalid becomes a
//! part, and nothing after it does.

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
mod spans;
mod upgrade;

#[cfg(test)]
mod tests;

pub(crate) use http2::normalize;
pub use malformed::Malformed;
pub use parsed::check_response;
pub(crate) use request::check_head;
pub use request::{RequestLimits, RequestPart, Requests};
pub(crate) use response::INTERIM_MAX;
pub use response::{BadResponse, Part, ResponseLimits, Responses};

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
