//! Upstreams: their targets, the connections to them, and one exchange with one of them.
//!
//! Knows nothing of keys or routes, and repeats no request that may have been acted on and must not be twice.
//!
//! Invariants: a connection is reused only when its last message ended exactly where its framing said; the number of
//! connections, of idle ones and of waiting requests has a bound; each worker thread has idle connections of its own,
//! so that nothing is shared while requests run, but for what several targets are compared by.

mod balance;
mod body;
mod connection;
mod dial;
mod dispatch;
mod health;
mod http1;
mod http2;
mod metered;
mod pool;
mod protocol;
mod queue;
mod resolve;
mod retry;
mod standing;
mod statuses;
mod stream;
mod target;
mod upload;
mod url;
mod urls;

use std::error::Error;
use std::io;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderValue};
use http::request::Parts;
use http_body_util::Empty;
use hyper::body::Body;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use crate::metrics::{Metrics, UpstreamFailure, UpstreamMetrics};
use crate::settings::{ByteSize, settings};
use crate::tls;

pub use balance::Balance;
pub use body::{CutError, ResponseBody};
pub use dispatch::{Blame, Lease};
pub use health::{CheckPath, Settings as Health};
pub use http1::{Http1Cut, Switched};
pub use protocol::{Http2, Protocol, Window};
pub use retry::{Percent, Settings as Retry};
pub use standing::Settings as Eject;
pub use statuses::Statuses;
pub use upload::Unread;
pub use url::{Place, Url};
pub use urls::Urls;

use dial::Dialer;
use health::Checks;
use queue::Queue;
use retry::Budget;
use standing::Standing;
use target::Target;

settings! {
    /// The options of an `[upstream.NAME]` besides `url` and `routes`.
    pub struct Settings {
        /// How requests are spread over several targets.
        pub balance: Balance = Balance::LeastRequests,
        /// What is spoken to it.
        pub protocol: Protocol = Protocol::Auto,
        /// Until the connection is there, over all addresses of the target, TLS included.
        pub connect_timeout: Duration = Duration::from_secs(5),
        /// From the last byte of the request to the head of the response; a route's own `timeout` ends it earlier.
        pub response_timeout: Duration = Duration::from_secs(60),
        /// Between two pieces of a response's body.
        pub body_timeout: Duration = Duration::from_secs(60),
        /// How long an unused connection is kept.
        pub idle_timeout: Duration = Duration::from_secs(55),
        /// Unused connections to a target that each worker keeps.
        pub idle_max: NonZeroU32 = NonZeroU32::new(1_024).unwrap_or(NonZeroU32::MIN),
        /// Connections to a target at a time, over all workers, unused ones included as long as nobody needs their room.
        /// One more request than that is refused with 503.
        pub connections_max: NonZeroU32 = NonZeroU32::new(4_096).unwrap_or(NonZeroU32::MIN),
        /// The largest head of a response.
        pub header_bytes_max: ByteSize = ByteSize::kib(64),
        /// How often the addresses behind a target's name are looked up.
        pub resolve_interval: Duration = Duration::from_secs(10),
        /// Requests at a time, over all targets and workers, to the end of their responses.
        pub concurrency: Option<NonZeroU32> = None,
        /// Requests that wait when there are as many; one more is refused with 503. Unset: none waits.
        pub queue: Option<NonZeroU32> = NonZeroU32::new(64),
        /// How long each of them waits; then it is refused with 503.
        pub queue_timeout: Duration = Duration::from_secs(1),
        pub retry: Retry = Retry::default(),
        pub health: Health = Health::default(),
        pub eject: Eject = Eject::default(),
        /// `[upstream.NAME.http2]`: the limits of an HTTP/2 connection.
        pub http2: Http2 = Http2::default(),
        /// `[upstream.NAME.tls]`: how `https` targets are verified, and what is shown to them.
        pub tls: tls::ClientSettings = tls::ClientSettings::default(),
    }
}

/// A request's body, as upstreams are sent it.
pub trait RequestContent:
    Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + Unpin + 'static
{
    /// Puts back what was read of it, for another attempt: it comes first, and then what is still unread.
    fn unread(&mut self, unread: Unread);
}

