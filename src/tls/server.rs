//! A listener's side: handshakes with its clients, under what its files say now.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use rustls::{HandshakeKind, ServerConnection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsAcceptor;

use super::certificate::{OwnCertificate, Validity};
use super::files::{Error, Identity};
use super::material::{self, Material, Place};
use super::settings::ServerSettings;
use super::{certificate, failure};
use crate::clock::{Clock, Timestamp};
use crate::metrics::{Listener, Metrics, TlsFailure};

const WARNING_INTERVAL_SECONDS: i64 = 86_400;

/// TLS of one listener. What it is made of can be replaced; a handshake keeps what it began with.
pub struct Server {
    listener: Listener,
    alpn: &'static [&'static [u8]],
    current: ArcSwap<Material>,
    /// The files as they were when they were last tried. Held while they are read, so that one change is made at a time.
    tried: Mutex<Vec<Identity>>,
    /// When the log was last told of certificates that expire, in Unix seconds.
    warned: AtomicI64,
    clock: Clock,
    metrics: Arc<Metrics>,
}

/// What new settings have been read to, not yet in use.
#[derive(Debug)]
pub struct Prepared(Material);

/// Reads the files that `settings` name. Blocking.
///
/// # Errors
/// The first that cannot be used, and the option that it comes from.
pub fn own_certificates(settings: &ServerSettings) -> Result<Vec<OwnCertificate>, (Place, Error)> {
    Material::load(settings, &[]).map(|material| material.certificates)
}

impl Server {
    /// Reads the files. Blocking. `alpn` is what may be spoken, the preferred first.
    ///
    /// # Errors
    /// The first file or option that cannot be used.
    pub fn new(
        listener: Listener,
        settings: &ServerSettings,
        alpn: &'static [&'static [u8]],
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Result<Self, Error> {
        let material = Material::load(settings, alpn).map_err(|(_, error)| error)?;
        let tried = Mutex::new(material.identities.clone());
        let current = ArcSwap::from_pointee(material);
        let server = Self { listener, alpn, current, tried, warned: AtomicI64::new(0), clock, metrics };
        server.tell_expiry();
        Ok(server)
    }

    /// Reads the files of new settings without using them yet. Blocking.
    ///
    /// # Errors
    /// The first file or option that cannot be used.
    pub fn prepare(&self, settings: &ServerSettings) -> Result<Prepared, Error> {
        let loaded = Material::load(settings, self.alpn);
        loaded.map(Prepared).map_err(|(_, error)| {
            self.metrics.tls_load_failed(self.listener);
            error
        })
    }

    /// Uses what was prepared, from the next handshake on.
    pub fn install(&self, prepared: Prepared) {
        let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        tried.clone_from(&prepared.0.identities);
        self.replace(prepared.0);
    }

    /// Reads the files again if they have changed; what cannot be used changes nothing. Blocking.
    pub fn refresh(&self) {
        let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        let settings = self.current.load().settings.clone();
        let identities = material::identities(&settings);
        if *tried != identities {
            *tried = identities;
            match Material::load(&settings, self.alpn) {
                Ok(material) => {
                    self.replace(material);
                    tracing::info!(listener = self.listener.as_str(), "TLS files have changed and are in use");
                }
                Err((_, error)) => {
                    self.metrics.tls_load_failed(self.listener);
                    let error = format!("{:#}", anyhow::Error::new(error));
                    tracing::error!(
                        listener = self.listener.as_str(),
                        error,
                        "TLS files not reloaded, the old ones stay"
                    );
                }
            }
        }
        let now = self.clock.now().unix();
        if now.saturating_sub(self.warned.load(Ordering::Relaxed)) >= WARNING_INTERVAL_SECONDS {
            self.warn_of_expiry();
        }
    }

    fn replace(&self, material: Material) {
        let material = material.succeed(&self.current.load());
        self.current.store(Arc::new(material));
        self.tell_expiry();
    }

    fn tell_expiry(&self) {
        let current = self.current.load();
        let expiry = |own: &OwnCertificate| (own.path.display().to_string(), own.expiry);
        self.metrics.tls_loaded(self.listener, current.certificates.iter().map(expiry).collect());
        self.warn_of_expiry();
    }

    fn warn_of_expiry(&self) {
        let now = self.clock.now();
        self.warned.store(now.unix(), Ordering::Relaxed);
        for own in &self.current.load().certificates {
            let (listener, certificate, expiry) = (self.listener.as_str(), own.path.display(), own.expiry);
            match own.validity(now) {
                Validity::Good => {}
                Validity::EndsSoon => {
                    tracing::warn!(listener, %certificate, %expiry, "certificate expires within 14 days; replace it");
                }
                Validity::Over => {
                    tracing::warn!(listener, %certificate, %expiry, "certificate has expired, clients refuse it; replace it");
                }
            }
        }
    }

    /// Shakes hands with a client. Not bounded in time. Cancel-safe: dropped, it drops `stream`.
    ///
    /// # Errors
    /// [`HandshakeError`]. The client has been sent an alert where the protocol has one.
    pub async fn accept<S>(&self, stream: S) -> Result<ServerStream<S>, HandshakeError<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let config = Arc::clone(&self.current.load().config);
        match TlsAcceptor::from(config).accept(stream).into_fallible().await {
            Ok(stream) if is_expired(stream.get_ref().1, self.clock.now()) => {
                let error = io::Error::other("the certificate of the resumed session has expired");
                Err(HandshakeError { reason: TlsFailure::CertificateExpired, error, stream: stream.into_inner().0 })
            }
            Ok(stream) => Ok(ServerStream(stream)),
            Err((error, stream)) => Err(HandshakeError { reason: failure::reason(&error), error, stream }),
        }
    }
}

/// A certificate is verified in a full handshake alone, and sessions may be resumed for hours.
fn is_expired(connection: &ServerConnection, now: Timestamp) -> bool {
    if connection.handshake_kind() != Some(HandshakeKind::Resumed) {
        return false;
    }
    let shown = connection.peer_certificates().and_then(|chain| chain.first());
    shown.is_some_and(|shown| certificate::expiry(shown).is_none_or(|expiry| expiry < now))
}

/// A client that there is no connection with.
#[derive(Debug)]
pub struct HandshakeError<S> {
    pub reason: TlsFailure,
    pub error: io::Error,
    /// The client may still be sending on it.
    pub stream: S,
}

/// What is known of a client from its handshake.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TlsPeer {
    /// The subject of its certificate as RFC 4514 writes it; `None` when it has shown none.
    pub subject: Option<String>,
    /// The host name that it asked for. The `Host` of its requests may be another.
    pub server_name: Option<String>,
    /// Whether HTTP/2 was agreed on.
    pub is_h2: bool,
}

/// A connection to a client.
#[derive(Debug)]
pub struct ServerStream<S>(tokio_rustls::server::TlsStream<S>);

impl<S> ServerStream<S> {
    pub fn peer(&self) -> TlsPeer {
        let connection = self.0.get_ref().1;
        let certificate = connection.peer_certificates().and_then(|chain| chain.first());
        TlsPeer {
            subject: certificate.and_then(certificate::subject),
            server_name: connection.server_name().map(str::to_owned),
            is_h2: connection.alpn_protocol() == Some(super::H2),
        }
    }
}

impl<S: AsFd> AsFd for ServerStream<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().0.as_fd()
    }
}

/// A client that ends its side without the word that it is complete gives `UnexpectedEof`.
impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for ServerStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

/// Only shutting down tells the client that all was sent: dropped, the connection looks cut.
impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ServerStream<S> {
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
