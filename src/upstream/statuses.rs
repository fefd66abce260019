//! Statuses as options name them: one by its number, or a whole class.

use http::StatusCode;

use crate::settings::{Node, Value};

/// One status (`503`), or all that begin with a digit (`"5xx"`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Statuses {
    /// The first digit.
    Class(u16),
    One(u16),
}

impl Statuses {
    pub fn include(self, status: StatusCode) -> bool {
        match self {
            Self::Class(first) => status.as_u16() / 100 == first,
            Self::One(one) => status.as_u16() == one,
        }
    }
}

impl Value for Statuses {
    fn read(node: &Node<'_>) -> Option<Self> {
        let number = node.value().as_integer().and_then(|integer| integer.as_str().parse().ok());
        let class = node.value().as_str().and_then(|text| match text {
            "1xx" => Some(1),
            "2xx" => Some(2),
            "3xx" => Some(3),
            "4xx" => Some(4),
            "5xx" => Some(5),
            _ => None,
        });
        match (number, class) {
            (Some(number @ 100..=599), _) => Some(Self::One(number)),
            (_, Some(class)) => Some(Self::Class(class)),
            _ => node.problem(format!("{} must hold statuses such as 503, or classes such as \"5xx\"", node.path())),
        }
    }
}
