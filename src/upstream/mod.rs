//! Upstreams: their targets, the connections to them, and one exchange with one of them.
//!
//! Knows nothing of keys or routes, and repeats no request that may have been acted on and must not be twice.
//!
//! Invariants: a connection is reused only when its last message ended exactly where its framing said; the number of
//! connections, of idle ones and of waiting requests has a bound; each worker thread has idle connections of its own,
//! so that nothing is shared while requests run, but for what several targets are compared by.

mod balance;
mod connection;
mod dispatch;
mod health;
mod outgoing;
mod pool;
mod queue;
mod resolve;
mod retry;
mod standing;
mod statuses;
mod target;
mod url;
mod urls;

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::header::{HOST, HeaderValue};
use http::request::Parts;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use crate::metrics::{Metrics, UpstreamFailure, UpstreamMetrics};
use crate::settings::{ByteSize, settings};

pub use balance::Balance;
pub use dispatch::{Blame, Lease};
pub use health::{CheckPath, Settings as Health};
pub use retry::{Percent, Settings as Retry};
pub use standing::Settings as Eject;
pub use statuses::Statuses;
pub use url::Url;
pub use urls::Urls;

use health::Checks;
use outgoing::Outgoing;
use queue::Queue;
use resolve::Resolver;
use retry::Budget;
use standing::Standing;
use target::Target;

settings! {
    /// The options of an `[upstream.NAME]` besides `url` and `routes`.
    pub struct Settings {
        /// How requests are spread over several targets.
        pub balance: Balance = Balance::LeastRequests,
        /// Until the TCP connection is there, over all addresses of the target.
        pub connect_timeout: Duration = Duration::from_secs(5),
        /// From the last byte of the request to the head of the response; a route's own `timeout` ends it earlier.
        pub response_timeout: Duration = Duration::from_secs(60),
        /// Between two pieces of a response's body.
        pub body_timeout: Duration = Duration::from_secs(60),
        /// How long an unused connection is kept.
        pub idle_timeout: Duration = Duration::from_secs(55),
        /// Unused connections to a target that each worker keeps.
        pub idle_max: NonZeroU32 = NonZeroU32::new(256).unwrap_or(NonZeroU32::MIN),
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
    }
}

/// Why an exchange ended without a response head.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    #[error("there is no room for another connection")]
    Busy,
    #[error("connecting timed out")]
    ConnectTimeout,
    #[error("the response is not valid")]
    Invalid(#[source] hyper::Error),
    #[error("as many requests as allowed are running and waiting")]
    QueueFull,
    #[error("no place came free in time")]
    QueueTimeout,
    #[error("the connection broke before the response")]
    Reset(#[source] hyper::Error),
    #[error("every target is left out")]
    Unavailable {
        /// Until one of them may be back.
        wait: Duration,
    },
    #[error("cannot connect")]
    Unreachable(#[source] std::io::Error),
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
            Self::Unavailable { .. } => UpstreamFailure::Unavailable,
            Self::Unreachable(_) => UpstreamFailure::Connect,
        }
    }
}

/// One backend, at one target or several. `B` is the type of the request bodies that it is sent.
pub struct Upstream<B> {
    pub name: String,
    pub settings: Settings,
    pub metrics: Arc<UpstreamMetrics>,
    /// Its own name: that of the first target.
    host: HeaderValue,
    urls: Urls,
    targets: Vec<Arc<Target<Outgoing<B>>>>,
    queue: Option<Queue>,
    budget: Budget,
    /// Checks and look-ups, while it is in use.
    background: Mutex<Option<JoinSet<()>>>,
}

/// Marks a request that is to name whichever target it is sent to.
#[derive(Clone, Copy)]
struct OwnHost;

impl<B> Upstream<B> {
    /// Makes a request name this upstream as its host: the target that it will be sent to.
    pub fn claim_host(&self, parts: &mut Parts) {
        parts.headers.insert(HOST, self.host.clone());
        if self.targets.len() > 1 {
            parts.extensions.insert(OwnHost);
        }
    }
}

impl<B: Send + 'static> Upstream<B> {
    /// Makes an upstream that takes the place of one of the same name in `previous`: the very same when nothing has
    /// changed, else a new one that knows of the targets that stay what the old one knew. Of use after [`take_over`].
    pub fn succeed(
        previous: &[Arc<Self>],
        name: &str,
        urls: &Urls,
        settings: &Settings,
        workers: usize,
        metrics: &Metrics,
    ) -> Arc<Self> {
        let old = previous.iter().find(|old| old.name == name);
        if let Some(old) = old.filter(|old| old.urls == *urls && old.settings == *settings) {
            return Arc::clone(old);
        }
        let is_only = urls.iter().len() == 1;
        let target = |url: &Url| {
            let known = old.and_then(|old| old.targets.iter().find(|target| target.url == *url));
            let (standing, resolver) = match known {
                Some(target) => (Arc::clone(&target.standing), Arc::clone(&target.resolver)),
                None => {
                    let metrics = metrics.target(name, &url.to_string());
                    (Arc::new(Standing::new(metrics)), Arc::new(Resolver::new(url)))
                }
            };
            Arc::new(Target::new(url.clone(), settings.clone(), workers, standing, resolver, is_only))
        };
        let metrics = metrics.upstream(name);
        Arc::new(Self {
            name: name.to_owned(),
            host: urls.iter().next().map_or(HeaderValue::from_static(""), host_of),
            targets: urls.iter().map(target).collect(),
            queue: Queue::new(settings, &metrics, old.and_then(|old| old.queue.as_ref())),
            budget: Budget::new(&settings.retry, workers),
            settings: settings.clone(),
            urls: urls.clone(),
            metrics,
            background: Mutex::default(),
        })
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
pub fn take_over<B: Send + 'static>(previous: &[Arc<Upstream<B>>], next: &[Arc<Upstream<B>>], control: &Handle) {
    let stays = |old: &Arc<Upstream<B>>| next.iter().any(|new| Arc::ptr_eq(old, new));
    previous.iter().filter(|old| !stays(old)).for_each(|old| old.retire());
    next.iter().for_each(|new| new.start(control));
}

/// Starts what goes on for a target beside its requests, and ends what an option no longer asks for.
fn begin<B>(background: &mut JoinSet<()>, target: &Target<B>, upstream: &str, control: &Handle) {
    let Settings { resolve_interval, eject, health, .. } = &target.settings;
    if target.resolver.is_name() {
        background.spawn_on(Arc::clone(&target.resolver).keep(*resolve_interval), control);
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
        resolver: Arc::clone(&target.resolver),
        standing: Arc::clone(&target.standing),
        checker,
    };
    background.spawn_on(checks.run(path), control);
}

fn host_of(url: &Url) -> HeaderValue {
    let authority = url.to_string().trim_start_matches("http://").to_owned();
    HeaderValue::try_from(authority).unwrap_or_else(|_| HeaderValue::from_static("upstream.invalid"))
}
