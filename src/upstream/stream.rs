//! One exchange over a stream of an HTTP/2 connection.
//!
//! A response's head is held to the rules of HTTP/1.1 here: h2 checks framing, names and values.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream};
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};

use super::body::ResponseBody;
use super::connection::FIELDS_MAX;
use super::http2::{Permit, State};
use super::target::Failure;
use super::upload::Upload;
use super::{RequestContent, UpstreamError};
use crate::http::framing::interim::{Interims, is_passed_on};
use crate::http::framing::{BadResponse, INTERIM_MAX, check_response};

/// A free stream.
pub(super) struct Stream {
    permit: Arc<Permit>,
    requests: SendRequest<Bytes>,
}

impl Stream {
    pub(super) fn new(permit: Permit, requests: SendRequest<Bytes>) -> Self {
        Self { permit: Arc::new(permit), requests }
    }

    pub(super) fn connection(&self) -> &Arc<super::http2::Http2Connection> {
        &self.permit.connection
    }

    /// Sends a request and waits for the head of its response. Interim ones are told as they come. Dropped, it resets the stream and nothing else.
    pub(super) async fn send<B: RequestContent>(
        &mut self,
        request: Request<B>,
        interims: &Interims,
    ) -> Result<Response<ResponseBody>, Failure<B>> {
        let connection = Arc::clone(self.connection());
        let (parts, body) = request.into_parts();
        let written = connection.state.written.load(Ordering::Relaxed);
        let ends = body.is_end_stream();
        let (response, stream) = match self.requests.send_request(head(&parts, &connection.scheme), ends) {
            Ok(opened) => opened,
            Err(error) => {
                let request = Box::new(Request::from_parts(parts, body));
                return Err(Failure::untouched(UpstreamError::http2(error), request));
            }
        };
        let body = if ends { Outgoing::None(body) } else { Outgoing::Upload(Box::new(Upload::new(body, stream))) };
        let mut exchange = Exchange { response, body, interim: 0, interims };
        let patience = Patience::new(&connection.state, connection.ping_timeout);
        let answered = std::future::poll_fn(|cx| exchange.poll(cx)).await;
        drop(patience);
        match answered.and_then(checked) {
            Ok(response) => Ok(self.answer(response, &parts.method, exchange.body)),
            Err(bad) => {
                let is_unsent = bad.is_unprocessed()
                    || (bad.is_io() && written == connection.state.written.load(Ordering::Relaxed));
                if bad.is_violation() {
                    connection.state.retire();
                }
                let body = if is_unsent || ends { exchange.body.into_body() } else { None };
                let request = body.map(|body| Box::new(Request::from_parts(parts, body)));
                let (unsent, spent) = if is_unsent { (request, None) } else { (None, request) };
                Err(Failure { error: bad.into(), unsent, spent })
            }
        }
    }

    fn answer<B: RequestContent>(
        &self,
        response: Response<RecvStream>,
        method: &Method,
        body: Outgoing<B>,
    ) -> Response<ResponseBody> {
        let length = length(response.headers());
        // RFC 9110 §6.4.1: these have no content, whatever they say and send.
        let is_bare =
            *method == Method::HEAD || matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let stall_max = self.connection().stall_max;
        let uploading = match body {
            Outgoing::None(_) => None,
            Outgoing::Upload(upload) => upload.spawn(Arc::clone(&self.permit), stall_max),
        };
        response.map(|stream| {
            // One that is over with its head is never read.
            if !is_bare && !stream.is_end_stream() {
                return ResponseBody::http2(stream, length, uploading);
            }
            if let Some(uploading) = uploading {
                uploading.go_on_alone();
            }
            ResponseBody::empty()
        })
    }
}

/// What becomes of a request's body.
enum Outgoing<B> {
    /// It had none; kept for another attempt.
    None(B),
    Upload(Box<Upload<B>>),
}

impl<B: RequestContent> Outgoing<B> {
    fn into_body(self) -> Option<B> {
        match self {
            Self::None(body) => Some(body),
            Self::Upload(upload) => upload.into_body(),
        }
    }
}

/// An exchange without a response yet.
struct Exchange<'i, B> {
    response: ResponseFuture,
    body: Outgoing<B>,
    interim: usize,
    interims: &'i Interims,
}

