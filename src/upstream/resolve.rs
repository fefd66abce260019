//! The addresses behind a target's name: looked up again and again beside the requests, never by them.
//!
//! Invariants: a look-up that fails changes nothing that is known; few look-ups run at a time, however many names there
//! are and however long the name server is silent.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;

use super::UpstreamError;
use super::balance::jittered;

/// Look-ups at a time: each blocks a thread.
const LOOK_UPS_MAX: usize = 4;
static LOOK_UPS: Semaphore = Semaphore::const_new(LOOK_UPS_MAX);

/// Between two look-ups of one name, however urgent.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// Addresses of one name; more are ignored.
const ADDRESSES_MAX: usize = 16;

/// Where a target is found.
pub(super) struct Resolver {
    host: String,
    port: u16,
    known: watch::Sender<Known>,
    /// Counts the changes of what is known.
    generation: AtomicU64,
    /// Which of the addresses took a connection last: those before it did not.
    preferred: AtomicUsize,
    /// Asks for a look-up soon.
    stale: Notify,
}

#[derive(Clone, Debug)]
enum Known {
    Addresses(Arc<[SocketAddr]>),
    Failed(Arc<str>),
    Nothing,
}

/// Where a connection leads.
pub(super) struct Origin {
    address: SocketAddr,
    /// The last generation of addresses that had it.
    generation: u64,
}

impl Resolver {
    /// An address in numbers is known from the start; a name is once [`Resolver::keep`] has looked it up.
    pub(super) fn new(host: &str, port: u16) -> Self {
        let known = match host.parse::<IpAddr>() {
            Ok(address) => Known::Addresses([SocketAddr::new(address, port)].into()),
            Err(_) => Known::Nothing,
        };
        Self {
            host: host.to_owned(),
            port,
            known: watch::Sender::new(known),
            generation: AtomicU64::new(0),
            preferred: AtomicUsize::new(0),
            stale: Notify::new(),
        }
    }

    /// Connects to one of the addresses, which may take until then over all of them.
    pub(super) async fn connect(&self, until: Instant) -> Result<(TcpStream, Origin), UpstreamError> {
        let generation = self.generation.load(Ordering::Acquire);
        let addresses = tokio::time::timeout_at(until, self.addresses()).await;
        let addresses = addresses.map_err(|_| UpstreamError::ConnectTimeout)??;
        let first = self.preferred.load(Ordering::Relaxed) % addresses.len();
        let mut failure = UpstreamError::ConnectTimeout;
        for tried in 0..addresses.len() {
            let position = (first + tried) % addresses.len();
            let address = addresses[position];
            // One that swallows packets leaves time for the others.
            let share = until.saturating_duration_since(Instant::now()) / parts(addresses.len() - tried);
            failure = match tokio::time::timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    if tried > 0 {
                        self.preferred.store(position, Ordering::Relaxed);
                    }
                    return Ok((stream, Origin { address, generation }));
                }
                Ok(Err(error)) => unconnected(error),
                Err(_) => UpstreamError::ConnectTimeout,
            };
            if matches!(failure, UpstreamError::Busy) {
                return Err(failure);
            }
        }
        self.stale.notify_one();
        Err(failure)
    }

    /// Whether the name still means the address that a connection leads to. One load while nothing changes.
    pub(super) fn still_names(&self, origin: &mut Origin) -> bool {
        let generation = self.generation.load(Ordering::Acquire);
        if origin.generation == generation {
            return true;
        }
        origin.generation = generation;
        match &*self.known.borrow() {
            Known::Addresses(addresses) => addresses.contains(&origin.address),
            Known::Failed(_) | Known::Nothing => true,
        }
    }

    async fn addresses(&self) -> Result<Arc<[SocketAddr]>, UpstreamError> {
        let mut known = self.known.subscribe();
        // The sender is this very resolver's, so it is never gone.
        let known = known.wait_for(|known| !matches!(known, Known::Nothing)).await;
        match known.map(|known| known.clone()) {
            Ok(Known::Addresses(addresses)) => Ok(addresses),
            Ok(Known::Failed(error)) => Err(unreachable(std::io::Error::other(error.as_ref()))),
            Ok(Known::Nothing) | Err(_) => Err(UpstreamError::ConnectTimeout),
        }
    }

    /// Whether there is anything to look up.
    pub(super) fn is_name(&self) -> bool {
        self.host.parse::<IpAddr>().is_err()
    }

    /// Looks the name up every `interval`, and sooner after connections failed. Ends when it is dropped.
    pub(super) async fn keep(self: Arc<Self>, interval: Duration) {
        loop {
            self.learn(look_up(self.host.clone(), self.port).await);
            tokio::time::sleep(PAUSE_MIN.min(interval)).await;
            if matches!(&*self.known.borrow(), Known::Addresses(_)) {
                let _ = tokio::time::timeout(jittered(interval).saturating_sub(PAUSE_MIN), self.stale.notified()).await;
            }
        }
    }

    fn learn(&self, answer: std::io::Result<Vec<SocketAddr>>) {
        let news = match answer {
            Ok(mut addresses) if !addresses.is_empty() => {
                addresses.truncate(ADDRESSES_MAX);
                Known::Addresses(addresses.into())
            }
            Ok(_) => Known::Failed("the name has no address".into()),
            Err(error) => Known::Failed(error.to_string().into()),
        };
        let changed = self.known.send_if_modified(|known| match (&*known, &news) {
            (Known::Addresses(old), Known::Addresses(new)) if is_same_set(old, new) => false,
            (Known::Addresses(_), Known::Failed(error)) => {
                tracing::debug!(host = self.host, error = %error, "look-up failed, the last addresses stay");
                false
            }
            _ => {
                known.clone_from(&news);
                true
            }
        });
        if changed {
            self.preferred.store(0, Ordering::Relaxed);
            self.generation.fetch_add(1, Ordering::Release);
            match news {
                Known::Addresses(addresses) => tracing::info!(host = self.host, ?addresses, "upstream's addresses"),
                Known::Failed(error) => tracing::warn!(host = self.host, error = %error, "upstream's name not found"),
                Known::Nothing => {}
            }
        }
    }
}

