//! An upstream that takes requests and answers none: few wait for it, and nobody else does.

use std::time::{Duration, Instant};

use super::Rig;
use crate::harness::{Tank, Tongue, Upstream, Wire, check, check_problem, until};

const RUNNING: usize = 4;
const QUEUED: usize = 6;
const REQUESTS: usize = 200;

#[test]
fn requests_to_an_upstream_that_hangs_are_503_at_once_beyond_a_short_queue_and_others_are_served() {
    let other = Tank::start(Tongue::Http1);
    let rig = Rig::with(|setup| {
        let setup = setup.upstream(&format!("concurrency = {RUNNING}")).upstream(&format!("queue = {QUEUED}"));
        let setup = setup.upstream(r#"queue_timeout = "5m""#).upstream(r#"response_timeout = "5m""#);
        let setup = setup.option("upstream.other", &format!("url = {:?}", other.url()));
        setup.option("upstream.other.routes", r#""GET /other/{*rest}" = "authenticated""#)
    });
    let caller = rig.served.caller(&rig.root);
    rig.installation.upstream().hold();
    let request = caller.render("GET", "/open/x", &[], b"");
    let mut wires: Vec<Wire> = (0..REQUESTS).map(|_| Wire::connect(rig.served.public)).collect();
    let (memory, cpu) = (rig.probe.memory(), rig.probe.cpu());

    for wire in &mut wires {
        wire.send(&request);
    }
    let upstream: &Upstream = rig.installation.upstream();
    until("the places are taken", || upstream.open_connections() == RUNNING);
    let begun = Instant::now();
    until("all but a few are refused", || {
        wires.retain_mut(|wire| {
            let is_refused = wire.stirs_within(Duration::from_millis(1));
            if is_refused {
                check_problem(&wire.read_response(), 503, "upstream_busy");
            }
            !is_refused
        });
        wires.len() <= RUNNING + QUEUED
    });

    let refused = REQUESTS - wires.len();
    assert_eq!(refused, REQUESTS - RUNNING - QUEUED);
    println!("{refused} refused in {:?}, {:?}", begun.elapsed(), rig.probe.cpu() - cpu);
    check(&caller.get("/other/x"), 200);
    check(&caller.get("/api/keys"), 200);
    check_problem(&caller.get("/open/x"), 503, "upstream_busy");
    assert_eq!(upstream.connections(), RUNNING, "nothing is tried again");
    assert!(rig.probe.memory().saturating_sub(memory) < 32 * super::MIB);
    upstream.release();
}
