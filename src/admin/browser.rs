//! Keeps the pages of other sites from the key API, through a browser that remembers a key (CSRF) or takes this gate for
//! the page's own site (DNS rebinding).
//!
//! Programs send none of these headers and are not affected. Without CORS headers, which this gate never sends, a browser
//! keeps answers from the other site's page anyway; reads are refused too, so that not even their status can be seen.

use std::net::IpAddr;

use http::HeaderMap;
use http::header::{HOST, HeaderName, HeaderValue, ORIGIN};

use crate::http::Refusal;
use crate::route::Host;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// What no resolver leads elsewhere (RFC 6761 §6.3).
const LOCALHOST: &str = "localhost";

/// `served`: the names that the operator has given the gate, and nobody else can take.
///
/// # Errors
/// [`Refusal::CrossSite`] when the browser says that a page of another origin made the request, or says it illegibly, or
/// when the page's origin is a name that anybody can make lead here.
pub fn refuse_cross_site(headers: &HeaderMap, served: &[Host]) -> Result<(), Refusal> {
    let own_site = |site: &HeaderValue| site == "same-origin" || site == "none";
    let own_origin = |origin: &HeaderValue| is_own(origin, headers.get(HOST), served);
    if !headers.get_all(SEC_FETCH_SITE).iter().all(own_site) || !headers.get_all(ORIGIN).iter().all(own_origin) {
        return Err(Refusal::CrossSite);
    }
    Ok(())
}

/// Whether an origin names the host and port that the request went to, and that host is known to be this gate. The
/// schemes may differ: TLS may end ahead of us.
fn is_own(origin: &HeaderValue, host: Option<&HeaderValue>, served: &[Host]) -> bool {
    let (Ok(origin), Some(Ok(host))) = (origin.to_str(), host.map(HeaderValue::to_str)) else { return false };
    let (authority, port) = if let Some(authority) = origin.strip_prefix("https://") {
        (authority, ":443")
    } else if let Some(authority) = origin.strip_prefix("http://") {
        (authority, ":80")
    } else {
        return false;
    };
    let without_default_port = |text: &str| text.strip_suffix(port).unwrap_or(text).to_ascii_lowercase();
    // Over TLS a certificate has shown the browser that the name is ours, or that of the proxy ahead of us.
    without_default_port(authority) == without_default_port(host) && (port == ":443" || is_ours(authority, served))
}

/// Whether a name cannot be one that its owner has made to lead to this gate: an address, localhost, or a served name.
fn is_ours(authority: &str, served: &[Host]) -> bool {
    let name = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _port)) => address,
        None => authority.split_once(':').map_or(authority, |(name, _port)| name),
    };
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let is_localhost = name.strip_suffix(LOCALHOST).is_some_and(|label| label.is_empty() || label.ends_with('.'));
    name.parse::<IpAddr>().is_ok() || is_localhost || served.iter().any(|host| host.covers(&name))
}
