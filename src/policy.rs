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

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever holds these.
    #[derive(Debug)]
    struct Held(ScopeSet);

    impl ScopeHolder for &Held {
        fn scopes(&self) -> &ScopeSet {
            &self.0
        }
    }

    fn held(scopes: &[&str]) -> Held {
        Held(ScopeSet::of(scopes))
    }

    #[test]
    fn a_permit_is_had_by_holders_of_what_is_required_and_by_nobody_else() {
        let (ab, b, all) = (held(&["a:r", "b:r"]), held(&["b:r"]), held(&["*"]));
        let scopes = || ScopeSet::of(&["a:r", "b:r"]);
        let missing = |any| Err(Deny::ScopeMissing { required: scopes(), any });
        let cases = [
            (Requirement::AllOf(scopes()), [Err(Deny::KeyMissing), missing(false), Ok(()), Ok(())]),
            (Requirement::AnyOf(scopes()), [Err(Deny::KeyMissing), Ok(()), Ok(()), Ok(())]),
            (Requirement::AnyOf(ScopeSet::of(&["a:r"])), {
                let missing = Err(Deny::ScopeMissing { required: ScopeSet::of(&["a:r"]), any: true });
                [Err(Deny::KeyMissing), missing, Ok(()), Ok(())]
            }),
            (Requirement::AnyKey, [Err(Deny::KeyMissing), Ok(()), Ok(()), Ok(())]),
            (Requirement::Nobody, [const { Err(Deny::Closed) }; 4]),
            (Requirement::Public, [const { Ok(()) }; 4]),
        ];
        for (requirement, expected) in cases {
            for (key, expected) in [None, Some(&b), Some(&ab), Some(&all)].into_iter().zip(expected) {
                let permit = authorize(&requirement, key);
                assert_eq!(permit.as_ref().map(|_| ()).map_err(Clone::clone), expected, "{requirement:?} {key:?}");
                let Ok(permit) = permit else { continue };
                assert!(
                    permit.key().map(|held| held.0.clone()) == key.map(|held| held.0.clone()),
                    "a permit is the caller's own"
                );
            }
        }
    }

    #[test]
    fn a_grant_is_of_what_the_grantor_holds_and_of_nothing_else() {
        let granted = |held: &[&str], wanted: &[&str]| {
            grant(&ScopeSet::of(held), ScopeSet::of(wanted)).map(|grant| grant.scopes().clone())
        };
        let excess = |scopes: &[&str]| Err(Deny::ScopesExceedGrantor { excess: ScopeSet::of(scopes) });
        assert_eq!(granted(&["a:r", "b:r"], &["b:r"]), Ok(ScopeSet::of(&["b:r"])));
        assert_eq!(granted(&["*"], &["*", "a:r"]), Ok(ScopeSet::of(&["*", "a:r"])));
        assert_eq!(granted(&["a:r", "b:r"], &["b:r", "c:r"]), excess(&["c:r"]));
        assert_eq!(granted(&["a:r", "b:r"], &["*"]), excess(&["*"]));
        assert_eq!(granted(&[], &["a:r"]), excess(&["a:r"]));
        assert_eq!(operator_grant().scopes(), &ScopeSet::of(&["*"]));
    }
}
