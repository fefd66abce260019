//! Header rewriting in both directions: what is dropped, what is set, what stays untouched.
//!
//! Does not decide who may pass. Invariants: no credential, hop-by-hop field or claimed identity of the client reaches
//! the upstream, in whatever spelling; where the client is said to come from is ours to say unless its peer is trusted.

use std::net::IpAddr;

use bytes::Bytes;
use http::Version;
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRAILER, VIA,
};
use ipnet::IpNet;

use crate::credential::Source;
use crate::keyring::Identity;
use crate::settings::settings;

use super::forwarded::{self, X_FORWARDED_FOR};
use super::names::Names;

pub use super::forwarded::is_trusted;

settings! {
    /// `[forwarding]`: what upstreams and logs are told about where a request came from.
    pub struct Settings {
        /// Peers whose `X-Forwarded-*` and `Forwarded` are believed. Empty: nobody's are.
        pub trusted_proxies: Vec<IpNet> = Vec::new(),
    }
}

pub(super) const IDENTITY_PREFIX: &str = "x-portcullis-";
const KEY_ID: HeaderName = HeaderName::from_static("x-portcullis-key-id");
const KEY_NAME: HeaderName = HeaderName::from_static("x-portcullis-key-name");
const KEY_SCOPES: HeaderName = HeaderName::from_static("x-portcullis-scopes");
const KEY_KIND: HeaderName = HeaderName::from_static("x-portcullis-kind");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// The other end of the connection.
    pub peer: IpAddr,
    /// Whether the peer is a trusted proxy, so that what it says of the client holds.
    pub peer_trusted: bool,
    /// The client itself: the peer, or what trusted proxies say.
    pub client: IpAddr,
    /// How the peer speaks to us.
    pub scheme: Scheme,
}

/// Whether a connection is encrypted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    fn value(self) -> HeaderValue {
        match self {
            Self::Http => const { HeaderValue::from_static("http") },
            Self::Https => const { HeaderValue::from_static("https") },
        }
    }
}

/// The other end of a connection as upstreams are told it: written once, for all requests of the connection.
#[derive(Clone, Debug)]
pub struct PeerText(HeaderValue);

impl PeerText {
    pub fn of(peer: IpAddr) -> Self {
        let text = peer.to_canonical().to_string();
        Self(HeaderValue::try_from(text).expect("an address is visible ASCII"))
    }
}

impl Origin {
    /// The peer alone, or whom a trusted one speaks for in `X-Forwarded-For` or `Forwarded`. Where both are there and
    /// disagree, neither is believed.
    pub fn of(peer: IpAddr, scheme: Scheme, headers: &HeaderMap, trusted: &[IpNet]) -> Self {
        let peer = peer.to_canonical();
        if !is_trusted(peer, trusted) {
            return Self { peer, peer_trusted: false, client: peer, scheme };
        }
        Self { peer, peer_trusted: true, client: forwarded::client(peer, headers, trusted), scheme }
    }
}

/// Makes a client's header fields those that the upstream gets.
///
/// `peer` is that of `origin`. `sources` are all places that may carry a key, those included that this request's route
/// does not read. `received` is what the client spoke.
pub fn prepare_request<'s, S: Iterator<Item = &'s Source>>(
    headers: &mut HeaderMap,
    origin: Origin,
    peer: &PeerText,
    sources: impl Fn() -> S,
    identity: Option<&Identity>,
    received: Version,
) {
    drop_connection_named(headers);
    headers.remove(AUTHORIZATION);
    drop_fields(headers, |name| {
        is_dropped_from_request(name.as_str(), origin.peer_trusted) || carries_key(name.as_str(), sources())
    });
    tell_origin(headers, origin, peer);
    headers.append(VIA, via(received));
    if let Some(identity) = identity {
        headers.insert(KEY_ID, identity.id.clone());
        headers.insert(KEY_NAME, identity.name.clone());
        headers.insert(KEY_SCOPES, identity.scopes.clone());
        headers.insert(KEY_KIND, identity.kind.clone());
    }
}

/// RFC 9110 §7.6.3: by what protocol the message came here.
fn via(received: Version) -> HeaderValue {
    match received {
        Version::HTTP_10 => const { HeaderValue::from_static("1.0 portcullis") },
        Version::HTTP_2 => const { HeaderValue::from_static("2.0 portcullis") },
        _ => const { HeaderValue::from_static("1.1 portcullis") },
    }
}

