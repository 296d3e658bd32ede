//! How often something took how long.

use std::sync::atomic::{AtomicU64, Ordering};

/// Buckets by powers of two: 1, 2, 4 … 2^24 (of a unit of the caller's choice), and what is above.
const BUCKETS: usize = 26;

/// A histogram of whole numbers, mostly microseconds or milliseconds.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum: AtomicU64,
}

/// What a histogram holds at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    buckets: [u64; BUCKETS],
    sum: u64,
}

impl Histogram {
    /// Counts one observation: two relaxed additions.
    pub fn observe(&self, value: u64) {
        // The first power of two that is not less than the value.
        let bucket = (u64::BITS - value.saturating_sub(1).leading_zeros()) as usize;
        if let Some(count) = self.buckets.get(bucket.min(BUCKETS - 1)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// What it holds now. Observations of the same moment may be in the buckets and not yet in the sum.
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot { sum: self.sum.load(Ordering::Relaxed), ..Snapshot::default() };
        for (to, from) in snapshot.buckets.iter_mut().zip(&self.buckets) {
            *to = from.load(Ordering::Relaxed);
        }
        snapshot
    }
}

impl Snapshot {
    /// Takes the observations of another one in.
    pub fn absorb(&mut self, other: &Snapshot) {
        for (to, from) in self.buckets.iter_mut().zip(&other.buckets) {
            *to += from;
        }
        self.sum += other.sum;
    }

    /// All observations.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Their sum.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// Bounds (2^`from` to 2^`to`, both included) and how many observations are not above each.
    pub fn cumulative(&self, from: u32, to: u32) -> impl Iterator<Item = (u64, u64)> + '_ {
        let upto = |power: u32| self.buckets.iter().take(power as usize + 1).sum();
        (from..=to.min(BUCKETS as u32 - 2)).map(move |power| (1 << power, upto(power)))
    }

    /// A bound that this part (0 to 1) of the observations does not exceed; `None` without any.
    pub fn quantile(&self, part: f64) -> Option<u64> {
        let rank = (self.count() as f64 * part).ceil() as u64;
        if rank == 0 {
            return None;
        }
        let found = self.cumulative(0, BUCKETS as u32).find(|(_, count)| *count >= rank);
        Some(found.map_or(1 << (BUCKETS - 1), |(bound, _)| bound))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let histogram = Histogram::default();
        [0, 1, 2, 3, 4, 1 << 24, (1 << 24) + 1, u64::MAX / 2]
            .into_iter()
            .for_each(|value| histogram.observe(value));
        let snapshot = histogram.snapshot();
        let found: Vec<_> = snapshot.cumulative(0, 2).collect();
        assert_eq!(found, [(1, 2), (2, 3), (4, 5)]);
        assert_eq!(snapshot.cumulative(24, 99).collect::<Vec<_>>(), [(1 << 24, 6)]);
        assert_eq!(snapshot.count(), 8);
    }

    #[test]
    fn quantiles_are_bounds_of_buckets() {
        let mut all = Snapshot::default();
        assert_eq!(all.quantile(0.5), None);
        let histogram = Histogram::default();
        (1..=100).for_each(|value| histogram.observe(value));
        all.absorb(&histogram.snapshot());
        all.absorb(&histogram.snapshot());
        assert_eq!(
            (all.count(), all.sum(), all.quantile(0.5), all.quantile(0.99)),
            (200, 10100, Some(64), Some(128))
        );
    }
}
