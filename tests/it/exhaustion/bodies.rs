//! Bodies far larger than memory, both ways and over both versions of HTTP.
//!
//! `PORTCULLIS_STREAMED_MIB=10240` sets how large each is.

use std::net::SocketAddr;
use std::pin::Pin;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::{MIB, Rig};
use crate::harness::{Tank, Tongue, Zeros};

const SIZE: u64 = 64 * MIB;
const MEMORY_MAX: u64 = 16 * MIB;

async fn send(address: SocketAddr, tongue: Tongue, request: Request<Zeros>) -> Response<Incoming> {
    let socket = TokioIo::new(TcpStream::connect(address).await.expect("a connection"));
    match tongue {
        Tongue::Http1 => {
            let (mut requests, connection) = http1::handshake(socket).await.expect("a connection");
            tokio::spawn(connection);
            requests.send_request(request).await.expect("a response")
        }
        Tongue::Http2 => {
            let (mut requests, connection) =
                http2::handshake(TokioExecutor::new(), socket).await.expect("a connection");
            tokio::spawn(connection);
            requests.send_request(request).await.expect("a response")
        }
    }
}

/// Sends a request and reads its whole response: its length.
pub(super) fn exchange(address: SocketAddr, tongue: Tongue, request: Request<Zeros>) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let response = send(address, tongue, request).await;
        assert_eq!(response.status(), 200);
        let (mut body, mut read) = (response.into_body(), 0);
        while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            read += frame.expect("a whole body").data_ref().map_or(0, |piece: &Bytes| piece.len() as u64);
        }
        read
    })
}

#[track_caller]
fn check(tongue: Tongue) {
    let size = std::env::var("PORTCULLIS_STREAMED_MIB").map_or(SIZE, |mib| mib.parse::<u64>().expect("a number") * MIB);
    let tank = Tank::start(tongue);
    let rig = Rig::with(|setup| {
        let setup = setup.upstream_url(&tank.url()).option("requests", r#"max_body = "off""#);
        let protocol = if tongue == Tongue::Http2 { "http2" } else { "http1" };
        setup.option("requests", r#"timeout = "1h""#).upstream(&format!("protocol = {protocol:?}"))
    });
    let caller = rig.served.caller(&rig.root);
    let request = |method: &str, path: String, body: u64| -> Request<Zeros> {
        let target = format!("http://gate.test{path}");
        let target = if tongue == Tongue::Http2 { target } else { path };
        let request = Request::builder().method(method).uri(target).header("host", "gate.test");
        request.header("authorization", caller.authorization()).body(Zeros::new(body)).expect("a request")
    };
    assert_eq!(exchange(rig.served.public, tongue, request("GET", "/open/give/5000000".into(), 0)), 5_000_000);
    let before = rig.probe.memory();
    let look = |what: &str, cpu: std::time::Duration| {
        let grown = rig.probe.peak().saturating_sub(before);
        println!("{tongue:?}, {} MiB {what}: {} KiB more, {:?}", size / MIB, grown / 1_024, rig.probe.cpu() - cpu);
        assert!(grown < MEMORY_MAX, "{tongue:?}, {what}: {grown} bytes more for {size}");
    };

    rig.probe.forget_peak();
    let cpu = rig.probe.cpu();
    assert_eq!(exchange(rig.served.public, tongue, request("GET", format!("/open/give/{size}"), 0)), size);
    look("down", cpu);

    rig.probe.forget_peak();
    let cpu = rig.probe.cpu();
    exchange(rig.served.public, tongue, request("POST", "/api/v1/write".into(), size));
    assert_eq!(tank.taken(), size);
    look("up", cpu);
}

#[test]
fn bodies_of_any_size_take_the_same_memory_over_http1() {
    check(Tongue::Http1);
}

#[test]
fn bodies_of_any_size_take_the_same_memory_over_http2() {
    check(Tongue::Http2);
}
