//! The body of every refusal: RFC 9457 problem details.
//!
//! Says what the client can act on and nothing of our inside: no addresses, paths, versions or secrets.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
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
    pub detail: String,
    pub errors: Vec<FieldError>,
    pub required_scopes: Option<ScopeSet>,
    pub exceeding_scopes: Option<ScopeSet>,
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

#[derive(Serialize)]
struct Details<'p> {
    r#type: &'static str,
    title: &'p str,
    status: u16,
    detail: &'p str,
    code: &'static str,
    request_id: String,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'p [FieldError],
    #[serde(skip_serializing_if = "Option::is_none")]
    required_scopes: Option<Vec<&'p str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exceeding_scopes: Option<Vec<&'p str>>,
}

impl Problem {
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            code,
            detail: detail.into(),
            errors: Vec::new(),
            required_scopes: None,
            exceeding_scopes: None,
            headers: Vec::new(),
        }
    }

    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    pub fn into_response(self, request_id: RequestId) -> Response<Bytes> {
        let details = Details {
            // RFC 9457 §4.2.1: about:blank, since `code` is what tells one from another.
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            code: self.code,
            request_id: request_id.to_string(),
            errors: &self.errors,
            required_scopes: self.required_scopes.as_ref().map(ScopeSet::names),
            exceeding_scopes: self.exceeding_scopes.as_ref().map(ScopeSet::names),
        };
        let body = serde_json::to_vec(&details).unwrap_or_default();
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.extend(self.headers);
        response
    }
}
