//! Keeps the pages of other sites from changing keys through a browser that remembers a key (CSRF).
//!
//! Programs send none of these headers and are not affected. Reading needs no guard: without CORS headers, which this
//! gate never sends, a browser keeps the answer from the other site's page.

use http::HeaderMap;
use http::header::{HOST, HeaderName, HeaderValue, ORIGIN};

use crate::http::Refusal;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// # Errors
/// [`Refusal::CrossSite`] when the browser says that a page of another origin made the request, or says it illegibly.
pub fn refuse_cross_site(headers: &HeaderMap) -> Result<(), Refusal> {
    let own_site = |site: &HeaderValue| site == "same-origin" || site == "none";
    let own_origin = |origin: &HeaderValue| is_host(origin, headers.get(HOST));
    if !headers.get_all(SEC_FETCH_SITE).iter().all(own_site) || !headers.get_all(ORIGIN).iter().all(own_origin) {
        return Err(Refusal::CrossSite);
    }
    Ok(())
}

/// Whether an origin names the host and port that the request went to. The schemes may differ: TLS may end ahead of us.
fn is_host(origin: &HeaderValue, host: Option<&HeaderValue>) -> bool {
    let (Ok(origin), Some(Ok(host))) = (origin.to_str(), host.map(HeaderValue::to_str)) else { return false };
    let (authority, port) = if let Some(authority) = origin.strip_prefix("https://") {
        (authority, ":443")
    } else if let Some(authority) = origin.strip_prefix("http://") {
        (authority, ":80")
    } else {
        return false;
    };
    let without_default_port = |text: &str| text.strip_suffix(port).unwrap_or(text).to_ascii_lowercase();
    without_default_port(authority) == without_default_port(host)
}
