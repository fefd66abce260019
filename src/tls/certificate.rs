//! What a certificate says: its names, its subject, and when it ends. Verifies nothing.

use std::str::FromStr;

use rustls_pki_types::CertificateDer;
use x509_cert::Certificate;
use x509_cert::der::{self, Decode};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::name::Name;

use crate::clock::Timestamp;

/// One of a listener's own certificates.
#[derive(Debug)]
pub(super) struct Facts {
    /// Host names in small letters, `*.` at the start of wildcards.
    pub(super) names: Vec<String>,
    pub(super) expiry: Timestamp,
}

impl Facts {
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Result<Self, der::Error> {
        let certificate = Certificate::from_der(certificate)?;
        let certificate = certificate.tbs_certificate();
        let names = match certificate.get_extension::<SubjectAltName>()? {
            Some((_, names)) => names.0.iter().filter_map(host_name).collect(),
            None => Vec::new(),
        };
        let expiry = certificate.validity().not_after.to_unix_duration().as_secs();
        Ok(Self { names, expiry: Timestamp::from_unix(i64::try_from(expiry).unwrap_or(i64::MAX)) })
    }
}

fn host_name(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) => Some(name.as_str().trim_end_matches('.').to_ascii_lowercase()),
        _ => None,
    }
}

/// A certificate's subject as RFC 4514 writes it; `None` when it cannot be read.
pub(super) fn subject(certificate: &CertificateDer<'_>) -> Option<String> {
    let certificate = Certificate::from_der(certificate).ok()?;
    Some(certificate.tbs_certificate().subject().to_string())
}

/// The same for a subject that somebody wrote, so that the two can be compared; `None` when it is none.
pub(super) fn subject_of_text(text: &str) -> Option<String> {
    let name = Name::from_str(text).ok()?;
    (!name.is_empty()).then(|| name.to_string())
}

/// The end of a certificate's validity; `None` when it cannot be read.
pub(super) fn expiry(certificate: &CertificateDer<'_>) -> Option<Timestamp> {
    Facts::of(certificate).ok().map(|facts| facts.expiry)
}
