//! The TLS handshake of an accepted connection: bounded in time, and told apart when it fails.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::drain::Draining;
use super::settings::Client;
use super::stream::ClientStream;
use crate::metrics::TlsFailure;
use crate::tls::{self, TlsPeer};

/// How long, and how much, to go on reading after an alert, so that a reset does not overtake it.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: u64 = 64 * 1024;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("draining before the handshake began")]
    Draining,
    #[error("TLS handshake failed ({})", .reason.as_str())]
    Failed { reason: TlsFailure, source: io::Error },
    #[error("TLS handshake took too long")]
    Timeout,
}

impl Ended {
    /// What to count; a client that only came too late has failed nothing.
    pub(super) fn failure(&self) -> Option<TlsFailure> {
        match self {
            Self::Draining => None,
            Self::Failed { reason, .. } => Some(*reason),
            Self::Timeout => Some(TlsFailure::Timeout),
        }
    }
}

/// Shakes hands: the first byte within `client.first_byte_timeout`, all of it within `client.header_timeout` from there.
pub(super) async fn shake(
    socket: TcpStream,
    tls: &tls::Server,
    client: &Client,
    draining: &Draining,
) -> Result<(ClientStream, Arc<TlsPeer>), Ended> {
    let first_byte = timeout(client.first_byte_timeout, socket.readable());
    tokio::select! {
        biased;
        readable = first_byte => {
            let readable = readable.map_err(|_| Ended::Timeout)?;
            readable.map_err(|source| Ended::Failed { reason: TlsFailure::Closed, source })?;
        }
        () = draining.patience_ended() => return Err(Ended::Draining),
    }
    match timeout(client.header_timeout, tls.accept(socket)).await {
        Ok(Ok(stream)) => {
            let peer = Arc::new(stream.peer());
            Ok((ClientStream::Tls(Box::new(stream)), peer))
        }
        Ok(Err(failed)) => {
            linger(failed.stream).await;
            Err(Ended::Failed { reason: failed.reason, source: failed.error })
        }
        Err(_) => Err(Ended::Timeout),
    }
}

async fn linger(mut socket: TcpStream) {
    let reading = async {
        socket.shutdown().await?;
        tokio::io::copy(&mut socket.take(LINGER_BYTES_MAX), &mut tokio::io::sink()).await
    };
    // It ends one way or another, and the client has been told what there is to tell.
    let _ = timeout(LINGER_TIMEOUT, reading).await;
}
