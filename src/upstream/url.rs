//! The address of an upstream as the configuration writes it: `http://host[:port]`.

use std::fmt;

use crate::settings::{Node, Value};

/// Where an upstream listens. Nothing but scheme, host and port: a path, query or user in it would be ignored by
/// forwarding, so they are refused.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Url {
    host: String,
    port: u16,
}

impl Url {
    /// # Errors
    /// A message that tells what to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        let uri: http::Uri =
            text.parse().map_err(|_| format!("\"{text}\" is not a URL such as \"http://127.0.0.1:9090\""))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err("https upstreams are not supported yet; use http".to_owned()),
            _ => return Err(format!("\"{text}\" must start with http://")),
        }
        let authority = uri.authority().ok_or_else(|| format!("\"{text}\" names no host"))?;
        if authority.as_str().contains('@') {
            return Err("a URL with a user or password is refused; the upstream gets no credentials".to_owned());
        }
        let bare = uri.path() == "/" && uri.query().is_none() && !text.ends_with('?') && !text.contains('#');
        if !bare {
            return Err("a URL here has no path, query or fragment: requests keep their own".to_owned());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = match authority.port() {
            Some(port) if port.as_u16() == 0 => return Err("port 0 cannot be connected to".to_owned()),
            Some(port) => port.as_u16(),
            None if authority.as_str() != authority.host() => {
                return Err(format!("\"{text}\" has a port that is not 1 to 65535"));
            }
            None => 80,
        };
        if host.is_empty() {
            return Err(format!("\"{text}\" names no host"));
        }
        Ok(Self { host, port })
    }

    /// Stands for a URL that was reported as missing or wrong; nothing is ever connected to it.
    pub(crate) fn unknown() -> Self {
        Self { host: "upstream.invalid".to_owned(), port: 0 }
    }

    /// Host and port, as the resolver takes them.
    pub fn target(&self) -> (&str, u16) {
        (&self.host, self.port)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            return write!(f, "http://[{}]:{}", self.host, self.port);
        }
        write!(f, "http://{}:{}", self.host, self.port)
    }
}

impl Value for Url {
    fn read(node: &Node<'_>) -> Option<Self> {
        match Self::parse(&node.text()?) {
            Ok(url) => Some(url),
            Err(message) => node.problem(format!("{}: {message}", node.path())),
        }
    }
}
