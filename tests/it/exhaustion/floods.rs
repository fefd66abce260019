//! Floods of HTTP/2 frames beside a good client: it is served, and what they cost has a bound.
//!
//! `PORTCULLIS_FLOODS=10` sets for how many seconds each goes on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::slow_clients::Street;
use crate::harness::RawH2;
use crate::harness::raw_h2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE, block,
    frame, head,
};

const TIME: Duration = Duration::from_millis(300);
const FLOODERS: usize = 4;
const FLOOD_BYTES: usize = 1 << 20;

/// Clients that pour frames, and come again when they are cut off.
struct Flooders {
    ended: Arc<AtomicBool>,
    connections: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Flooders {
    fn start(address: SocketAddr, opening: &[u8], flood: &[u8]) -> Self {
        let (ended, connections) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let flooder = || {
            let (ended, connections) = (Arc::clone(&ended), Arc::clone(&connections));
            let (opening, flood) = (opening.to_vec(), flood.to_vec());
            std::thread::spawn(move || {
                while !ended.load(Ordering::SeqCst) {
                    connections.fetch_add(1, Ordering::SeqCst);
                    let mut raw = RawH2::connect(address);
                    raw.mute().send(&opening).flood(&flood, FLOOD_BYTES / flood.len()).finish();
                    raw.farewell();
                }
            })
        };
        let threads = (0..FLOODERS).map(|_| flooder()).collect();
        Self { ended, connections, threads }
    }

    fn end(self) -> String {
        self.ended.store(true, Ordering::SeqCst);
        self.threads.into_iter().for_each(|thread| thread.join().expect("flooders count no failure"));
        format!("{} connections", self.connections.load(Ordering::SeqCst))
    }
}

#[test]
fn good_client_is_served_beside_floods_of_frames() {
    let time = std::env::var("PORTCULLIS_FLOODS")
        .map_or(TIME, |seconds| Duration::from_secs(seconds.parse().expect("a number of seconds")));
    let street = Street::new();
    let authorization = street.good.authorization();
    let get = block(&head("GET", "/public/x"));
    let known = [&head("POST", "/api/v1/write")[..], &[("authorization", &authorization)]].concat();
    let post = frame(HEADERS, END_HEADERS, 1, &block(&known));
    let reset = |stream: u32| {
        [frame(HEADERS, END_HEADERS | END_STREAM, stream, &get), frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())]
    };
    let fault = |stream: u32| {
        [frame(HEADERS, END_HEADERS | END_STREAM, stream, &get), frame(DATA, END_STREAM, stream, b"after the end")]
    };
    let streams = || (1..20_000).step_by(2);
    let floods: [(&str, Vec<u8>, Vec<u8>); 11] = [
        ("rapid reset", Vec::new(), streams().flat_map(reset).collect::<Vec<_>>().concat()),
        ("made to reset", Vec::new(), streams().flat_map(fault).collect::<Vec<_>>().concat()),
        ("empty CONTINUATION", frame(HEADERS, END_STREAM, 1, &get), frame(CONTINUATION, 0, 1, &[])),
        (
            "long CONTINUATION",
            frame(HEADERS, END_STREAM, 1, &get),
            frame(CONTINUATION, 0, 1, &block(&[("x-y", "z".repeat(10_000))])),
        ),
        ("SETTINGS", Vec::new(), frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 1])),
        ("PING", Vec::new(), frame(PING, 0, 0, &[0; 8])),
        ("PRIORITY", Vec::new(), frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])),
        ("WINDOW_UPDATE", Vec::new(), frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        ("empty DATA", post.clone(), frame(DATA, 0, 1, &[])),
        ("DATA of a byte", post.clone(), frame(DATA, 0, 1, b"x")),
        ("padding alone", post, frame(DATA, 8, 1, &[200; 201])),
    ];
    for (what, opening, flood) in floods {
        let begin = || Flooders::start(street.rig.served.public, &opening, &flood);
        street.check_beside(what, time, begin, Flooders::end).check(what);
    }
}
