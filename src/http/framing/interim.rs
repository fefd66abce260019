//! Interim (1xx) responses: found in what an upstream sends, handed over to whoever waits for the final one, and written
//! for the client.
//!
//! Invariant: what is written depends on nothing that was sent before, and changes nothing of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use http::{HeaderName, HeaderValue, Response, StatusCode};

use super::field::{Line, line};

/// A larger head is left out: in HTTP/2 it would need more than one frame.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Whether an interim response goes on to the client (RFC 9110 §15.2). 100 answers an `Expect` that was not passed on, and
/// 101 ends what HTTP has to say.
pub fn is_passed_on(status: StatusCode) -> bool {
    (102..200).contains(&status.as_u16())
}

/// Interim responses that nobody has taken yet.
#[derive(Debug, Default)]
pub struct Interims {
    /// So that a request without any costs no lock.
    is_any: AtomicBool,
    waiting: Mutex<Vec<Response<()>>>,
}

impl Interims {
    pub fn push(&self, head: Response<()>) {
        self.waiting().push(head);
        self.is_any.store(true, Ordering::Release);
    }

    pub fn take(&self) -> Vec<Response<()>> {
        if !self.is_any.load(Ordering::Acquire) {
            return Vec::new();
        }
        self.is_any.store(false, Ordering::Relaxed);
        std::mem::take(&mut self.waiting())
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Response<()>>> {
        // Whole after any panic: every change is one call.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The interim response in the bytes of a valid head, if it goes on to the client.
pub(super) fn parse(status: u16, head: &[u8]) -> Option<Response<()>> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(status).ok().filter(|status| is_passed_on(*status))?;
    let status_line = head.windows(2).position(|end| end == b"\r\n")? + 2;
    let mut rest = &head[status_line..];
    while let Ok(Line::Field { name, value, len }) = line(rest) {
        let (name, value) = (HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?);
        response.headers_mut().append(name, value);
        rest = &rest[len..];
    }
    Some(response)
}

/// An interim response as HTTP/1.1 has it; `None` when it is too large.
pub fn over_http1(interim: &Response<()>) -> Option<Vec<u8>> {
    let reason = interim.status().canonical_reason().unwrap_or_default();
    let mut head = format!("HTTP/1.1 {} {reason}\r\n", interim.status().as_str()).into_bytes();
    for (name, value) in interim.headers() {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            head.extend_from_slice(part);
        }
    }
    head.extend_from_slice(b"\r\n");
    (head.len() <= HEAD_BYTES_MAX).then_some(head)
}

/// An interim response as a HEADERS frame; `None` when it is too large.
pub fn over_http2(stream: u32, interim: &Response<()>) -> Option<Vec<u8>> {
    const FRAME_HEADER: [u8; 9] = [0, 0, 0, 1, 4, 0, 0, 0, 0];
    let mut frame = FRAME_HEADER.to_vec();
    frame[5..].copy_from_slice(&stream.to_be_bytes());
    // RFC 7541 §6.2.2: `:status` by its place in the static table, and nothing of it all to be kept.
    frame.push(8);
    push_text(&mut frame, interim.status().as_str().as_bytes());
    for (name, value) in interim.headers() {
        frame.push(0);
        push_text(&mut frame, name.as_str().as_bytes());
        push_text(&mut frame, value.as_bytes());
    }
    let len = frame.len() - FRAME_HEADER.len();
    if len > HEAD_BYTES_MAX {
        return None;
    }
    let len = u32::try_from(len).ok()?.to_be_bytes();
    frame[..3].copy_from_slice(&len[1..]);
    Some(frame)
}

/// RFC 7541 §5.1 and §5.2, without Huffman coding.
fn push_text(frame: &mut Vec<u8>, text: &[u8]) {
    const PREFIX_MAX: usize = 127;
    if text.len() < PREFIX_MAX {
        frame.push(text.len() as u8);
    } else {
        frame.push(PREFIX_MAX as u8);
        let mut rest = text.len() - PREFIX_MAX;
        while rest >= 128 {
            frame.push((rest % 128 + 128) as u8);
            rest /= 128;
        }
        frame.push(rest as u8);
    }
    frame.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hints(length: usize) -> Response<()> {
        let head = format!("HTTP/1.1 103 x\r\nLink: </a>\r\nLink: {}\r\n\r\n", "b".repeat(length));
        parse(103, head.as_bytes()).expect("it goes on")
    }

    #[test]
    fn interim_response_is_written_as_it_was_read() {
        assert_eq!(over_http1(&hints(2)).unwrap(), b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\nlink: bb\r\n\r\n");
        let frame = over_http2(5, &hints(2)).unwrap();
        assert_eq!(frame[..9], [0, 0, 25, 1, 4, 0, 0, 0, 5]);
        assert_eq!(&frame[9..], b"\x08\x03103\x00\x04link\x04</a>\x00\x04link\x02bb");
    }

    #[test]
    fn long_text_has_its_length_in_several_bytes() {
        for (length, prefix) in [(126, &[126][..]), (127, &[127, 0]), (254, &[127, 127]), (255, &[127, 128, 1])] {
            let mut written = Vec::new();
            push_text(&mut written, &vec![b'x'; length]);
            assert_eq!(written[..written.len() - length], *prefix, "{length}");
        }
    }

    #[test]
    fn interim_response_that_is_too_large_is_left_out() {
        assert!(over_http1(&hints(16_000)).is_some() && over_http2(1, &hints(16_000)).is_some());
        assert!(over_http1(&hints(16_384)).is_none() && over_http2(1, &hints(16_384)).is_none());
    }

    #[test]
    fn neither_100_nor_101_goes_on() {
        assert!(parse(100, b"HTTP/1.1 100 x\r\n\r\n").is_none());
        assert!(parse(101, b"HTTP/1.1 101 x\r\n\r\n").is_none());
        assert!(parse(199, b"HTTP/1.1 199\r\n\r\n").is_some());
    }
}
