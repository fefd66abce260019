//! Failures by the thousand are a few lines of the log.

use super::Rig;
use crate::harness::{Vacant, until};

const FAILURES: usize = 500;

#[test]
fn failures_by_the_thousand_are_a_few_lines_of_the_log() {
    let vacant = Vacant::new();
    let mut rig = Rig::with(|setup| setup.upstream_url(&vacant.url()));
    let caller = rig.served.caller(&rig.root).keep_alive();
    let stranger = rig.served.anonymous().keep_alive();
    let before = rig.served.process.stderr().len();
    for _ in 0..FAILURES {
        let status = caller.get("/open/x").status;
        assert!([502, 503].contains(&status), "{status}");
        stranger.get("/open/x");
        stranger.get("//x");
    }
    // The last line of all: what was written before it has been read then.
    rig.served.process.signal("HUP");
    until("the reload is told", || rig.served.process.stderr().iter().any(|line| line.contains("configuration")));
    let lines = rig.served.process.stderr().len() - before;
    assert!(lines < FAILURES / 10, "{lines} lines: {:?}", rig.served.process);
}
