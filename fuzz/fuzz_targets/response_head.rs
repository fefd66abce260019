//! An upstream's bytes: what passes is read in the same way by a second reader, and the connection is used again only
//! when it ended exactly where the last response did.

#![no_main]

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use http::Method;
use libfuzzer_sys::fuzz_target;
use portcullis::http::framing::{BadResponse, GuardedUpstream, ResponseLimits};
use portcullis_fuzz::http1::{self, Framing};
use portcullis_fuzz::pieces;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const LIMITS: ResponseLimits = ResponseLimits { head_bytes_max: 2 << 10, fields_max: 20 };

fuzz_target!(|bytes: &[u8]| {
    let Some((&[seed, kind], bytes)) = bytes.split_first_chunk::<2>() else { return };
    let whole = run(&[bytes], *kind_of(kind));
    let cut = run(&pieces(bytes, seed), *kind_of(kind));
    assert_eq!(whole, cut, "a verdict depends on the bytes alone");
    check(&whole, bytes, *kind_of(kind));
});

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Asked {
    Get,
    Head,
    WebSocket,
}

fn kind_of(byte: u8) -> &'static Asked {
    &[Asked::Get, Asked::Head, Asked::WebSocket][usize::from(byte % 3)]
}

#[derive(Debug, Eq, PartialEq)]
struct Verdict {
    passed: Vec<u8>,
    bad: Option<BadResponse>,
    is_clean: bool,
}

fn run(pieces: &[&[u8]], asked: Asked) -> Verdict {
    let coming = Pieces::default();
    let mut guarded = GuardedUpstream::new(Socket(Rc::clone(&coming)), LIMITS);
    let state = guarded.state();
    state.announce(if asked == Asked::Head { &Method::HEAD } else { &Method::GET });
    if asked == Asked::WebSocket {
        state.announce_upgrade();
    }
    let mut cx = Context::from_waker(Waker::noop());
    assert!(Pin::new(&mut guarded).poll_write(&mut cx, b"GET / HTTP/1.1\r\n\r\n").is_ready(), "the request is written");
    *coming.borrow_mut() = pieces.iter().rev().map(|piece| piece.to_vec()).collect();
    let (mut passed, mut bad) = (Vec::new(), None);
    loop {
        let mut room = [0; 700];
        let mut buf = ReadBuf::new(&mut room);
        match Pin::new(&mut guarded).poll_read(&mut cx, &mut buf) {
            Poll::Pending => break,
            Poll::Ready(Ok(())) => passed.extend_from_slice(buf.filled()),
            Poll::Ready(Err(error)) => {
                bad = BadResponse::of(&error);
                assert!(bad.is_some(), "the socket has no faults: {error}");
                break;
            }
        }
    }
    Verdict { passed, bad, is_clean: state.is_clean() }
}

fn check(verdict: &Verdict, bytes: &[u8], asked: Asked) {
    assert!(bytes.starts_with(&verdict.passed), "what passes is what came");
    let mut at = 0;
    loop {
        let left = &verdict.passed[at..];
        if left.is_empty() {
            assert!(!verdict.is_clean, "nothing was answered: {verdict:?}");
            return;
        }
        let (status, head) = http1::response_head(left).expect("no head passes in part");
        http1::check_lines(&left[..head.head_bytes]);
        at += head.head_bytes;
        assert!((100..600).contains(&status));
        if status == 101 {
            assert!(asked == Asked::WebSocket && !verdict.is_clean);
            return;
        }
        if status >= 200 {
            return check_body(verdict, &head, status, at, asked);
        }
    }
}

/// Of the final response, whose body begins at `at`.
fn check_body(verdict: &Verdict, head: &http1::Message, status: u16, at: usize, asked: Asked) {
    let framing = head.framing();
    let body = &verdict.passed[at..];
    let end = match framing {
        _ if asked == Asked::Head || matches!(status, 204 | 304) => Some(at),
        Framing::Chunked => http1::chunked(body).map(|length| at + length),
        Framing::Sized(length) => http1::sized(&verdict.passed, at, length),
        Framing::None => None,
    };
    match end {
        Some(end) => assert_eq!(end, verdict.passed.len(), "nothing passes behind a response: {verdict:?}"),
        None => assert!(!verdict.is_clean, "it has not ended: {verdict:?}"),
    }
    let is_close = |option: &[u8]| option.trim_ascii().eq_ignore_ascii_case(b"close");
    let says_close = |value: &&[u8]| value.split(|byte| *byte == b',').any(is_close);
    if verdict.is_clean {
        assert!(verdict.bad.is_none(), "bytes that belong to nobody: {verdict:?}");
        assert!(!head.values("connection").iter().any(says_close), "it says that it closes: {verdict:?}");
    }
}

/// The last one is the next.
type Pieces = Rc<RefCell<Vec<Vec<u8>>>>;

/// Gives its pieces one by one, and then waits: the upstream keeps the connection.
struct Socket(Pieces);

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut pieces = self.0.borrow_mut();
        let Some(mut piece) = pieces.pop() else { return Poll::Pending };
        let rest = piece.split_off(piece.len().min(buf.remaining()));
        buf.put_slice(&piece);
        if !rest.is_empty() {
            pieces.push(rest);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
