//! How a connection is made: to a TCP port or a unix socket, with TLS where the URL says so.
//!
//! Sends no request. Invariant: what is not verified is not spoken to, and nothing falls back to clear text.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::uri::Scheme;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;

use super::UpstreamError;
use super::connection::within;
use super::protocol::Protocol;
use super::resolve::{Origin, Resolver, unconnected};
use super::url::{Place, Url};
use crate::tls;

/// A connection to a target, whatever it is made of.
pub(super) enum Socket {
    Tcp(TcpStream),
    Tls(Box<tls::ClientStream<TcpStream>>),
    Unix(UnixStream),
}

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Version {
    Http1,
    Http2,
}

const H2: &[u8] = b"h2";
const HTTP_1_1: &[u8] = b"http/1.1";

/// The way to a target. Clones share what is known of its addresses.
#[derive(Clone)]
pub(super) struct Dialer {
    way: Way,
    pub(super) scheme: Scheme,
    /// With the name to verify.
    tls: Option<(tls::Client, String)>,
}

#[derive(Clone)]
enum Way {
    Tcp(Arc<Resolver>),
    Unix(PathBuf),
}

/// A connection that nothing was said on yet.
pub(super) struct Dialed {
    pub(super) socket: Socket,
    pub(super) version: Version,
    /// `None` for a unix socket, whose path leads to whoever listens there.
    pub(super) origin: Option<Origin>,
}

impl Dialer {
    /// `tls` is for `https`, where it must be there.
    pub(super) fn new(url: &Url, tls: Option<&tls::Client>) -> Self {
        let scheme = if url.is_https() { Scheme::HTTPS } else { Scheme::HTTP };
        match url.place() {
            Place::Unix(path) => Self { way: Way::Unix(path.clone()), scheme, tls: None },
            Place::Tcp { host, port } => {
                let tls = tls.filter(|_| url.is_https()).map(|tls| (tls.clone(), host.clone()));
                Self { way: Way::Tcp(Arc::new(Resolver::new(host, *port))), scheme, tls }
            }
        }
    }

    /// The same way with other files of TLS.
    pub(super) fn with(&self, tls: Option<&tls::Client>) -> Self {
        let tls = tls.and_then(|tls| self.tls.as_ref().map(|(_, name)| (tls.clone(), name.clone())));
        Self { way: self.way.clone(), scheme: self.scheme.clone(), tls }
    }

    /// What looks the target's name up, if it has one.
    pub(super) fn resolver(&self) -> Option<&Arc<Resolver>> {
        match &self.way {
            Way::Tcp(resolver) if resolver.is_name() => Some(resolver),
            Way::Tcp(_) | Way::Unix(_) => None,
        }
    }

    /// Whether a connection leads where the target is now.
    pub(super) fn still_leads_to(&self, origin: &mut Option<Origin>) -> bool {
        match (&self.way, origin) {
            (Way::Tcp(resolver), Some(origin)) => resolver.still_names(origin),
            _ => true,
        }
    }

    /// Connects and finds out what is spoken there, which may take until then.
    pub(super) async fn dial(&self, protocol: Protocol, until: Instant) -> Result<Dialed, UpstreamError> {
        let plain = if protocol == Protocol::Http2 { Version::Http2 } else { Version::Http1 };
        let (stream, origin) = match &self.way {
            Way::Tcp(resolver) => resolver.connect(until).await?,
            Way::Unix(path) => {
                let connecting = async { UnixStream::connect(path).await.map_err(unconnected) };
                let stream = within(until, connecting).await?;
                return Ok(Dialed { socket: Socket::Unix(stream), version: plain, origin: None });
            }
        };
        stream.set_nodelay(true).map_err(unconnected)?;
        let origin = Some(origin);
        match &self.tls {
            None => Ok(Dialed { socket: Socket::Tcp(stream), version: plain, origin }),
            Some((tls, name)) => {
                let securing = async { secure(stream, name, protocol, tls).await.map_err(insecure) };
                let (socket, version) = within(until, securing).await?;
                Ok(Dialed { socket, version, origin })
            }
        }
    }
}

async fn secure(stream: TcpStream, name: &str, protocol: Protocol, tls: &tls::Client) -> io::Result<(Socket, Version)> {
    let offered: &[&[u8]] = match protocol {
        Protocol::Auto => &[H2, HTTP_1_1],
        Protocol::Http1 => &[HTTP_1_1],
        Protocol::Http2 => &[H2],
    };
    let stream = tls.connect(offered, name, stream).await?;
    let version = if stream.alpn() == Some(H2) { Version::Http2 } else { Version::Http1 };
    if protocol == Protocol::Http2 && version == Version::Http1 {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "the server did not choose HTTP/2"));
    }
    Ok((Socket::Tls(Box::new(stream)), version))
}

fn insecure(error: io::Error) -> UpstreamError {
    UpstreamError::Tls(Arc::new(error))
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
            Self::Unix(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
