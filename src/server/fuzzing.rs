//! What the listener reads ahead of requests, for the fuzz targets `proxy_protocol` and `h2_frames` alone: built with
//! `--cfg fuzzing` and never shipped.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::http2::fuzzing::judge;
use super::settings::Client;
use super::watch::Watch;
use super::{Http2, proxy_protocol};

/// The client and the length of the PROXY header that `bytes` begin with; `None` while it has not ended.
///
/// # Errors
/// Why it is none.
pub fn proxy_header(bytes: &[u8]) -> Result<Option<(Option<SocketAddr>, usize)>, String> {
    proxy_protocol::parse(bytes).map_err(|malformed| malformed.to_string())
}

/// How many bytes of HTTP/2 would be passed on to hyper, and why no more.
pub fn client_frames(pieces: &[&[u8]]) -> (usize, Option<&'static str>) {
    let now = Instant::now();
    judge(pieces, &Client::default(), &Http2::default(), Arc::new(Watch::new(now)), now)
}
