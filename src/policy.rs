//! Who may do what: pure decisions over scopes.
//!
//! Knows nothing of HTTP, stores or clocks. Invariants: a [`Permit`] comes out of [`authorize`] alone and nothing is
//! forwarded without one; a [`Grant`] comes out of [`grant`] alone, but for the operator's own root key, and no key is
//! created or changed without one.

use crate::key::{KeyRecord, ScopeSet};

/// What a route asks of a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Requirement {
    /// A key that holds every one of these.
    AllOf(ScopeSet),
    /// Any valid key.
    AnyKey,
    /// A key that holds at least one of these.
    AnyOf(ScopeSet),
    /// Nobody, whatever they hold.
    Nobody,
    /// Everybody, with a key or without.
    Public,
}

/// Whoever has scopes: a key's record, or what stands for it in memory.
pub trait ScopeHolder {
    fn scopes(&self) -> &ScopeSet;
}

impl ScopeHolder for &KeyRecord {
    fn scopes(&self) -> &ScopeSet {
        &self.scopes
    }
}

/// Leave to forward one request. Its only constructor is [`authorize`].
#[derive(Debug)]
pub struct Permit<K> {
    key: Option<K>,
}

impl<K> Permit<K> {
    /// The key that the request is admitted under; `None` for an anonymous request on a public route.
    pub fn key(&self) -> Option<&K> {
        self.key.as_ref()
    }
}

/// Leave to give a key these scopes. Made by [`grant`], and, for root keys alone, by `operator_grant`.
#[derive(Debug)]
pub struct Grant(ScopeSet);

impl Grant {
    pub fn scopes(&self) -> &ScopeSet {
        &self.0
    }
}

/// Why a decision went against the caller.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Deny {
    #[error("the route admits nobody")]
    Closed,
    #[error("the route needs a key")]
    KeyMissing,
    #[error("the key lacks a required scope")]
    ScopeMissing {
        /// All of them, or any one of them: see `any`.
        required: ScopeSet,
        /// Whether one of `required` would do.
        any: bool,
    },
    #[error("the scopes exceed those of the caller")]
    ScopesExceedGrantor { excess: ScopeSet },
}

/// Decides whether a request with this key (or none) may pass a route.
///
/// # Errors
/// [`Deny`] with what would have been enough.
pub fn authorize<K: ScopeHolder>(requirement: &Requirement, key: Option<K>) -> Result<Permit<K>, Deny> {
    match (requirement, key) {
        (Requirement::Nobody, _) => Err(Deny::Closed),
        (Requirement::Public, key) => Ok(Permit { key }),
        (_, None) => Err(Deny::KeyMissing),
        (Requirement::AnyKey, key) => Ok(Permit { key }),
        (Requirement::AllOf(required), Some(key)) => {
            let enough = required.iter().all(|scope| key.scopes().holds(scope));
            permit_if(enough, key, required, false)
        }
        (Requirement::AnyOf(required), Some(key)) => {
            let enough = required.iter().any(|scope| key.scopes().holds(scope));
            permit_if(enough, key, required, true)
        }
    }
}

fn permit_if<K>(enough: bool, key: K, required: &ScopeSet, any: bool) -> Result<Permit<K>, Deny> {
    if !enough {
        return Err(Deny::ScopeMissing { required: required.clone(), any });
    }
    Ok(Permit { key: Some(key) })
}

/// Decides whether a caller that holds `held` may give a key the scopes `wanted`, or act on a key that has them now.
///
/// # Errors
/// [`Deny::ScopesExceedGrantor`] with the surplus.
pub fn grant(held: &ScopeSet, wanted: ScopeSet) -> Result<Grant, Deny> {
    let excess = wanted.missing_from(held);
    if !excess.is_empty() {
        return Err(Deny::ScopesExceedGrantor { excess });
    }
    Ok(Grant(wanted))
}

/// The grant of a key that the operator makes on the machine itself (`init`, a root key file): all scopes, and nobody
/// above the operator to hold them.
pub(crate) fn operator_grant() -> Grant {
    Grant(ScopeSet::of(&[crate::key::ALL]))
}
