//! The way of an admitted request to its upstream and of the response back.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use http::header::{CONTENT_LENGTH, TRAILER, TRANSFER_ENCODING};
use http::request::Parts;
use http::{Request, Response, StatusCode, Version};
use hyper::body::Body as _;

use crate::http::headers::Origin;
use crate::http::overrides::is_one_of;
use crate::http::{Refusal, headers, trailers};
use crate::log::Occasionally;
use crate::metrics::UpstreamFailure;
use crate::server::{Exchange, Incoming};
use crate::upstream::{Blame, Lease, ResponseBody, UpstreamError};

use super::account::Account;
use super::admit::Admitted;
use super::body::{Body, Streamed};
use super::gate::{Gate, Route};
use super::request_body::RequestBody;
use super::rewrite::{self, ResponseFields};
use super::running::Run;
use super::upload::{Upload, UploadState};
use super::{Door, tunnel};

/// The request that goes with a permit.
pub(super) struct Passage<'p> {
    pub(super) gate: &'p Gate,
    pub(super) exchange: &'p Exchange,
    pub(super) parts: Parts,
    pub(super) origin: Origin,
    /// The keyring's before the request's key was looked up.
    pub(super) epoch: u64,
}

/// Longer than any wait.
const FOREVER: Duration = Duration::from_secs(365 * 86_400);

type Answer = (Response<ResponseBody>, Lease);

impl Door {
    /// Forwards a request that has a [`Permit`].
    pub(super) async fn forward(
        &self,
        admitted: Admitted<'_>,
        passage: Passage<'_>,
        body: Incoming,
        account: &mut Account,
    ) -> Result<Response<Body>, Refusal> {
        let route = admitted.route;
        let Passage { gate, exchange, mut parts, origin, epoch } = passage;
        let max = route.settings.max_body;
        let mut body = RequestBody::new(body, max, account.started)
            .map_err(|_| Refusal::BodyTooLarge { max: max.map_or(u64::MAX, |max| max.0) })?;
        body.hide(gate.sources.iter().chain(&route.settings.sources), &route.settings.rewrite.request);
        body.invite_with(exchange.invitation());
        let trailer_terms = headers::TrailerTerms::of(&parts.headers);
        let peer = exchange.connection().peer_text();
        let response_fields = rewrite::prepare(&admitted, gate, origin, peer, &mut parts, &mut account.request_id)?;
        let takes_trailers = trailer_terms.takes_trailers();
        trailer_terms.tell(&mut parts.headers, body.size_hint().exact().is_some());
        let upgrades = route.settings.upgrade && exchange.asks_for_websocket();
        if upgrades {
            tunnel::ask(&mut parts.headers);
        }
        // RFC 9110 §2.5: each hop speaks its own version; what the client spoke says nothing about ours.
        let client_version = std::mem::replace(&mut parts.version, Version::HTTP_11);
        if admitted.permit.key().is_some() {
            account.run = Some(self.proxy.running.note(self.worker, admitted.permit, &route.requirement, epoch));
        }
        let run = account.run.as_ref();
        let upload = body.upload();
        let until = route.settings.timeout.map(|timeout| account.started + timeout);
        let sent = Instant::now();
        account.sent = Some(sent);
        let blame = Blame::default();
        // Lent to those that wait for it: each of them would keep room for it twice.
        let request = Box::new(Request::from_parts(parts, body));
        let mut sending = pin!(route.upstream.send(request, self.worker, &blame));
        let interims = Interims { client_version, fields: &response_fields };
        let mut wait =
            Wait { exchange, route, run, upload: upload.as_deref(), blame: &blame, interims, since: sent, until };
        let answer = std::future::poll_fn(|cx| wait.poll_head(sending.as_mut(), cx)).await;
        let waited = sent.elapsed();
        account.elsewhere = waited;
        account.upstream_time = Some(waited);
        let (response, lease) = answer?;
        route.upstream.metrics.answered(waited);
        account.body_unread = false;
        account.upload = upload;
        account.status = response.status().as_u16();
        let streaming = Streaming { exchange, route, until, client_version, takes_trailers, response_fields };
        if upgrades && response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return streaming.switch(response, lease);
        }
        if let Some(run) = &account.run {
            run.sever_when_lost(exchange.timer());
        }
        streaming.pass_on(response, lease)
    }
}

