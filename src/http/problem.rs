//! The body of every refusal: RFC 9457 problem details.
//!
//! Says what the client can act on and nothing of our inside: no addresses, paths, versions or secrets.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{Response, StatusCode};
use serde::Serialize;

use super::RequestId;
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

#[derive(Serialize)]
struct Details<'p> {
    r#type: &'static str,
    title: &'p str,
    status: u16,
    detail: &'p str,
    code: &'static str,
    request_id: &'p str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'p [FieldError],
    #[serde(skip_serializing_if = "Option::is_none")]
    required_scopes: Option<Vec<&'p str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exceeding_scopes: Option<Vec<&'p str>>,
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
        let request_id = request_id.digits();
        let details = Details {
            // RFC 9457 §4.2.1: about:blank, since `code` is what tells one from another.
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            code: self.code,
            request_id: str::from_utf8(&request_id).unwrap_or_default(),
            errors: &self.errors,
            required_scopes: self.required_scopes.as_ref().map(ScopeSet::names),
            exceeding_scopes: self.exceeding_scopes.as_ref().map(ScopeSet::names),
        };
        let mut body = Vec::with_capacity(BODY_BYTES);
        // Writing to memory cannot fail.
        let _ = serde_json::to_writer(&mut body, &details);
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        *headers = self.headers;
        headers.insert(CONTENT_TYPE, const { HeaderValue::from_static("application/problem+json") });
        headers.insert(X_CONTENT_TYPE_OPTIONS, const { HeaderValue::from_static("nosniff") });
        headers.insert(CACHE_CONTROL, const { HeaderValue::from_static("no-store") });
        response
    }
}

/// Room for what nearly every refusal says, so that none grows: floods of them are what a gate is for.
const BODY_BYTES: usize = 384;
const HEADERS: usize = 8;