impl<B: RequestContent> Exchange<'_, B> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<RecvStream>, Bad>> {
        if let Outgoing::Upload(upload) = &mut self.body
            && let Poll::Ready(Err(broken)) = upload.poll(cx)
        {
            return Poll::Ready(Err(Bad::Request(broken)));
        }
        while let Poll::Ready(Some(interim)) = self.response.poll_informational(cx) {
            let interim = interim?;
            if interim.status() == StatusCode::SWITCHING_PROTOCOLS {
                return Poll::Ready(Err(Bad::Head(BadResponse::Switched)));
            }
            self.interim += 1;
            if self.interim > INTERIM_MAX {
                return Poll::Ready(Err(Bad::Head(BadResponse::InterimTooMany)));
            }
            if is_passed_on(interim.status()) {
                self.interims.push(interim);
            }
        }
        Poll::Ready(Ok(ready!(std::pin::Pin::new(&mut self.response).poll(cx))?))
    }
}

/// Why there is no response.
enum Bad {
    Head(BadResponse),
    Http2(h2::Error),
    Request(super::upload::Broken),
}

impl From<h2::Error> for Bad {
    fn from(error: h2::Error) -> Self {
        Self::Http2(error)
    }
}

impl From<Bad> for UpstreamError {
    fn from(bad: Bad) -> Self {
        match bad {
            Bad::Head(bad) => Self::invalid(bad),
            Bad::Http2(error) => Self::http2(error),
            Bad::Request(broken) => Self::reset(broken),
        }
    }
}

impl Bad {
    /// RFC 9113 §8.7: the upstream says that it did nothing with the request. h2 gives a GOAWAY of the other end to those
    /// streams only that it left out.
    fn is_unprocessed(&self) -> bool {
        match self {
            Self::Http2(error) if error.is_remote() => {
                error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM)
            }
            _ => false,
        }
    }

    fn is_io(&self) -> bool {
        matches!(self, Self::Http2(error) if error.is_io())
    }

    /// Whether the upstream broke the protocol, on this stream at least.
    fn is_violation(&self) -> bool {
        match self {
            Self::Head(_) => true,
            Self::Http2(error) => error.is_library(),
            Self::Request(_) => false,
        }
    }
}

fn checked(response: Response<RecvStream>) -> Result<Response<RecvStream>, Bad> {
    check_response(response.status(), response.headers(), FIELDS_MAX).map_err(Bad::Head)?;
    Ok(response)
}

/// The one length that the head gives.
fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The request's head as HTTP/2 has it: RFC 9113 §8.2.2 and §8.3.1.
fn head(parts: &Parts, scheme: &Scheme) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = parts.method.clone();
    *request.headers_mut() = parts.headers.clone();
    let headers = request.headers_mut();
    headers.remove(TRANSFER_ENCODING);
    headers.remove(CONNECTION);
    if headers.get(TE).is_some_and(|te| te != HeaderValue::from_static("trailers")) {
        headers.remove(TE);
    }
    let authority = headers.get(HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let uri = authority.and_then(|authority| {
        Uri::builder().scheme(scheme.clone()).authority(authority).path_and_query(path.clone()).build().ok()
    });
    match uri {
        Some(uri) => {
            headers.remove(HOST);
            *request.uri_mut() = uri;
            *request.version_mut() = Version::HTTP_2;
        }
        // Host says it then, as RFC 9113 §8.3.1 has it for requests of HTTP/1.1.
        None => *request.uri_mut() = Uri::from(path),
    }
    request
}

/// Notices a request that was given up after a long wait in which nothing came from the other end.
struct Patience<'s> {
    state: &'s State,
    since: Instant,
    read: u64,
    max: std::time::Duration,
}

impl<'s> Patience<'s> {
    fn new(state: &'s State, max: std::time::Duration) -> Self {
        Self { state, since: Instant::now(), read: state.read.load(Ordering::Relaxed), max }
    }
}

impl Drop for Patience<'_> {
    fn drop(&mut self) {
        if self.read == self.state.read.load(Ordering::Relaxed) && self.since.elapsed() >= self.max {
            self.state.is_suspected.notify_one();
        }
    }
}
