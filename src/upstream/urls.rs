//! The targets of an upstream as the configuration writes them: one URL, or a list.

use std::fmt;

use super::url::Url;
use crate::settings::{Node, Value};

/// As many as one word of bits can tell apart; more belong behind a balancer of their own.
pub(super) const TARGETS_MAX: usize = 64;

/// Where an upstream listens. Invariant: 1 to 64 URLs, none twice.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Urls(Vec<Url>);

impl Urls {
    /// In the order of the file.
    pub fn iter(&self) -> std::slice::Iter<'_, Url> {
        self.0.iter()
    }

    /// Stands for a URL that was reported as missing or wrong; nothing is ever connected to it.
    pub(crate) fn unknown() -> Self {
        Self(vec![Url::unknown()])
    }
}

impl fmt::Display for Urls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, url) in self.0.iter().enumerate() {
            let separator = if position == 0 { "" } else { ", " };
            write!(f, "{separator}{url}")?;
        }
        Ok(())
    }
}

impl Value for Urls {
    fn read(node: &Node<'_>) -> Option<Self> {
        if !node.value().is_array() {
            return Url::read(node).map(|url| Self(vec![url]));
        }
        let elements = node.elements()?;
        if elements.is_empty() || elements.len() > TARGETS_MAX {
            return node.problem(format!("{} must hold 1 to {TARGETS_MAX} URLs", node.path()));
        }
        let read: Vec<Option<Url>> = elements.iter().map(Url::read).collect();
        let mut urls: Vec<Url> = Vec::new();
        for (element, url) in elements.iter().zip(read.iter().flatten()) {
            if urls.contains(url) {
                return element.problem(format!("{}: {url} is in the list twice; leave one out", node.path()));
            }
            urls.push(url.clone());
        }
        (urls.len() == elements.len()).then_some(Self(urls))
    }
}
