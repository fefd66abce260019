//! What a request over HTTP/2 must be, and how it becomes one that looks like any other.
//!
//! The strictness is that of HTTP/1, to the letter: the request is written down as one and judged by the same rules.
//! What HTTP/2 has of its own is judged here: two places that name a host, cookies in pieces. Frames, pseudo-fields and
//! lengths are the protocol library's to check, and what it refuses never gets here. It also takes a fragment off the
//! path before anybody sees it.

use http::header::{COOKIE, HOST, HeaderMap, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Uri};

use super::request::check_head;
use super::{Malformed, RequestLimits};

/// Makes a request that came over HTTP/2 look as handlers expect one: a path as its target, the host in `Host`.
///
/// # Errors
/// What is wrong with it; it is changed in part then, and no request any more.
pub(crate) fn normalize(parts: &mut Parts, limits: RequestLimits) -> Result<(), Malformed> {
    if parts.method == Method::CONNECT {
        return Err(Malformed::Connect);
    }
    move_authority(parts)?;
    let Some(target) = parts.uri.path_and_query() else {
        return Err(Malformed::TargetForm);
    };
    // What a fragment alone leaves behind is shown as a slash, but is not equal to one.
    if target.as_str() == "/" && *target != PathAndQuery::from_static("/") {
        return Err(Malformed::TargetForm);
    }
    // Before cookies are joined: the edges of each piece count.
    if parts.headers.values().any(has_blank_edge) {
        return Err(Malformed::FieldValue);
    }
    join_cookies(&mut parts.headers)?;
    check_head(&rendered(parts, target.as_str(), limits)?, limits)?;
    parts.uri = Uri::from(target.clone());
    Ok(())
}

/// RFC 9113 §8.3.1: the authority takes the place of the host, and a host beside it must be the same.
fn move_authority(parts: &mut Parts) -> Result<(), Malformed> {
    let Some(authority) = parts.uri.authority() else {
        return if parts.headers.contains_key(HOST) { Ok(()) } else { Err(Malformed::HostMissing) };
    };
    let mut hosts = parts.headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) => {
            let host = HeaderValue::try_from(authority.as_str()).map_err(|_| Malformed::Host)?;
            parts.headers.insert(HOST, host);
            Ok(())
        }
        (Some(_), Some(_)) => Err(Malformed::HostRepeated),
        (Some(host), None) if host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) => Ok(()),
        (Some(_), None) => Err(Malformed::AuthorityDiffers),
    }
}

/// RFC 9113 §8.2.3: the pieces are one field everywhere else. Empty ones add nothing to it.
fn join_cookies(headers: &mut HeaderMap) -> Result<(), Malformed> {
    let cookies = headers.get_all(COOKIE);
    if cookies.iter().nth(1).is_some() {
        let pieces = cookies.iter().map(HeaderValue::as_bytes).filter(|piece| !piece.is_empty());
        let joined = pieces.collect::<Vec<_>>().join(&b"; "[..]);
        let joined = HeaderValue::from_maybe_shared(bytes::Bytes::from(joined)).map_err(|_| Malformed::FieldValue)?;
        headers.insert(COOKIE, joined);
    }
    Ok(())
}

