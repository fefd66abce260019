//! Who sends a request, and whether the limits let it pass now.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use crate::credential::{self, CredentialError};
use crate::http::Refusal;
use crate::key::KeySecret;
use crate::keyring::Holder;
use crate::limit::Slot;
use crate::policy::{Deny, Requirement};
use crate::route::{Found, Path};

use super::account::Account;
use super::gate::Route;
use super::{Door, Visit};

/// A request whose route and key are known. No key: the route is public.
pub(super) struct Identified<'g> {
    pub(super) route: &'g Route,
    pub(super) holder: Option<Arc<Holder>>,
    /// Where the `{credential}` segment lies in the path.
    pub(super) credential: Option<Range<usize>>,
}

impl Door {
    pub(super) async fn identify<'g>(
        &self,
        visit: &Visit<'g>,
        path: &Path<'_>,
        account: &mut Account,
    ) -> Result<Identified<'g>, Refusal> {
        match visit.gate.table.find(visit.host(), path, visit.parts.method.as_str()) {
            Found::Line { line: route, credential, .. } => {
                account.enter(route);
                check_opt_ins(route.settings.allow_encoded_slash, route.settings.allow_semicolon, path)?;
                let holder = self.holder_for(visit, route, path, credential.clone(), account).await?;
                Ok(Identified { route, holder, credential })
            }
            miss => {
                check_opt_ins(false, false, path)?;
                let refusal = match miss {
                    Found::MethodNotAllowed { allow } => Refusal::MethodNotAllowed { allow: allow.to_owned() },
                    _ => Refusal::RouteUnknown,
                };
                // A miss is told to a valid key alone: strangers do not learn which paths exist.
                self.stranger_or_holder(visit, account).await?;
                Err(refusal)
            }
        }
    }

    async fn holder_for(
        &self,
        visit: &Visit<'_>,
        route: &Route,
        path: &Path<'_>,
        segment: Option<Range<usize>>,
        account: &mut Account,
    ) -> Result<Option<Arc<Holder>>, Refusal> {
        // Nothing is authenticated on a public route, so no limiter of failures stands before it either.
        if route.settings.requirement == Requirement::Public {
            return Ok(None);
        }
        self.check_address(visit)?;
        let secret = match segment {
            Some(segment) => credential::in_text(&path.raw()[segment]).map(Some),
            None => presented(visit, route),
        };
        self.authenticate(secret, account).await.map(Some)
    }

    /// The holder of the key in the headers, wherever the general options allow one.
    pub(super) async fn stranger_or_holder(
        &self,
        visit: &Visit<'_>,
        account: &mut Account,
    ) -> Result<Arc<Holder>, Refusal> {
        self.check_address(visit)?;
        self.authenticate(credential::in_headers(&visit.parts.headers, &visit.gate.sources), account).await
    }

    fn check_address(&self, visit: &Visit<'_>) -> Result<(), Refusal> {
        match self.proxy.failures.blocked(visit.origin.client, visit.started) {
            Some(wait) => Err(Refusal::AddressLimited { wait }),
            None => Ok(()),
        }
    }

    async fn authenticate(
        &self,
        secret: Result<Option<KeySecret>, CredentialError>,
        account: &mut Account,
    ) -> Result<Arc<Holder>, Refusal> {
        let secret = match secret {
            Ok(Some(secret)) => secret,
            Ok(None) => return Err(Refusal::CredentialsMissing),
            Err(CredentialError::Conflicting) => return Err(Refusal::CredentialsConflicting),
            Err(CredentialError::Malformed) => return Err(Refusal::CredentialsMalformed),
        };
        match self.proxy.keyring.holder(&secret).await {
            Ok(Some(holder)) => {
                account.key = Some(holder.record().id);
                Ok(holder)
            }
            Ok(None) => Err(Refusal::KeyUnknown),
            Err(_) => Err(Refusal::StoreUnavailable),
        }
    }

    /// Takes from the key's and the route's limits; the slot is held until the response has ended.
    pub(super) fn limit(&self, route: &Route, holder: Option<&Holder>, now: Instant) -> Result<Option<Slot>, Refusal> {
        let status = route.settings.limit_status.into();
        if let Some(Err(wait)) = holder.and_then(Holder::bucket).map(|bucket| bucket.take(now)) {
            return Err(Refusal::KeyRateLimited { wait, status });
        }
        if let Some(Err(wait)) = route.bucket.as_ref().map(|bucket| bucket.take(now)) {
            return Err(Refusal::RouteRateLimited { wait, status });
        }
        match holder.and_then(Holder::concurrency).map(|concurrency| concurrency.try_enter()) {
            Some(None) => Err(Refusal::KeyConcurrencyLimited { status }),
            Some(slot) => Ok(slot),
            None => Ok(None),
        }
    }
}

fn presented(visit: &Visit<'_>, route: &Route) -> Result<Option<KeySecret>, CredentialError> {
    let in_headers = credential::in_headers(&visit.parts.headers, &route.settings.sources)?;
    let (None, Some(name), Some(query)) = (&in_headers, &route.settings.credential_query, visit.parts.uri.query())
    else {
        return Ok(in_headers);
    };
    credential::in_query(query, name.as_str())
}

fn check_opt_ins(encoded_slash: bool, semicolon: bool, path: &Path<'_>) -> Result<(), Refusal> {
    if path.has_encoded_slash() && !encoded_slash {
        return Err(Refusal::EncodedSlash);
    }
    if path.has_semicolon() && !semicolon {
        return Err(Refusal::Semicolon);
    }
    Ok(())
}

pub(super) fn denied(deny: Deny) -> Refusal {
    match deny {
        Deny::Closed => Refusal::RouteClosed,
        Deny::KeyMissing => Refusal::CredentialsMissing,
        Deny::ScopeMissing { required, any } => Refusal::ScopeMissing { required, any },
        Deny::ScopesExceedGrantor { excess } => Refusal::ScopeExceedsCaller { excess },
    }
}
