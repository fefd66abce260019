//! A client that speaks HTTP/2, by prior knowledge or over TLS, and keeps all its rules.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Version};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::DEADLINE;
use super::answer::Answer;
use super::caller::Caller;
use super::tls::{GATE, TlsClient};

/// A well-behaved client with one connection.
pub struct H2Client {
    runtime: Handle,
    requests: SendRequest<Bytes>,
    ended: Option<oneshot::Receiver<Result<(), h2::Error>>>,
}

impl H2Client {
    #[track_caller]
    pub fn connect(address: SocketAddr) -> Self {
        Self::over(async move { tokio::net::TcpStream::connect(address).await.expect("the gate accepts connections") })
    }

    /// Over TLS, which must have chosen HTTP/2.
    #[track_caller]
    pub fn over_tls(address: SocketAddr, tls: &TlsClient) -> Self {
        let connector = tokio_rustls::TlsConnector::from(tls.clone().alpn(&[b"h2", b"http/1.1"]).config());
        Self::over(async move {
            let socket = tokio::net::TcpStream::connect(address).await.expect("the gate accepts connections");
            let name = rustls::pki_types::ServerName::try_from(GATE).expect("a name");
            let stream = connector.connect(name, socket).await.expect("a handshake");
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
            stream
        })
    }

    #[track_caller]
    fn over<S, F>(connecting: F) -> Self
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
        F: Future<Output = S> + Send + 'static,
    {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let handle = runtime.handle().clone();
        let (sender, requests) = std::sync::mpsc::channel();
        let (ending, ended) = oneshot::channel();
        std::thread::spawn(move || {
            runtime.block_on(async {
                let (requests, connection) = h2::client::handshake(connecting.await).await.expect("a handshake");
                sender.send(requests).expect("the test waits");
                let _ = ending.send(connection.await);
            });
        });
        let requests = requests.recv_timeout(DEADLINE).expect("connected in time");
        Self { runtime: handle, requests, ended: Some(ended) }
    }

    /// Sends a whole request and reads its whole response. A path is sent with the authority `gate.test`.
    #[track_caller]
    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut call = self.open(method, path, headers, body.is_empty());
        if !body.is_empty() {
            call.send(body).finish();
        }
        call.answer().unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// Gets a path with a caller's key.
    #[track_caller]
    pub fn get(&self, caller: &Caller, path: &str) -> Answer {
        self.request("GET", path, &[("authorization", &caller.authorization())], b"")
    }