/// Makes an upstream's header fields those that the client gets.
pub fn prepare_response(headers: &mut HeaderMap) {
    drop_connection_named(headers);
    drop_fields(headers, |name| is_dropped_from_response(name.as_str()));
}

pub(super) fn is_dropped_from_response(name: &str) -> bool {
    is_hop_by_hop(name) || name.starts_with(IDENTITY_PREFIX)
}

/// What a request says of trailers to the next hop, which [`prepare_request`] drops: `TE: trailers`, and the names that
/// it announces.
pub struct TrailerTerms {
    takes_trailers: bool,
    announced: Option<HeaderValue>,
}

impl TrailerTerms {
    /// To be read before the fields are rewritten.
    pub fn of(headers: &HeaderMap) -> Self {
        if !has(headers, &TE) && !has(headers, &TRAILER) {
            return Self { takes_trailers: false, announced: None };
        }
        let mut codings = headers.get_all(TE).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
        let takes_trailers = codings.any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"));
        Self { takes_trailers, announced: headers.get(TRAILER).cloned() }
    }

    /// Whether whoever sent the request takes trailers with the response.
    pub fn takes_trailers(&self) -> bool {
        self.takes_trailers
    }

    /// Says it to the upstream. Only a body of unknown length can have trailers.
    pub fn tell(self, headers: &mut HeaderMap, is_length_known: bool) {
        if self.takes_trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
        if let Some(announced) = self.announced.filter(|_| !is_length_known) {
            headers.insert(TRAILER, announced);
        }
    }
}

/// Whether a field is there: told sooner than by a look-up, since most messages have few fields.
pub fn has(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.keys().any(|other| other == name)
}

/// RFC 9110 §7.6.1: fields that `Connection` names are for the next hop alone. The two that frame and address the
/// message itself stay, whoever names them.
fn drop_connection_named(headers: &mut HeaderMap) {
    // What this names is dropped from every message.
    let is_keep_alive = |line: &HeaderValue| line.as_bytes().eq_ignore_ascii_case(b"keep-alive");
    if !has(headers, &CONNECTION) || headers.get_all(CONNECTION).iter().all(is_keep_alive) {
        return;
    }
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok())
        .filter(|name| *name != HOST && *name != CONTENT_LENGTH)
        .collect();
    for name in named {
        headers.remove(name);
    }
    headers.remove(CONNECTION);
}

fn drop_fields(headers: &mut HeaderMap, is_dropped: impl Fn(&HeaderName) -> bool) {
    let dropped: Vec<HeaderName> = headers.keys().filter(|name| is_dropped(name)).cloned().collect();
    for name in dropped {
        headers.remove(name);
    }
}

pub(super) fn is_dropped_from_request(name: &str, peer_trusted: bool) -> bool {
    if !name.bytes().all(is_plain) {
        return is_special_in_disguise(name);
    }
    is_hop_by_hop(name)
        || name.starts_with(IDENTITY_PREFIX)
        || changes_meaning(name)
        || (!peer_trusted && is_claim_of_origin(name))
}

/// Whether one of the `sources` reads its key from the field `name`, in whatever spelling.
pub fn carries_key<'s>(name: &str, mut sources: impl Iterator<Item = &'s Source>) -> bool {
    sources.any(|source| match source {
        Source::Basic | Source::Bearer => false,
        Source::Header(header) => header.as_str().bytes().map(plain_byte).eq(name.bytes().map(plain_byte)),
    })
}

/// Back ends that speak CGI or WSGI read `X_Forwarded_For` as `X-Forwarded-For`, some of them `X.Forwarded.For` and
/// `X~Forwarded~For` too: whatever is no letter and no digit is one underscore to them.
fn is_special_in_disguise(name: &str) -> bool {
    let plain = plain_name(name);
    is_hop_by_hop(&plain)
        || is_claim_of_origin(&plain)
        || plain.starts_with(IDENTITY_PREFIX)
        || changes_meaning(&plain)
        || matches!(plain.as_str(), "authorization" | "content-length" | "host" | "via")
}

/// The spelling that back ends may read a lower-case name as.
pub(super) fn plain_name(name: &str) -> String {
    name.bytes().map(|byte| char::from(plain_byte(byte))).collect()
}

/// The same for one character of a name.
pub(super) fn plain_byte(byte: u8) -> u8 {
    if is_plain(byte) { byte } else { b'-' }
}

