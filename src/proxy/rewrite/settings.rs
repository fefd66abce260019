//! What a route changes of the requests that it forwards and of their responses; an upstream's own are its routes'
//! defaults.

use http::{HeaderName, HeaderValue};

use crate::http::framing::is_host;
use crate::http::overrides::{Direction, check_overridable, is_same_field};
use crate::policy::Requirement;
use crate::route::{Path, Pattern};
use crate::settings::{Node, Section, Value};

use super::template::Template;

/// The options of `[upstream.NAME]` and of a route's table form that change what is forwarded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rewrite {
    /// Cut off the front of the path.
    pub strip_prefix: Option<PathPrefix>,
    /// Put in front of the path, after the other was cut off.
    pub add_prefix: Option<PathPrefix>,
    pub host: HostHeader,
    pub request: FieldRules,
    pub response: FieldRules,
}

impl Rewrite {
    /// Reads the options on top of `inherited`: a path or host takes its place, a field only that of the same name, so
    /// that a line that sets one of its own does not lose the upstream's.
    pub fn read(section: &mut Section<'_>, inherited: Self) -> Self {
        let Self { strip_prefix, add_prefix, host, request, response } = inherited;
        Self {
            strip_prefix: section.option("strip_prefix", || strip_prefix),
            add_prefix: section.option("add_prefix", || add_prefix),
            host: section.option("host", || host),
            request: request.read_over(section, "set_headers", "remove_headers", Direction::Request),
            response: response.read_over(
                section,
                "set_response_headers",
                "remove_response_headers",
                Direction::Response,
            ),
        }
    }

    /// What of an upstream's options holds for a route: a public one has no key to tell of, so those fields are
    /// dropped there and not set.
    pub fn inherited_by(&self, requirement: &Requirement) -> Self {
        let mut rewrite = self.clone();
        if *requirement == Requirement::Public {
            rewrite.request.drop_those_of_keys();
            rewrite.response.drop_those_of_keys();
        }
        rewrite
    }

    /// What contradicts the route that these options are for; the texts say what to change.
    pub fn problems(&self, pattern: &Pattern, requirement: &Requirement) -> Vec<String> {
        let mut problems = Vec::new();
        if let Some(prefix) = self.strip_prefix.as_ref().filter(|prefix| !pattern.is_within(prefix.as_str())) {
            let prefix = prefix.as_str();
            problems.push(format!(
                "its path does not start with {prefix}, so strip_prefix cannot cut that off; write strip_prefix = \"off\""
            ));
        }
        for (name, template) in self.request.set.iter().chain(&self.response.set) {
            if *requirement == Requirement::Public && template.needs_key() {
                problems.push(format!("a public route knows no key, so {name} cannot be \"{template}\"; leave it out"));
            }
            for parameter in template.parameters().filter(|parameter| !pattern.has_parameter(parameter)) {
                problems.push(format!(
                    "{name} is \"{template}\", but the path has no {{{parameter}}} segment; name one so, or choose another value"
                ));
            }
        }
        problems
    }
}

/// Whole segments without a second spelling: `/a/b`, with no slash at the end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PathPrefix(String);

impl PathPrefix {
    /// `None` when `text` is no such path.
    pub fn parse(text: &str) -> Option<Self> {
        let is_plain = Path::parse(text).is_ok() && !text.ends_with('/') && !text.contains(['%', ';']);
        is_plain.then(|| Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn segments(&self) -> usize {
        self.0.matches('/').count()
    }
}

impl Value for PathPrefix {
    fn read(node: &Node<'_>) -> Option<Self> {
        let text = node.text()?;
        let prefix = Self::parse(&text);
        if prefix.is_none() {
            node.problem::<()>(format!(
                "{}: \"{text}\" is not a plain path; write one such as \"/prometheus\", without escapes and without a \
                 slash at the end",
                node.path()
            ));
        }
        prefix
    }
}

/// The `Host` that the upstream gets.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum HostHeader {
    /// The client's own.
    #[default]
    Keep,
    Named(HeaderValue),
    /// That of the upstream's URL.
    Upstream,
}

impl Value for HostHeader {
    fn read(node: &Node<'_>) -> Option<Self> {
        let text = node.text()?;
        match text.as_str() {
            "keep" => Some(Self::Keep),
            "upstream" => Some(Self::Upstream),
            _ => match HeaderValue::from_str(&text).ok().filter(|value| is_host(value.as_bytes())) {
                Some(value) => Some(Self::Named(value)),
                None => node.problem(format!(
                    "{} must be \"keep\", \"upstream\" or a name such as \"api.example.com\" or \"10.0.0.1:9090\"",
                    node.path()
                )),
            },
        }
    }
}

/// Header fields that are set and removed. No field is in both, or there twice.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FieldRules {
    set: Vec<(HeaderName, Template)>,
    removed: Vec<HeaderName>,
}

