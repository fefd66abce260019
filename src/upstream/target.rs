//! One address of an upstream: its pooled connections, and one attempt at an exchange with it.
//!
//! Knows nothing of other targets, and repeats no request of which a byte may have been sent.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use http::{Request, Response};
use hyper::body::{Body, Incoming};

use super::connection::{self, Connection};
use super::pool::{Lease, Pools};
use super::url::Url;
use super::{Settings, UpstreamError};

pub(super) struct Target<B> {
    pub(super) url: Url,
    pub(super) settings: Settings,
    pub(super) pools: Pools<B>,
    open: Arc<AtomicU32>,
}

/// An attempt that brought no response head.
pub(super) struct Failure<B> {
    pub(super) error: UpstreamError,
    /// The request, when no byte of it was sent: another target may get it.
    pub(super) unsent: Option<Request<B>>,
}

impl<B> Target<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    pub(super) fn new(url: Url, settings: Settings, workers: usize) -> Self {
        Self { url, settings, pools: Pools::new(workers), open: Arc::default() }
    }

    /// Sends one request over a pooled connection or a new one. Pooled ones that turn out dead before a byte was
    /// written are replaced.
    pub(super) async fn send(
        self: &Arc<Self>,
        mut request: Request<B>,
        worker: usize,
    ) -> Result<(Response<Incoming>, Lease<B>), Failure<B>> {
        loop {
            let (mut connection, reused) = match self.pools.take(worker, self.settings.idle_timeout) {
                Some(connection) => (connection, true),
                None => match self.connect().await {
                    Ok(connection) => (connection, false),
                    Err(error) => return Err(Failure { error, unsent: Some(request) }),
                },
            };
            match connection.send(request).await {
                Ok(response) => return Ok((response, Lease::new(Arc::clone(self), worker, connection))),
                // The pooled connection had died before a byte was written: another one may do.
                Err(Failure { unsent: Some(unsent), .. }) if reused => request = unsent,
                Err(failure) => return Err(failure),
            }
        }
    }

    async fn connect(&self) -> Result<Connection<B>, UpstreamError> {
        // An unused connection of another worker's makes room: what is bounded is there to be used.
        let slot = OpenSlot::enter(&self.open, self.settings.connections_max).or_else(|| self.pools.evict());
        let slot = slot.ok_or(UpstreamError::Busy)?;
        connection::open(&self.url, &self.settings, slot).await
    }
}

/// A place among the open connections, given back on drop.
pub(super) struct OpenSlot(Arc<AtomicU32>);

impl OpenSlot {
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
