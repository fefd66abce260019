//! A response on its way to a client: its head as HTTP/1 has it, and its body as that comes.

use std::cell::RefCell;
use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, TRAILER, TRANSFER_ENCODING};
use http::response::Parts;
use http::{HeaderValue, Response, StatusCode, Version};
use http_body::Body;
use tokio::io::{AsyncRead, AsyncWrite};

use super::lock;
use super::wire::Wire;
use crate::http::outgoing::{Framing, Outgoing, announced, put_field};
use crate::server::watch::Watch;

/// What a response must be like for its request.
#[derive(Clone, Copy)]
pub(super) struct Manner {
    pub(super) is_head: bool,
    pub(super) version: Version,
    pub(super) takes_trailers: bool,
    /// Whether another request may follow.
    pub(super) keeps: bool,
}

pub(super) struct Sending<B> {
    body: B,
    outgoing: Outgoing,
    keeps: bool,
    /// Of a connection whose end is that of the body.
    watch: Option<Arc<Watch>>,
}

impl<B> Drop for Sending<B> {
    /// An orderly end would make what was cut look whole.
    fn drop(&mut self) {
        if let Some(watch) = self.watch.take_if(|_| !self.outgoing.is_over()) {
            watch.set_cut();
        }
    }
}

impl<B> Sending<B>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Unpin,
{
    /// `front` is sent before it; `watch` is the connection's.
    pub(super) fn new(front: Vec<u8>, response: Response<B>, manner: Manner, watch: &Arc<Watch>) -> Self {
        let (parts, body) = response.into_parts();
        let has_body = !manner.is_head && may_have_body(parts.status);
        let length = body.size_hint().exact();
        let framing = match length {
            _ if !has_body => Framing::Sized(0),
            Some(length) => Framing::Sized(length),
            None if manner.version == Version::HTTP_10 => Framing::UntilClose,
            None => Framing::Chunked,
        };
        let says_close = || parts.headers.get_all(CONNECTION).iter().any(is_close);
        let keeps = manner.keeps && framing != Framing::UntilClose && !says_close();
        let announced = match framing {
            Framing::Chunked if manner.takes_trailers => announced(&parts.headers),
            _ => Vec::new(),
        };
        let head = encode(front, &parts, framing, &Told { length, has_body, keeps, version: manner.version });
        let outgoing = Outgoing::new(head, framing, announced, framing == Framing::Sized(0));
        let watch = (framing == Framing::UntilClose).then(|| Arc::clone(watch));
        Self { body, outgoing, keeps, watch }
    }

    /// Whether another request may follow.
    pub(super) fn keeps(&self) -> bool {
        self.keeps
    }

