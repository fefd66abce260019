//! What a certificate says: its names, its subject, and when it ends. Verifies nothing.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustls_pki_types::CertificateDer;
use x509_cert::Certificate;
use x509_cert::der::{self, Decode};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::name::Name;

use super::files::{Error, Reader};
use crate::clock::Timestamp;

/// From then on a certificate should have been replaced: those of 90 days are, after 60.
const ENDS_SOON_SECONDS: i64 = 14 * 86_400;

/// One of the gate's own certificates.
#[derive(Clone, Debug)]
pub struct OwnCertificate {
    pub path: PathBuf,
    /// Host names in small letters, with `*.` at the start of wildcards. May be empty.
    pub names: Vec<String>,
    pub expiry: Timestamp,
}

/// How much longer a certificate is good for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Validity {
    EndsSoon,
    Good,
    Over,
}

impl OwnCertificate {
    /// Reads the first certificate in a PEM file, without its key. Blocking.
    ///
    /// # Errors
    /// When there is none that can be read.
    pub fn read(path: &Path) -> Result<Self, Error> {
        Self::of(path, &Reader::new().certificates(path)?[0])
    }

    /// The first certificate of the file `path`.
    pub(super) fn of(path: &Path, certificate: &CertificateDer<'_>) -> Result<Self, Error> {
        let unusable =
            |source: der::Error| Error::Certificate { path: path.to_owned(), number: 1, source: source.into() };
        Self::new(path, certificate).map_err(unusable)
    }

    pub(super) fn new(path: &Path, certificate: &CertificateDer<'_>) -> Result<Self, der::Error> {
        let certificate = Certificate::from_der(certificate)?;
        let names = match certificate.tbs_certificate().get_extension::<SubjectAltName>()? {
            Some((_, names)) => names.0.iter().filter_map(host_name).collect(),
            None => Vec::new(),
        };
        Ok(Self { path: path.to_owned(), names, expiry: end_of(&certificate) })
    }

    pub fn validity(&self, now: Timestamp) -> Validity {
        match self.expiry.unix() - now.unix() {
            ..=0 => Validity::Over,
            1..ENDS_SOON_SECONDS => Validity::EndsSoon,
            _ => Validity::Good,
        }
    }
}

fn end_of(certificate: &Certificate) -> Timestamp {
    let seconds = certificate.tbs_certificate().validity().not_after.to_unix_duration().as_secs();
    Timestamp::from_unix(i64::try_from(seconds).unwrap_or(i64::MAX))
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
    Certificate::from_der(certificate).ok().map(|certificate| end_of(&certificate))
}
