//! Keys as the API shows them: the attributes of the specification, and `id`.
//!
//! Invariant: the full text of a key is in the answer to its creation and in no other.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderValue, LOCATION, X_CONTENT_TYPE_OPTIONS};
use http::{Response, StatusCode};
use serde::Serialize;
use zeroize::Zeroizing;

use super::page::Page;
use super::precondition::etag;
use super::settings::MountPath;
use crate::key::KeySecret;
use crate::keyring::KeyView;

const CANNOT_FAIL: &str = "bodies hold strings, numbers and lists: nothing that JSON cannot write";
/// More than the attributes of nearly every key take.
const BODY_BYTES_MAX: usize = 16 << 10;

#[derive(Serialize)]
struct KeyBody<'k> {
    key: &'k str,
    id: String,
    name: &'k str,
    kind: &'static str,
    scopes: Vec<&'k str>,
    immutable: bool,
    last_used: Option<String>,
    created: String,
    updated: String,
}

#[derive(Serialize)]
struct PageBody<'k> {
    page: u64,
    page_size: u64,
    total_count: usize,
    data: Vec<KeyBody<'k>>,
}

/// 200 with one key, masked.
pub fn item(view: &KeyView) -> Response<Bytes> {
    let mut response = json(StatusCode::OK, &body(view, &view.record.id.masked()));
    response.headers_mut().insert(ETAG, etag(view.record.revision));
    response
}

/// 201 with the key's full text: the only time that it is shown.
pub fn created(view: &KeyView, secret: &KeySecret, mount: &MountPath) -> Response<Bytes> {
    let mut response = secret_json(StatusCode::CREATED, &body(view, secret.expose()));
    let headers = response.headers_mut();
    let location = format!("{}/{}", mount.as_str(), view.record.id);
    let location =
        HeaderValue::try_from(location).expect("mount and id are visible ASCII: checked when they were read");
    headers.insert(LOCATION, location);
    headers.insert(ETAG, etag(view.record.revision));
    response
}

/// 200 with one page of keys, masked.
pub fn list(views: &[KeyView], total: usize, page: &Page) -> Response<Bytes> {
    let masked: Vec<String> = views.iter().map(|view| view.record.id.masked()).collect();
    let keys = views.iter().zip(&masked).map(|(view, masked)| body(view, masked)).collect();
    json(StatusCode::OK, &PageBody { page: page.number, page_size: page.size, total_count: total, data: keys })
}

/// 204: what a deletion answers.
pub fn deleted() -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn body<'k>(view: &'k KeyView, key: &'k str) -> KeyBody<'k> {
    let record = &view.record;
    KeyBody {
        key,
        id: record.id.to_string(),
        name: record.name.as_str(),
        kind: record.kind.as_str(),
        scopes: record.scopes.names(),
        immutable: record.kind.is_immutable(),
        last_used: view.last_used.map(|moment| moment.to_string()),
        created: record.created.to_string(),
        updated: record.updated.to_string(),
    }
}

fn json(status: StatusCode, body: &impl Serialize) -> Response<Bytes> {
    let mut text = Vec::new();
    serde_json::to_writer(&mut text, body).expect(CANNOT_FAIL);
    with_text(status, Bytes::from(text))
}

/// The same for a body that holds a key's text: wiped once it is sent.
fn secret_json(status: StatusCode, body: &impl Serialize) -> Response<Bytes> {
    // Room for all of it at once: what a growing vector leaves behind is not wiped.
    let mut text = Zeroizing::new(Vec::with_capacity(BODY_BYTES_MAX));
    serde_json::to_writer(&mut *text, body).expect(CANNOT_FAIL);
    with_text(status, Bytes::from_owner(text))
}

fn with_text(status: StatusCode, text: Bytes) -> Response<Bytes> {
    let mut response = Response::new(text);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
