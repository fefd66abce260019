//! The PROXY protocol, versions 1 and 2: a load balancer's word, before anything else, on whose connection this is.
//!
//! Whom to believe is the handler's to say. Invariants: not one byte behind the header is read; a header has a bound and
//! a deadline; what is not exactly a header ends the connection, since it would else be taken for the client's.

mod header;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::drain::Draining;
use crate::metrics::ProxyHeaderFailure;
use header::{FIXED_BYTES, Header, LENGTH_MAX, Malformed};

/// For the fuzz targets alone.
#[cfg(fuzzing)]
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Option<SocketAddr>, usize)>, Malformed> {
    Ok(header::parse(bytes)?.map(|header| (header.client, header.length)))
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    /// As load balancers do to see whether somebody listens.
    #[error("the connection ended before its PROXY header did")]
    Closed(#[source] io::Error),
    #[error("draining before the PROXY header was there")]
    Draining,
    #[error("{0}")]
    Malformed(Malformed),
    #[error("the PROXY header took too long")]
    TimedOut,
    #[error("the peer is not in forwarding.trusted_proxies, and this listener takes no others")]
    Untrusted,
}

impl Ended {
    /// What to count and to warn of.
    pub(super) fn failure(&self) -> Option<ProxyHeaderFailure> {
        match self {
            Self::Closed(_) | Self::Draining => None,
            Self::Malformed(_) => Some(ProxyHeaderFailure::Malformed),
            Self::TimedOut => Some(ProxyHeaderFailure::TimedOut),
            Self::Untrusted => Some(ProxyHeaderFailure::Untrusted),
        }
    }
}

/// Takes the header off the front of a trusted peer's connection and returns whose it is: the client that the header
/// names, or `peer` when it names none.
pub(super) async fn client_of(
    socket: &mut TcpStream,
    peer: SocketAddr,
    timeout: Duration,
    draining: &Draining,
) -> Result<SocketAddr, Ended> {
    tokio::select! {
        biased;
        received = tokio::time::timeout(timeout, receive(socket)) => match received {
            Ok(header) => Ok(header?.client.unwrap_or(peer)),
            Err(_) => Err(Ended::TimedOut),
        },
        () = draining.patience_ended() => Err(Ended::Draining),
    }
}

async fn receive(socket: &mut TcpStream) -> Result<Header, Ended> {
    let mut bytes = vec![0; FIXED_BYTES + LENGTH_MAX];
    let mut held = 0;
    loop {
        // Only looked at first: what follows the header is for whoever reads next.
        let seen = held + socket.peek(&mut bytes[held..]).await.map_err(Ended::Closed)?;
        if seen == held {
            return Err(Ended::Closed(io::ErrorKind::UnexpectedEof.into()));
        }
        let header = header::parse(&bytes[..seen]).map_err(Ended::Malformed)?;
        let taken = header.map_or(seen, |header| header.length);
        socket.read_exact(&mut bytes[held..taken]).await.map_err(Ended::Closed)?;
        if let Some(header) = header {
            return Ok(header);
        }
        held = taken;
    }
}
