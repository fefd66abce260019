//! From a request's path, host and method to the line of the route table that governs it. Pure: no I/O, no clock.
//!
//! Knows nothing of scopes or upstreams: a line carries whatever `T` its owner gives it.
//!
//! Invariants: what is matched is what is forwarded, so an ambiguous path is refused and never repaired; the most
//! specific path is chosen first and then answers alone, so a method that it lacks never falls through to a broader one.

mod host;
mod leaf;
mod path;
mod pattern;
mod table;

pub use host::Host;
pub use path::{Path, PathError};
pub use pattern::{HOSTS_MAX, Pattern, PatternError};
pub use table::{Conflict, ConflictKind, Found, Table};

#[cfg(test)]
mod tests;