/// Name servers turn the order of their answers.
fn is_same_set(one: &[SocketAddr], other: &[SocketAddr]) -> bool {
    one.len() == other.len() && one.iter().all(|address| other.contains(address))
}

fn parts(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX).max(1)
}

/// Asks the operating system, hosts file and all.
async fn look_up(host: String, port: u16) -> std::io::Result<Vec<SocketAddr>> {
    let permit = LOOK_UPS.acquire().await.map_err(std::io::Error::other)?;
    let looking = tokio::task::spawn_blocking(move || {
        // In here, since a look-up that nobody waits for any more still blocks its thread.
        let _permit = permit;
        (host.as_str(), port).to_socket_addrs().map(Iterator::collect)
    });
    looking.await.map_err(std::io::Error::other)?
}

/// Without a descriptor or a port left, the fault is on this side.
pub(super) fn unconnected(error: std::io::Error) -> UpstreamError {
    use rustix::io::Errno;
    let ours = [Errno::ADDRNOTAVAIL, Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    if ours.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error())) {
        return UpstreamError::Busy;
    }
    unreachable(error)
}

fn unreachable(error: std::io::Error) -> UpstreamError {
    UpstreamError::Unreachable(Arc::new(error))
}

#[cfg(test)]
mod tests {
    use super::{Known, Origin, Resolver, SocketAddr};

    fn resolver() -> Resolver {
        Resolver::new("tsdb.test", 80)
    }

    fn addresses(texts: &[&str]) -> std::io::Result<Vec<SocketAddr>> {
        Ok(texts.iter().map(|text| text.parse().expect("an address")).collect())
    }

    fn known(resolver: &Resolver) -> Vec<String> {
        match &*resolver.known.borrow() {
            Known::Addresses(addresses) => addresses.iter().map(ToString::to_string).collect(),
            Known::Failed(error) => vec![error.to_string()],
            Known::Nothing => Vec::new(),
        }
    }

    #[test]
    fn a_failed_look_up_keeps_the_last_addresses() {
        let resolver = resolver();
        resolver.learn(addresses(&["10.0.0.1:80"]));
        resolver.learn(Err(std::io::Error::other("no answer")));
        resolver.learn(addresses(&[]));
        assert_eq!(known(&resolver), ["10.0.0.1:80"]);
    }

    #[test]
    fn a_name_that_was_never_found_is_found_later() {
        let resolver = resolver();
        resolver.learn(Err(std::io::Error::other("no answer")));
        assert_eq!(known(&resolver), ["no answer"]);
        resolver.learn(addresses(&["10.0.0.1:80"]));
        assert_eq!(known(&resolver), ["10.0.0.1:80"]);
    }

    #[test]
    fn connections_to_an_address_that_is_gone_are_told_from_the_others() {
        let resolver = resolver();
        resolver.learn(addresses(&["10.0.0.1:80", "10.0.0.2:80"]));
        let generation = resolver.generation.load(std::sync::atomic::Ordering::Acquire);
        let origin = |address: &str| Origin { address: address.parse().expect("an address"), generation };
        let (mut gone, mut stays) = (origin("10.0.0.1:80"), origin("10.0.0.2:80"));

        resolver.learn(addresses(&["10.0.0.2:80", "10.0.0.1:80"]));
        assert!(resolver.still_names(&mut gone) && resolver.still_names(&mut stays));

        resolver.learn(addresses(&["10.0.0.3:80", "10.0.0.2:80"]));
        assert!(!resolver.still_names(&mut gone));
        assert!(resolver.still_names(&mut stays));
    }

    #[test]
    fn an_address_in_numbers_is_never_looked_up() {
        let resolver = Resolver::new("::1", 80);
        assert!(!resolver.is_name());
        assert_eq!(known(&resolver), ["[::1]:80"]);
    }
}
