//! An HTTP client for a gate: one connection, one request at a time, everything bounded.
//!
//! Blocking. Knows nothing of keys. Speaks HTTP/1.1, over TLS where the address says so.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use crate::http::headers::Scheme;
use crate::tls;

const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Where a gate listens: `http[s]://HOST[:PORT][/PATH]`.
#[derive(Clone, Debug)]
pub(super) struct Address {
    scheme: Scheme,
    host: String,
    port: u16,
    authority: String,
    path: String,
}

impl Address {
    /// # Errors
    /// A message that tells what to write instead. It does not repeat the text, which may hold a password.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        const FORM: &str = "write a URL such as http://127.0.0.1:8080";
        const PORT: &str = "the port is not 1 to 65535; write a URL such as http://127.0.0.1:8080";
        let uri: Uri = text.parse().map_err(|_| FORM.to_owned())?;
        let scheme = match uri.scheme_str() {
            Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            _ => return Err(FORM.to_owned()),
        };
        let authority = uri.authority().ok_or(FORM)?;
        if authority.as_str().contains('@') {
            return Err("a key does not belong in the URL; use PORTCULLIS_KEY or --key-file".to_owned());
        }
        if uri.query().is_some() {
            return Err("the URL has a query, which has no meaning here".to_owned());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = match authority.port_u16() {
            Some(0) => return Err(PORT.to_owned()),
            Some(port) => port,
            None if authority.as_str() != authority.host() => return Err(PORT.to_owned()),
            None if scheme == Scheme::Https => 443,
            None => 80,
        };
        if host.is_empty() {
            return Err(FORM.to_owned());
        }
        let path = uri.path().trim_end_matches('/').to_owned();
        Ok(Self { scheme, host, port, authority: authority.to_string(), path })
    }

    /// The path of the URL, without a slash at its end; empty when there is none.
    pub(super) fn path(&self) -> &str {
        &self.path
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), self.authority)
    }
}

/// How long to wait.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    pub(super) connect: Duration,
    /// From the sending of a request to the last byte of its answer.
    pub(super) answer: Duration,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error("the connection broke, or what answers there does not speak HTTP")]
    Broken(#[source] hyper::Error),
    #[error("connecting took too long")]
    ConnectTimeout,
    #[error("the TLS handshake failed")]
    Handshake(#[source] std::io::Error),
    #[error("the answer took too long")]
    Timeout,
    #[error("the answer is larger than {} MiB", ANSWER_BYTES_MAX >> 20)]
    TooLarge,
    #[error("cannot connect")]
    Unreachable(#[source] std::io::Error),
}

/// What is asked of the gate.
pub(super) struct Question<'q> {
    pub(super) method: Method,
    pub(super) target: &'q str,
    pub(super) authorization: Option<&'q HeaderValue>,
    pub(super) json: Option<Vec<u8>>,
}

pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

/// A connection to a gate, made when it is first needed and again when the gate has closed it.
pub(super) struct Client {
    runtime: Runtime,
    address: Address,
    patience: Patience,
    /// `None` for an address without TLS.
    tls: Option<tls::Client>,
    connection: Option<SendRequest<Full<Bytes>>>,
}

impl Client {
    /// `tls` makes the client's side of TLS, if the address asks for it.
    ///
    /// # Errors
    /// When the operating system has no resources for a runtime, or a file of `tls` cannot be used.
    pub(super) fn new(
        address: Address,
        patience: Patience,
        tls: impl FnOnce() -> Result<tls::Client, tls::Error>,
    ) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let tls = (address.scheme == Scheme::Https).then(tls).transpose()?;
        Ok(Self { runtime, address, patience, tls, connection: None })
    }

    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// Sends one request and reads the whole answer. Repeats nothing.
    ///
    /// # Errors
    /// [`ClientError`]; whether the gate has acted on the request is then unknown, but for the two that never connected.
    pub(super) fn ask(&mut self, question: Question<'_>) -> Result<Answer, ClientError> {
        let request = question.request(&self.address);
        let (address, patience, tls) = (&self.address, self.patience, self.tls.as_ref());
        let kept = self.connection.take();
        let (answer, connection) = self.runtime.block_on(async {
            let mut connection = match still_open(kept).await {
                Some(kept) => kept,
                None => {
                    let connecting = tokio::time::timeout(patience.connect, connect(address, tls)).await;
                    connecting.map_err(|_| ClientError::ConnectTimeout)??
                }
            };
            let asking = tokio::time::timeout(patience.answer, exchange(&mut connection, request));
            let answer = asking.await.map_err(|_| ClientError::Timeout)??;
            Ok((answer, connection))
        })?;
        self.connection = Some(connection);
        Ok(answer)
    }
}

impl Question<'_> {
    fn request(self, address: &Address) -> Request<Full<Bytes>> {
        let has_body = self.json.is_some();
        let mut request = Request::new(Full::from(self.json.unwrap_or_default()));
        *request.method_mut() = self.method;
        *request.uri_mut() = self.target.parse().unwrap_or_default();
        let headers = request.headers_mut();
        if let Ok(host) = HeaderValue::try_from(&address.authority) {
            headers.insert(HOST, host);
        }
        if has_body {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if let Some(authorization) = self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        request
    }
}

async fn still_open(kept: Option<SendRequest<Full<Bytes>>>) -> Option<SendRequest<Full<Bytes>>> {
    let mut kept = kept?;
    kept.ready().await.ok().map(|()| kept)
}

async fn connect(address: &Address, tls: Option<&tls::Client>) -> Result<SendRequest<Full<Bytes>>, ClientError> {
    let connecting = TcpStream::connect((address.host.as_str(), address.port));
    let stream = connecting.await.map_err(ClientError::Unreachable)?;
    match tls {
        None => drive(stream).await,
        Some(tls) => {
            let shaking = tls.connect(&[tls::HTTP1], &address.host, stream);
            drive(shaking.await.map_err(ClientError::Handshake)?).await
        }
    }
}

async fn drive<S>(stream: S) -> Result<SendRequest<Full<Bytes>>, ClientError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, driver) = http1::handshake(TokioIo::new(stream)).await.map_err(ClientError::Broken)?;
    tokio::spawn(async move {
        // Whoever waits for the answer is told the error.
        let _ = driver.await;
    });
    Ok(sender)
}

async fn exchange(
    connection: &mut SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
) -> Result<Answer, ClientError> {
    let (parts, body) = connection.send_request(request).await.map_err(ClientError::Broken)?.into_parts();
    match Limited::new(body, ANSWER_BYTES_MAX).collect().await {
        Ok(collected) => Ok(Answer { status: parts.status, body: collected.to_bytes() }),
        Err(error) => Err(match error.downcast::<hyper::Error>() {
            Ok(broken) => ClientError::Broken(*broken),
            Err(error) => {
                debug_assert!(error.is::<LengthLimitError>());
                ClientError::TooLarge
            }
        }),
    }
}
