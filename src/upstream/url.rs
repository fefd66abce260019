//! The address of an upstream as the configuration writes it: `http://host[:port]`, `https://host[:port]` or
//! `unix:/path`.

use std::fmt;
use std::path::PathBuf;

use crate::settings::{Node, Value};

/// Where an upstream listens, and whether it speaks TLS there. Nothing but that: a path, query or user in it would be
/// ignored by forwarding, so they are refused.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Url {
    place: Place,
    is_https: bool,
}

/// What is connected to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Place {
    /// A host name or address, without brackets, and a port.
    Tcp { host: String, port: u16 },
    /// An absolute path.
    Unix(PathBuf),
}

/// What `sun_path` holds besides its final NUL.
const SOCKET_PATH_BYTES_MAX: usize = 107;

impl Url {
    /// # Errors
    /// A message that tells what to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Self::parse_socket(path);
        }
        let uri: http::Uri =
            text.parse().map_err(|_| format!("\"{text}\" is not a URL such as \"http://127.0.0.1:9090\""))?;
        let is_https = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(format!("\"{text}\" must start with http://, https:// or unix:/")),
        };
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
            None => default_port(is_https),
        };
        if host.is_empty() {
            return Err(format!("\"{text}\" names no host"));
        }
        Ok(Self { place: Place::Tcp { host, port }, is_https })
    }

    fn parse_socket(path: &str) -> Result<Self, String> {
        if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') {
            return Err("a unix socket is written with its whole path, such as \"unix:/run/app.sock\"".to_owned());
        }
        if path.len() > SOCKET_PATH_BYTES_MAX {
            return Err(format!("the path of a unix socket has at most {SOCKET_PATH_BYTES_MAX} bytes"));
        }
        Ok(Self { place: Place::Unix(path.into()), is_https: false })
    }

    /// Stands for a URL that was reported as missing or wrong; nothing is ever connected to it.
    pub(crate) fn unknown() -> Self {
        Self { place: Place::Tcp { host: "upstream.invalid".to_owned(), port: 0 }, is_https: false }
    }

    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Host and port, as the resolver takes them; `None` for a unix socket.
    pub fn target(&self) -> Option<(&str, u16)> {
        match &self.place {
            Place::Tcp { host, port } => Some((host, *port)),
            Place::Unix(_) => None,
        }
    }

    pub fn is_https(&self) -> bool {
        self.is_https
    }

    pub fn scheme(&self) -> &'static str {
        if self.is_https { "https" } else { "http" }
    }

    /// What a request that names no host is sent with. A unix socket has no name; `localhost` is what its own clients
    /// say.
    pub fn authority(&self) -> String {
        let (host, port) = match &self.place {
            Place::Tcp { host, port } => (host, *port),
            Place::Unix(_) => return "localhost".to_owned(),
        };
        let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
        format!("{open}{host}{close}:{port}")
    }
}

fn default_port(is_https: bool) -> u16 {
    if is_https { 443 } else { 80 }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Tcp { .. } => write!(f, "{}://{}", self.scheme(), self.authority()),
            Place::Unix(path) => write!(f, "unix:{}", path.display()),
        }
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
