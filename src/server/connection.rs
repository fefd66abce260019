//! One client connection from accept to close: which protocol it speaks, and what both protocols share of their time.

use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Sleep;

use super::detect::{self, Begun};
use super::drain::Draining;
use super::exchange::{ConnectionInfo, Handler};
use super::settings::Client;
use super::watch::{Moment, Watch};
use super::{Http2, http1, http2};
use crate::metrics::{Metrics, Protocol};

/// What all connections of a listener are served with.
pub(super) struct Protocols {
    http2: Arc<Http2>,
    metrics: Arc<Metrics>,
}

impl Protocols {
    pub(super) fn new(http2: Arc<Http2>, metrics: Arc<Metrics>) -> Self {
        Self { http2, metrics }
    }

    /// What the client speaks; `None` when it never said.
    async fn spoken<S: AsyncRead + Unpin>(
        &self,
        socket: &mut Begun<S>,
        info: &ConnectionInfo,
        client: &Client,
        draining: &Draining,
    ) -> Option<Protocol> {
        match &info.tls {
            Some(tls) if tls.is_h2 => Some(Protocol::Http2),
            None if self.http2.cleartext => detect::protocol(socket, client, draining).await,
            Some(_) | None => Some(Protocol::Http1),
        }
    }
}

/// Why a connection ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    #[error(transparent)]
    Http1(#[from] io::Error),
    #[error(transparent)]
    Http2(#[from] hyper::Error),
}

/// Serves one connection until it ends, of itself or because of `draining`.
///
/// # Errors
/// What it ended with; worth a debug line, since clients come and go.
pub(super) async fn serve_connection<S, H>(
    protocols: &Protocols,
    socket: S,
    info: ConnectionInfo,
    client: &Client,
    handler: H,
    draining: &Draining,
) -> Result<(), ConnectionError>
where
    S: AsyncRead + AsyncWrite + AsFd + Send + Unpin + 'static,
    H: Handler,
{
    let mut socket = Begun::new(socket);
    let Some(protocol) = protocols.spoken(&mut socket, &info, client, draining).await else {
        return Ok(());
    };
    protocols.metrics.connection_speaks(protocol);
    match protocol {
        Protocol::Http1 => Ok(http1::serve(socket, info, client, handler, draining).await?),
        Protocol::Http2 => {
            let limits = http2::Limits { client, http2: &protocols.http2 };
            Ok(http2::serve(socket, info, limits, handler, draining, &protocols.metrics).await?)
        }
    }
}

/// Ready when a deadline has expired. The timer is only moved to an earlier time: one that comes too early is set again,
/// which costs less than moving it with every request.
pub(super) fn poll_alarm(
    mut alarm: Pin<&mut Sleep>,
    cx: &mut Context<'_>,
    watch: &Watch,
    silence_ends: Option<Moment>,
) -> Poll<()> {
    loop {
        let silence_ends = silence_ends.filter(|deadline| !watch.has_expired(*deadline));
        let Some(next) = watch.next().into_iter().chain(silence_ends).min() else {
            return Poll::Pending;
        };
        let due = tokio::time::Instant::from_std(watch.instant(next));
        if due < alarm.deadline() {
            alarm.as_mut().reset(due);
        }
        ready!(alarm.as_mut().poll(cx));
        let now = Instant::now();
        watch.fire(now);
        alarm.as_mut().reset(tokio::time::Instant::from_std(now + ALARM_OFF));
        if watch.has_expired(next) {
            return Poll::Ready(());
        }
    }
}

/// Where the timer rests while nothing is known to be due; any deadline is earlier or gets set when it comes.
const ALARM_OFF: Duration = Duration::from_secs(86_400);

/// The bound on a connection that does nothing: before its first request, and between two.
pub(super) struct Silence {
    first_byte_timeout: Duration,
    idle_timeout: Duration,
    /// The bound on both, once a drain has set one.
    drain_timeout: Option<Duration>,
    heads: u64,
    deadline: Option<Moment>,
}

impl Silence {
    pub(super) fn new(client: &Client) -> Self {
        Self {
            first_byte_timeout: client.first_byte_timeout,
            idle_timeout: client.idle_timeout,
            drain_timeout: None,
            heads: 0,
            deadline: None,
        }
    }

    /// Keeps the connection from being silent for longer than a drain allows. Not closed at once: a request may be on
    /// its way, and its client could not know whether it was served.
    pub(super) fn shorten(&mut self, drain_timeout: Option<Duration>) {
        if self.drain_timeout != drain_timeout {
            self.drain_timeout = drain_timeout;
            self.deadline = None;
        }
    }

    /// When the present silence, the one after request number `heads`, has lasted too long.
    pub(super) fn deadline(&mut self, watch: &Watch, heads: u64) -> Moment {
        if self.heads != heads {
            self.heads = heads;
            self.deadline = None;
        }
        let timeout = if heads == 0 { self.first_byte_timeout } else { self.idle_timeout };
        let timeout = self.drain_timeout.map_or(timeout, |drain_timeout| timeout.min(drain_timeout));
        *self.deadline.get_or_insert_with(|| watch.after(timeout))
    }
}
