//! Which of several targets a request goes to. Pure but for its randomness: knows positions and numbers alone.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};

use crate::settings::{Node, Value};

/// How requests are spread over the targets that are not left out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Balance {
    /// The first in the list; the others stand in for it.
    FirstAvailable,
    /// Of two that are drawn at random, the one with fewer requests in flight. Nearly as even as the least of all, and
    /// a target that is slow, or new, is not run over by all workers at once.
    LeastRequests,
}

impl Value for Balance {
    fn read(node: &Node<'_>) -> Option<Self> {
        match node.text()?.as_str() {
            "first_available" => Some(Self::FirstAvailable),
            "least_requests" => Some(Self::LeastRequests),
            _ => node.problem(format!("{} must be \"least_requests\" or \"first_available\"", node.path())),
        }
    }
}

/// A set of targets, by their positions, all below 64.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Positions(u64);

impl Positions {
    pub(super) fn insert(&mut self, position: usize) {
        self.0 |= 1 << position;
    }

    pub(super) fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    fn first(self) -> Option<usize> {
        (self.0 != 0).then(|| self.0.trailing_zeros() as usize)
    }

    /// Position number `number` of those in the set, which has more.
    fn nth(self, number: usize) -> usize {
        let mut rest = self.0;
        for _ in 0..number {
            // Takes the lowest bit away.
            rest &= rest.wrapping_sub(1);
        }
        rest.trailing_zeros() as usize
    }
}

impl FromIterator<usize> for Positions {
    fn from_iter<I: IntoIterator<Item = usize>>(positions: I) -> Self {
        let mut set = Self::default();
        positions.into_iter().for_each(|position| set.insert(position));
        set
    }
}

impl Balance {
    /// One of `positions`, by how many requests each has in flight; `None` when there are none.
    pub(super) fn pick(self, positions: Positions, in_flight: impl Fn(usize) -> u32) -> Option<usize> {
        let count = positions.len();
        if count < 2 || self == Self::FirstAvailable {
            return positions.first();
        }
        let random = random();
        let one = below(random, count);
        let other = (one + 1 + below(random.rotate_left(32), count - 1)) % count;
        let (one, other) = (positions.nth(one), positions.nth(other));
        // The first was drawn at random, so equals share.
        Some(if in_flight(other) < in_flight(one) { other } else { one })
    }
}

/// From the upper half of `random`, a number below `bound`.
fn below(random: u64, bound: usize) -> usize {
    let scaled = (random >> 32) * bound as u64;
    (scaled >> 32) as usize
}

thread_local! {
    static SEED: Cell<u64> = Cell::new(RandomState::new().hash_one(0_u8) | 1);
}

/// xorshift64*: nothing hangs on its being unpredictable.
fn random() -> u64 {
    SEED.with(|seed| {
        let mut next = seed.get();
        next ^= next >> 12;
        next ^= next << 25;
        next ^= next >> 27;
        seed.set(next);
        next.wrapping_mul(0x2545_F491_4F6C_DD1D)
    })
}

/// `span`, give or take a tenth: what begins together does not stay together.
pub(super) fn jittered(span: std::time::Duration) -> std::time::Duration {
    span.mul_f64(0.9 + 0.2 * (random() >> 11) as f64 / (1_u64 << 53) as f64)
}

#[cfg(test)]
mod tests {
    use super::{Balance, Positions};

    fn picks(balance: Balance, positions: &[usize], in_flight: fn(usize) -> u32) -> Vec<usize> {
        let set: Positions = positions.iter().copied().collect();
        let mut picked: Vec<usize> = (0..1_000).filter_map(|_| balance.pick(set, in_flight)).collect();
        picked.sort_unstable();
        picked.dedup();
        picked
    }

    #[test]
    fn equal_targets_are_all_picked_and_no_others() {
        assert_eq!(picks(Balance::LeastRequests, &[1, 5, 63], |_| 7), [1, 5, 63]);
        assert_eq!(picks(Balance::LeastRequests, &[4], |_| 7), [4]);
        assert_eq!(picks(Balance::LeastRequests, &[], |_| 7), [0_usize; 0]);
    }

    #[test]
    fn the_busiest_target_is_never_picked() {
        assert_eq!(picks(Balance::LeastRequests, &[0, 1, 2], |position| u32::from(position == 1)), [0, 2]);
    }

    #[test]
    fn the_first_of_the_list_is_always_picked() {
        assert_eq!(picks(Balance::FirstAvailable, &[3, 2, 9], |position| if position == 2 { 99 } else { 0 }), [2]);
    }
}
