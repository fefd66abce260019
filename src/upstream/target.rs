//! One address of an upstream: its pooled connections, and one attempt at an exchange with it.
//!
//! Knows nothing of other targets, and repeats no request of which a byte may have been sent, unless the target says that
//! it did nothing with it.

use std::num::NonZeroU32;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use http::header::{HOST, HeaderValue, UPGRADE};
use http::{Request, Response};

use super::body::ResponseBody;
use super::connection::{self, Connection};
use super::dial::Dialer;
use super::pool::{Lease, Pools, Turn};
use super::protocol::Protocol;
use super::standing::Standing;
use super::url::Url;
use super::{OwnHost, RequestContent, Settings, UpstreamError, host_of};
use crate::http::framing::interim::Interims;

pub(super) struct Target {
    pub(super) url: Url,
    host: HeaderValue,
    pub(super) settings: Settings,
    pub(super) pools: Pools,
    pub(super) dialer: Dialer,
    pub(super) standing: Arc<Standing>,
    /// Whether the next connection is likely to be one for many requests.
    is_shared: AtomicBool,
    open: Arc<AtomicU32>,
    /// Requests whose response has not ended, over all workers. `None` for an only target, which is compared to none.
    in_flight: Option<AtomicU32>,
}

/// An attempt that brought no response head.
pub(super) struct Failure<B> {
    pub(super) error: UpstreamError,
    /// The request, when the target cannot have acted on it: another one may get it.
    pub(super) unsent: Option<Box<Request<B>>>,
    /// The request, when it has no body and some of it was sent.
    pub(super) spent: Option<Box<Request<B>>>,
}

impl<B> Failure<B> {
    /// The target cannot have acted on the request.
    pub(super) fn untouched(error: UpstreamError, request: Box<Request<B>>) -> Self {
        Self { error, unsent: Some(request), spent: None }
    }
}

/// How often a request may come back from a connection that many use and that ends: a target that is shutting down ends
/// one after the other.
const RETURNS_MAX: u32 = 3;

/// Which connection an attempt may use, of those that serve one request at a time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Via {
    New,
    Pool,
}

impl Target {
    /// `is_only`: its upstream has no other.
    pub(super) fn new(
        url: Url,
        settings: Settings,
        dialer: Dialer,
        workers: usize,
        standing: Arc<Standing>,
        is_only: bool,
    ) -> Self {
        let is_shared = AtomicBool::new(settings.protocol.may_be_http2(&url));
        let in_flight = (!is_only).then(AtomicU32::default);
        let (host, pools) = (host_of(&url), Pools::new(workers));
        Self { url, host, settings, pools, dialer, standing, is_shared, open: Arc::default(), in_flight }
    }

    /// 0 for an only target.
    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.as_ref().map_or(0, |in_flight| in_flight.load(Ordering::Relaxed))
    }
}

