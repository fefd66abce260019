//! One address of an upstream: its pooled connections, and one attempt at an exchange with it.
//!
//! Knows nothing of other targets, and repeats no request of which a byte may have been sent.

use std::num::NonZeroU32;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use http::header::{HOST, HeaderValue};
use http::{Request, Response};
use hyper::body::{Body, Incoming};

use super::connection::{self, Connection};
use super::pool::{Lease, Pools};
use super::resolve::Resolver;
use super::standing::Standing;
use super::url::Url;
use super::{OwnHost, Settings, UpstreamError, host_of};

pub(super) struct Target<B> {
    pub(super) url: Url,
    host: HeaderValue,
    pub(super) settings: Settings,
    pub(super) pools: Pools<B>,
    pub(super) resolver: Arc<Resolver>,
    pub(super) standing: Arc<Standing>,
    open: Arc<AtomicU32>,
    /// Requests whose response has not ended, over all workers. `None` for an only target, which is compared to none.
    in_flight: Option<AtomicU32>,
}

/// An attempt that brought no response head.
pub(super) struct Failure<B> {
    pub(super) error: UpstreamError,
    /// The request, when no byte of it was sent: another target may get it.
    pub(super) unsent: Option<Request<B>>,
}

/// Which connection an attempt may use.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Via {
    New,
    Pool,
}

impl<B> Target<B> {
    /// `is_only`: its upstream has no other.
    pub(super) fn new(
        url: Url,
        settings: Settings,
        workers: usize,
        standing: Arc<Standing>,
        resolver: Arc<Resolver>,
        is_only: bool,
    ) -> Self {
        let in_flight = (!is_only).then(AtomicU32::default);
        let (host, pools) = (host_of(&url), Pools::new(workers));
        Self { url, host, settings, pools, resolver, standing, open: Arc::default(), in_flight }
    }

    /// 0 for an only target.
    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.as_ref().map_or(0, |in_flight| in_flight.load(Ordering::Relaxed))
    }
}

impl<B> Target<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Sends one request over a pooled connection or a new one. Pooled ones that turn out dead before a byte was
    /// written are replaced.
    pub(super) async fn send(
        self: &Arc<Self>,
        mut request: Request<B>,
        worker: usize,
        via: Via,
    ) -> Result<(Response<Incoming>, Lease<B>), Failure<B>> {
        let visit = Visit::new(Arc::clone(self));
        if request.extensions().get::<OwnHost>().is_some() {
            request.headers_mut().insert(HOST, self.host.clone());
        }
        loop {
            let pooled = if via == Via::Pool { self.pooled(worker) } else { None };
            let (mut connection, reused) = match pooled {
                Some(connection) => (connection, true),
                None => match self.connect().await {
                    Ok(connection) => (connection, false),
                    Err(error) => return Err(Failure { error, unsent: Some(request) }),
                },
            };
            match connection.send(request).await {
                Ok(response) => return Ok((response, Lease::new(visit, worker, connection))),
                // The pooled connection had died before a byte was written: another one may do.
                Err(Failure { unsent: Some(unsent), .. }) if reused => request = unsent,
                Err(failure) => return Err(failure),
            }
        }
    }

    /// A connection that leads where the target is now.
    fn pooled(&self, worker: usize) -> Option<Connection<B>> {
        loop {
            let mut connection = self.pools.take(worker, self.settings.idle_timeout)?;
            if self.resolver.still_names(&mut connection.origin) {
                return Some(connection);
            }
        }
    }

    async fn connect(&self) -> Result<Connection<B>, UpstreamError> {
        // An unused connection of another worker's makes room: what is bounded is there to be used.
        let slot = OpenSlot::enter(&self.open, self.settings.connections_max).or_else(|| self.pools.evict());
        let slot = slot.ok_or(UpstreamError::Busy)?;
        connection::open(&self.resolver, &self.settings, slot).await
    }
}

/// A request's presence at a target, from the attempt's begin to the end of the response.
pub(super) struct Visit<B>(Arc<Target<B>>);

impl<B> Visit<B> {
    fn new(target: Arc<Target<B>>) -> Self {
        target.standing.metrics.began();
        if let Some(in_flight) = &target.in_flight {
            in_flight.fetch_add(1, Ordering::Relaxed);
        }
        Self(target)
    }
}

impl<B> Deref for Visit<B> {
    type Target = Arc<Target<B>>;

    fn deref(&self) -> &Arc<Target<B>> {
        &self.0
    }
}

impl<B> Drop for Visit<B> {
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
