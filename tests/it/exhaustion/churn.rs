//! Connections that come and go: each leaves nothing behind, however it ends.
//!
//! `PORTCULLIS_CHURN=50000` sets how many there are.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use super::{MIB, Rig};
use crate::harness::raw_h2::PREFACE;
use crate::harness::{Tank, Tongue, check, until};

const CONNECTIONS: usize = 2_000;
/// At a time, so that memory is not that of as many as the gate happens to lag behind.
const WAVE: usize = 250;

#[test]
fn connections_that_come_and_go_leave_nothing_behind() {
    let connections = std::env::var("PORTCULLIS_CHURN").map_or(CONNECTIONS, |count| count.parse().expect("a number"));
    let tank = Tank::start(Tongue::Http1);
    // Of the connections to the upstream one is kept, whatever became of the others.
    let rig = Rig::with(|setup| setup.upstream_url(&tank.url()).upstream("idle_max = 1"));
    let good = rig.served.caller(&rig.root);
    let request = good.render("GET", "/open/x", &[], b"");
    let begun: [&[u8]; 5] = [b"", b"GET /op", PREFACE, &request, b"GET //x HTTP/1.1\r\nHost: a\r\n\r\n"];
    let wave = |from: usize| {
        for number in from..from + WAVE {
            let mut socket = TcpStream::connect(rig.served.public).expect("the gate accepts connections");
            if number % 2 == 0 {
                // Closing then sends a reset.
                socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)).expect("a reset to come");
            }
            let _ = socket.write_all(begun[number % begun.len()]);
        }
        // Accepted after all of them.
        check(&good.get("/open/x"), 200);
        // The one that asks.
        let is_alone = || rig.served.ops_get("/metrics").text().contains("\nportcullis_connections 1\n");
        until("connections are closed", is_alone);
    };
    (0..2).for_each(|number| wave(number * WAVE));
    let (descriptors, threads, memory) = (rig.probe.descriptors(), rig.probe.threads(), rig.probe.memory());

    (0..connections.div_ceil(WAVE)).for_each(|number| wave(number * WAVE));

    let grown = rig.probe.memory().saturating_sub(memory);
    println!("{connections} connections: {} KiB more", grown / 1_024);
    assert!(grown < 8 * MIB, "{grown} bytes more after {connections} connections");
    until("descriptors are closed", || rig.probe.descriptors() <= descriptors);
    // One that waits for work ends after a while.
    until("threads have ended", || rig.probe.threads() <= threads + 1);
}