/// What becomes of interim responses on their way to the client.
struct Interims<'i> {
    client_version: Version,
    fields: &'i ResponseFields<'i>,
}

impl Interims<'_> {
    /// RFC 9110 §15.2: they go on, unless the client is of HTTP/1.0, which knows none.
    fn pass_on(&self, interims: Vec<Response<()>>, exchange: &Exchange) {
        if self.client_version == Version::HTTP_10 {
            return;
        }
        let hidden = self.fields.names();
        for mut interim in interims {
            let fields = interim.headers_mut();
            headers::prepare_response(fields);
            // No content follows, so nothing may frame or override any.
            for name in hidden.iter().chain([&CONTENT_LENGTH, &TRANSFER_ENCODING]) {
                fields.remove(name);
            }
            exchange.send_interim(&interim);
        }
    }
}

/// The wait for a response's head.
struct Wait<'w> {
    exchange: &'w Exchange,
    route: &'w Route,
    run: Option<&'w Run>,
    /// `None` without a body.
    upload: Option<&'w Upload>,
    blame: &'w Blame,
    interims: Interims<'w>,
    /// When the patience with the upstream began.
    since: Instant,
    until: Option<Instant>,
}

impl Wait<'_> {
    /// As long as the key admits the request: a long poll may wait for hours. One function, and not one future around
    /// another, since each would hand the answer on as a copy.
    fn poll_head(
        &mut self,
        mut sending: Pin<&mut impl Future<Output = Result<Answer, UpstreamError>>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Answer, Refusal>> {
        if let Some(Poll::Ready(lost)) = self.run.map(|run| run.poll_lost(cx)) {
            return Poll::Ready(Err(lost.into()));
        }
        loop {
            let patience = self.route.settings.response_timeout.map(|timeout| self.since + timeout);
            // The client's body has a deadline of its own, which is heard of as this one.
            let at = patience.into_iter().chain(self.until).min().unwrap_or(self.since + FOREVER);
            let polled = sending.as_mut().poll(cx);
            self.pass_interims_on();
            match ready!(self.exchange.timer().poll_bounded(at, cx, polled)) {
                Ok(answer) => return Poll::Ready(answer.map_err(|error| self.refusal(&error))),
                Err(_) => match self.elapsed() {
                    Ok(since) => self.since = since,
                    Err(refusal) => return Poll::Ready(Err(refusal)),
                },
            }
        }
    }

    fn pass_interims_on(&self) {
        let interims = self.blame.interims().take();
        if !interims.is_empty() {
            self.interims.pass_on(interims, self.exchange);
        }
    }

    /// When the patience with the upstream begins anew after a wait that has elapsed; or that it is over.
    fn elapsed(&self) -> Result<Instant, Refusal> {
        let upstream = &self.route.upstream;
        if self.exchange.timer().has_body_timed_out() {
            return Err(Refusal::BodyTimeout);
        }
        if self.until.is_some_and(|until| Instant::now() >= until) {
            if !self.is_for_client() {
                upstream.metrics.failed(UpstreamFailure::ResponseTimeout);
            }
            return Err(Refusal::RequestTimeout);
        }
        // An upstream owes nothing for a request that waits here for its turn.
        if let Some(turn) = self.blame.turn().filter(|turn| *turn > self.since) {
            return Ok(turn);
        }
        // The patience with the upstream begins when it has the whole request; that with the client is the connection's
        // own, and ends in an error of its body.
        if self.is_for_client() {
            return Ok(Instant::now());
        }
        if let Some(progress) = self.upload.map(Upload::last_progress).filter(|progress| *progress > self.since) {
            return Ok(progress);
        }
        // Also when it stopped taking the body: that is no fault of the client's.
        self.blame.lay();
        upstream.metrics.failed(UpstreamFailure::ResponseTimeout);
        Err(Refusal::UpstreamTimeout)
    }

    /// Whether it is the client's body that everybody waits for, and not an upstream that takes nothing of it.
    fn is_for_client(&self) -> bool {
        self.upload_state() == UploadState::Running && self.exchange.timer().is_awaiting_client()
    }

    fn upload_state(&self) -> UploadState {
        self.upload.map_or(UploadState::Done, Upload::state)
    }

    /// Whose fault it was: a client that broke off its body makes the exchange fail too.
    fn refusal(&self, error: &UpstreamError) -> Refusal {
        match self.upload_state() {
            UploadState::Broken => return Refusal::BodyBroken,
            UploadState::TimedOut => return Refusal::BodyTimeout,
            UploadState::TooLarge => {
                return Refusal::BodyTooLarge { max: self.route.settings.max_body.map_or(u64::MAX, |max| max.0) };
            }
            UploadState::Done | UploadState::Running => {}
        }
        let upstream = &self.route.upstream;
        upstream.metrics.failed(error.kind());
        static FAILED: Occasionally = Occasionally::new();
        if let Some(suppressed) = FAILED.due(Instant::now()) {
            let source = std::error::Error::source(error).map(ToString::to_string);
            tracing::warn!(upstream = %upstream.name, error = %error, source, suppressed, "the upstream failed");
        }
        match error {
            UpstreamError::Busy | UpstreamError::QueueFull | UpstreamError::QueueTimeout => Refusal::UpstreamBusy,
            UpstreamError::ConnectTimeout => Refusal::UpstreamTimeout,
            UpstreamError::Invalid(_) => Refusal::UpstreamInvalid,
            UpstreamError::Reset(_) | UpstreamError::Tls(_) | UpstreamError::Unreachable(_) => {
                Refusal::UpstreamUnreachable
            }
            UpstreamError::Unavailable { wait } => Refusal::UpstreamUnavailable { wait: *wait },
        }
    }
}

