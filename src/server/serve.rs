//! The accept loop: owns its connections from accept to the end of the drain.

use std::error::Error as _;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tracing::{debug, error, warn};

use super::connection;
use super::drain::Draining;
use super::exchange::{ConnectionInfo, Handler};
use super::handshake::{self, Ended};
use super::proxy_protocol::{Ended as Unproxied, client_of};
use super::settings::Client;
use super::stream::ClientStream;
use crate::log::Occasionally;
use crate::metrics::Metrics;
use crate::tls;

/// Room for connections, shared by all accept loops that got a clone.
#[derive(Clone, Debug)]
pub struct Slots(Arc<Semaphore>);

impl Slots {
    pub fn new(connections_max: NonZeroU32) -> Self {
        Self(Arc::new(Semaphore::new(connections_max.get() as usize)))
    }
}

/// What accept loops share.
#[derive(Clone)]
pub struct Context {
    pub client: Client,
    pub slots: Slots,
    pub draining: Draining,
    /// How long connections in flight may take after the drain has started.
    pub drain_timeout: Duration,
    pub metrics: Arc<Metrics>,
    /// `None`: clear text.
    pub tls: Option<Arc<tls::Server>>,
    /// Whether each connection begins with a PROXY header, and is refused unless a trusted proxy sends it.
    pub proxy_protocol: bool,
}

/// Accepts and serves connections until the drain has started, then waits for those in flight.
///
/// Runs on any runtime with I/O and time; connections are spawned there. Connections that are not done when the drain
/// times out are cut.
///
/// # Errors
/// When the listener cannot be registered with the runtime.
pub async fn serve<H: Handler>(listener: std::net::TcpListener, handler: H, context: Context) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let mut acceptor = AcceptLoop {
        protocol: Arc::new(connection::protocol(&context.client)),
        client: Arc::new(context.client),
        slots: context.slots,
        draining: context.draining,
        metrics: context.metrics,
        tls: context.tls,
        proxy_protocol: context.proxy_protocol,
        handler,
        connections: JoinSet::new(),
        last_warning: None,
    };
    acceptor.run(&listener).await;
    drop(listener);
    acceptor.finish(context.drain_timeout).await;
    Ok(())
}

struct AcceptLoop<H> {
    protocol: Arc<hyper::server::conn::http1::Builder>,
    client: Arc<Client>,
    slots: Slots,
    draining: Draining,
    metrics: Arc<Metrics>,
    tls: Option<Arc<tls::Server>>,
    proxy_protocol: bool,
    handler: H,
    connections: JoinSet<()>,
    last_warning: Option<Instant>,
}

/// After an accept that failed for want of a resource: long enough not to spin, short enough not to be noticed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

