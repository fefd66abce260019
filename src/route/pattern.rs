//! One line of a route table as a user writes it: `GET,POST host.example,*.host.example/api/{name}`.
//!
//! Refuses what could never match, with a text that says what to write instead: a guard that matches nothing is a hole.

use std::collections::BTreeSet;
use std::fmt;

use super::host::Host;
use super::path::Path;

/// Bounds the buffer that an escaped segment is decoded into.
pub(super) const LITERAL_BYTES_MAX: usize = 255;
/// Bounds the depth of a table, and so of the recursion in it.
const SEGMENTS_MAX: usize = 64;
/// How many hosts a line can have: bounds its text, which names it in logs and metrics.
pub const HOSTS_MAX: usize = 64;
/// The parameter whose segment carries the key.
const CREDENTIAL: &str = "credential";
pub(super) const STANDARD_METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// Methods, perhaps hosts, and the shape of a path. `Display` is its canonical text.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pattern {
    pub(super) methods: Methods,
    /// Sorted, none twice. None: for every host.
    pub(super) hosts: Vec<Host>,
    /// At least one; an empty literal stands for a trailing slash and is the last; so is `Rest`.
    pub(super) segments: Vec<Segment>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Methods {
    /// All but CONNECT and TRACE.
    Any,
    /// In the order of [`method_order`], none twice.
    Listed(Vec<Box<str>>),
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Segment {
    /// Decoded text.
    Literal(Box<str>),
    /// `{name}`: one segment that is not empty.
    Parameter(Box<str>),
    /// `{*name}`: any number of segments, none too.
    Rest(Box<str>),
}

/// Why a line is no pattern. The texts say what to write.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PatternError {
    #[error("ANY stands for every method; write it alone")]
    AnyAmongOthers,
    #[error("{{*{CREDENTIAL}}} would be many segments; write {{{CREDENTIAL}}}")]
    CredentialRest,
    #[error("a path has no . or .. segments; write the path that is meant")]
    DotSegment,
    #[error("a path has no empty segments; write one slash between two segments")]
    EmptySegment,
    #[error(
        "\"{0}\" is not a host; write a name such as api.example.com, *.example.com or [::1], without a port, \
         and several joined by commas without blanks"
    )]
    Host(String),
    #[error("host {0} is listed twice; write it once")]
    HostRepeated(String),
    #[error("\"{0}\" has {1:?}, which no path can have here; write the path decoded and without its query")]
    LiteralCharacter(String, char),
    #[error(
        "\"{0}\" is not a method; write upper-case names joined by commas without blanks, such as GET,POST, or ANY"
    )]
    Method(String),
    #[error("{0} cannot be forwarded; leave it out")]
    MethodForbidden(String),
    #[error("{0} is listed twice; write it once")]
    MethodRepeated(String),
    #[error("write a method, a blank and a path that starts with /, such as \"GET /api/v1/query\"")]
    NoPath,
    #[error(
        "\"{0}\" is not a parameter; write a whole segment such as {{name}} of a-z, 0-9 and _, or {{*rest}} at the end"
    )]
    Parameter(String),
    #[error("parameter {0} is there twice; give each its own name")]
    ParameterRepeated(String),
    #[error("{{*{0}}} covers all that follows; write it last")]
    RestNotLast(String),
    #[error("a segment has at most {LITERAL_BYTES_MAX} bytes; write {{name}} for it")]
    SegmentTooLong,
    #[error("a line has at most {HOSTS_MAX} hosts; write *.example.com, or several lines")]
    TooManyHosts,
    #[error("a path has at most {SEGMENTS_MAX} segments; write {{*rest}} for what follows")]
    TooManySegments,
    #[error("\"{0}\" is not a wildcard here; write {{name}} for one segment, {{*rest}} for all that follow")]
    Wildcard(String),
}

