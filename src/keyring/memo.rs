//! What a thread remembers of the cache: the holders that it found there last, found again without a shared lock or log.
//!
//! Says only what the cache said in the same [`Generation`]. Bounds: a fixed number of places, made at a thread's first
//! use. What is outdated lies there until its place is needed, so a thread keeps that many holders at most, of no keyring
//! any other part.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::holder::Holder;
use crate::key::Tag;

/// 4,096 holders a thread.
const SETS: usize = 1 << 11;
const WAYS: usize = 2;
/// How often a holder is taken from here before the cache is asked again, which lets go the key unused for longest.
const RECALLS_MAX: u32 = 256;
/// Of so many holders that find no free place, one takes another's. When more keys are in use than there are places, to
/// let go one that nobody else has touched for long costs more than the next recall saves.
const CROWDED_OUT: usize = 8;

/// A span of time in which no key in the cache changes or leaves. Its number is never used again, by no other cache
/// either.
///
/// Whoever changes the cache ends the generation after; whoever remembers a holder reads the generation before it looks
/// into the cache. If it read one that has ended since, what it remembers is never recalled. If it read a later one, it
/// saw the change too: the swap releases it, the load acquires it, and every swap in between carries it on. So once
/// [`Generation::end`] has returned, nobody is handed what was taken out of the cache before it was called.
// Alone in its cache line (and in the one that is fetched with it): every request reads it.
#[repr(align(128))]
pub(super) struct Generation(AtomicU64);

impl Generation {
    pub(super) fn new() -> Self {
        Self(AtomicU64::new(unused()))
    }

    pub(super) fn present(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// Ends the present generation, whichever that is.
    pub(super) fn end(&self) {
        self.0.swap(unused(), Ordering::AcqRel);
    }
}

fn unused() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The holder that this thread found in the cache in this generation.
pub(super) fn recall(generation: u64, tag: &Tag) -> Option<Arc<Holder>> {
    // There is nothing to be had from a thread that is ending.
    MEMO.try_with(|memo| memo.borrow_mut().recall(generation, tag)).ok().flatten()
}

/// Remembers a holder that was found in the cache after `generation` was read.
pub(super) fn remember(generation: u64, holder: &Arc<Holder>) {
    let _ = MEMO.try_with(|memo| memo.borrow_mut().remember(generation, holder));
}

thread_local! {
    static MEMO: RefCell<Memo> = const { RefCell::new(Memo { sets: Vec::new(), crowded: 0 }) };
}

struct Memo {
    /// None, or [`SETS`].
    sets: Vec<Set>,
    /// How many holders found no free place.
    crowded: usize,
}

/// One cache line.
#[derive(Default)]
#[repr(align(64))]
struct Set([Option<Place>; WAYS]);

struct Place {
    generation: u64,
    tag: Tag,
    recalls_left: u32,
    holder: Arc<Holder>,
}

impl Memo {
    fn recall(&mut self, generation: u64, tag: &Tag) -> Option<Arc<Holder>> {
        let set = self.sets.get_mut(set_of(tag))?;
        let place = set.0.iter_mut().flatten().find(|place| place.tag == *tag && place.generation == generation)?;
        place.recalls_left = place.recalls_left.checked_sub(1)?;
        Some(Arc::clone(&place.holder))
    }

    fn remember(&mut self, generation: u64, holder: &Arc<Holder>) {
        self.sets.resize_with(SETS, Set::default);
        let tag = holder.record().digest.tag();
        let set = &mut self.sets[set_of(&tag)].0;
        let own = set.iter().position(|place| place.as_ref().is_some_and(|place| place.tag == tag));
        let free = || set.iter().position(|place| place.as_ref().is_none_or(|place| place.generation != generation));
        let Some(way) = own.or_else(free).or_else(|| crowd_out(&mut self.crowded)) else { return };
        set[way] = Some(Place { generation, tag, recalls_left: RECALLS_MAX, holder: Arc::clone(holder) });
    }
}

fn crowd_out(crowded: &mut usize) -> Option<usize> {
    *crowded = crowded.wrapping_add(1);
    crowded.is_multiple_of(CROWDED_OUT).then_some(*crowded / CROWDED_OUT % WAYS)
}

/// Tags are random, and only those of keys get in: nobody can choose ones that meet in one set.
fn set_of(tag: &Tag) -> usize {
    u64::from_ne_bytes(*tag.as_bytes()) as usize % SETS
}
