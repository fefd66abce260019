//! Scopes: the names of what a key may do, sets of them, and the catalogue of those that are declared.
//!
//! Invariant: a [`ScopeSet`] is sorted in canonical order and holds no name twice.

use std::fmt;
use std::sync::Arc;

/// The scopes that every portcullis knows, in canonical order: the specification's five, then the two that manage
/// keys, then the one that holds all.
const BUILT_IN: [(&str, &str); 8] = [
    ("monitor:read", "Read monitor configurations and status"),
    ("monitor:write", "Create, update, and delete monitors"),
    ("telemetry:write", "Send telemetry events (pings)"),
    ("issue:read", "Read issues and maintenance windows"),
    ("issue:write", "Create, update, and delete issues and maintenance windows"),
    ("key:read", "List and read API keys"),
    ("key:write", "Create, update and delete API keys"),
    (ALL, "Everything, including every scope declared later"),
];
/// Holds every scope; only a holder of it can grant it.
pub const ALL: &str = "*";
pub const KEY_READ: &str = "key:read";
pub const KEY_WRITE: &str = "key:write";
/// The newer name that the specification's product gives to `telemetry:write`.
const ALIASES: [(&str, &str); 1] = [("monitor:telemetry", "telemetry:write")];
const NAME_BYTES_MAX: usize = 64;
/// How many scopes a configuration may declare.
pub const DECLARED_MAX: usize = 256;

/// The name of one permission, such as `monitor:read`.
///
/// Ordered canonically: built-in scopes in the order of the specification, then all others by name.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Scope {
    rank: u8,
    name: Arc<str>,
}

/// The text cannot name a scope.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("a scope is 1 to 64 of the characters a-z 0-9 _ - . : / and starts with a letter")]
pub struct NotAScope;

impl Scope {
    /// Reads a name; an alias becomes the scope that it stands for.
    ///
    /// # Errors
    /// [`NotAScope`] when the text has characters that no scope can have. Whether it is declared is [`ScopeCatalog`]'s to say.
    pub fn parse(text: &str) -> Result<Self, NotAScope> {
        let name = ALIASES.iter().find(|(alias, _)| *alias == text).map_or(text, |(_, name)| name);
        let rank = BUILT_IN.iter().position(|(built_in, _)| *built_in == name);
        let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.:/".contains(&byte);
        let well_formed = name.len() <= NAME_BYTES_MAX
            && name.bytes().all(legal)
            && name.bytes().next().is_some_and(|first| first.is_ascii_lowercase());
        if rank.is_none() && !well_formed {
            return Err(NotAScope);
        }
        let rank = rank.and_then(|rank| u8::try_from(rank).ok()).unwrap_or(u8::MAX);
        Ok(Self { rank, name: name.into() })
    }

    pub fn as_str(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// A set of scopes in canonical order. Cheap to clone.
#[derive(Clone, Eq, PartialEq)]
pub struct ScopeSet(Arc<[Scope]>);

impl ScopeSet {
    pub fn new(scopes: impl IntoIterator<Item = Scope>) -> Self {
        let mut scopes: Vec<Scope> = scopes.into_iter().collect();
        scopes.sort();
        scopes.dedup();
        Self(scopes.into())
    }

    /// A set of names that this program knows to be well formed.
    pub(crate) fn of(names: &[&str]) -> Self {
        Self::new(names.iter().filter_map(|name| Scope::parse(name).ok()))
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Scope> {
        self.0.iter()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether every scope is held, those declared later too: the set contains `*`.
    pub fn holds_all(&self) -> bool {
        self.0.iter().any(|scope| scope.as_str() == ALL)
    }

    pub fn holds(&self, wanted: &Scope) -> bool {
        self.0.iter().any(|scope| scope == wanted || scope.as_str() == ALL)
    }

    /// Whether the scope of that name is held; a name that is no scope is not.
    pub fn holds_named(&self, name: &str) -> bool {
        self.0.iter().any(|scope| scope.as_str() == name || scope.as_str() == ALL)
    }

    /// The scopes of this set that `held` does not hold, in canonical order.
    pub fn missing_from(&self, held: &Self) -> Self {
        Self::new(self.0.iter().filter(|scope| !held.holds(scope)).cloned())
    }

    pub fn names(&self) -> Vec<&str> {
        self.0.iter().map(Scope::as_str).collect()
    }
}

impl fmt::Debug for ScopeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names().join(","))
    }
}

/// The scopes that can be asked for: the built-in ones and those of `[scopes]`, each with its description.
#[derive(Clone, Debug, PartialEq)]
pub struct ScopeCatalog(Vec<(Scope, String)>);

impl Default for ScopeCatalog {
    fn default() -> Self {
        let built_in =
            BUILT_IN.iter().filter_map(|(name, about)| Some((Scope::parse(name).ok()?, (*about).to_owned())));
        Self(built_in.collect())
    }
}

/// The name is taken: built in, an alias, or declared before.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("is already declared")]
pub struct AlreadyDeclared;

impl ScopeCatalog {
    /// # Errors
    /// [`AlreadyDeclared`] when the catalogue has it.
    pub fn declare(&mut self, scope: Scope, description: String) -> Result<(), AlreadyDeclared> {
        if self.contains(&scope) {
            return Err(AlreadyDeclared);
        }
        self.0.push((scope, description));
        Ok(())
    }

    pub fn contains(&self, scope: &Scope) -> bool {
        self.0.iter().any(|(declared, _)| declared == scope)
    }

    /// Every declared scope with its description, built-in ones first.
    pub fn iter(&self) -> impl Iterator<Item = (&Scope, &str)> {
        self.0.iter().map(|(scope, description)| (scope, description.as_str()))
    }
}