/// What checks send.
impl RequestContent for Empty<Bytes> {
    fn unread(&mut self, _: Unread) {}
}

/// Why an exchange ended without a response head. Clones share their source.
#[derive(Clone, Debug, thiserror::Error)]
pub enum UpstreamError {
    #[error("there is no room for another connection")]
    Busy,
    #[error("connecting timed out")]
    ConnectTimeout,
    #[error("the response is not valid")]
    Invalid(#[source] Arc<dyn Error + Send + Sync>),
    #[error("as many requests as allowed are running and waiting")]
    QueueFull,
    #[error("no place came free in time")]
    QueueTimeout,
    #[error("the connection broke before the response")]
    Reset(#[source] Arc<dyn Error + Send + Sync>),
    /// The other end did not prove that it is who was asked for, or speaks no TLS, or not what must be spoken over it.
    #[error("no connection could be secured")]
    Tls(#[source] Arc<io::Error>),
    #[error("every target is left out")]
    Unavailable {
        /// Until one of them may be back.
        wait: Duration,
    },
    #[error("cannot connect")]
    Unreachable(#[source] Arc<io::Error>),
}

impl UpstreamError {
    pub fn kind(&self) -> UpstreamFailure {
        match self {
            Self::Busy => UpstreamFailure::PoolExhausted,
            Self::ConnectTimeout => UpstreamFailure::ConnectTimeout,
            Self::Invalid(_) => UpstreamFailure::InvalidResponse,
            Self::QueueFull => UpstreamFailure::QueueFull,
            Self::QueueTimeout => UpstreamFailure::QueueTimeout,
            Self::Reset(_) => UpstreamFailure::Reset,
            Self::Tls(_) => UpstreamFailure::Tls,
            Self::Unavailable { .. } => UpstreamFailure::Unavailable,
            Self::Unreachable(_) => UpstreamFailure::Connect,
        }
    }

    fn invalid(source: impl Error + Send + Sync + 'static) -> Self {
        Self::Invalid(Arc::new(source))
    }

    fn reset(source: impl Error + Send + Sync + 'static) -> Self {
        Self::Reset(Arc::new(source))
    }

    /// What h2 itself found wrong is no valid response; the rest is the other end's or the network's doing.
    fn http2(error: h2::Error) -> Self {
        if error.is_library() { Self::invalid(error) } else { Self::reset(error) }
    }

    /// Whether it was the request's own body that broke off.
    fn is_of_request(&self) -> bool {
        let Self::Reset(source) = self else { return false };
        source.is::<upload::Broken>()
    }
}

/// One backend, at one target or several.
pub struct Upstream {
    pub name: String,
    pub settings: Settings,
    pub metrics: Arc<UpstreamMetrics>,
    /// Its own name: that of the first target.
    host: HeaderValue,
    urls: Urls,
    targets: Vec<Arc<Target>>,
    queue: Option<Queue>,
    budget: Budget,
    tls: Option<tls::Client>,
    /// Checks and look-ups, while it is in use.
    background: Mutex<Option<JoinSet<()>>>,
}

/// Marks a request that is to name whichever target it is sent to.
#[derive(Clone, Copy)]
struct OwnHost;

impl Upstream {
    /// The certificate that its `https` targets are shown if they ask.
    pub fn own_certificate(&self) -> Option<&tls::OwnCertificate> {
        self.tls.as_ref().and_then(tls::Client::own_certificate)
    }

    /// Makes a request name this upstream as its host: the target that it will be sent to.
    pub fn claim_host(&self, parts: &mut Parts) {
        parts.headers.insert(HOST, self.host.clone());
        if self.targets.len() > 1 {
            parts.extensions.insert(OwnHost);
        }
    }
}

impl Upstream {
    /// Makes an upstream that takes the place of one of the same name in `previous`: the very same when nothing has
    /// changed, else a new one that knows of the targets that stay what the old one knew. Of use after [`take_over`].
    ///
    /// Reads the files of `settings.tls` if a target is `https`. Blocking.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub fn succeed(
        previous: &[Arc<Self>],
        name: &str,
        urls: &Urls,
        settings: &Settings,
        workers: usize,
        metrics: &Metrics,
    ) -> Result<Arc<Self>, tls::Error> {
        let tls = if urls.iter().any(Url::is_https) { Some(tls::Client::new(&settings.tls)?) } else { None };
        let old = previous.iter().find(|old| old.name == name);
        let is_as_before = |old: &&Arc<Self>| {
            let same_files = match (&old.tls, &tls) {
                (Some(old), Some(new)) => old.is_as(new),
                (old, new) => old.is_none() && new.is_none(),
            };
            old.urls == *urls && old.settings == *settings && same_files
        };
        if let Some(old) = old.filter(is_as_before) {
            return Ok(Arc::clone(old));
        }
        let is_only = urls.iter().len() == 1;
        let target = |url: &Url| {
            let known = old.and_then(|old| old.targets.iter().find(|target| target.url == *url));
            let (standing, dialer) = match known {
                Some(target) => (Arc::clone(&target.standing), target.dialer.with(tls.as_ref())),
                None => {
                    let metrics = metrics.target(name, &url.to_string());
                    (Arc::new(Standing::new(metrics)), Dialer::new(url, tls.as_ref()))
                }
            };
            Arc::new(Target::new(url.clone(), settings.clone(), dialer, workers, standing, is_only))
        };
        let metrics = metrics.upstream(name);
        Ok(Arc::new(Self {
            name: name.to_owned(),
            host: urls.iter().next().map_or(HeaderValue::from_static(""), host_of),
            targets: urls.iter().map(target).collect(),
            queue: Queue::new(settings, &metrics, old.and_then(|old| old.queue.as_ref())),
            budget: Budget::new(&settings.retry, workers),
            settings: settings.clone(),
            urls: urls.clone(),
            metrics,
            tls,
            background: Mutex::default(),
        }))
    }

    /// Starts what goes on beside the requests, unless it goes on already.
    fn start(&self, control: &Handle) {
        self.background().get_or_insert_with(|| {
            let mut background = JoinSet::new();
            self.targets.iter().for_each(|target| begin(&mut background, target, &self.name, control));
            background
        });
    }

    fn retire(&self) {
        *self.background() = None;
    }

    fn background(&self) -> MutexGuard<'_, Option<JoinSet<()>>> {
        self.background.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the checks and look-ups of `previous`, whose requests go on to their end, and starts those of `next`, on the
/// runtime `control`, so that they slow no request. What is in both goes on.
pub fn take_over(previous: &[Arc<Upstream>], next: &[Arc<Upstream>], control: &Handle) {
    let stays = |old: &Arc<Upstream>| next.iter().any(|new| Arc::ptr_eq(old, new));
    previous.iter().filter(|old| !stays(old)).for_each(|old| old.retire());
    next.iter().for_each(|new| new.start(control));
}

/// Starts what goes on for a target beside its requests, and ends what an option no longer asks for.
fn begin(background: &mut JoinSet<()>, target: &Target, upstream: &str, control: &Handle) {
    let Settings { resolve_interval, eject, health, .. } = &target.settings;
    if let Some(resolver) = target.dialer.resolver() {
        background.spawn_on(Arc::clone(resolver).keep(*resolve_interval), control);
    }
    if eject.failures.is_none() {
        target.standing.pardon();
    }
    let checker = target.standing.checked_by_another();
    let Some(path) = health.path.clone() else {
        target.standing.set_healthy(true, checker);
        return;
    };
    let checks = Checks {
        upstream: upstream.to_owned(),
        url: target.url.clone(),
        host: host_of(&target.url),
        settings: target.settings.clone(),
        dialer: target.dialer.clone(),
        standing: Arc::clone(&target.standing),
        checker,
    };
    background.spawn_on(checks.run(path), control);
}

fn host_of(url: &Url) -> HeaderValue {
    HeaderValue::try_from(url.authority()).unwrap_or_else(|_| HeaderValue::from_static("upstream.invalid"))
}
