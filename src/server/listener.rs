//! Listening sockets: one a worker on the same address, so that the kernel spreads the connections.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroU32;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Bytes that the kernel takes for a connection beyond those on their way to the client (TCP_NOTSENT_LOWAT, tcp(7)).
///
/// Without it a client that reads nothing of a large response makes the kernel copy and hold a whole send buffer, up to
/// 4 MiB, and whoever comes beside a few hundred of those waits for that. What is in flight does not count, so that no
/// client that reads is slower for it.
const UNSENT_MAX: u32 = 128 * 1_024;

/// An address cannot be listened on. The text says what to do.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {advice}")]
pub struct BindError {
    pub address: SocketAddr,
    advice: &'static str,
    source: io::Error,
}

/// Sockets that listen on one address.
#[derive(Debug)]
pub struct Listeners {
    address: SocketAddr,
    pub(super) sockets: Vec<Listener>,
}

/// One socket that listens.
#[derive(Debug)]
pub struct Listener {
    pub(super) socket: TcpListener,
    pub(super) backlog: Backlog,
}

/// Whose the connections are that wait when nothing more is accepted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Backlog {
    /// Nobody else's: they are reset when the socket closes.
    Own,
    /// The next process's: others hold the socket too.
    Shared,
}

impl Listeners {
    /// Binds `address` once for each worker. Port 0 means any free port, the same for all.
    ///
    /// # Errors
    /// [`BindError`] when the address is in use (by another process too, which the shared binding would hide), not this
    /// machine's, or not allowed.
    pub fn bind(address: SocketAddr, workers: usize, backlog: NonZeroU32) -> Result<Self, BindError> {
        let explain = |source: io::Error| BindError { address, advice: advice(&source), source };
        let first = listen(address, Sharing::Exclusive, backlog).map_err(explain)?;
        let address = first.local_addr().map_err(explain)?;
        if workers > 1 {
            // Only now that it listens alone: another process that came at the same moment has failed, or will.
            SockRef::from(&first).set_reuse_port(true).map_err(explain)?;
        }
        let mut sockets = vec![first];
        for _ in 1..workers {
            sockets.push(listen(address, Sharing::AmongWorkers, backlog).map_err(explain)?);
        }
        let own = |socket| Listener { socket, backlog: Backlog::Own };
        Ok(Self { address, sockets: sockets.into_iter().map(own).collect() })
    }

    /// Takes over a socket that listens already, which whoever started this process holds too: what waits in its
    /// backlog at the end is left for the next process. All workers accept from it.
    ///
    /// # Errors
    /// When it is no listening socket, or there are no descriptors left.
    pub fn inherit(socket: TcpListener, workers: usize) -> io::Result<Self> {
        if !SockRef::from(&socket).is_listener()? {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it does not listen"));
        }
        socket.set_nonblocking(true)?;
        prepare(&SockRef::from(&socket));
        let address = socket.local_addr()?;
        let mut sockets = Vec::new();
        for _ in 1..workers {
            sockets.push(Listener { socket: socket.try_clone()?, backlog: Backlog::Shared });
        }
        sockets.push(Listener { socket, backlog: Backlog::Shared });
        Ok(Self { address, sockets })
    }

    /// With the port that was bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The only socket, for a listener that was bound for one worker; the first otherwise.
    pub fn into_first(self) -> Option<Listener> {
        self.sockets.into_iter().next()
    }
}

#[derive(Clone, Copy)]
enum Sharing {
    AmongWorkers,
    Exclusive,
}

fn listen(address: SocketAddr, sharing: Sharing, backlog: NonZeroU32) -> io::Result<TcpListener> {
    let socket = socket(address, sharing)?;
    socket.listen(i32::try_from(backlog.get()).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

/// A bound socket that is not listening yet. socket2 sets CLOEXEC.
fn socket(address: SocketAddr, sharing: Sharing) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    // A restart must not wait for old connections in TIME_WAIT.
    socket.set_reuse_address(true)?;
    if let Sharing::AmongWorkers = sharing {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    prepare(&socket);
    Ok(socket)
}

/// For all that it accepts: they inherit it, which spares each of them the calls. Those that wait already do not.
fn prepare(listener: &Socket) {
    // What is written is whole; nothing is gained by waiting for more.
    let _ = listener.set_tcp_nodelay(true);
    // A kernel that does not know it serves as well.
    let _ = listener.set_tcp_notsent_lowat(UNSENT_MAX);
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "it is in use; stop the other process or choose another port in [listen]",
        io::ErrorKind::AddrNotAvailable => "it is not an address of this machine; see `ip address`, or use 0.0.0.0",
        io::ErrorKind::PermissionDenied => {
            "permission denied; ports below 1024 need CAP_NET_BIND_SERVICE, or choose a higher port in [listen]"
        }
        _ => "the operating system refused",
    }
}
