//! Whom what an address does counts against.

use std::net::{IpAddr, Ipv4Addr};

/// A client as far as its address tells it from others.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Address {
    V4(Ipv4Addr),
    /// The first 64 bits: an IPv6 client chooses the rest itself.
    V6([u16; 4]),
}

impl Address {
    pub fn of(address: IpAddr) -> Self {
        // IPv4 that came in over an IPv6 socket (::ffff:a.b.c.d) is IPv4: as a /64, all of them would be one.
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Self::V6([a, b, c, d])
            }
        }
    }
}
