//! `[admin]`: where the key API is mounted.

use crate::settings::{Node, Value, settings};

settings! {
    /// `[admin]`: where the key API answers.
    pub struct Settings {
        /// The path of the collection; everything below it belongs to the key API too, whatever the routes say.
        pub path: MountPath = MountPath("/api/keys".to_owned()),
        /// Any of `"public"` and `"ops"`; an empty list switches the key API off.
        pub listeners: Vec<ListenerName> = vec![ListenerName::Public],
    }
}

impl Settings {
    pub fn is_on_ops(&self) -> bool {
        self.listeners.contains(&ListenerName::Ops)
    }

    pub fn is_on_public(&self) -> bool {
        self.listeners.contains(&ListenerName::Public)
    }
}

/// A listener that can carry the key API.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ListenerName {
    Ops,
    Public,
}

impl Value for ListenerName {
    fn read(node: &Node<'_>) -> Option<Self> {
        match node.text()?.as_str() {
            "ops" => Some(Self::Ops),
            "public" => Some(Self::Public),
            other => node.problem(format!("\"{other}\" is not a listener; use \"public\" or \"ops\"")),
        }
    }
}

/// A path whose only reading is its own text: one or more segments of unreserved characters (RFC 3986 §2.3), none of
/// them `.` or `..`, no slash at the end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MountPath(String);

impl MountPath {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `path` is the mount itself or lies below it: `/api/keys/` does, `/api/keysafe` does not.
    pub fn covers(&self, path: &str) -> bool {
        is_at_or_below(path, self.as_str())
    }

    /// Whether one of the mount and `path` is the other or lies below it.
    pub fn overlaps(&self, path: &str) -> bool {
        self.covers(path) || is_at_or_below(self.as_str(), path)
    }
}

fn is_at_or_below(path: &str, top: &str) -> bool {
    path.strip_prefix(top).is_some_and(|below| below.is_empty() || below.starts_with('/'))
}

impl Value for MountPath {
    fn read(node: &Node<'_>) -> Option<Self> {
        let text = node.text()?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        let is_segment = |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(plain);
        if !text.strip_prefix('/').is_some_and(|segments| segments.split('/').all(is_segment)) {
            return node.problem(format!(
                "{}: \"{text}\" is not a plain path; write one such as \"/api/keys\", without a slash at the end",
                node.path()
            ));
        }
        Some(Self(text))
    }
}
