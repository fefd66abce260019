//! Addresses and networks as values of options.

use super::{Node, Value};

/// `ADDRESS:PORT`, the address in numbers.
impl Value for std::net::SocketAddr {
    fn read(node: &Node<'_>) -> Option<Self> {
        let text = node.text()?;
        match text.parse() {
            Ok(address) => Some(address),
            Err(_) => node
                .problem(format!("{} must be ADDRESS:PORT such as \"127.0.0.1:8080\" or \"[::]:8080\"", node.name())),
        }
    }
}

impl Value for ipnet::IpNet {
    fn read(node: &Node<'_>) -> Option<Self> {
        let text = node.text()?;
        let network = text.parse().ok().or_else(|| text.parse::<std::net::IpAddr>().ok().map(Self::from));
        match network {
            Some(network) => Some(network),
            None => node.problem(format!("{} must hold networks such as \"10.0.0.0/8\" or addresses", node.name())),
        }
    }
}
