//! Part D: fields by which a client would speak in the gate's name, and those that end at each hop.

use super::rig::Outcome::Passed;
use super::rig::Row;

/// What the gate says itself of a request, or drops since others would believe it.
const CLAIMS: [&str; 50] = [
    "X-Portcullis-Key-Id",
    "X-Portcullis-Key-Name",
    "X-Portcullis-Scopes",
    "X-Portcullis-Kind",
    "X-Portcullis-",
    "X-Portcullis-Any",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
    "X-Forwarded-Uri",
    "X-Forwarded-Method",
    "X-Forwarded-Server",
    "X-Forwarded-Ssl",
    "X-Forwarded-User",
    "X-Forwarded",
    "Forwarded",
    "X-Real-IP",
    "True-Client-IP",
    "CF-Connecting-IP",
    "Client-IP",
    "X-Original-URL",
    "X-Original-Method",
    "X-Original-URI",
    "X-Original-Host",
    "X-Rewrite-URL",
    "X-HTTP-Method-Override",
    "X-HTTP-Method",
    "X-HTTP-Path-Override",
    "Proxy",
    "Keep-Alive",
    "Proxy-Connection",
    "Trailer",
    "HTTP2-Settings",
    "Proxy-Authorization",
    "TE",
    "Upgrade",
    "X-Remote-User",
    "Remote-User",
    "X-WebAuth-User",
    "X-Auth-Request-Email",
    "X-SSL-Client-Cert",
    "SSL-Client-Verify",
    "X-Envoy-Original-Path",
    "X-Originating-IP",
    "Fastly-Client-IP",
    "X-Url-Scheme",
    "Front-End-Https",
    "X-Authenticated-User",
];

/// Those that are malformed over HTTP/2 (RFC 9113 §8.2.2).
const OF_HTTP1: [&str; 4] = ["Keep-Alive", "Proxy-Connection", "TE", "Upgrade"];

/// What `Connection` must not take away, and what it does.
const NAMED: [&str; 17] = [
    "X-Portcullis-Key-Id",
    "X-Portcullis-Key-Name",
    "X-Portcullis-Scopes",
    "X-Portcullis-Kind",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "Forwarded",
    "Via",
    "Host",
    "Content-Length",
    "Authorization",
    "Cookie",
    "Content-Type",
    "X-Test",
    "Connection",
    "TE",
];

/// Names as a client may spell them.
fn spellings(name: &str) -> Vec<String> {
    let mut spellings = vec![name.to_owned(), name.to_ascii_lowercase(), name.to_ascii_uppercase()];
    for separator in ["_", ".", "~", "!", "*", "|"] {
        spellings.push(name.replace('-', separator));
        spellings.push(name.to_ascii_lowercase().replacen('-', separator, 1));
    }
    spellings.dedup();
    spellings
}

/// Lines that claim something, over HTTP/2 too.
pub(crate) fn claims(over_http2: bool) -> Vec<Row> {
    let count = spellings("X-Real-IP").len();
    let mut rows = Vec::new();
    for spelling in 0..count {
        let lines = || {
            let claim = |name: &&str| {
                let name = &spellings(name).get(spelling).cloned().unwrap_or_else(|| (*name).to_owned());
                let is_malformed = over_http2 && OF_HTTP1.iter().any(|of| of.eq_ignore_ascii_case(name));
                if is_malformed { String::new() } else { format!("{name}: spoof¶") }
            };
            CLAIMS.iter().map(claim).collect::<String>()
        };
        rows.push(Row::new("D01", format!("<H><kread>{}", lines()), Passed));
        rows.push(Row::new("D08", format!("<H><kread>{}", lines().replace(": spoof¶", ": spoof, a¶")), Passed));
    }
    rows
}

/// Requests that name fields in `Connection`, over HTTP/1.1 alone.
pub(crate) fn nominations() -> Vec<Row> {
    let mut rows = Vec::new();
    let all = NAMED.join(", ");
    for named in NAMED.into_iter().chain([all.as_str()]) {
        for line in [
            format!("Connection: {named}¶"),
            format!("CONNECTION: {}¶", named.to_ascii_uppercase()),
            format!("connection:\t{named}\t¶"),
            format!("Connection: close, {named}¶"),
            format!("Connection: keep-alive¶Connection: {named}¶"),
            format!("Connection: ,, {named} ,¶"),
            format!("Connection: \"{named}\"¶"),
            format!("Connection: x y, {named}, {named}¶"),
        ] {
            let fields = "<H><kread>Cookie: a=b¶X-Test: 1¶Content-Type: x/y¶Content-Length: 5¶";
            rows.push(Row::new("D02", format!("POST /api/v1/query HTTP/1.1¶{line}{fields}¶hello"), Passed));
            rows.push(Row::new("D02", format!("POST /api/v1/query HTTP/1.1¶{fields}{line}¶hello"), Passed));
        }
    }
    rows
}

/// The same name again and again, in both cases.
pub(crate) fn repetitions() -> Vec<Row> {
    let again = |name: &str| [name, &name.to_ascii_lowercase(), name].map(|name| format!("{name}: spoof¶")).concat();
    let names = CLAIMS.iter().filter(|name| !OF_HTTP1.contains(name));
    names.map(|name| Row::new("D08", format!("<H>{}<kread>", again(name)), Passed)).collect()
}