impl Target {
    /// Sends one request over a pooled connection or a new one. Pooled ones that turn out dead before a byte was
    /// written are replaced. Interim responses are told as they come.
    pub(super) async fn send<B: RequestContent>(
        self: &Arc<Self>,
        mut request: Box<Request<B>>,
        worker: usize,
        via: Via,
        interims: &Interims,
    ) -> Result<(Response<ResponseBody>, Lease), Failure<B>> {
        let visit = Visit::new(Arc::clone(self));
        if request.extensions().get::<OwnHost>().is_some() {
            request.headers_mut().insert(HOST, self.host.clone());
        }
        // A connection that many use cannot become one request's own.
        let is_apart = self.settings.protocol.may_be_http2(&self.url) && request.headers().contains_key(UPGRADE);
        let mut returns = 0;
        loop {
            let found = if is_apart { self.apart().await } else { self.connection(worker, via).await };
            let (mut connection, reused) = match found {
                Ok(found) => found,
                Err(error) => return Err(Failure::untouched(error, request)),
            };
            match connection.send(request, interims).await {
                Ok(response) => return Ok((response, Lease::new(visit, worker, connection, is_apart))),
                Err(Failure { error, unsent: Some(unsent), .. }) => {
                    let may_another = match &connection {
                        // The pooled connection had died before a byte was written: another one may do.
                        Connection::Http1(_) => reused,
                        Connection::Http2(stream) => !stream.connection().is_open() && returns < RETURNS_MAX,
                    };
                    if !may_another {
                        return Err(Failure::untouched(error, unsent));
                    }
                    returns += 1;
                    request = unsent;
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// A connection that serves one request and no other.
    async fn apart(&self) -> Result<(Connection, bool), UpstreamError> {
        Ok((self.connect(Protocol::Http1).await?, false))
    }

    /// A connection that can take a request now, and whether it has been used before.
    async fn connection(self: &Arc<Self>, worker: usize, via: Via) -> Result<(Connection, bool), UpstreamError> {
        loop {
            if let Some(connection) = self.pooled(worker, via) {
                return Ok((connection, true));
            }
            if !self.is_shared.load(Ordering::Relaxed) {
                return Ok((self.connect_for(worker).await?, false));
            }
            match self.pools.turn(worker) {
                Turn::Ours(opening) => {
                    let connected = self.connect_for(worker).await.inspect_err(|error| opening.failed(error.clone()));
                    return match connected {
                        Ok(connection) => Ok((connection, false)),
                        Err(error) => self.freed(worker, via).ok_or(error),
                    };
                }
                Turn::Behind(mut other) => {
                    // It ends without a failure when there is a connection, and when whoever opened it went away.
                    let failure = other.wait_for(Option::is_some).await.ok().and_then(|failure| failure.clone());
                    if let Some(error) = failure {
                        return self.freed(worker, via).ok_or(error);
                    }
                }
            }
        }
    }

    /// What other requests have left in the meantime.
    fn freed(&self, worker: usize, via: Via) -> Option<(Connection, bool)> {
        self.pooled(worker, via).map(|connection| (connection, true))
    }

    /// A connection that leads where the target is now.
    fn pooled(&self, worker: usize, via: Via) -> Option<Connection> {
        loop {
            let mut connection = self.pools.take(worker, via, self.settings.idle_timeout)?;
            if connection.still_leads_to(&self.dialer) {
                return Some(connection);
            }
        }
    }

    async fn connect_for(self: &Arc<Self>, worker: usize) -> Result<Connection, UpstreamError> {
        let connection = self.connect(self.settings.protocol).await?;
        if let Connection::Http2(stream) = &connection {
            self.share(worker, Arc::clone(stream.connection()));
        }
        self.is_shared.store(matches!(connection, Connection::Http2(_)), Ordering::Relaxed);
        Ok(connection)
    }

    async fn connect(&self, protocol: Protocol) -> Result<Connection, UpstreamError> {
        // An unused connection of another worker's makes room: what is bounded is there to be used.
        let slot = OpenSlot::enter(&self.open, self.settings.connections_max).or_else(|| self.pools.evict());
        let slot = slot.ok_or(UpstreamError::Busy)?;
        // In a place of its own: few requests need the room, and all would have it.
        let connection = Box::pin(connection::open(&self.dialer, protocol, &self.settings, slot)).await?;
        self.standing.was_connected();
        Ok(connection)
    }
}

/// A request's presence at a target, from the attempt's begin to the end of the response.
pub(super) struct Visit(Arc<Target>);

impl Visit {
    fn new(target: Arc<Target>) -> Self {
        target.standing.metrics.began();
        if let Some(in_flight) = &target.in_flight {
            in_flight.fetch_add(1, Ordering::Relaxed);
        }
        Self(target)
    }
}

impl Deref for Visit {
    type Target = Arc<Target>;

    fn deref(&self) -> &Arc<Target> {
        &self.0
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.0.standing.metrics.ended();
        if let Some(in_flight) = &self.0.in_flight {
            in_flight.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A place among the open connections, given back on drop.
pub(super) struct OpenSlot(Arc<AtomicU32>);

impl OpenSlot {
    /// A place for a connection that is counted with no others.
    pub(super) fn extra() -> Self {
        Self(Arc::new(AtomicU32::new(1)))
    }

    fn enter(open: &Arc<AtomicU32>, max: NonZeroU32) -> Option<Self> {
        if open.fetch_add(1, Ordering::Relaxed) >= max.get() {
            open.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Self(Arc::clone(open)))
    }
}

impl Drop for OpenSlot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