/// The way back of one response.
struct Streaming<'s> {
    exchange: &'s Exchange,
    route: &'s Route,
    until: Option<Instant>,
    client_version: Version,
    takes_trailers: bool,
    response_fields: ResponseFields<'s>,
}

impl Streaming<'_> {
    fn switch(self, response: Response<ResponseBody>, lease: Lease) -> Result<Response<Body>, Refusal> {
        let mut answer = tunnel::open(response, lease, self.exchange)?;
        self.response_fields.apply(answer.headers_mut());
        Ok(answer)
    }

    fn pass_on(self, mut response: Response<ResponseBody>, lease: Lease) -> Result<Response<Body>, Refusal> {
        let upstream = &self.route.upstream;
        // No request of ours asks for another protocol, so an upstream that switches to one has lost its way.
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            upstream.metrics.failed(UpstreamFailure::InvalidResponse);
            return Err(Refusal::UpstreamInvalid);
        }
        let has_length = response.body().is_end_stream() || response.body().size_hint().exact().is_some();
        let overridden = if has_length { Vec::new() } else { self.response_fields.names() };
        let announced = (self.takes_trailers && !has_length)
            .then(|| trailers::announced(response.headers(), |name| is_one_of(name, &overridden)))
            .flatten();
        headers::prepare_response(response.headers_mut());
        self.response_fields.apply(response.headers_mut());
        if let Some(announced) = announced {
            // Without it HTTP/1 has no place for them.
            response.headers_mut().insert(TRAILER, announced);
        }
        // An upstream's HTTP/1.0 would make the end of the body the end of the connection, which a cut looks like too.
        *response.version_mut() = Version::HTTP_11;
        Ok(response.map(|incoming| {
            Body::streamed(Streamed {
                incoming,
                lease: Some(lease),
                timer: self.exchange.timer().clone(),
                body_timeout: self.route.settings.body_timeout,
                until: self.until,
                wait_until: None,
                // The end of the connection may be all that tells an HTTP/1.0 client of the body's end.
                resets_when_cut: self.client_version == Version::HTTP_10,
                overridden,
                metrics: Arc::clone(&upstream.metrics),
                cut: None,
            })
        }))
    }
}