/// The head as HTTP/1 writes it.
fn rendered(parts: &Parts, target: &str, limits: RequestLimits) -> Result<Vec<u8>, Malformed> {
    // Before anything is copied: the names and values may be four times as long as what is taken.
    if target.len() > limits.target_bytes_max {
        return Err(Malformed::TargetTooLong);
    }
    let fields = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    let len = parts.method.as_str().len() + target.len() + 13 + fields.sum::<usize>();
    if len > limits.head_bytes_max {
        return Err(Malformed::HeadTooLarge);
    }
    let mut head = Vec::with_capacity(len);
    let mut put = |pieces: &[&[u8]]| pieces.iter().for_each(|piece| head.extend_from_slice(piece));
    put(&[parts.method.as_str().as_bytes(), b" ", target.as_bytes(), b" HTTP/1.1\r\n"]);
    for (name, value) in &parts.headers {
        put(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
    }
    put(&[b"\r\n"]);
    Ok(head)
}

/// RFC 9113 §8.2.1. In HTTP/1 blanks around a value are no part of it.
fn has_blank_edge(value: &HeaderValue) -> bool {
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    is_blank(value.as_bytes().first()) || is_blank(value.as_bytes().last())
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    const LIMITS: RequestLimits = RequestLimits { head_bytes_max: 1_024, fields_max: 10, target_bytes_max: 100 };

    fn parts(uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[track_caller]
    fn check(uri: &str, headers: &[(&str, &str)], expected: Result<(&str, &str), Malformed>) {
        let mut parts = parts(uri, headers);
        let outcome = normalize(&mut parts, LIMITS);
        let seen = outcome.map(|()| (parts.uri.to_string(), parts.headers[HOST].to_str().unwrap().to_owned()));
        assert_eq!(seen, expected.map(|(uri, host)| (uri.to_owned(), host.to_owned())));
    }

    #[test]
    fn host_comes_from_one_place_or_two_that_agree() {
        check("http://a:80/x?y", &[], Ok(("/x?y", "a:80")));
        check("http://a/x", &[("host", "A")], Ok(("/x", "A")));
        check("/x", &[("host", "b")], Ok(("/x", "b")));
        check("/x", &[], Err(Malformed::HostMissing));
        check("http://a/x", &[("host", "b")], Err(Malformed::AuthorityDiffers));
        check("http://a/x", &[("host", "a"), ("host", "a")], Err(Malformed::HostRepeated));
        check("/x", &[("host", "a"), ("host", "b")], Err(Malformed::HostRepeated));
        check("http://user@a/x", &[], Err(Malformed::Host));
        check("http://a/x", &[("host", "")], Err(Malformed::AuthorityDiffers));
    }

    #[test]
    fn target_is_a_path() {
        check("*", &[("host", "a")], Err(Malformed::TargetForm));
        let mut pathless = parts("/x", &[("host", "a")]);
        for target in ["#x", "#", "?x"] {
            pathless.uri = Uri::from(PathAndQuery::try_from(target).unwrap());
            assert_eq!(normalize(&mut pathless, LIMITS), Err(Malformed::TargetForm), "{target}");
        }
        check(&format!("/{}", "x".repeat(100)), &[("host", "a")], Err(Malformed::TargetTooLong));
        check("/a\"b", &[("host", "a")], Err(Malformed::TargetCharacter));
    }

    #[test]
    fn fields_are_judged_as_in_http_1() {
        check("/x", &[("host", "a"), ("x-y", " z")], Err(Malformed::FieldValue));
        check("/x", &[("host", "a"), ("x-y", "z\t")], Err(Malformed::FieldValue));
        check("/x", &[("host", "a"), ("expect", "x")], Err(Malformed::Expectation));
        check("/x", &[("host", "a"), ("content-length", "+5")], Err(Malformed::Length));
        check("/x", &[("host", "a"), ("x-y", &"z".repeat(1_100))], Err(Malformed::HeadTooLarge));
        check("/x", &[[("host", "a")].as_slice(), &[("x-y", "z"); 10]].concat(), Err(Malformed::FieldsTooMany));
    }

    #[test]
    fn pieces_of_a_cookie_are_joined() {
        let mut parts = parts("/x", &[("host", "a"), ("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")]);
        normalize(&mut parts, LIMITS).unwrap();
        assert_eq!(parts.headers.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2; c=3"]);
        let mut parts = self::parts("/x", &[("host", "a"), ("cookie", ""), ("cookie", "b=2"), ("cookie", "")]);
        normalize(&mut parts, LIMITS).unwrap();
        assert_eq!(parts.headers.get_all(COOKIE).iter().collect::<Vec<_>>(), ["b=2"]);
        check("/x", &[("host", "a"), ("cookie", "a=1 "), ("cookie", "b=2")], Err(Malformed::FieldValue));
    }
}
