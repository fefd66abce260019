//! Sockets, connections, deadlines, drain and worker threads: everything between the kernel and a [`Handler`].
//!
//! Knows nothing of routes, keys or stores. Every connection is read by the strict request rules of
//! [`crate::http::framing`]: a handler sees valid requests, or a stand-in whose [`Exchange::malformed`] says what to
//! refuse it with.
//!
//! Invariants: one timer a connection, and over HTTP/2 one a stream, whatever they wait for; over the limit of connections nothing is accepted; every
//! task belongs to an accept loop and ends with it.

mod addresses;
mod connection;
mod detect;
mod drain;
mod exchange;
#[cfg(fuzzing)]
pub mod fuzzing;
mod handshake;
mod http1;
mod http2;
mod incoming;
mod listener;
mod proxy_protocol;
mod serve;
mod settings;
mod slots;
mod stream;
mod tunnel;
mod watch;
mod workers;

#[cfg(test)]
mod tests;

pub use addresses::Addresses;
pub use drain::{Drain, Draining, drain};
pub use exchange::{ConnectionInfo, Elapsed, Exchange, Handler, Timer};
pub use http2::{Http2, Invitation};
pub use incoming::{Incoming, IncomingError};
pub use listener::{BindError, Listener, Listeners};
pub use serve::{Context, serve};
pub use settings::{AddressShare, Client, Listen, Shutdown, WorkerCount};
pub use slots::Slots;
pub use tunnel::{ClientSocket, Tunnel};
pub use workers::{Workers, run_workers};

pub use crate::tls::TlsPeer;