    /// Writes what there is. Ready when the response is sent.
    pub(super) fn poll<S>(&mut self, wire: &Mutex<Wire<S>>, cx: &mut Context<'_>) -> Poll<io::Result<()>>
    where
        S: AsyncRead + AsyncWrite + AsFd + Unpin,
    {
        loop {
            let mut is_waiting = false;
            while !is_waiting && !self.outgoing.is_last() && self.outgoing.has_room() {
                is_waiting = self.poll_body(cx)?.is_pending();
            }
            // All of it has come, whenever its sender says so.
            if is_waiting && self.outgoing.is_undecided() {
                self.outgoing.end(None).map_err(io::Error::other)?;
                is_waiting = false;
            }
            let mut wire = lock(wire);
            if !self.outgoing.is_written() {
                ready!(wire.poll_write(&mut self.outgoing, cx))?;
                continue;
            }
            if is_waiting || self.outgoing.is_last() {
                ready!(wire.poll_flush(&mut self.outgoing, cx))?;
            }
            if self.outgoing.is_last() {
                return Poll::Ready(Ok(()));
            }
            if is_waiting {
                ready!(wire.poll_left(cx));
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
        }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> io::Result<Poll<()>> {
        let frame = match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(None) => {
                self.outgoing.end(None).map_err(io::Error::other)?;
                return Ok(Poll::Ready(()));
            }
            Poll::Ready(Some(Err(error))) => return Err(io::Error::other(error)),
            Poll::Ready(Some(Ok(frame))) => frame,
        };
        match frame.into_data() {
            Ok(piece) => {
                self.outgoing.put(piece).map_err(io::Error::other)?;
                if self.body.is_end_stream() {
                    self.outgoing.end(None).map_err(io::Error::other)?;
                }
            }
            Err(frame) => {
                let trailers = frame.into_trailers().unwrap_or_default();
                self.outgoing.end(Some(&trailers)).map_err(io::Error::other)?;
            }
        }
        Ok(Poll::Ready(()))
    }
}

fn may_have_body(status: StatusCode) -> bool {
    !status.is_informational() && status != StatusCode::NO_CONTENT && status != StatusCode::NOT_MODIFIED
}

fn is_close(value: &HeaderValue) -> bool {
    value.as_bytes().split(|byte| *byte == b',').any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"))
}

/// What a head says beside the fields of its response.
struct Told {
    /// Of the body, or of the one that a GET would get.
    length: Option<u64>,
    has_body: bool,
    keeps: bool,
    version: Version,
}

/// RFC 9112 §4 and §6. Fields that frame the body say what `framing` says, whatever they said.
fn encode(front: Vec<u8>, parts: &Parts, framing: Framing, told: &Told) -> Vec<u8> {
    let mut head = front;
    head.reserve(HEAD_BYTES + parts.headers.len() * FIELD_BYTES);
    head.extend_from_slice(if told.version == Version::HTTP_10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    head.extend_from_slice(parts.status.as_str().as_bytes());
    head.push(b' ');
    head.extend_from_slice(parts.status.canonical_reason().unwrap_or_default().as_bytes());
    head.extend_from_slice(b"\r\n");
    let is_switch = parts.status == StatusCode::SWITCHING_PROTOCOLS;
    let (mut says_length, mut says_date) = (false, false);
    for (name, value) in &parts.headers {
        match *name {
            // Of a response that has no body it is about the one that another request would get.
            CONTENT_LENGTH if told.has_body || says_length => continue,
            CONTENT_LENGTH if parts.status.is_informational() || parts.status == StatusCode::NO_CONTENT => continue,
            CONTENT_LENGTH => says_length = true,
            CONNECTION if !is_switch => continue,
            TRAILER if framing != Framing::Chunked => continue,
            TRANSFER_ENCODING => continue,
            DATE => says_date = true,
            _ => {}
        }
        put_field(&mut head, name.as_str(), value.as_bytes());
    }
    match (framing, told.length) {
        (Framing::Chunked, _) => head.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        (Framing::Sized(length), _) if told.has_body => put_length(&mut head, length),
        // RFC 9110 §9.3.2: what a GET would say, if that is known.
        (Framing::Sized(_), Some(length)) if length > 0 && !says_length && may_have_body(parts.status) => {
            put_length(&mut head, length);
        }
        (Framing::Sized(_) | Framing::UntilClose, _) => {}
    }
    if !told.keeps && !is_switch {
        head.extend_from_slice(b"connection: close\r\n");
    } else if told.version == Version::HTTP_10 {
        head.extend_from_slice(b"connection: keep-alive\r\n");
    }
    if !says_date {
        put_date(&mut head);
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// Room for a status line, the date and what frames the body, and for a field.
const HEAD_BYTES: usize = 160;
const FIELD_BYTES: usize = 40;

fn put_length(head: &mut Vec<u8>, length: u64) {
    let mut digits = [0; 20];
    let (mut at, mut rest) = (digits.len(), length);
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(rest % 10).unwrap_or_default();
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    put_field(head, "content-length", &digits[at..]);
}

/// The present date, as RFC 9110 §6.6.1 asks for it; written out once a second.
fn put_date(head: &mut Vec<u8>) {
    thread_local! {
        static WRITTEN: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
    }
    let second = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    WRITTEN.with_borrow_mut(|(written, text)| {
        if *written != second {
            *text = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(second));
            *written = second;
        }
        put_field(head, "date", text.as_bytes());
    });
}
