//! The client's side: connections whose other end proves that it is who was asked for.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsConnector;

use super::certificate::OwnCertificate;
use super::files::{self, Error, Fingerprint, Reader};
use super::verifier::OwnOr;
use crate::settings::settings;

settings! {
    /// How the other end is verified, and what is shown to it.
    pub struct ClientSettings {
        /// PEM certificates of the only authorities that are trusted; `None`: those that the system trusts.
        pub ca: Option<PathBuf> = None,
        /// PEM chain to show to a server that asks for a certificate; goes with `key`.
        pub cert: Option<PathBuf> = None,
        /// PEM private key of `cert`.
        pub key: Option<PathBuf> = None,
        /// The name to ask for and to verify, in place of the one that is connected to.
        pub server_name: Option<String> = None,
    }
}

impl ClientSettings {
    /// Makes relative paths start at `folder`.
    pub fn anchor(&mut self, folder: &Path) {
        for path in [&mut self.ca, &mut self.cert, &mut self.key].into_iter().flatten() {
            *path = folder.join(&path);
        }
    }

    /// All files that they name.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        [&self.ca, &self.cert, &self.key].into_iter().flatten().map(PathBuf::as_path)
    }
}

/// A client's configuration. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    connector: TlsConnector,
    server_name: Option<ServerName<'static>>,
    /// What is shown to servers that ask.
    own: Option<Arc<OwnCertificate>>,
    /// Of what the files held.
    fingerprint: Fingerprint,
}

impl Client {
    /// Reads the files. Blocking.
    ///
    /// # Errors
    /// [`Error`]: a file that cannot be used, or a system without authorities.
    pub fn new(settings: &ClientSettings) -> Result<Self, Error> {
        let mut reader = Reader::new();
        let roots = match &settings.ca {
            Some(path) => reader.authorities(path)?,
            None => files::system_authorities()?,
        };
        let provider = super::provider();
        let verifier = webpki(roots, &provider)?;
        Self::with(settings, reader, provider, verifier)
    }

    /// A client for a listener whose own chain is in the file `chain`: that very certificate is believed as it is, for its
    /// expiry is not the question, and so are those of its authorities, in case it was just replaced.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn for_own_listener(settings: &ClientSettings, chain: &Path) -> Result<Self, Error> {
        let mut reader = Reader::new();
        let certificates = reader.certificates(chain)?;
        let mut roots = match &settings.ca {
            Some(path) => reader.authorities(path)?,
            None => files::system_authorities().unwrap_or_else(|_| RootCertStore::empty()),
        };
        roots.add_parsable_certificates(certificates.iter().cloned());
        let provider = super::provider();
        let others = webpki(roots, &provider)?;
        let own = certificates.into_iter().next().ok_or_else(|| Error::NoCertificate { path: chain.to_owned() })?;
        Self::with(settings, reader, provider, Arc::new(OwnOr { own, others }))
    }

    fn with(
        settings: &ClientSettings,
        mut reader: Reader,
        provider: Arc<CryptoProvider>,
        verifier: Arc<dyn ServerCertVerifier>,
    ) -> Result<Self, Error> {
        let identity = match (&settings.cert, &settings.key) {
            (Some(cert), Some(key)) => Some(reader.certified_key(cert, key)?),
            (None, None) => None,
            _ => return Err(Error::KeyMissing),
        };
        let own = match (&settings.cert, &identity) {
            (Some(path), Some(identity)) => Some(Arc::new(OwnCertificate::of(path, &identity.cert[0])?)),
            _ => None,
        };
        let server_name = settings.server_name.clone().map(named).transpose()?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match identity {
            Some(identity) => {
                builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(identity)))
            }
            None => builder.with_no_client_auth(),
        };
        // A resumed session is not verified again, and would outlive the certificate that it began with. Connections are
        // kept and used again, so that there is little to gain.
        config.resumption = Resumption::disabled();
        let (connector, fingerprint) = (TlsConnector::from(Arc::new(config)), reader.fingerprint());
        Ok(Self { connector, server_name, own, fingerprint })
    }

    /// The certificate that it shows to servers that ask.
    pub fn own_certificate(&self) -> Option<&OwnCertificate> {
        self.own.as_deref()
    }

    /// Whether the files held the same when `other` was made of the same settings.
    pub fn is_as(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }

    /// Shakes hands over `stream` with the server called `server_name`, a host name or an address, unless the settings
    /// name another. `alpn` is what may be spoken, the preferred first; empty: nothing is negotiated.
    ///
    /// Not bounded in time. Cancel-safe: dropped, it drops `stream`.
    ///
    /// # Errors
    /// When the other end does not prove its name, refuses, or breaks off; `InvalidInput` when `server_name` is no name.
    pub async fn connect<S>(&self, alpn: &[&[u8]], server_name: &str, stream: S) -> io::Result<ClientStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => {
                named(server_name.to_owned()).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?
            }
        };
        let alpn = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        self.connector.with_alpn(alpn).connect(name, stream).await.map(ClientStream)
    }
}

/// The verification of every client: rustls' own.
fn webpki(roots: RootCertStore, provider: &Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>, Error> {
    let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    builder.build().map_err(|_| Error::NoSystemRoots)
}

/// Brackets around an address and a dot at the end of a name are for URLs and resolvers.
fn named(name: String) -> Result<ServerName<'static>, Error> {
    let bare = name.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.').to_owned();
    ServerName::try_from(bare).map_err(|_| Error::ServerName(name))
}

/// A connection to a verified server. A stream that ends without the server's word that it is complete is an
/// `UnexpectedEof`.
#[derive(Debug)]
pub struct ClientStream<S>(tokio_rustls::client::TlsStream<S>);

impl<S> ClientStream<S> {
    /// The protocol that was negotiated; `None` when the server chose none.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.0.get_ref().1.alpn_protocol()
    }
}

impl<S: AsFd> AsFd for ClientStream<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().0.as_fd()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for ClientStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ClientStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
