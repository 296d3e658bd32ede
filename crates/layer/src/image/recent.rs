//! What of a layer was in use a short time ago, as far as this program sees it.
//!
//! Reads that the kernel answers from its page cache are not seen here. What is read that way looks cold, and can lose
//! its place on disk without anybody noticing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Two bits for each chunk, as a clock with two hands: *young* chunks were used since the last aging, *old* ones between
/// the last two. Takes no lock on the read path.
#[derive(Debug)]
pub(crate) struct Recent {
    young: Box<[AtomicU64]>,
    old: Box<[AtomicU64]>,
    aged: Mutex<Instant>,
    /// When anything was used last, seconds since 1970; 0 for never.
    last: AtomicU64,
}

/// What was used is recent for at least this long. A chunk that was just fetched for somebody has to stay until it is
/// read.
const SHORTEST: Duration = Duration::from_secs(2);

impl Recent {
    pub(super) fn new(count: usize) -> Recent {
        let words = || (0..count.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Recent { young: words(), old: words(), aged: Mutex::new(Instant::now()), last: AtomicU64::new(0) }
    }

    /// Notes a use.
    pub(crate) fn touch(&self, chunks: std::ops::Range<usize>) {
        let now = seconds_now();
        // Mostly the same second and the same bit: reading them first keeps the cache line shared.
        if self.last.load(Ordering::Relaxed) != now {
            self.last.store(now, Ordering::Relaxed);
        }
        for chunk in chunks {
            let Some(word) = self.young.get(chunk / 64) else { return };
            let bit = 1 << (chunk % 64);
            if word.load(Ordering::Relaxed) & bit == 0 {
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
    }

    /// Whether the chunk was used since the last aging but one.
    pub(crate) fn get(&self, chunk: usize) -> bool {
        let has = |words: &[AtomicU64]| {
            words.get(chunk / 64).is_some_and(|word| word.load(Ordering::Relaxed) >> (chunk % 64) & 1 == 1)
        };
        has(&self.young) || has(&self.old)
    }

    /// Makes what is young old, and forgets what was old. Does nothing if that happened a moment ago.
    pub(crate) fn age(&self) -> bool {
        let mut aged = self.aged.lock().unwrap_or_else(PoisonError::into_inner);
        if aged.elapsed() < SHORTEST {
            return false;
        }
        *aged = Instant::now();
        for (young, old) in self.young.iter().zip(&self.old) {
            old.store(young.swap(0, Ordering::Relaxed), Ordering::Relaxed);
        }
        true
    }

    /// When anything was used last, seconds since 1970; 0 for never.
    pub(crate) fn last(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(crate) fn age_at_once(&self) {
        *self.aged.lock().unwrap() = Instant::now() - SHORTEST;
        assert!(self.age());
    }
}

/// Seconds since 1970. A clock before that counts as 1970.
pub(crate) fn seconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_use_is_forgotten_after_two_agings_and_not_before() {
        let recent = Recent::new(100);
        recent.touch(64..66);
        assert!(recent.last() > 0);
        recent.age_at_once();
        assert!(recent.get(64) && recent.get(65) && !recent.get(66));
        assert!(!recent.age(), "twice in a moment would forget what is in use");
        recent.touch(65..66);
        recent.age_at_once();
        assert!(!recent.get(64) && recent.get(65));
        recent.touch(99..200);
        assert!(recent.get(99) && !recent.get(200));
    }
}
