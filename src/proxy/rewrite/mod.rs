//! What becomes of a request between its admission and its upstream, and of the fields of its response.
//!
//! Decides nothing about admission: the line was matched by what the client sent, and its rewrites come after that.
//!
//! Invariants: the target that goes out passes the same rules as the one that came in; what a route sets is what the
//! upstream gets, whatever the client sent.

mod settings;
mod template;
#[cfg(test)]
mod tests;

use std::ops::Range;

use http::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;

use crate::http::framing::Malformed;
use crate::http::headers::{self, Origin, PeerText};
use crate::http::overrides::override_fields;
use crate::http::{Refusal, RequestId};
use crate::route::Path;

pub use settings::{FieldRules, HostHeader, PathPrefix, Rewrite};
use template::Values;

use super::admit::Admitted;
use super::gate::Gate;
use super::settings::{CredentialSegment, RouteSettings};
use super::target::{self, Changes};

/// What a request's route changes of its response.
pub(super) struct ResponseFields<'r> {
    removed: &'r [HeaderName],
    set: Vec<(HeaderName, HeaderValue)>,
}

impl ResponseFields<'_> {
    /// Every field that is set or removed.
    pub(super) fn names(&self) -> Vec<HeaderName> {
        self.set.iter().map(|(name, _)| name).chain(self.removed).cloned().collect()
    }

    pub(super) fn apply(self, headers: &mut HeaderMap) {
        if !self.removed.is_empty() || !self.set.is_empty() {
            override_fields(headers, self.removed, self.set);
        }
    }
}

/// Makes a client's request head the one that the upstream gets.
///
/// # Errors
/// A target that became too long, or a fault of ours.
pub(super) fn prepare<'g>(
    admitted: &Admitted<'g>,
    gate: &Gate,
    origin: Origin,
    peer: &PeerText,
    parts: &mut Parts,
    request_id: &mut Option<RequestId>,
) -> Result<ResponseFields<'g>, Refusal> {
    let route = admitted.route;
    let rewrite = &route.settings.rewrite;
    let identity = admitted.permit.key().map(|holder| holder.identity());
    let (mut fields, mut response_fields) = (Vec::new(), Vec::new());
    if !rewrite.request.set().is_empty() || !rewrite.response.set().is_empty() {
        let path = Path::parse(parts.uri.path()).map_err(Refusal::MalformedPath)?;
        let (pattern, client) = (admitted.pattern, origin.client);
        let mut values = Values { identity, pattern, path, client, request_id };
        fields = fill(&rewrite.request, &mut values)?;
        response_fields = fill(&rewrite.response, &mut values)?;
    }
    rewrite_target(admitted, parts)?;
    let sources = || gate.sources.iter().chain(&route.settings.sources);
    headers::prepare_request(&mut parts.headers, origin, peer, sources, identity, parts.version);
    match &rewrite.host {
        // HTTP/1.0 knows requests without a host, HTTP/1.1 does not.
        HostHeader::Keep if headers::has(&parts.headers, &HOST) => {}
        HostHeader::Keep | HostHeader::Upstream => route.upstream.claim_host(parts),
        HostHeader::Named(host) => {
            parts.headers.insert(HOST, host.clone());
        }
    }
    if !rewrite.request.is_empty() {
        override_fields(&mut parts.headers, rewrite.request.removed(), fields);
    }
    Ok(ResponseFields { removed: rewrite.response.removed(), set: response_fields })
}

/// Each value is told to be there by the checks of the configuration: a hole would be a fault of ours.
fn fill(rules: &FieldRules, values: &mut Values<'_>) -> Result<Vec<(HeaderName, HeaderValue)>, Refusal> {
    let filled = rules.set().iter().map(|(name, template)| Some((name.clone(), template.fill(values)?)));
    filled.collect::<Option<Vec<_>>>().ok_or(Refusal::Internal)
}

/// Keeps the key's text from the upstream where it stands in the target, and gives the path its other prefix.
fn rewrite_target(admitted: &Admitted<'_>, parts: &mut Parts) -> Result<(), Refusal> {
    let settings = &admitted.route.settings;
    let replaced = match (&admitted.credential, admitted.permit.key(), settings.credential_segment) {
        (Some(segment), Some(key), CredentialSegment::Replace) => Some((segment.clone(), key.record().id.to_string())),
        _ => None,
    };
    let changes = changes(settings, replaced.as_ref().map(|(segment, id)| (segment.clone(), id.as_str())));
    if changes.is_none(parts.uri.query()) {
        return Ok(());
    }
    let before = Path::parse(parts.uri.path()).map_err(Refusal::MalformedPath)?;
    let target = changes.apply(&before, parts.uri.query());
    if target.len() > target::BYTES_MAX {
        return Err(Refusal::Malformed(Malformed::TargetTooLong));
    }
    parts.uri = target::checked(target, &before).ok_or(Refusal::Internal)?;
    Ok(())
}

/// The target that the upstream would get, with `{key.id}` in the place of a key; `None` when it is the client's own.
pub(crate) fn forwarded_target(
    settings: &RouteSettings,
    path: &Path<'_>,
    query: Option<&str>,
    credential: Option<Range<usize>>,
) -> Option<String> {
    let replaced = credential.filter(|_| settings.credential_segment == CredentialSegment::Replace);
    let changes = changes(settings, replaced.map(|segment| (segment, "{key.id}")));
    (!changes.is_none(query)).then(|| changes.apply(path, query))
}

/// What a route changes of a target; `credential` is the place of the key in the path, and what is put there.
fn changes<'c>(settings: &'c RouteSettings, credential: Option<(Range<usize>, &'c str)>) -> Changes<'c> {
    let rewrite = &settings.rewrite;
    Changes {
        strip_segments: rewrite.strip_prefix.as_ref().map_or(0, PathPrefix::segments),
        add: rewrite.add_prefix.as_ref().map_or("", PathPrefix::as_str),
        credential,
        drop_parameter: settings.credential_query.as_ref().map(|name| name.as_str()),
    }
}
