//! The body of every refusal: RFC 9457 problem details.
//!
//! Says what the client can act on and nothing of our inside: no addresses, paths, versions or secrets.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{Response, StatusCode};
use serde::Serialize;

use super::{RequestId, grpc};
use crate::key::ScopeSet;

/// One field of a request body or query that is wrong.
#[derive(Clone, Debug, Serialize)]
pub struct FieldError {
    pub field: String,
    pub code: &'static str,
    pub message: String,
}

/// What a refusal tells its client.
#[derive(Debug)]
pub struct Problem {
    pub status: StatusCode,
    /// Stable, snake_case: what programs match on.
    pub code: &'static str,
    pub detail: Cow<'static, str>,
    pub errors: Vec<FieldError>,
    pub required_scopes: Option<ScopeSet>,
    pub exceeding_scopes: Option<ScopeSet>,
    pub headers: HeaderMap,
}

impl Problem {
    pub fn new(status: StatusCode, code: &'static str, detail: Cow<'static, str>) -> Self {
        Self {
            status,
            code,
            detail,
            errors: Vec::new(),
            required_scopes: None,
            exceeding_scopes: None,
            headers: HeaderMap::with_capacity(HEADERS),
        }
    }

    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    pub fn into_response(self, request_id: RequestId) -> Response<Bytes> {
        let mut response = Response::new(Bytes::from(self.body(request_id)));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        *headers = self.headers;
        headers.insert(CONTENT_TYPE, const { HeaderValue::from_static("application/problem+json") });
        headers.insert(X_CONTENT_TYPE_OPTIONS, const { HeaderValue::from_static("nosniff") });
        headers.insert(CACHE_CONTROL, const { HeaderValue::from_static("no-store") });
        response
    }

    /// Piece by piece: a serializer takes three times as long, and floods of refusals are what a gate is for.
    fn body(&self, request_id: RequestId) -> Vec<u8> {
        let mut body = Vec::with_capacity(BODY_BYTES);
        // RFC 9457 §4.2.1: about:blank, since `code` is what tells one from another.
        body.extend_from_slice(b"{\"type\":\"about:blank\",\"title\":");
        put_text(&mut body, self.status.canonical_reason().unwrap_or("Error"));
        body.extend_from_slice(b",\"status\":");
        body.extend_from_slice(self.status.as_str().as_bytes());
        body.extend_from_slice(b",\"detail\":");
        put_text(&mut body, &self.detail);
        body.extend_from_slice(b",\"code\":");
        put_text(&mut body, self.code);
        body.extend_from_slice(b",\"request_id\":\"");
        body.extend_from_slice(&request_id.digits());
        body.push(b'"');
        if !self.errors.is_empty() {
            body.extend_from_slice(b",\"errors\":");
            put(&mut body, &self.errors);
        }
        if let Some(scopes) = &self.required_scopes {
            body.extend_from_slice(b",\"required_scopes\":");
            put(&mut body, &scopes.names());
        }
        if let Some(scopes) = &self.exceeding_scopes {
            body.extend_from_slice(b",\"exceeding_scopes\":");
            put(&mut body, &scopes.names());
        }
        body.push(b'}');
        body
    }
}

/// Leaves out of a refusal what its client can do without, if it would take more than `length_max` bytes over HTTP/1.1: its
/// body, and what is said of that, or the message of a gRPC status. Statuses, challenge and waits stay, however long they
/// are. Returns what it takes.
pub fn shorten(response: &mut Response<Bytes>, length_max: usize) -> usize {
    let whole = length(response);
    if whole <= length_max {
        return whole;
    }
    if !std::mem::take(response.body_mut()).is_empty() {
        response.headers_mut().remove(CONTENT_TYPE);
        response.headers_mut().remove(X_CONTENT_TYPE_OPTIONS);
    }
    response.headers_mut().remove(grpc::MESSAGE);
    // Of what may be refused so soon, nothing is kept by caches that does not say that it may be (RFC 9110 §15.1).
    if length(response) > length_max {
        response.headers_mut().remove(CACHE_CONTROL);
    }
    length(response)
}

/// Of a response on the wire, with the date and the length that it gets there.
fn length(response: &Response<Bytes>) -> usize {
    let reason = response.status().canonical_reason().unwrap_or_default();
    let fields: usize = response.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    STATUS_LINE_AND_END_BYTES + reason.len() + ADDED_BYTES + fields + response.body().len()
}

/// `HTTP/1.1 401 `, without a reason, and the two ends of lines.
const STATUS_LINE_AND_END_BYTES: usize = 17;
/// `date: Mon, 23 Nov 2026 21:17:12 GMT`, `content-length: 321` and what HTTP/1.0 is told besides, `connection: keep-alive`,
/// with the ends of their lines.
const ADDED_BYTES: usize = 37 + 21 + 24;

fn put_text(body: &mut Vec<u8>, text: &str) {
    if text.bytes().any(|byte| byte < b' ' || matches!(byte, b'"' | b'\\')) {
        return put(body, &text);
    }
    body.push(b'"');
    body.extend_from_slice(text.as_bytes());
    body.push(b'"');
}

fn put(body: &mut Vec<u8>, value: &impl Serialize) {
    // Writing to memory cannot fail, and what is written has texts for keys.
    let _ = serde_json::to_writer(body, value);
}

/// Room for what nearly every refusal says.
const BODY_BYTES: usize = 384;
const HEADERS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn body_is_json_whatever_its_texts_hold() {
        let error = FieldError { field: "a\"".to_owned(), code: "c", message: "\\\u{1}".to_owned() };
        for detail in ["plain", "a \"quote\"", "a \\", "a\nline", "\u{1f}\u{7f}ü"] {
            let problem = Problem {
                errors: vec![error.clone()],
                required_scopes: Some(ScopeSet::of(&["a:r", "b:w"])),
                exceeding_scopes: Some(ScopeSet::of(&["c:r"])),
                ..Problem::new(StatusCode::FORBIDDEN, "some_code", Cow::Borrowed(detail))
            };
            let request_id = RequestId::new();
            let body: serde_json::Value = serde_json::from_slice(&problem.body(request_id)).unwrap();
            let expected = serde_json::json!({
                "type": "about:blank",
                "title": "Forbidden",
                "status": 403,
                "detail": detail,
                "code": "some_code",
                "request_id": request_id.to_string(),
                "errors": [{ "field": "a\"", "code": "c", "message": "\\\u{1}" }],
                "required_scopes": ["a:r", "b:w"],
                "exceeding_scopes": ["c:r"],
            });
            assert_eq!(body, expected);
        }
    }
}