impl FieldRules {
    pub fn set(&self) -> &[(HeaderName, Template)] {
        &self.set
    }

    pub fn removed(&self) -> &[HeaderName] {
        &self.removed
    }

    /// Every field that is set or removed.
    pub fn names(&self) -> impl Iterator<Item = &HeaderName> {
        self.set.iter().map(|(name, _)| name).chain(&self.removed)
    }

    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.removed.is_empty()
    }

    fn read_over(
        mut self,
        section: &mut Section<'_>,
        set: &'static str,
        remove: &'static str,
        direction: Direction,
    ) -> Self {
        let set = section.node(set).map(|node| read_set(&node, direction)).unwrap_or_default();
        let removed = section.node(remove).map(|node| read_removed(&node, direction, &set)).unwrap_or_default();
        for name in set.iter().map(|(name, _)| name).chain(&removed) {
            self.forget(name);
        }
        self.set.extend(set);
        self.removed.extend(removed);
        self
    }

    fn forget(&mut self, name: &HeaderName) {
        self.set.retain(|(known, _)| !is_same_field(known, name));
        self.removed.retain(|known| !is_same_field(known, name));
    }

    fn drop_those_of_keys(&mut self) {
        let (of_keys, others) = self.set.drain(..).partition(|(_, template)| template.needs_key());
        self.set = others;
        let of_keys: Vec<(HeaderName, Template)> = of_keys;
        self.removed.extend(of_keys.into_iter().map(|(name, _)| name));
    }
}

fn read_set(node: &Node<'_>, direction: Direction) -> Vec<(HeaderName, Template)> {
    let mut set: Vec<(HeaderName, Template)> = Vec::new();
    for entry in node.entries().unwrap_or_default() {
        let place = entry.name_span.clone();
        let name = match field_name(&entry.name, direction) {
            Ok(name) => name,
            Err(message) => {
                node.problem_at(place, message);
                continue;
            }
        };
        if set.iter().any(|(known, _)| is_same_field(known, &name)) {
            node.problem_at(place, format!("{} is set twice, in two spellings; keep one", entry.name));
        }
        if let Some(template) = Template::read(&entry.node) {
            set.push((name, template));
        }
    }
    set
}

fn read_removed(node: &Node<'_>, direction: Direction, set: &[(HeaderName, Template)]) -> Vec<HeaderName> {
    let mut removed = Vec::new();
    for element in node.elements().unwrap_or_default() {
        let Some(text) = element.text() else { continue };
        match field_name(&text, direction) {
            Ok(name) if set.iter().any(|(other, _)| is_same_field(other, &name)) => {
                element
                    .problem::<()>(format!("{text} is set here too; a field that is set replaces the one that came"));
            }
            Ok(name) => removed.push(name),
            Err(message) => {
                element.problem::<()>(message);
            }
        }
    }
    removed
}

/// # Errors
/// Why the field cannot be set or removed.
fn field_name(text: &str, direction: Direction) -> Result<HeaderName, String> {
    let name: HeaderName =
        text.parse().map_err(|_| format!("\"{text}\" is not a header name; write one such as \"X-Scope-OrgID\""))?;
    match check_overridable(&name, direction) {
        Ok(()) => Ok(name),
        Err(reason) => Err(format!("{text} {reason}")),
    }
}
