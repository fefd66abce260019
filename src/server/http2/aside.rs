//! What is sent on a stream ahead of its response: interim responses of the upstream's, and `100 Continue` for a client that
//! holds its body back until it is asked for (RFC 9110 §10.1.1).
//!
//! hyper sends none of it over HTTP/2, so the guard does. Sent when there is room for it, and not at all once the response
//! has begun.

use std::fmt;
use std::task::Waker;

use http::header::EXPECT;
use http::{Request, Response};
use hyper::body::{Body, Incoming};

use super::ledger::SharedLedger;
use crate::http::framing::interim;

/// One stream, to whoever has something to send on it ahead of its response. May be used from any task.
#[derive(Clone)]
pub struct Aside {
    ledger: SharedLedger,
    stream: u32,
    /// What the frames of the request's head took.
    block_bytes: usize,
}

impl Aside {
    pub(super) fn new(ledger: SharedLedger, stream: u32, block_bytes: usize) -> Self {
        Self { ledger, stream, block_bytes }
    }

    /// What the request's head took, and what the client has sent on the connection beyond what was charged to it.
    pub(in crate::server) fn outlay(&self) -> usize {
        self.ledger.lock().outlay.with(self.block_bytes)
    }

    pub(in crate::server) fn charge(&self, bytes: usize) {
        self.ledger.lock().outlay.charge(self.block_bytes, bytes);
    }

    pub(in crate::server) fn send(&self, interim: &Response<()>) {
        let Some(frame) = interim::over_http2(self.stream, interim) else { return };
        let connection = self.ledger.lock().interim(self.stream, frame);
        connection.into_iter().for_each(Waker::wake);
    }
}

impl fmt::Debug for Aside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Aside").field("stream", &self.stream).finish_non_exhaustive()
    }
}

/// Asks for the body of one stream.
#[derive(Clone, Debug)]
pub struct Invitation(pub(in crate::server) Aside);

impl Invitation {
    /// To be called by whoever waits for the body, from any task. By the time that it could be sent it may be needless:
    /// then it is not.
    pub fn send(self) {
        let Aside { ledger, stream, .. } = &self.0;
        let connection = ledger.lock().invite(*stream);
        connection.into_iter().for_each(Waker::wake);
    }
}

/// Whether a request's body may come only once it is asked for. What else a request expects is refused.
pub(super) fn is_awaited(request: &Request<Incoming>) -> bool {
    !request.body().is_end_stream() && request.headers().contains_key(EXPECT)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use super::super::ledger::Ledger;
    use super::super::settings::Http2;
    use crate::http::framing::frames::{Event, Frames, invitation, reset};
    use crate::server::settings::Client;
    use crate::server::watch::Watch;

    const CLIENT_HEAD: [u8; 9] = [0, 0, 0, 1, 4, 0, 0, 0, 1];
    const EMPTY_DATA: [u8; 9] = [0, 0, 0, 0, 0, 0, 0, 0, 1];

    fn events(mut bytes: &[u8]) -> Vec<Event> {
        let (mut frames, mut events) = (Frames::default(), Vec::new());
        while frames.can_step(bytes) {
            let (taken, event) = frames.step(bytes);
            bytes = &bytes[taken..];
            events.extend(event);
        }
        events
    }

    fn read(ledger: &mut Ledger, bytes: &[u8]) {
        for event in events(bytes) {
            ledger.read(event).unwrap();
        }
    }

    /// Of a client that holds back the body of stream 1, and is to be asked for it at the next place between two frames.
    fn invited() -> Ledger {
        let now = Instant::now();
        let mut ledger = Ledger::new(&Client::default(), &Http2::default(), Arc::new(Watch::new(now)), now);
        read(&mut ledger, &CLIENT_HEAD);
        assert_eq!(ledger.adopt(true).1, Some(1));
        ledger.invite(1);
        assert!(ledger.has_frames());
        ledger
    }

    #[test]
    fn client_is_asked_once() {
        let mut ledger = invited();
        assert_eq!(ledger.take_frames(), invitation(1));
        ledger.invite(1);
        assert!(!ledger.has_frames());
    }

    #[test]
    fn client_is_not_asked_for_what_is_answered_or_has_begun_to_come_meanwhile() {
        let response_begins = [0, 0, 1, 1, 4, 0, 0, 0, 1, 0x88];
        let mut ledger = invited();
        events(&response_begins).into_iter().for_each(|event| ledger.wrote(event));
        assert_eq!(ledger.take_frames(), b"");
        assert!(!ledger.has_frames());
        let table_of_nothing = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0];
        for bytes in [&EMPTY_DATA[..], &reset(1, 8), &table_of_nothing] {
            let mut ledger = invited();
            read(&mut ledger, bytes);
            assert_eq!(ledger.take_frames(), b"", "{bytes:?}");
            assert!(!ledger.has_frames());
        }
    }
}
