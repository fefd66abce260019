//! Refusals as gRPC clients read them: a status of their own in the fields of an otherwise successful response.
//!
//! Decides nothing: which status it is says [`super::Refusal`].

use std::fmt::Write;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, Version};

const GRPC: &str = "application/grpc";
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub(super) const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// How a client wants to be refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Dialect {
    Grpc,
    Problem,
}

impl Dialect {
    /// gRPC is HTTP/2 with a media type of its own; gRPC-Web, over whatever, is another one.
    pub fn of<B>(request: &Request<B>) -> Self {
        if request.version() == Version::HTTP_2 && is_grpc(request.headers()) { Self::Grpc } else { Self::Problem }
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let Some((start, rest)) = value.split_at_checked(GRPC.len()) else { return false };
    start.eq_ignore_ascii_case(GRPC.as_bytes()) && matches!(rest.first(), None | Some(b'+' | b';'))
}

/// The statuses that refusals have, with their numbers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u16)]
pub(super) enum Code {
    DeadlineExceeded = 4,
    FailedPrecondition = 9,
    Internal = 13,
    InvalidArgument = 3,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    Unauthenticated = 16,
    Unavailable = 14,
    Unimplemented = 12,
}

/// How a call ended.
pub(super) struct Status {
    pub(super) code: Code,
    pub(super) message: String,
    /// How long the client should wait before it tries again.
    pub(super) pushback: Option<Duration>,
}

impl Status {
    /// A response of trailers only, which go where headers usually are.
    pub(super) fn into_response(self) -> Response<Bytes> {
        let mut response = Response::new(Bytes::new());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(GRPC));
        headers.insert(STATUS, HeaderValue::from(self.code as u16));
        if let Ok(message) = HeaderValue::try_from(percent_encoded(&self.message)) {
            headers.insert(MESSAGE, message);
        }
        if let Some(pushback) = self.pushback {
            headers.insert(PUSHBACK, HeaderValue::from(u64::try_from(pushback.as_millis()).unwrap_or(u64::MAX).max(1)));
        }
        response
    }
}

/// As gRPC's protocol over HTTP/2 asks for it: all but printable ASCII, and the percent sign itself.
fn percent_encoded(message: &str) -> String {
    let mut encoded = String::with_capacity(message.len());
    for byte in message.bytes() {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(version: Version, content_type: &str, expected: Dialect) {
        let request = Request::builder().version(version).header(CONTENT_TYPE, content_type).body(()).unwrap();
        assert_eq!(Dialect::of(&request), expected, "{version:?} {content_type}");
    }

    #[test]
    fn grpc_is_known_by_its_media_type_over_http_2() {
        for content_type in ["application/grpc", "application/grpc+proto", "Application/gRPC;x=y"] {
            check(Version::HTTP_2, content_type, Dialect::Grpc);
            check(Version::HTTP_11, content_type, Dialect::Problem);
        }
        for content_type in ["application/grpc-web", "application/json", "application/grp", ""] {
            check(Version::HTTP_2, content_type, Dialect::Problem);
        }
    }

    #[test]
    fn message_is_printable_ascii() {
        assert_eq!(percent_encoded("100 % ü\n~"), "100 %25 %C3%BC%0A~");
    }
}
