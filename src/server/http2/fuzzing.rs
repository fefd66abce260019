//! The rules for a client's frames without a connection, for the fuzz target `h2_frames` alone.

use std::sync::Arc;
use std::time::Instant;

use super::Http2;
use super::ledger::{Ledger, SharedLedger};
use super::rules::ClientFrames;
use super::sieve::{Progress, Rules};
use crate::server::settings::Client;
use crate::server::watch::Watch;

/// As a guard would drive them whose hyper makes a request of each header block, and answers none.
pub(in crate::server) fn judge(
    pieces: &[&[u8]],
    client: &Client,
    http2: &Http2,
    watch: Arc<Watch>,
    now: Instant,
) -> (usize, Option<&'static str>) {
    let ledger = SharedLedger::new(Ledger::new(client, http2, watch, now));
    let mut rules = ClientFrames::new(ledger.clone());
    let (mut held, mut passed) = (Vec::new(), 0);
    for piece in pieces {
        held.extend_from_slice(piece);
        loop {
            match rules.advance(&mut held) {
                Ok(Progress { pass: 0, skip: 0 }) => break,
                Ok(Progress { pass, skip }) => {
                    assert!(pass + skip <= held.len(), "no more passes than there is");
                    held.drain(..pass + skip);
                    passed += pass;
                }
                Err(cut) => return (passed, Some(cut.as_str())),
            }
            let mut ledger = ledger.lock();
            if ledger.pauses() {
                ledger.adopt(false);
                ledger.pauses();
            }
            ledger.expire();
            while ledger.take_reset().is_some() {}
            let _ = ledger.take_frames();
            let _ = ledger.next_deadline();
            if ledger.is_ending() {
                return (passed, ledger.take_cut().map(|cut| cut.as_str()));
            }
        }
    }
    (passed, None)
}
