//! Certificates and private keys in PEM files: read, checked, and told apart by name when they are no good.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use zeroize::Zeroizing;

/// More than any bundle of certificates has; a path that was mixed up must not fill the memory.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Why there is no TLS configuration. Each text names the file or option, and what to do where that is not plain.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("certificate {number} in {} cannot be used", .path.display())]
    Certificate { path: PathBuf, number: usize, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("client_auth is set and client_ca is not; name the file with the authorities of the clients' certificates")]
    ClientAuthority,
    #[error("{option} has no effect without client_auth; set client_auth = \"required\" or \"optional\"")]
    ClientAuthOff { option: &'static str },
    #[error("the key in {} is not the one that the certificate in {} was made for", .key.display(), .cert.display())]
    KeyMismatch { cert: PathBuf, key: PathBuf },
    #[error("cert is set and key is not, or the other way round; set both or neither")]
    KeyMissing,
    #[error("the key in {} cannot be used", .path.display())]
    KeyUnusable { path: PathBuf, source: rustls::Error },
    #[error("there are no certificates; add certificates = [{{ cert = \"cert.pem\", key = \"key.pem\" }}]")]
    NoCertificates,
    #[error("{} holds no certificate; it must hold PEM text with BEGIN CERTIFICATE", .path.display())]
    NoCertificate { path: PathBuf },
    #[error("the certificate in {} names no host, so that no client can ask for it; only the first may be so", .path.display())]
    NoName { path: PathBuf },
    #[error("{} holds no private key; it must hold PEM text with BEGIN PRIVATE KEY, not encrypted", .path.display())]
    NoKey { path: PathBuf },
    #[error("{} is not valid PEM", .path.display())]
    NotPem { path: PathBuf, source: pem::Error },
    #[error("the system has no root certificates; install its ca-certificates package or set ca")]
    NoSystemRoots,
    #[error("{} holds no revocation list; it must hold PEM text with BEGIN X509 CRL", .path.display())]
    NoRevocations { path: PathBuf },
    #[error("server_name \"{0}\" is neither a host name nor an address")]
    ServerName(String),
    #[error("a revocation list in {} cannot be used", .path.display())]
    Revocations { path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{} is larger than 4 MiB, which no file of certificates or keys is", .path.display())]
    TooLarge { path: PathBuf },
    #[error("cannot read {}", .path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("the cryptography cannot do what is configured")]
    Unsupported(#[from] rustls::Error),
}

/// Reads the files of one configuration, and remembers what was in them.
pub(super) struct Reader {
    digest: digest::Context,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self { digest: digest::Context::new(&digest::SHA256) }
    }

    /// The same for two readers that have read the same bytes in the same order.
    pub(super) fn fingerprint(self) -> Fingerprint {
        let mut fingerprint = Fingerprint::default();
        fingerprint.0.copy_from_slice(self.digest.finish().as_ref());
        fingerprint
    }

    /// A chain with the key that belongs to its first certificate.
    pub(super) fn certified_key(&mut self, cert: &Path, key: &Path) -> Result<CertifiedKey, Error> {
        let chain = self.certificates(cert)?;
        let private = self.private_key(key)?;
        let unusable = |source| Error::KeyUnusable { path: key.to_owned(), source };
        // Not the provider's own loader, which takes the key and does not wipe it.
        let certified = CertifiedKey::new(chain, any_supported_type(&private).map_err(unusable)?);
        match certified.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(certified),
            Err(rustls::Error::InconsistentKeys(_)) => {
                Err(Error::KeyMismatch { cert: cert.to_owned(), key: key.to_owned() })
            }
            Err(source) => Err(Error::Certificate { path: cert.to_owned(), number: 1, source: source.into() }),
        }
    }

    /// The authorities in a file, all of them usable.
    pub(super) fn authorities(&mut self, path: &Path) -> Result<RootCertStore, Error> {
        let mut roots = RootCertStore::empty();
        for (index, certificate) in self.certificates(path)?.into_iter().enumerate() {
            let unusable = |source: rustls::Error| Error::Certificate {
                path: path.to_owned(),
                number: index + 1,
                source: source.into(),
            };
            roots.add(certificate).map_err(unusable)?;
        }
        Ok(roots)
    }

    /// The certificates in a file, in their order; at least one.
    pub(super) fn certificates(&mut self, path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
        let text = self.read(path)?;
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
        match certificates {
            Ok(certificates) if certificates.is_empty() => Err(Error::NoCertificate { path: path.to_owned() }),
            Ok(certificates) => Ok(certificates),
            Err(source) => Err(Error::NotPem { path: path.to_owned(), source }),
        }
    }

    /// The revocation lists in a file; at least one.
    pub(super) fn revocations(&mut self, path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, Error> {
        let text = self.read(path)?;
        let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&text).collect();
        match lists {
            Ok(lists) if lists.is_empty() => Err(Error::NoRevocations { path: path.to_owned() }),
            Ok(lists) => Ok(lists),
            Err(source) => Err(Error::NotPem { path: path.to_owned(), source }),
        }
    }

    fn private_key(&mut self, path: &Path) -> Result<Zeroizing<PrivateKeyDer<'static>>, Error> {
        match PrivateKeyDer::from_pem_slice(&self.read(path)?) {
            Ok(key) => Ok(Zeroizing::new(key)),
            Err(pem::Error::NoItemsFound) => Err(Error::NoKey { path: path.to_owned() }),
            Err(source) => Err(Error::NotPem { path: path.to_owned(), source }),
        }
    }

    fn read(&mut self, path: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
        let unreadable = |source| Error::Unreadable { path: path.to_owned(), source };
        let file = File::open(path).map_err(unreadable)?;
        // Room for all of it at once: what a growing vector leaves behind is not wiped.
        let length = file.metadata().map_err(unreadable)?.len().min(FILE_BYTES_MAX);
        let mut text = Zeroizing::new(Vec::with_capacity(length as usize + 64));
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text).map_err(unreadable)?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(Error::TooLarge { path: path.to_owned() });
        }
        self.digest.update(&text.len().to_be_bytes());
        self.digest.update(&text);
        Ok(text)
    }
}

/// Stands for the content of files.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Fingerprint([u8; 32]);

/// The authorities that the system trusts. Some that rustls cannot read are common, and left out.
pub(super) fn system_authorities() -> Result<RootCertStore, Error> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        return Err(Error::NoSystemRoots);
    }
    Ok(roots)
}

/// What changes about a file when it is written or replaced, symbolic links on its way included.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Identity(Option<[u64; 4]>);

impl Identity {
    /// A file that is not there has an identity too.
    pub(super) fn of(path: &Path) -> Self {
        Self(std::fs::metadata(path).ok().map(|metadata| {
            let time = |seconds: i64, nanoseconds: i64| {
                seconds.cast_unsigned().wrapping_mul(1_000_000_000).wrapping_add(nanoseconds.cast_unsigned())
            };
            let modified = time(metadata.mtime(), metadata.mtime_nsec());
            [modified, time(metadata.ctime(), metadata.ctime_nsec()), metadata.len(), metadata.ino()]
        }))
    }
}