impl<H: Handler> AcceptLoop<H> {
    async fn run(&mut self, listener: &TcpListener) {
        let draining = self.draining.clone();
        let mut drain_started = std::pin::pin!(draining.started());
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut drain_started => return,
                Some(ended) = self.connections.join_next() => {
                    report(ended);
                    continue;
                }
                accepted = listener.accept() => accepted,
            };
            tokio::select! {
                biased;
                () = &mut drain_started => return,
                () = self.accepted(accepted) => {}
            }
        }
    }

    async fn accepted(&mut self, accepted: io::Result<(TcpStream, SocketAddr)>) {
        match accepted {
            Ok((socket, peer)) => {
                let slot = self.slot().await;
                self.spawn(socket, peer, slot);
            }
            // The client went away while it waited.
            Err(error) if is_of_one_connection(&error) => debug!(%error, "connection lost before it was accepted"),
            Err(error) => {
                if self.may_warn() {
                    warn!(%error, "cannot accept connections; raise the limit of open files or lower client.connections_max");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }

    /// Waits for room with the accepted connection in hand, so that the rest waits in the backlog. Asked for room before
    /// accepting, a loop without clients would keep a slot that another needs.
    async fn slot(&mut self) -> Option<OwnedSemaphorePermit> {
        if let Ok(slot) = Arc::clone(&self.slots.0).try_acquire_owned() {
            return Some(slot);
        }
        self.metrics.connection_queued();
        if self.may_warn() {
            warn!(max = self.client.connections_max, "no room for more connections; they wait");
        }
        // Never closed.
        Arc::clone(&self.slots.0).acquire_owned().await.ok()
    }

    fn spawn(&mut self, mut socket: TcpStream, peer: SocketAddr, slot: Option<OwnedSemaphorePermit>) {
        // Fails only for a connection that is gone already.
        let _ = socket.set_nodelay(true);
        let (protocol, client) = (Arc::clone(&self.protocol), Arc::clone(&self.client));
        let (handler, draining) = (self.handler.clone(), self.draining.clone());
        let open = Open::new(Arc::clone(&self.metrics), slot);
        let (tls, proxy_protocol) = (self.tls.clone(), self.proxy_protocol);
        self.connections.spawn(async move {
            let peer = match proxy_protocol {
                false => peer,
                true if !handler.is_trusted_proxy(peer.ip()) => return open.unproxied(peer, &Unproxied::Untrusted),
                true => match client_of(&mut socket, peer, client.first_byte_timeout, &draining).await {
                    Ok(client) => client,
                    Err(ended) => return open.unproxied(peer, &ended),
                },
            };
            let (socket, tls) = match tls {
                None => (ClientStream::Clear(socket), None),
                Some(tls) => match handshake::shake(socket, &tls, &client, &draining).await {
                    Ok((socket, known)) => (socket, Some(known)),
                    Err(ended) => return open.never_began(peer, &ended),
                },
            };
            let info = ConnectionInfo { peer, tls };
            let served = connection::serve_connection(&protocol, socket, info, &client, handler, &draining).await;
            if let Err(error) = served {
                debug!(%peer, %error, "connection ended");
            }
            drop(open);
        });
    }

    async fn finish(mut self, timeout: Duration) {
        let all_ended = async {
            while let Some(ended) = self.connections.join_next().await {
                report(ended);
            }
        };
        if tokio::time::timeout(timeout, all_ended).await.is_err() {
            warn!(connections = self.connections.len(), "drain timed out; cutting connections");
        }
    }

    fn may_warn(&mut self) -> bool {
        let now = Instant::now();
        let is_due = self.last_warning.is_none_or(|last| now.duration_since(last) >= WARNING_INTERVAL);
        if is_due {
            self.last_warning = Some(now);
        }
        is_due
    }
}

/// Counts a connection as open while it lives, also when its task panics or is cut.
struct Open {
    metrics: Arc<Metrics>,
    _slot: Option<OwnedSemaphorePermit>,
}

impl Open {
    fn new(metrics: Arc<Metrics>, slot: Option<OwnedSemaphorePermit>) -> Self {
        metrics.connection_opened();
        Self { metrics, _slot: slot }
    }

    /// The connection ends before it began, for want of a PROXY header that can be believed.
    fn unproxied(self, peer: SocketAddr, ended: &Unproxied) {
        static REFUSED: Occasionally = Occasionally::new();
        let Some(failure) = ended.failure() else { return debug!(%peer, error = %ended, "connection ended") };
        self.metrics.proxy_header_failed(failure);
        if let Some(suppressed) = REFUSED.due(Instant::now()) {
            warn!(%peer, error = %ended, suppressed, "connection refused");
        }
    }

    fn never_began(self, peer: SocketAddr, ended: &Ended) {
        if let Some(failure) = ended.failure() {
            self.metrics.tls_handshake_failed(failure);
        }
        debug!(%peer, error = %ended, cause = ended.source().map(tracing::field::display), "no connection");
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.metrics.connection_closed();
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(panic) = ended {
        error!(%panic, "connection task failed");
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, TimedOut};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | TimedOut)
}
