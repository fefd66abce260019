//! Failed authentications of client addresses: whoever fails too often is not even looked up for a while.
//!
//! Remembers only addresses that failed lately. Invariants: never more than `addresses_max` of them, whatever walks
//! through its prefix; while nobody is blocked, asking costs one relaxed load.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::FailureLimits;
use super::address::Address;
use super::bucket::interval;

const SHARDS_MAX: usize = 16;
/// How many neighbours of a full shard are compared, to find the one that is missed least.
const EVICTION_SAMPLE: usize = 16;
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Ten years: beyond it, a sum with an `Instant` might overflow.
const REFILL_MAX: Duration = Duration::from_secs(10 * 365 * 86_400);

/// The limiter of failed authentications.
pub struct Failures {
    limit: Option<Limit>,
    started: Instant,
    /// Nanoseconds from `started` to the end of the last block. Relaxed: a block that is seen late is harmless.
    last_block_ends: AtomicU64,
    shards: Box<[Mutex<Shard>]>,
    shard_addresses_max: usize,
    hasher: RandomState,
}

#[derive(Clone, Copy)]
struct Limit {
    /// The time that wears off one failure.
    interval: Duration,
    /// The time that wears off a whole burst.
    refill: Duration,
}

#[derive(Default)]
struct Shard {
    /// When the failures of an address will have worn off: GCRA's theoretical arrival time.
    clear_at: HashMap<Address, Instant>,
    swept: Option<Instant>,
}

impl Failures {
    pub fn new(limits: &FailureLimits) -> Self {
        let limit = limits.rate.map(|rate| {
            let interval = interval(rate);
            Limit { interval, refill: interval.saturating_mul(limits.burst.get()).min(REFILL_MAX) }
        });
        let addresses_max = usize::try_from(limits.addresses_max.get()).unwrap_or(usize::MAX);
        let shards = addresses_max.min(SHARDS_MAX);
        Self {
            limit,
            started: Instant::now(),
            last_block_ends: AtomicU64::new(0),
            shards: (0..shards).map(|_| Mutex::default()).collect(),
            shard_addresses_max: addresses_max / shards,
            hasher: RandomState::new(),
        }
    }

    /// A limiter with other limits that remembers what this one does, as far as there is room.
    pub fn succeeded_by(&self, limits: &FailureLimits, now: Instant) -> Self {
        let successor = Self::new(limits);
        let Some(limit) = successor.limit else { return successor };
        for shard in &self.shards {
            let known: Vec<(Address, Instant)> =
                lock(shard).clear_at.iter().map(|(client, at)| (*client, *at)).collect();
            for (client, clear_at) in known.into_iter().filter(|(_, clear_at)| *clear_at > now) {
                successor.note(client, limit, now, |_| clear_at.min(now + limit.refill));
            }
        }
        successor
    }

    /// How long the address is to wait before it may try again; `None` when it may try now.
    pub fn blocked(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let limit = self.limit?;
        if self.since_start(now) >= self.last_block_ends.load(Ordering::Relaxed) {
            return None;
        }
        let client = Address::of(address);
        let clear_at = *self.shard(client).clear_at.get(&client)?;
        limit.blocked(clear_at, now)
    }

    /// Counts one failure of the address, and blocks it until the next one is allowed when it has used up its burst.
    pub fn failed(&self, address: IpAddr, now: Instant) {
        let Some(limit) = self.limit else {
            return;
        };
        // Not beyond a full burst: requests that were under way when the block began must not lengthen it.
        let one_more = |clear_at: Instant| (clear_at.max(now) + limit.interval).min(now + limit.refill);
        self.note(Address::of(address), limit, now, one_more);
    }

    fn note(&self, client: Address, limit: Limit, now: Instant, next: impl FnOnce(Instant) -> Instant) {
        let mut shard = self.shard(client);
        shard.make_room(client, self.shard_addresses_max, now);
        let clear_at = shard.clear_at.entry(client).or_insert(now);
        *clear_at = next(*clear_at);
        if let Some(wait) = limit.blocked(*clear_at, now) {
            self.last_block_ends.fetch_max(self.since_start(now + wait), Ordering::Relaxed);
        }
    }

    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        let sizes = self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).clear_at.len());
        sizes.sum()
    }

    fn since_start(&self, moment: Instant) -> u64 {
        let since = moment.saturating_duration_since(self.started);
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }

    fn shard(&self, client: Address) -> MutexGuard<'_, Shard> {
        // The map inside hashes with another seed, so a shard's addresses do not gather in one part of it.
        let index = self.hasher.hash_one(client) % self.shards.len() as u64;
        lock(&self.shards[index as usize])
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Limit {
    /// One more failure fits in as soon as what is left of the others is an interval less than the burst.
    fn blocked(self, clear_at: Instant, now: Instant) -> Option<Duration> {
        let worn_off_in = clear_at.saturating_duration_since(now);
        let wait = (worn_off_in + self.interval).saturating_sub(self.refill);
        (!wait.is_zero()).then_some(wait)
    }
}

impl Shard {
    /// Makes sure that an entry for `client` keeps the shard within `max`.
    fn make_room(&mut self, client: Address, max: usize, now: Instant) {
        if self.clear_at.len() < max || self.clear_at.contains_key(&client) {
            return;
        }
        // At most once a second: a shard full of fresh entries must not be walked for each failure.
        let sweep_due = self.swept.is_none_or(|swept| now.saturating_duration_since(swept) >= SWEEP_INTERVAL);
        if sweep_due {
            self.swept = Some(now);
            self.clear_at.retain(|_, clear_at| *clear_at > now);
        }
        if self.clear_at.len() >= max {
            self.forget_the_mildest();
        }
    }

    /// Of a few, forgets the one with the fewest failures left: a walk over addresses that fail once each forgets its
    /// own steps, not an address that is blocked.
    fn forget_the_mildest(&mut self) {
        let sample = self.clear_at.iter().take(EVICTION_SAMPLE);
        let mildest = sample.min_by_key(|(_, clear_at)| **clear_at).map(|(client, _)| *client);
        if let Some(client) = mildest {
            self.clear_at.remove(&client);
        }
    }
}
