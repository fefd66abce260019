//! Connections that come and go: each leaves nothing behind, however it ends.
//!
//! `PORTCULLIS_CHURN=50000` sets how many there are.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use super::{MIB, Rig};
use crate::harness::raw_h2::PREFACE;
use crate::harness::{check, until};

const CONNECTIONS: usize = 2_000;

#[test]
fn connections_that_come_and_go_leave_nothing_behind() {
    let connections = std::env::var("PORTCULLIS_CHURN").map_or(CONNECTIONS, |count| count.parse().expect("a number"));
    let rig = Rig::with(|setup| setup);
    let good = rig.served.caller(&rig.root);
    let request = good.render("GET", "/open/x", &[], b"");
    let begun: [&[u8]; 5] = [b"", b"GET /op", PREFACE, &request, b"GET //x HTTP/1.1\r\nHost: a\r\n\r\n"];
    let churn = |count: usize| {
        for number in 0..count {
            let mut socket = TcpStream::connect(rig.served.public).expect("the gate accepts connections");
            if number % 2 == 0 {
                // Closing then sends a reset.
                socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)).expect("a reset to come");
            }
            let _ = socket.write_all(begun[number % begun.len()]);
        }
    };
    let open = || {
        let page = rig.served.ops_get("/metrics").text();
        page.lines().find_map(|line| line.strip_prefix("portcullis_connections ")).expect("the sample").to_owned()
    };
    check(&good.get("/open/x"), 200);
    let before = open();
    let settled = || open() == before;
    churn(500);
    until("connections are closed", settled);
    let (descriptors, threads, memory) = (rig.probe.descriptors(), rig.probe.threads(), rig.probe.memory());

    churn(connections);

    until("connections are closed", settled);
    check(&good.get("/open/x"), 200);
    let grown = rig.probe.memory().saturating_sub(memory);
    println!("{connections} connections: {} KiB more", grown / 1_024);
    assert!(grown < 8 * MIB, "{grown} bytes more after {connections} connections");
    // Beside a connection to the upstream or two.
    assert!(rig.probe.descriptors() <= descriptors + 4, "{} after {descriptors}", rig.probe.descriptors());
    assert!(rig.probe.threads() <= threads + 2, "{} after {threads}", rig.probe.threads());
}
