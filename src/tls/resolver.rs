//! Which of a listener's certificates a client is shown: by the name that it asks for.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// Certificates by name. An exact name wins over a wildcard, which stands for one label; without a match it is the first.
#[derive(Debug)]
pub(super) struct ByName {
    /// At least one.
    keys: Vec<Arc<CertifiedKey>>,
    exact: HashMap<String, Vec<usize>>,
    /// By what follows `*.`.
    wildcard: HashMap<String, Vec<usize>>,
}

impl ByName {
    /// `named` are keys with the host names of their certificates, in the order of preference; at least one.
    pub(super) fn new(named: Vec<(CertifiedKey, Vec<String>)>) -> Self {
        let mut by_name = Self { keys: Vec::new(), exact: HashMap::new(), wildcard: HashMap::new() };
        for (index, (key, names)) in named.into_iter().enumerate() {
            by_name.keys.push(Arc::new(key));
            for name in names {
                let (table, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut by_name.wildcard, parent.to_owned()),
                    None => (&mut by_name.exact, name),
                };
                table.entry(name).or_default().push(index);
            }
        }
        by_name
    }

    fn candidates(&self, name: Option<&str>) -> &[usize] {
        let found = name.and_then(|name| {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            let by_wildcard = || self.wildcard.get(name.split_once('.')?.1);
            self.exact.get(&name).or_else(by_wildcard)
        });
        found.map_or(&[0], Vec::as_slice)
    }
}

impl ResolvesServerCert for ByName {
    /// Of several for one name, the first that the client can verify: an RSA and an ECDSA one may stand side by side.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let candidates = self.candidates(hello.server_name());
        let is_usable = |index: &&usize| self.keys[**index].key.choose_scheme(hello.signature_schemes()).is_some();
        let chosen = candidates.iter().find(is_usable).or(candidates.first())?;
        Some(Arc::clone(&self.keys[*chosen]))
    }
}