impl Pattern {
    /// Reads `METHOD[,METHOD] [host[,host]]/path`. Literal text is written decoded and matched with regard to case.
    ///
    /// # Errors
    /// [`PatternError`] for what is malformed or could never match.
    pub fn parse(line: &str) -> Result<Self, PatternError> {
        let (methods, target) = line.trim().split_once(' ').ok_or(PatternError::NoPath)?;
        let methods = Methods::parse(methods)?;
        let (hosts, path) = target.trim_start().split_once('/').ok_or(PatternError::NoPath)?;
        let hosts = if hosts.is_empty() { Vec::new() } else { parse_hosts(hosts)? };
        Ok(Self { methods, hosts, segments: parse_segments(path)? })
    }

    /// This line for `hosts`, unless it names some of its own.
    pub fn for_hosts(self, hosts: &[Host]) -> Self {
        if !self.hosts.is_empty() {
            return self;
        }
        let mut hosts = hosts.to_vec();
        hosts.sort();
        hosts.dedup();
        Self { hosts, ..self }
    }

    /// Whether the key is read from a `{credential}` segment of the path.
    pub fn has_credential(&self) -> bool {
        self.credential_position().is_some()
    }

    /// The hosts that this is for; none listed: every host.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// Whether there is a `{name}` or `{*name}`.
    pub fn has_parameter(&self, name: &str) -> bool {
        self.segments.iter().any(|segment| segment.parameter() == Some(name))
    }

    /// What stands for `{name}` or `{*name}` in a path that this covers, raw. Empty for a `{*name}` of no segments;
    /// `None` when there is no such parameter.
    pub fn parameter<'r>(&self, name: &str, path: &Path<'r>) -> Option<&'r str> {
        let position = self.segments.iter().position(|segment| segment.parameter() == Some(name))?;
        let start = path.segment_start(position);
        let left = path.raw().get(start..).unwrap_or_default();
        match self.segments[position] {
            Segment::Rest(_) => Some(left),
            _ => left.split('/').next(),
        }
    }

    /// Whether requests of this method can match.
    pub fn takes(&self, method: &str) -> bool {
        match &self.methods {
            Methods::Any => true,
            Methods::Listed(methods) => methods.iter().any(|listed| **listed == *method),
        }
    }

    /// Whether every path that this covers is `prefix` or below it.
    pub fn is_within(&self, prefix: &str) -> bool {
        let prefix = prefix.trim_matches('/');
        let mut own = self.segments.iter();
        prefix.is_empty()
            || prefix.split('/').all(|part| matches!(own.next(), Some(Segment::Literal(text)) if **text == *part))
    }

    /// Which segment, counted from 0, carries the key.
    pub(super) fn credential_position(&self) -> Option<usize> {
        self.segments.iter().position(|segment| matches!(segment, Segment::Parameter(name) if **name == *CREDENTIAL))
    }
}

impl Segment {
    fn parameter(&self) -> Option<&str> {
        match self {
            Self::Literal(_) => None,
            Self::Parameter(name) | Self::Rest(name) => Some(name),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.methods {
            Methods::Any => f.write_str("ANY ")?,
            Methods::Listed(methods) => write!(f, "{} ", methods.join(","))?,
        }
        for (index, host) in self.hosts.iter().enumerate() {
            write!(f, "{}{host}", if index > 0 { "," } else { "" })?;
        }
        self.segments.iter().try_for_each(|segment| match segment {
            Segment::Literal(text) => write!(f, "/{text}"),
            Segment::Parameter(name) => write!(f, "/{{{name}}}"),
            Segment::Rest(name) => write!(f, "/{{*{name}}}"),
        })
    }
}

impl Methods {
    fn parse(list: &str) -> Result<Self, PatternError> {
        if list == "ANY" {
            return Ok(Self::Any);
        }
        let mut methods: Vec<Box<str>> = Vec::new();
        for method in list.split(',') {
            check_method(method)?;
            if methods.iter().any(|other| **other == *method) {
                return Err(PatternError::MethodRepeated(method.to_owned()));
            }
            methods.push(Box::from(method));
        }
        methods.sort_by(|a, b| method_order(a).cmp(&method_order(b)));
        Ok(Self::Listed(methods))
    }
}

/// The order in which methods are shown: the usual ones as people list them, then the others by name.
pub(super) fn method_order(method: &str) -> (usize, &str) {
    let rank = STANDARD_METHODS.iter().position(|standard| *standard == method);
    (rank.unwrap_or(STANDARD_METHODS.len()), method)
}

fn check_method(method: &str) -> Result<(), PatternError> {
    // RFC 9110 §5.6.2, token; but small letters are a slip, since methods have regard to case.
    let is_token = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&byte);
    match method {
        "ANY" => Err(PatternError::AnyAmongOthers),
        "CONNECT" | "TRACE" => Err(PatternError::MethodForbidden(method.to_owned())),
        _ if method.starts_with(|first: char| first.is_ascii_uppercase()) && method.bytes().all(is_token) => Ok(()),
        _ => Err(PatternError::Method(method.to_owned())),
    }
}

