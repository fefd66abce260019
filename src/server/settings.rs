//! `[listen]`, `[client]` and `[shutdown]`: where connections come from, what they may take, how they end.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use crate::http::framing::RequestLimits;
use crate::settings::{ByteSize, Node, Value, settings};

settings! {
    /// `[listen]`: addresses, and the threads that serve the public one.
    pub struct Listen {
        /// Where clients connect.
        pub public: SocketAddr = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8080)),
        /// Where metrics and health are served; never reachable through `public`.
        pub ops: SocketAddr = SocketAddr::from((Ipv4Addr::LOCALHOST, 9900)),
        /// Threads that serve requests, each with its own listener: `"auto"` is one a core.
        pub workers: WorkerCount = WorkerCount::Auto,
        /// Connections that the kernel keeps waiting, for each worker.
        pub backlog: NonZeroU32 = NonZeroU32::new(1024).expect("not zero"),
        /// Whether connections to `public` begin with a PROXY header, version 1 or 2. Peers that are not in
        /// `forwarding.trusted_proxies` are refused then.
        pub proxy_protocol: bool = false,
    }
}

settings! {
    /// `[client]`: what one client connection may take.
    pub struct Client {
        /// Connections served at once, over all workers; more wait in the backlog.
        pub connections_max: NonZeroU32 = NonZeroU32::new(10_000).expect("not zero"),
        /// Those of one client address, an IPv6 address by its /64: what is beyond is closed at once. Trusted proxies, who
        /// speak for many, may have all.
        pub connections_per_address_max: AddressShare = AddressShare::Auto,
        /// Silence allowed on a new connection.
        pub first_byte_timeout: Duration = Duration::from_secs(10),
        /// From the first byte of a request to the end of its header section.
        pub header_timeout: Duration = Duration::from_secs(10),
        /// Silence allowed between requests.
        pub idle_timeout: Duration = Duration::from_secs(75),
        /// Silence allowed in a request body that is being read.
        pub body_timeout: Duration = Duration::from_secs(30),
        /// How long a client may take nothing of a response that is ready.
        pub write_timeout: Duration = Duration::from_secs(30),
        /// Silence allowed in both directions of an upgraded connection (WebSocket).
        pub tunnel_idle_timeout: Duration = Duration::from_secs(300),
        /// Request line and header fields together.
        pub header_bytes_max: ByteSize = ByteSize::kib(32),
        /// Header fields of a request; 1,000 at most.
        pub headers_max: FieldCount = FieldCount(100),
        /// Path and query of a request; 64 KiB at most.
        pub target_bytes_max: ByteSize = ByteSize::kib(8),
    }
}

settings! {
    /// `[shutdown]`: how SIGTERM ends.
    pub struct Shutdown {
        /// How long to go on accepting while not ready, so that load balancers notice.
        pub delay: Option<Duration> = None,
        /// How long an idle connection may still bring a request once nothing more is accepted.
        pub idle_timeout: Duration = Duration::from_secs(1),
        /// How long requests in flight may take to finish.
        pub timeout: Duration = Duration::from_secs(20),
    }
}

/// How many of the connections one client address may have: `"auto"` is half of them, so that no address alone keeps all
/// others out; `"off"` is all.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AddressShare {
    Auto,
    Fixed(NonZeroU32),
    Off,
}

impl AddressShare {
    /// Of so many connections. `None`: all of them.
    pub fn of(self, connections_max: NonZeroU32) -> Option<NonZeroU32> {
        match self {
            Self::Auto => NonZeroU32::new(connections_max.get().div_ceil(2)),
            Self::Fixed(max) => Some(max),
            Self::Off => None,
        }
    }
}

impl Value for AddressShare {
    fn read(node: &Node<'_>) -> Option<Self> {
        match node.value().as_str() {
            Some("auto") => Some(Self::Auto),
            Some("off") => Some(Self::Off),
            Some(_) => node.problem(format!("{} must be \"auto\", \"off\" or a whole number", node.path())),
            None => NonZeroU32::read(node).map(Self::Fixed),
        }
    }
}

/// A `Uri` holds no longer request target.
const TARGET_BYTES_CEILING: usize = 65_534;

impl Client {
    /// How many connections one client address may have; `None`: all.
    pub(super) fn connections_per_address(&self) -> Option<NonZeroU32> {
        self.connections_per_address_max.of(self.connections_max)
    }

    pub(crate) fn request_limits(&self) -> RequestLimits {
        RequestLimits {
            head_bytes_max: self.header_bytes_max.as_usize(),
            fields_max: self.headers_max.0.into(),
            target_bytes_max: self.target_bytes_max.as_usize().min(TARGET_BYTES_CEILING),
        }
    }
}

/// A number of header fields. Room is made for all of them whenever a head is read, so there is a ceiling.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FieldCount(pub u16);

const FIELDS_CEILING: u32 = 1_000;

impl Value for FieldCount {
    fn read(node: &Node<'_>) -> Option<Self> {
        let count = NonZeroU32::read(node)?.get();
        match u16::try_from(count) {
            Ok(count) if u32::from(count) <= FIELDS_CEILING => Some(Self(count)),
            _ => node.problem(format!("{} must be at most {FIELDS_CEILING}", node.path())),
        }
    }
}

const WORKERS_CEILING: u32 = 1_024;

/// How many worker threads: `"auto"`, or a number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WorkerCount {
    Auto,
    Fixed(NonZeroU32),
}

impl WorkerCount {
    /// `Auto` is as many as this process may run at once (cgroup limits count).
    pub fn get(self) -> usize {
        match self {
            Self::Auto => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            Self::Fixed(count) => count.get() as usize,
        }
    }
}

impl Value for WorkerCount {
    fn read(node: &Node<'_>) -> Option<Self> {
        match node.value().as_str() {
            Some("auto") => Some(Self::Auto),
            Some(_) => node.problem(format!("{} must be \"auto\" or a whole number", node.path())),
            None => match NonZeroU32::read(node)? {
                count if count.get() <= WORKERS_CEILING => Some(Self::Fixed(count)),
                _ => node.problem(format!("{} must be at most {WORKERS_CEILING}", node.path())),
            },
        }
    }
}
