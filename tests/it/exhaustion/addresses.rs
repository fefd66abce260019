//! One client address that wants all connections: it gets its share, and others theirs.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use crate::harness::{DEADLINE, Gate, until};

const REQUEST: &str = "GET /public/x HTTP/1.1\r\nHost: gate.test\r\n\r\n";
const REFUSED: &str = "portcullis_connections_refused_total{reason=\"address_full\"}";

/// A connection from 127.0.0.`last` that was served once, with these bytes before its request; `None`: it was closed.
#[track_caller]
fn served(address: SocketAddr, last: u8, before: &str) -> Option<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0)).into()).expect("an address of this machine");
    socket.connect(&address.into()).expect("the gate accepts connections");
    socket.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    let mut stream = TcpStream::from(socket);
    let _ = stream.write_all(format!("{before}{REQUEST}").as_bytes());
    let mut answer = [0; 512];
    match stream.read(&mut answer) {
        Ok(0) => None,
        Ok(count) => {
            assert!(answer[..count].starts_with(b"HTTP/1.1 200 "), "{:?}", String::from_utf8_lossy(&answer));
            Some(stream)
        }
        Err(error) => {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "neither served nor closed");
            None
        }
    }
}

/// As many as are served before the first that is not.
#[track_caller]
fn fill(address: SocketAddr, last: u8, before: &str) -> Vec<TcpStream> {
    (0..100).map_while(|_| served(address, last, before)).collect()
}

#[test]
fn an_address_that_takes_all_it_can_leaves_half_of_the_connections_to_others() {
    let gate = Gate::with(|setup| setup.option("client", "connections_max = 7"));
    let mut taken = fill(gate.public(), 1, "");
    assert_eq!(taken.len(), 4);
    assert_eq!(gate.metric(REFUSED), 1.0);
    let others: Vec<TcpStream> = (2..5).map(|last| served(gate.public(), last, "").expect("room")).collect();
    // Those who come in its place are served, and whoever was refused has left nothing behind.
    drop((taken.pop(), others));
    until("there is room again", || served(gate.public(), 1, "").is_some());
    assert!(gate.metric(REFUSED) >= 1.0);
}

#[test]
fn the_share_of_an_address_is_what_the_configuration_says() {
    for (share, expected) in [("2", 2), ("\"off\"", 6)] {
        let gate = Gate::with(|setup| {
            let setup = setup.option("client", &format!("connections_per_address_max = {share}"));
            setup.option("client", "connections_max = 6").option("client", r#"idle_timeout = "1h""#)
        });
        let taken: Vec<_> = (0..expected).map(|_| served(gate.public(), 1, "").expect("room")).collect();
        if share != "\"off\"" {
            assert!(served(gate.public(), 1, "").is_none());
        }
        assert_eq!(gate.metric("portcullis_connections_queued_total"), 0.0);
        drop(taken);
    }
}

#[test]
fn a_trusted_proxy_may_have_all_connections_and_each_client_behind_it_has_its_share() {
    let gate = Gate::with(|setup| {
        let setup = setup.option("client", "connections_per_address_max = 2");
        setup.option("forwarding", r#"trusted_proxies = ["127.0.0.1"]"#)
    });
    let taken: Vec<_> = (0..9).map(|_| served(gate.public(), 1, "").expect("room")).collect();
    assert_eq!(fill(gate.public(), 2, "").len(), 2);
    drop(taken);

    let gate = Gate::with(|setup| {
        let setup = setup.option("client", "connections_per_address_max = 2").option("listen", "proxy_protocol = true");
        setup.option("forwarding", r#"trusted_proxies = ["127.0.0.1"]"#)
    });
    let header = |client: &str| format!("PROXY TCP6 {client} ::1 5678 80\r\n");
    let one = served(gate.public(), 1, &header("2001:db8:0:1::1")).expect("room");
    let two = served(gate.public(), 1, &header("2001:db8:0:1:2::2")).expect("room");
    assert!(served(gate.public(), 1, &header("2001:db8:0:1:ffff::")).is_none(), "one more of the same network");
    let other = served(gate.public(), 1, &header("2001:db8:0:2::1")).expect("room for another network");
    drop((one, two, other));
    until("there is room again", || served(gate.public(), 1, &header("2001:db8:0:1::9")).is_some());
}
