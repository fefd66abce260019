//! From a listener's settings and files to what handshakes are made with.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SupportedProtocolVersion};

use super::certificate::OwnCertificate;
use super::files::{Error, Fingerprint, Identity, Reader};
use super::resolver::ByName;
use super::settings::{CertificateFiles, ClientAuth, MinVersion, ServerSettings};
use super::verifier::ListedSubjects;

/// The option that an [`Error`] comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    /// The position in `certificates`.
    Certificate(usize),
    Option(&'static str),
}

const CERTIFICATES: Place = Place::Option("certificates");
const CLIENT_AUTH: Place = Place::Option("client_auth");
const CLIENT_CA: Place = Place::Option("client_ca");
const CLIENT_CRL: Place = Place::Option("client_crl");

/// Everything that a listener's handshakes need, as its files were at one time.
#[derive(Debug)]
pub(super) struct Material {
    pub(super) settings: ServerSettings,
    pub(super) config: Arc<ServerConfig>,
    pub(super) certificates: Vec<OwnCertificate>,
    /// Of the files, from before they were read.
    pub(super) identities: Vec<Identity>,
    fingerprint: Fingerprint,
}

impl Material {
    /// Reads the files. Blocking. `alpn` is what may be spoken, the preferred first.
    pub(super) fn load(settings: &ServerSettings, alpn: &[&[u8]]) -> Result<Self, (Place, Error)> {
        let identities = identities(settings);
        check_client_options(settings)?;
        let provider = super::provider();
        let mut reader = Reader::new();
        let mut named = Vec::new();
        let mut certificates = Vec::new();
        for (index, files) in settings.certificates.iter().enumerate() {
            let at_place = |error| (Place::Certificate(index), error);
            let (key, own) = own_certificate(&mut reader, files).map_err(at_place)?;
            if index > 0 && own.names.is_empty() {
                return Err(at_place(Error::NoName { path: files.cert.clone() }));
            }
            named.push((key, own.names.clone()));
            certificates.push(own);
        }
        if named.is_empty() {
            return Err((CERTIFICATES, Error::NoCertificates));
        }
        let verifier = verifier(settings, &mut reader, &provider)?;
        let config = config(settings, alpn, provider, verifier, ByName::new(named));
        let config = Arc::new(config.map_err(|error| (CERTIFICATES, error.into()))?);
        Ok(Self { settings: settings.clone(), config, certificates, identities, fingerprint: reader.fingerprint() })
    }

    /// Goes on with the tickets of `old` where nothing has changed. Where something has, sessions from before must not be
    /// resumed: they were verified under other rules.
    pub(super) fn succeed(mut self, old: &Self) -> Self {
        if self.settings == old.settings && self.fingerprint == old.fingerprint {
            self.config = Arc::clone(&old.config);
        }
        self
    }
}

/// Of all files that the settings name.
pub(super) fn identities(settings: &ServerSettings) -> Vec<Identity> {
    let own = settings.certificates.iter().flat_map(|files| [&files.cert, &files.key]);
    own.chain(&settings.client_ca).chain(&settings.client_crl).map(|path| Identity::of(path)).collect()
}

fn check_client_options(settings: &ServerSettings) -> Result<(), (Place, Error)> {
    let unused = |option| Err((Place::Option(option), Error::ClientAuthOff { option }));
    match (settings.client_auth, &settings.client_ca) {
        (ClientAuth::Off, Some(_)) => unused("client_ca"),
        (ClientAuth::Off, None) if settings.client_crl.is_some() => unused("client_crl"),
        (ClientAuth::Off, None) if !settings.client_subjects.is_empty() => unused("client_subjects"),
        (ClientAuth::Optional | ClientAuth::Required, None) => Err((CLIENT_AUTH, Error::ClientAuthority)),
        _ => Ok(()),
    }
}

fn own_certificate(reader: &mut Reader, files: &CertificateFiles) -> Result<(CertifiedKey, OwnCertificate), Error> {
    let key = reader.certified_key(&files.cert, &files.key)?;
    match OwnCertificate::new(&files.cert, &key.cert[0]) {
        Ok(own) => Ok((key, own)),
        Err(source) => Err(Error::Certificate { path: files.cert.clone(), number: 1, source: source.into() }),
    }
}

/// `None` when clients are not asked for a certificate.
fn verifier(
    settings: &ServerSettings,
    reader: &mut Reader,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, (Place, Error)> {
    let Some(path) = &settings.client_ca else { return Ok(None) };
    let roots = Arc::new(reader.authorities(path).map_err(|error| (CLIENT_CA, error))?);
    let mut builder = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider));
    if settings.client_auth == ClientAuth::Optional {
        builder = builder.allow_unauthenticated();
    }
    if let Some(path) = &settings.client_crl {
        // A certificate of an authority without a list is refused, as by OpenSSL: a list that was forgotten must be noticed.
        let lists = reader.revocations(path).map_err(|error| (CLIENT_CRL, error))?;
        builder = builder.with_crls(lists);
    }
    let authorities = builder.build().map_err(|error| unusable(settings, path, error))?;
    if settings.client_subjects.is_empty() {
        return Ok(Some(authorities));
    }
    Ok(Some(Arc::new(ListedSubjects { authorities, subjects: settings.client_subjects.clone() })))
}

fn unusable(settings: &ServerSettings, authorities: &Path, error: VerifierBuilderError) -> (Place, Error) {
    match (&error, &settings.client_crl) {
        (VerifierBuilderError::InvalidCrl(_), Some(path)) => {
            (CLIENT_CRL, Error::Revocations { path: path.clone(), source: error.into() })
        }
        _ => (CLIENT_CA, Error::Certificate { path: authorities.to_owned(), number: 1, source: error.into() }),
    }
}

fn config(
    settings: &ServerSettings,
    alpn: &[&[u8]],
    provider: Arc<CryptoProvider>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    certificates: ByName,
) -> Result<ServerConfig, rustls::Error> {
    let builder =
        ServerConfig::builder_with_provider(provider).with_protocol_versions(versions(settings.min_version))?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(certificates));
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    // All suites are good; which of them is used does not depend on what a client puts first.
    config.ignore_client_order = true;
    // Tickets keep sessions at the client, under keys that change every six hours: nothing to hold, lock or bound here.
    config.ticketer = Ticketer::new()?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    // 0-RTT could be replayed. It is off unless set; said here because it must stay so.
    config.max_early_data_size = 0;
    Ok(config)
}

static FROM_1_2: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];

fn versions(min: MinVersion) -> &'static [&'static SupportedProtocolVersion] {
    match min {
        MinVersion::Tls12 => &FROM_1_2,
        MinVersion::Tls13 => &FROM_1_2[..1],
    }
}
