//! How much of what costs us more than its sender may come: so many at once, and so many a second after that.

use std::time::{Duration, Instant};

use crate::settings::Rate;

#[derive(Debug)]
pub struct Allowance {
    rate: Rate,
    left: u32,
    filled: Instant,
}

const BURST: Duration = Duration::from_secs(10);

impl Allowance {
    pub fn new(rate: Rate, now: Instant) -> Self {
        let mut allowance = Self { rate, left: 0, filled: now };
        allowance.left = allowance.most();
        allowance
    }

    /// Takes one; `false` when none is left. The clock is read only when what was there at once is used up.
    pub fn take(&mut self, now: impl FnOnce() -> Instant) -> bool {
        if self.left == 0 {
            let now = now();
            self.left = self.worth(now.saturating_duration_since(self.filled)).min(self.most());
            if self.left == 0 {
                return false;
            }
            self.filled = now;
        }
        self.left -= 1;
        true
    }

    /// So many more are explained by what this side did.
    pub fn grant(&mut self, more: u32) {
        self.left = self.left.saturating_add(more).min(self.most());
    }

    fn most(&self) -> u32 {
        self.worth(BURST).max(1)
    }

    fn worth(&self, time: Duration) -> u32 {
        let count = time.as_nanos() * u128::from(self.rate.count.get()) / self.rate.per.as_nanos().max(1);
        u32::try_from(count).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_is_followed_by_the_rate() {
        let start = Instant::now();
        let mut allowance = Allowance::new(Rate::per_second(2).unwrap(), start);
        let mut taken = |at: u64| (0..1_000).take_while(|_| allowance.take(|| start + Duration::from_secs(at))).count();
        assert_eq!(taken(0), 20);
        assert_eq!(taken(3), 6);
        assert_eq!(taken(3), 0);
        assert_eq!(taken(1_000), 20);
    }

    #[test]
    fn grants_add_up_to_no_more_than_a_burst() {
        let start = Instant::now();
        let mut allowance = Allowance::new(Rate::per_second(1).unwrap(), start);
        for _ in 0..100 {
            allowance.grant(7);
        }
        assert_eq!((0..1_000).take_while(|_| allowance.take(|| start)).count(), 10);
    }
}
