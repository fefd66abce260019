//! The accept loop: owns its connections from accept to the end of the drain.

use std::error::Error as _;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tracing::{debug, error, warn};

use super::addresses::{Addresses, Place};
use super::connection::{self, Protocols};
use super::drain::Draining;
use super::exchange::{ConnectionInfo, Handler};
use super::handshake::{self, Ended};
use super::http2::Http2;
use super::listener::{Backlog, Listener};
use super::proxy_protocol::{Ended as Unproxied, client_of};
use super::settings::Client;
use super::slots::{Slot, Slots};
use super::stream::ClientStream;
use crate::log::Occasionally;
use crate::metrics::{ConnectionRefusal, Metrics};
use crate::tls;

/// What accept loops share.
#[derive(Clone)]
pub struct Context {
    /// May change: a connection keeps what it began with.
    pub client: Arc<ArcSwap<Client>>,
    /// May change just before `client` does.
    pub http2: Arc<ArcSwap<Http2>>,
    pub slots: Slots,
    /// `None`: one address may have all connections.
    pub addresses: Option<Addresses>,
    pub draining: Draining,
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
pub async fn serve<H: Handler>(listener: Listener, handler: H, context: Context) -> io::Result<()> {
    let Listener { socket, backlog } = listener;
    let listener = TcpListener::from_std(socket)?;
    let client = context.client.load_full();
    let mut acceptor = AcceptLoop {
        protocols: Arc::new(Protocols::new(context.http2.load_full(), Arc::clone(&context.metrics))),
        client,
        present: context.client,
        http2: context.http2,
        slots: context.slots,
        addresses: context.addresses,
        draining: context.draining,
        metrics: context.metrics,
        tls: context.tls,
        proxy_protocol: context.proxy_protocol,
        handler,
        backlog,
        connections: JoinSet::new(),
        last_warning: None,
    };
    acceptor.run(&listener).await;
    match backlog {
        Backlog::Own => acceptor.accept_waiting(listener.into_std()?),
        Backlog::Shared => drop(listener),
    }
    acceptor.finish().await;
    Ok(())
}

struct AcceptLoop<H> {
    protocols: Arc<Protocols>,
    client: Arc<Client>,
    /// What `client` is to be from the next connection on.
    present: Arc<ArcSwap<Client>>,
    http2: Arc<ArcSwap<Http2>>,
    slots: Slots,
    addresses: Option<Addresses>,
    draining: Draining,
    metrics: Arc<Metrics>,
    tls: Option<Arc<tls::Server>>,
    proxy_protocol: bool,
    handler: H,
    backlog: Backlog,
    connections: JoinSet<()>,
    last_warning: Option<Instant>,
}

/// After an accept that failed for want of a resource: long enough not to spin, short enough not to be noticed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const WARNING_INTERVAL: Duration = Duration::from_secs(10);
/// Then other connections are looked at: accepting one takes some twenty microseconds.
const ACCEPTED_IN_A_ROW_MAX: u32 = 16;

impl<H: Handler> AcceptLoop<H> {
    async fn run(&mut self, listener: &TcpListener) {
        let draining = self.draining.clone();
        let mut accepting_ended = std::pin::pin!(draining.accepting_ended());
        let mut in_a_row = 0;
        loop {
            // Who has a connection is not kept waiting by all those who come at once.
            in_a_row = (in_a_row + 1) % ACCEPTED_IN_A_ROW_MAX;
            if in_a_row == 0 {
                tokio::task::yield_now().await;
            }
            let accepted = tokio::select! {
                biased;
                () = &mut accepting_ended => return,
                Some(ended) = self.connections.join_next() => {
                    report(ended);
                    continue;
                }
                accepted = listener.accept() => accepted,
            };
            self.accepted(accepted).await;
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

    /// Takes what waits to be accepted, as far as there is room: closing the socket would reset it.
    fn accept_waiting(&mut self, listener: std::net::TcpListener) {
        while let Some(slot) = self.slots.try_enter()
            && let Ok((socket, peer)) = listener.accept()
        {
            let registered = socket.set_nonblocking(true).and_then(|()| TcpStream::from_std(socket));
            match registered {
                Ok(socket) => self.spawn(socket, peer, Some(slot)),
                Err(error) => debug!(%error, "connection lost before it was served"),
            }
        }
    }

    /// Waits for room with the accepted connection in hand, so that the rest waits in the backlog. Asked for room before
    /// accepting, a loop without clients would keep a slot that another needs. `None`: the drain came first, and the
    /// connection is served beyond what there is room for, since it would be reset otherwise.
    async fn slot(&mut self) -> Option<Slot> {
        if let Some(slot) = self.slots.try_enter() {
            return Some(slot);
        }
        self.metrics.connection_queued();
        if self.may_warn() {
            warn!(max = self.client.connections_max, "no room for more connections; they wait");
        }
        tokio::select! {
            slot = self.slots.enter() => slot,
            () = self.draining.accepting_ended() => None,
        }
    }

    /// Takes over settings that have changed since the last connection.
    fn refresh(&mut self) {
        let present = self.present.load();
        if !Arc::ptr_eq(&present, &self.client) {
            let (http2, metrics) = (self.http2.load_full(), Arc::clone(&self.metrics));
            self.protocols = Arc::new(Protocols::new(http2, metrics));
            self.client = Arc::clone(&present);
        }
    }

    fn spawn(&mut self, mut socket: TcpStream, peer: SocketAddr, slot: Option<Slot>) {
        self.refresh();
        if self.backlog == Backlog::Shared {
            // It may have waited since before the listener was ours. Fails only for a connection that is gone already.
            let _ = socket.set_nodelay(true);
        }
        let (protocols, client) = (Arc::clone(&self.protocols), Arc::clone(&self.client));
        let (handler, draining) = (self.handler.clone(), self.draining.clone());
        let open = Open::new(Arc::clone(&self.metrics), slot);
        let (tls, proxy_protocol, addresses) = (self.tls.clone(), self.proxy_protocol, self.addresses.clone());
        self.connections.spawn(async move {
            let peer = match proxy_protocol {
                false => peer,
                true if !handler.is_trusted_proxy(peer.ip()) => return open.unproxied(peer, &Unproxied::Untrusted),
                true => match client_of(&mut socket, peer, client.first_byte_timeout, &draining).await {
                    Ok(client) => client,
                    Err(ended) => return open.unproxied(peer, &ended),
                },
            };
            let Ok(_place) = place(addresses.as_ref(), peer, &client, &handler) else { return open.one_too_many(peer) };
            let (socket, tls) = match tls {
                None => (ClientStream::Clear(socket), None),
                Some(tls) => match handshake::shake(socket, &tls, &client, &draining).await {
                    Ok((socket, known)) => (socket, Some(known)),
                    Err(ended) => return open.never_began(peer, &ended),
                },
            };
            let info = ConnectionInfo::new(peer, tls);
            let served = connection::serve_connection(&protocols, socket, info, &client, handler, &draining).await;
            if let Err(error) = served {
                debug!(%peer, %error, "connection ended");
            }
            drop(open);
        });
    }

    async fn finish(mut self) {
        let timeout = self.draining.timeout();
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
    _slot: Option<Slot>,
}

impl Open {
    fn new(metrics: Arc<Metrics>, slot: Option<Slot>) -> Self {
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

    /// Its address has as many connections as it may have.
    fn one_too_many(self, peer: SocketAddr) {
        static REFUSED: Occasionally = Occasionally::new();
        self.metrics.connection_refused(ConnectionRefusal::AddressFull);
        if let Some(suppressed) = REFUSED.due(Instant::now()) {
            warn!(%peer, suppressed, "connection refused: client.connections_per_address_max of its address are open");
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

struct Full;

/// Where a connection counts while it lives; `None`: nowhere, since it may be one of any number.
fn place<H: Handler>(
    addresses: Option<&Addresses>,
    peer: SocketAddr,
    client: &Client,
    handler: &H,
) -> Result<Option<Place>, Full> {
    match addresses {
        Some(addresses) if !handler.is_trusted_proxy(peer.ip()) => {
            addresses.enter(peer.ip(), client.connections_per_address()).map(Some).ok_or(Full)
        }
        _ => Ok(None),
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