fn parse_hosts(list: &str) -> Result<Vec<Host>, PatternError> {
    let mut hosts = Vec::new();
    for text in list.split(',') {
        let host = Host::parse(text).ok_or_else(|| PatternError::Host(text.to_owned()))?;
        if hosts.contains(&host) {
            return Err(PatternError::HostRepeated(host.to_string()));
        }
        hosts.push(host);
    }
    if hosts.len() > HOSTS_MAX {
        return Err(PatternError::TooManyHosts);
    }
    hosts.sort();
    Ok(hosts)
}

fn parse_segments(path: &str) -> Result<Vec<Segment>, PatternError> {
    let segments: Vec<Segment> = path.split('/').map(parse_segment).collect::<Result<_, _>>()?;
    if segments.len() > SEGMENTS_MAX {
        return Err(PatternError::TooManySegments);
    }
    let mut names = BTreeSet::new();
    for (index, segment) in segments.iter().enumerate() {
        let last = index + 1 == segments.len();
        match segment {
            Segment::Literal(text) if text.is_empty() && !last => return Err(PatternError::EmptySegment),
            Segment::Literal(_) => (),
            Segment::Rest(name) if !last => return Err(PatternError::RestNotLast(name.to_string())),
            Segment::Parameter(name) | Segment::Rest(name) => {
                if !names.insert(name) {
                    return Err(PatternError::ParameterRepeated(name.to_string()));
                }
            }
        }
    }
    Ok(segments)
}

fn parse_segment(text: &str) -> Result<Segment, PatternError> {
    if let Some(inside) = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
        return parse_parameter(inside).ok_or_else(|| PatternError::Parameter(text.to_owned()))?;
    }
    if text.contains(['{', '}']) {
        return Err(PatternError::Parameter(text.to_owned()));
    }
    // What other routers mean by these: taken as literal text, a guard would silently cover nothing.
    if matches!(text, "*" | "**") || text.starts_with(':') {
        return Err(PatternError::Wildcard(text.to_owned()));
    }
    if text == "." || text == ".." {
        return Err(PatternError::DotSegment);
    }
    let illegal = |c: char| c.is_control() || matches!(c, '#' | '%' | ';' | '?' | '\\');
    if let Some(character) = text.chars().find(|c| illegal(*c)) {
        return Err(PatternError::LiteralCharacter(text.to_owned(), character));
    }
    if text.len() > LITERAL_BYTES_MAX {
        return Err(PatternError::SegmentTooLong);
    }
    Ok(Segment::Literal(text.into()))
}

/// What stands between the braces; `None` when it is no name.
fn parse_parameter(inside: &str) -> Option<Result<Segment, PatternError>> {
    let name = inside.strip_prefix('*').unwrap_or(inside);
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if !name.bytes().all(legal) || !name.starts_with(|first: char| first.is_ascii_lowercase() || first == '_') {
        return None;
    }
    Some(match (inside.starts_with('*'), name) {
        (true, CREDENTIAL) => Err(PatternError::CredentialRest),
        (true, name) => Ok(Segment::Rest(name.into())),
        (false, name) => Ok(Segment::Parameter(name.into())),
    })
}
