//! HTTP/2 from end to end: calls as gRPC makes them.

use ::h2::{Reason, RecvStream};
use bytes::Bytes;

use crate::harness::*;

const FIELDS: [(&str, &str); 2] = [("content-type", "application/grpc"), ("te", "trailers")];

fn gate_to(upstream: &H2Upstream) -> Gate {
    Gate::with(|setup| setup.upstream_url(&format!("http://{}", upstream.address())).upstream(r#"protocol = "http2""#))
}

/// The next piece of a body; `None` at its end.
#[track_caller]
fn next(body: &mut RecvStream) -> Option<Result<Bytes, ::h2::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let piece = runtime.block_on(async { tokio::time::timeout(DEADLINE, body.data()).await });
    piece.expect("nothing came in time")
}

/// Reads until so many bytes are there.
#[track_caller]
fn read(body: &mut RecvStream, count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < count {
        let piece = next(body).expect("more of the body").expect("no error");
        let _ = body.flow_control().release_capacity(piece.len());
        bytes.extend_from_slice(&piece);
    }
    bytes
}

#[test]
fn a_call_passes_with_its_trailers() {
    let upstream = H2Upstream::start();
    let gate = gate_to(&upstream);
    let reply = H2Reply::status(200).header("content-type", "application/grpc").data("answer");
    upstream.reply(reply.trailers(&[
        ("grpc-status", "0"),
        ("x-portcullis-key-id", "spoof"),
        ("set-cookie", "a=b"),
        ("content-length", "9"),
    ]));
    let client = H2Client::connect(gate.public());
    let answer = client.request("POST", "/public/Echo/Call", &FIELDS, b"question");
    assert_eq!((check(&answer, 200).text().as_str(), answer.header("grpc-status")), ("answer", Some("0")));
    for dropped in ["x-portcullis-key-id", "set-cookie", "content-length"] {
        assert!(answer.header(dropped).is_none(), "{dropped}");
    }
    let seen = upstream.last();
    assert_eq!((seen.target.as_str(), seen.authority.as_deref()), ("/public/Echo/Call", Some("gate.test")));
    assert_eq!((seen.header("te"), seen.body.as_slice()), (Some("trailers"), &b"question"[..]));
}

#[test]
fn a_call_that_ends_with_its_head_passes() {
    let upstream = H2Upstream::start();
    let gate = gate_to(&upstream);
    upstream.reply(H2Reply::status(200).header("grpc-status", "12").header("content-type", "application/grpc"));
    let client = H2Client::connect(gate.public());
    let answer = client.request("POST", "/public/Echo/Call", &FIELDS, b"question");
    assert_eq!((check(&answer, 200).header("grpc-status"), answer.body.len()), (Some("12"), 0));
}

#[test]
fn a_call_streams_both_ways_and_ends_when_both_have() {
    let upstream = H2Upstream::start();
    let gate = gate_to(&upstream);
    let client = H2Client::connect(gate.public());
    let mut call = client.open("POST", "/public/Echo/Chat", &FIELDS, false);
    // The response begins before anything of the request's body came.
    let (head, mut body) = call.head().expect("a head");
    check(&head, 200);
    for turn in 0..10 {
        let piece = format!("turn {turn}").into_bytes();
        call.send(&piece);
        assert_eq!(read(&mut body, piece.len()), piece);
    }
    call.finish();
    while let Some(piece) = next(&mut body) {
        assert!(piece.expect("an orderly end").is_empty());
    }
    assert!(upstream.last().body.starts_with(b"turn 0turn 1"));
    // The place that it took is free again.
    check(&client.request("POST", "/public/Echo/Call", &FIELDS, b"question"), 200);
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn a_call_that_the_upstream_resets_never_looks_complete() {
    for reason in [Reason::INTERNAL_ERROR, Reason::NO_ERROR, Reason::CANCEL] {
        let upstream = H2Upstream::start();
        let gate = gate_to(&upstream);
        let client = H2Client::connect(gate.public());
        upstream.reply(H2Reply::status(200).data("as far as it goes").hold().reset(reason));
        let mut call = client.open("POST", "/public/Echo/Call", &FIELDS, true);
        let (_, mut body) = call.head().expect("a head");
        assert_eq!(read(&mut body, 17), b"as far as it goes");
        upstream.release();
        next(&mut body).expect("an end").expect_err("no orderly one");
        check(&client.request("POST", "/public/Echo/Call", &FIELDS, b"question"), 200);
        assert_eq!(upstream.connections(), 1);
    }
}

#[test]
fn a_call_that_the_client_cancels_is_reset_at_the_upstream() {
    let upstream = H2Upstream::start();
    let gate = gate_to(&upstream);
    let client = H2Client::connect(gate.public());
    upstream.reply(H2Reply::status(200).data("begun").hold().before_body());
    let mut call = client.open("POST", "/public/Echo/Chat", &FIELDS, false);
    let (_, mut body) = call.head().expect("a head");
    assert_eq!(read(&mut body, 5), b"begun");
    drop(body);
    call.cancel();
    upstream.wait_for_resets(1);
    check(&client.request("POST", "/public/Echo/Call", &FIELDS, b"question"), 200);
    assert_eq!(upstream.connections(), 1);
}