fn is_plain(byte: u8) -> bool {
    const PLAIN: [bool; 256] = {
        let mut table = [false; 256];
        let mut byte = 0;
        while byte < 256 {
            table[byte] = (byte as u8).is_ascii_alphanumeric() || byte as u8 == b'-';
            byte += 1;
        }
        table
    };
    PLAIN[usize::from(byte)]
}

pub(super) fn is_hop_by_hop(name: &str) -> bool {
    static HOP_BY_HOP: Names = Names::new(&[
        "connection",
        "http2-settings",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ]);
    HOP_BY_HOP.contain(name)
}

/// Fields that make some back ends take another method or path than those that were matched, or (`Proxy`, read as
/// `HTTP_PROXY` by CGI) go elsewhere. `Expect` is answered here.
pub(super) fn changes_meaning(name: &str) -> bool {
    static CHANGING: Names = Names::new(&[
        "expect",
        "proxy",
        "x-http-method",
        "x-http-method-override",
        "x-http-path-override",
        "x-method-override",
        "x-original-method",
        "x-original-uri",
        "x-original-url",
        "x-rewrite-url",
    ]);
    CHANGING.contain(name)
}

/// Fields in which a proxy tells who or where its client is. Of anybody else it is a claim that a back end could believe.
fn is_claim_of_origin(name: &str) -> bool {
    const BEHIND_X: [&str; 7] =
        ["auth-request-", "envoy-", "forwarded-", "original-", "remote-", "ssl-client-", "webauth-"];
    static CLAIMS: Names = Names::new(&[
        "cf-connecting-ip",
        "client-ip",
        "fastly-client-ip",
        "forwarded",
        "forwarded-for",
        "front-end-https",
        "proxy-client-ip",
        "remote-email",
        "remote-groups",
        "remote-name",
        "remote-user",
        "true-client-ip",
        "wl-proxy-client-ip",
        "x-authenticated-user",
        "x-azure-clientip",
        "x-client-ip",
        "x-cluster-client-ip",
        "x-forwarded",
        "x-host",
        "x-originating-ip",
        "x-real-ip",
        "x-scheme",
        "x-url-scheme",
    ]);
    name.strip_prefix("x-").is_some_and(|rest| BEHIND_X.iter().any(|prefix| rest.starts_with(prefix)))
        || name.starts_with("ssl-client-")
        || CLAIMS.contain(name)
}

/// What is said of it already is a trusted peer's by now, and stays.
fn tell_origin(headers: &mut HeaderMap, origin: Origin, peer: &PeerText) {
    let host = headers.get(HOST).cloned();
    let forwarded = forwarded_element(origin, peer, host.as_ref());
    extend_list(headers, X_FORWARDED_FOR, peer.0.clone(), origin.peer_trusted);
    extend_list(headers, FORWARDED, forwarded, origin.peer_trusted);
    let is_told = |headers: &HeaderMap, name: HeaderName| origin.peer_trusted && headers.contains_key(name);
    if let (Some(host), false) = (host, is_told(headers, X_FORWARDED_HOST)) {
        headers.insert(X_FORWARDED_HOST, host);
    }
    if !is_told(headers, X_FORWARDED_PROTO) {
        headers.insert(X_FORWARDED_PROTO, origin.scheme.value());
    }
}

/// Appends to a list field; several lines become one, in order.
fn extend_list(headers: &mut HeaderMap, name: HeaderName, element: HeaderValue, may_be_there: bool) {
    if !may_be_there || !headers.contains_key(&name) {
        headers.insert(name, element);
        return;
    }
    let mut list = Vec::new();
    for line in headers.get_all(&name) {
        list.extend_from_slice(line.as_bytes());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(element.as_bytes());
    if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(list)) {
        headers.insert(name, value);
    }
}

/// RFC 7239 §4. The host was validated to hold no quote or backslash.
fn forwarded_element(origin: Origin, peer: &PeerText, host: Option<&HeaderValue>) -> HeaderValue {
    let (open, close) = if origin.peer.is_ipv6() { ("for=\"[", "]\"") } else { ("for=", "") };
    let (before_host, host, after_host) = match host {
        Some(host) => (";host=\"", host.as_bytes(), "\""),
        None => ("", &[][..], ""),
    };
    let parts = [
        open.as_bytes(),
        peer.0.as_bytes(),
        close.as_bytes(),
        before_host.as_bytes(),
        host,
        after_host.as_bytes(),
        b";proto=",
        origin.scheme.as_str().as_bytes(),
    ];
    let element = parts.concat();
    HeaderValue::from_maybe_shared(Bytes::from(element)).expect("its parts are field values or visible ASCII")
}
