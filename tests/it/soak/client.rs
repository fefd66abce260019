//! A client of the gate over any of its wires, all on one thread, which forgives nothing.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::harness::{DEADLINE, GATE, TlsClient, Zeros, basic};

/// How the gate is reached in one of its lives.
#[derive(Clone)]
pub struct Door {
    pub address: SocketAddr,
    pub tls: Option<TlsClient>,
    configs: Option<[Arc<ClientConfig>; 2]>,
    /// The client's own address.
    from: Ipv4Addr,
}

impl Door {
    pub fn new(address: SocketAddr, tls: Option<&TlsClient>) -> Self {
        let config = |tls: &TlsClient, protocol: &[u8]| tls.clone().alpn(&[protocol]).config();
        let configs = tls.map(|tls| [config(tls, b"http/1.1"), config(tls, b"h2")]);
        Self { address, tls: tls.cloned(), configs, from: Ipv4Addr::LOCALHOST }
    }

    /// The same for a client elsewhere.
    pub fn from(&self, last: u8) -> Self {
        Self { from: Ipv4Addr::new(127, 0, 0, last), ..self.clone() }
    }

    /// A bare connection that takes in little at once.
    pub async fn narrow(&self) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(1_024)?;
        self.connect(socket).await
    }

    async fn connect(&self, socket: TcpSocket) -> std::io::Result<TcpStream> {
        socket.bind((self.from, 0).into())?;
        let stream = socket.connect(self.address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Version {
    Http1,
    Http2,
}

pub type Body = BoxBody<Bytes, Infallible>;

pub fn nothing() -> Body {
    Empty::new().boxed()
}

pub fn text(text: String) -> Body {
    Full::new(text.into()).boxed()
}

pub fn zeros(count: u64) -> Body {
    Zeros::new(count).boxed()
}

/// Keeps its connection until it is told to connect anew, or the gate closes it.
pub struct Client {
    door: Door,
    version: Version,
    authorization: Option<String>,
    requests: Option<Requests>,
}

enum Requests {
    One(http1::SendRequest<Body>),
    Many(http2::SendRequest<Body>),
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Bytes,
}

/// The gate has done nothing with a request, and its client knows.
struct Unserved;

impl Client {
    pub fn new(door: &Door, version: Version, secret: Option<&str>) -> Self {
        Self { door: door.clone(), version, authorization: secret.map(basic), requests: None }
    }

    pub fn version(&self) -> Version {
        self.version
    }

    /// Another one on the same connection, where that can carry several requests at the same time.
    pub fn twin(&self) -> Option<Self> {
        let Some(Requests::Many(requests)) = &self.requests else { return None };
        let requests = Some(Requests::Many(requests.clone()));
        let (door, authorization) = (self.door.clone(), self.authorization.clone());
        Some(Self { door, version: self.version, authorization, requests })
    }

    /// The next request goes over a new connection.
    pub fn leave(&mut self) {
        self.requests = None;
    }

    pub async fn get(&mut self, path: &str) -> Result<Answer, String> {
        self.ask("GET", path, nothing).await
    }

    /// Sends a request and takes its whole response.
    pub async fn ask(&mut self, method: &str, path: &str, body: impl Fn() -> Body) -> Result<Answer, String> {
        let response = self.open(method, path, body).await?;
        let status = response.status().as_u16();
        match timeout(DEADLINE, response.into_body().collect()).await {
            Ok(Ok(body)) => Ok(Answer { status, body: body.to_bytes() }),
            Ok(Err(error)) => Err(self.failed(&format!("a {status} broke off"), &error)),
            Err(_) => Err(self.failed("the rest of a response", &"not in time")),
        }
    }

    /// Sends a request and takes the head of its response.
    pub async fn open(
        &mut self,
        method: &str,
        path: &str,
        body: impl Fn() -> Body,
    ) -> Result<Response<Incoming>, String> {
        for _ in 0..3 {
            let request = self.request(method, path, body());
            match timeout(DEADLINE, self.try_send(request)).await {
                Ok(Ok(Ok(response))) => return Ok(response),
                Ok(Ok(Err(Unserved))) => self.leave(),
                Ok(Err(failure)) => return Err(self.failed(&format!("{method} {path}"), &failure)),
                Err(_) => return Err(self.failed(&format!("{method} {path}"), &"no answer in time")),
            }
        }
        Err(self.failed(&format!("{method} {path}"), &"three times unserved"))
    }

    fn failed(&mut self, what: &str, failure: &dyn std::fmt::Debug) -> String {
        self.leave();
        format!("{:?}, TLS {}: {what}: {failure:?}", self.version, self.door.tls.is_some())
    }

    fn request(&self, method: &str, path: &str, body: Body) -> Request<Body> {
        let scheme = if self.door.tls.is_some() { "https" } else { "http" };
        let target = match self.version {
            Version::Http1 => path.to_owned(),
            Version::Http2 => format!("{scheme}://{GATE}{path}"),
        };
        let mut request = Request::builder().method(method).uri(target);
        if self.version == Version::Http1 {
            request = request.header("host", GATE);
        }
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        request.header("content-type", "application/json").body(body).expect("a request")
    }

    async fn try_send(&mut self, request: Request<Body>) -> Result<Result<Response<Incoming>, Unserved>, String> {
        let is_ready = match &mut self.requests {
            Some(Requests::One(requests)) => requests.ready().await.is_ok(),
            Some(Requests::Many(requests)) => requests.ready().await.is_ok(),
            None => false,
        };
        if !is_ready {
            self.requests = Some(self.connect().await?);
        }
        let sent = match self.requests.as_mut().expect("connected above") {
            Requests::One(requests) => requests.send_request(request).await,
            Requests::Many(requests) => requests.send_request(request).await,
        };
        match sent {
            Ok(response) => Ok(Ok(response)),
            Err(error) if is_unserved(&error) => Ok(Err(Unserved)),
            Err(error) => Err(format!("{error:?}")),
        }
    }

    async fn connect(&self) -> Result<Requests, String> {
        let failed = |what: &'static str| move |error: std::io::Error| format!("{what}: {error}");
        let socket = TcpSocket::new_v4().map_err(failed("socket"))?;
        let stream = self.door.connect(socket).await.map_err(failed("connect"))?;
        let Some(configs) = &self.door.configs else { return talk(stream, self.version).await };
        let connector = TlsConnector::from(Arc::clone(&configs[usize::from(self.version == Version::Http2)]));
        let name = ServerName::try_from(GATE).expect("a name");
        talk(connector.connect(name, stream).await.map_err(failed("handshake"))?, self.version).await
    }
}

async fn talk<S>(stream: S, version: Version) -> Result<Requests, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |error: hyper::Error| format!("connection: {error:?}");
    let stream = TokioIo::new(stream);
    match version {
        Version::Http1 => {
            let (requests, connection) = http1::handshake(stream).await.map_err(failed)?;
            tokio::spawn(connection);
            Ok(Requests::One(requests))
        }
        Version::Http2 => {
            let (requests, connection) = http2::handshake(TokioExecutor::new(), stream).await.map_err(failed)?;
            tokio::spawn(connection);
            Ok(Requests::Many(requests))
        }
    }
}

/// RFC 9113 §6.8, §8.7; and over either version what was never written.
fn is_unserved(error: &hyper::Error) -> bool {
    let h2 = std::error::Error::source(error).and_then(|source| source.downcast_ref::<h2::Error>());
    let h2 = h2.is_some_and(|error| {
        let wanted = if error.is_go_away() { Reason::NO_ERROR } else { Reason::REFUSED_STREAM };
        error.is_remote() && error.reason() == Some(wanted)
    });
    error.is_canceled() || h2
}

/// Between two things that a client does.
pub async fn rest(time: Duration) {
    tokio::time::sleep(time).await;
}
