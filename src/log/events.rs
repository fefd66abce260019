//! The two events whose fields are a promise to those who read them by machine: access and audit.

use std::fmt::Display;
use std::net::IpAddr;
use std::time::Duration;

use http::Version;
use tracing::info;

use crate::key::{KeyId, KeyRecord};
use crate::metrics::{AuditOperation, Cut};

pub(super) const ACCESS: &str = "access";
pub(super) const AUDIT: &str = "audit";
/// A method is a text that a client chooses; none that a route can list is longer.
const METHOD_CHARS_MAX: usize = 32;
/// A subject is as long as its authority has let it become.
const SUBJECT_CHARS_MAX: usize = 256;

/// One answered request.
pub struct Access<'a> {
    pub request_id: &'a dyn Display,
    pub client: IpAddr,
    pub method: &'a str,
    pub protocol: Version,
    /// The pattern as configured, never the path: paths may hold credentials.
    pub route: &'a str,
    pub status: u16,
    pub key: Option<KeyId>,
    /// Of the client's certificate; `None` when it has shown none.
    pub tls_subject: Option<&'a str>,
    /// Of the response's body, or to the client of a tunnel.
    pub bytes: u64,
    /// From the client of a tunnel; `None` for what was none.
    pub received: Option<u64>,
    /// Whether the client was sent the response to its end.
    pub complete: bool,
    /// Why the request was ended while it ran; `None`: it was not.
    pub cut: Option<Cut>,
    pub in_gate: Duration,
    /// `None` when the request was not forwarded.
    pub at_upstream: Option<Duration>,
}

impl Access<'_> {
    pub fn log(&self) {
        let method: String = self.method.chars().take(METHOD_CHARS_MAX).collect();
        let shortened = |subject: &str| subject.chars().take(SUBJECT_CHARS_MAX).collect::<String>();
        let tls_subject = self.tls_subject.map(shortened);
        info!(
            target: ACCESS,
            request_id = %self.request_id,
            client.address = %self.client,
            method,
            protocol = ?self.protocol,
            route = self.route,
            status = self.status,
            complete = self.complete,
            cut = self.cut.map(Cut::as_str),
            key.id = self.key.map(display),
            tls_subject = tls_subject.as_deref(),
            bytes = self.bytes,
            received = self.received,
            gate_us = microseconds(self.in_gate),
            upstream_us = self.at_upstream.map(microseconds),
            "request"
        );
    }
}

/// One change of a key, made durable.
pub struct Audit<'a> {
    /// The calling key's id, or the operator.
    pub actor: &'a dyn Display,
    pub operation: AuditOperation,
    /// The key that was changed.
    pub key: KeyId,
    /// The key as it was; `None` for one that is new.
    pub before: Option<&'a KeyRecord>,
    /// The key as it is now; `None` for one that is gone.
    pub after: Option<&'a KeyRecord>,
    /// `None` for a change made on the machine itself.
    pub client: Option<IpAddr>,
    pub revision: u64,
}

impl Audit<'_> {
    pub fn log(&self) {
        info!(
            target: AUDIT,
            actor = %self.actor,
            operation = self.operation.as_str(),
            key.id = %self.key,
            name.before = self.before.map(name),
            name.after = self.after.map(name),
            scopes.before = self.before.map(scopes),
            scopes.after = self.after.map(scopes),
            client.address = self.client.map(display),
            revision = self.revision,
            "key changed"
        );
    }
}

fn name(record: &KeyRecord) -> &str {
    record.name.as_str()
}

fn scopes(record: &KeyRecord) -> String {
    record.scopes.names().join(",")
}

fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
