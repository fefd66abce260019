//! HTTP as this gate speaks it: strict framing, header rewriting, refusals.
//!
//! Knows nothing of sockets or stores. Invariant: [`Refusal`] alone decides a refusal's status.

mod forwarded;
pub mod framing;
mod grpc;
pub mod headers;
mod names;
pub mod outgoing;
pub mod overrides;
pub mod pieces;
mod problem;
mod refusal;
mod request_id;
pub mod room;
pub mod trailers;

pub use grpc::Dialect;
pub use problem::{FieldError, Problem, shorten};
pub use refusal::{Challenge, Refusal};
pub use request_id::RequestId;
