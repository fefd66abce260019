//! The hosts that a line is for: one name, or all names below one.

use std::fmt;
use std::net::Ipv6Addr;

/// Lower case, without a port. `Display` is what a user writes.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Host {
    /// This name alone.
    Exact(Box<str>),
    /// `*.name`: every name below this one, however many labels it has more; not the name itself.
    Below(Box<str>),
}

impl Host {
    /// Reads `api.example.com`, `*.example.com` or `[::1]`. `None` for what no request can name.
    pub fn parse(text: &str) -> Option<Self> {
        let name = text.to_ascii_lowercase();
        if let Some(address) = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let address: Ipv6Addr = address.parse().ok()?;
            return Some(Self::Exact(format!("[{address}]").into()));
        }
        let (parent, is_wild) = name.strip_prefix("*.").map_or((name.as_str(), false), |parent| (parent, true));
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if !parent.split('.').all(|label| !label.is_empty() && label.bytes().all(legal)) {
            return None;
        }
        Some(if is_wild { Self::Below(parent.into()) } else { Self::Exact(parent.into()) })
    }

    /// Whether this stands for `name`, which has no port. Its case makes no difference, nor a final dot.
    pub fn covers(&self, name: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name);
        match self {
            Self::Exact(own) => own.eq_ignore_ascii_case(name),
            Self::Below(parent) => {
                let end = name.len().checked_sub(parent.len()).and_then(|start| name.split_at_checked(start));
                end.is_some_and(|(label, end)| {
                    label.len() > 1 && label.ends_with('.') && parent.eq_ignore_ascii_case(end)
                })
            }
        }
    }

    /// Whether there is a name that both stand for.
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(name), hosts) | (hosts, Self::Exact(name)) => hosts.covers(name),
            (Self::Below(one), Self::Below(two)) => one == two || self.covers(two) || other.covers(one),
        }
    }

    /// A name that this stands for.
    pub fn example(&self) -> String {
        match self {
            Self::Exact(name) => name.to_string(),
            Self::Below(parent) => format!("any.{parent}"),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Below(parent) => write!(f, "*.{parent}"),
        }
    }
}
