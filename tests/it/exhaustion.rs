//! Clients and upstreams that want to use the gate up: what it takes of the machine stays bounded, and others are served.
//!
//! The program runs as a process of its own here, and the kernel says what it takes. Each test is short in `cargo test`
//! and as long as a variable says, where that is told at the test.

mod addresses;
mod amplification;
pub mod bad_keys;
mod bodies;
mod churn;
mod descriptors;
mod floods;
mod hung;
mod idle;
mod listing;
mod logs;
mod pieces;
mod slow_clients;
mod tunnels;

use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::harness::{Installation, Probe, Served, Setup};

pub const MIB: u64 = 1 << 20;

/// The program with its upstream, its root key and a look at what it takes.
struct Rig {
    installation: Installation,
    served: Served,
    root: String,
    probe: Probe,
}

impl Rig {
    #[track_caller]
    fn with(change: impl FnOnce(Setup) -> Setup) -> Self {
        let installation = Installation::with(change);
        let root = installation.init();
        let served = installation.serve();
        let probe = Probe::of(served.process.pid());
        Self { installation, served, root, probe }
    }
}

/// Connects with as small a buffer for what arrives as the kernel allows, so that the other end notices at once when
/// nothing is read.
#[track_caller]
fn narrow(address: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(1_024).expect("a small buffer");
    socket.connect(&address.into()).expect("the gate accepts connections");
    socket.set_tcp_nodelay(true).expect("nodelay");
    socket.into()
}

/// Lets time pass that something is measured over.
pub fn pass(time: Duration) {
    let (_kept, never) = channel::<()>();
    let _ = never.recv_timeout(time);
}