    /// Sends a request's head.
    #[track_caller]
    pub fn open(&self, method: &str, path: &str, headers: &[(&str, &str)], is_whole: bool) -> H2Call {
        let mut request =
            Request::builder().version(Version::HTTP_2).method(method).uri(format!("http://gate.test{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(()).expect("a request");
        let mut requests = self.within(self.requests.clone().ready()).expect("room for a stream");
        let (response, body) = requests.send_request(request, is_whole).expect("a stream");
        H2Call { runtime: self.runtime.clone(), response: Some(response), body }
    }

    /// Waits until the gate has closed the connection; `Err` when it was for anything but an orderly end.
    #[track_caller]
    pub fn wait_for_end(mut self) -> Result<(), h2::Error> {
        let ended = self.ended.take().expect("waited for once");
        let Self { runtime, requests, .. } = self;
        drop(requests);
        within(&runtime, ended).expect("the connection's task")
    }

    #[track_caller]
    fn within<F: Future>(&self, future: F) -> F::Output {
        within(&self.runtime, future)
    }
}

#[track_caller]
fn within<F: Future>(runtime: &Handle, future: F) -> F::Output {
    runtime.block_on(async { tokio::time::timeout(DEADLINE, future).await }).expect("nothing came in time")
}

/// One request of an [`H2Client`].
pub struct H2Call {
    runtime: Handle,
    response: Option<ResponseFuture>,
    body: SendStream<Bytes>,
}

impl H2Call {
    /// Sends a piece of the body, as the gate has room for it.
    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) -> &mut Self {
        let mut rest = bytes;
        while !rest.is_empty() {
            self.body.reserve_capacity(rest.len());
            let body = &mut self.body;
            let ready = within(&self.runtime, std::future::poll_fn(|cx| body.poll_capacity(cx)));
            // The gate wants no more of it.
            let Some(Ok(room)) = ready else { return self };
            let (now, later) = rest.split_at(room.min(rest.len()));
            let _ = self.body.send_data(Bytes::copy_from_slice(now), false);
            rest = later;
        }
        self
    }

    /// Ends the body.
    pub fn finish(&mut self) -> &mut Self {
        let _ = self.body.send_data(Bytes::new(), true);
        self
    }

    /// Ends the body with trailers.
    pub fn finish_with(&mut self, trailers: &[(&'static str, &str)]) -> &mut Self {
        let value = |value: &str| http::HeaderValue::from_str(value).expect("a value");
        let trailers = trailers.iter().map(|(name, text)| (http::HeaderName::from_static(name), value(text)));
        let _ = self.body.send_trailers(trailers.collect());
        self
    }

    /// The next piece of a response's body; `None` at its end.
    #[track_caller]
    pub fn piece(&self, body: &mut RecvStream) -> Option<Bytes> {
        let piece = within(&self.runtime, body.data())?.expect("a piece");
        let _ = body.flow_control().release_capacity(piece.len());
        Some(piece)
    }

    /// The trailers of a response, after its last piece.
    #[track_caller]
    pub fn trailers(&self, body: &mut RecvStream) -> HeaderMap {
        within(&self.runtime, body.trailers()).expect("an orderly end").unwrap_or_default()
    }

    /// What is left of a response's body, and its trailers if it ended in order.
    #[track_caller]
    pub fn rest(&self, body: &mut RecvStream) -> (Vec<u8>, Option<Vec<(String, String)>>) {
        within(&self.runtime, async {
            let mut bytes = Vec::new();
            while let Some(piece) = body.data().await {
                let Ok(piece) = piece else { return (bytes, None) };
                let _ = body.flow_control().release_capacity(piece.len());
                bytes.extend_from_slice(&piece);
            }
            let trailers = body.trailers().await.ok();
            (bytes, trailers.map(|trailers| trailers.iter().flat_map(pairs).collect()))
        })
    }

    /// Gives the request up.
    pub fn cancel(mut self) {
        self.body.send_reset(Reason::CANCEL);
    }

    /// Waits for an interim response.
    #[track_caller]
    pub fn interim(&mut self) -> (u16, Vec<(String, String)>) {
        let response = self.response.as_mut().expect("before the head");
        let interim = within(&self.runtime, std::future::poll_fn(|cx| response.poll_informational(cx)));
        let interim = interim.expect("an interim response").expect("no error");
        (interim.status().as_u16(), pairs(interim.headers()).collect())
    }

    /// Waits for the response's end.
    #[track_caller]
    pub fn answer(&mut self) -> Result<Answer, h2::Error> {
        let (mut answer, mut body) = self.head()?;
        within(&self.runtime, async {
            while let Some(piece) = body.data().await {
                let piece = piece?;
                let _ = body.flow_control().release_capacity(piece.len());
                answer.body.extend_from_slice(&piece);
            }
            let trailers = body.trailers().await?;
            answer.headers.extend(trailers.iter().flat_map(pairs));
            answer.complete = true;
            answer.search();
            Ok(answer)
        })
    }

    /// Waits for the response's head.
    #[track_caller]
    pub fn head(&mut self) -> Result<(Answer, RecvStream), h2::Error> {
        let response = within(&self.runtime, self.response.take().expect("read once"))?;
        let (parts, body) = response.into_parts();
        let raw = format!("{parts:?}").into_bytes();
        let answer = Answer {
            status: parts.status.as_u16(),
            headers: pairs(&parts.headers).collect(),
            body: Vec::new(),
            complete: false,
            raw,
        };
        Ok((answer, body))
    }
}

fn pairs(headers: &HeaderMap) -> impl Iterator<Item = (String, String)> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.iter().map(move |(name, value)| (name.as_str().to_owned(), text(value)))
}
