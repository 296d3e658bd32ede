//! What the daemon remembers of its own doings, within bounds.

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use format::Digest;
use metrics::{Counter, Histogram};

/// Refusals that are remembered, and the longest text of one, bytes.
const REFUSALS_MAX: usize = 256;
const REASON_MAX: usize = 2000;

/// A layer that was not mounted lazily, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// When it was last asked for.
    pub at: SystemTime,
    /// Of which image.
    pub image: String,
    /// Which layer.
    pub digest: String,
    /// Why not.
    pub reason: String,
    /// How often it was asked for.
    pub times: u64,
}

/// How long something took for one mount, milliseconds.
#[derive(Debug, Default)]
pub struct Mounted {
    /// To mount it.
    pub mount: Histogram,
}

/// The memory. All locks are short.
#[derive(Debug)]
pub struct Book {
    /// When the daemon began.
    pub started: Instant,
    /// Layers that were mounted lazily.
    pub mounted: Counter,
    /// Layers that were not.
    pub refused: Counter,
    /// How long prefetches took, milliseconds.
    pub prefetches: Histogram,
    refusals: Mutex<VecDeque<Refusal>>,
    mounts: Mutex<HashMap<PathBuf, Mounted>>,
    rates: Mutex<HashMap<Digest, Rate>>,
}

/// How fast a layer is fetched.
#[derive(Clone, Copy, Debug)]
struct Rate {
    at: Instant,
    fetched: u64,
    per_second: f64,
}

impl Default for Book {
    fn default() -> Book {
        Book {
            started: Instant::now(),
            mounted: Counter::default(),
            refused: Counter::default(),
            prefetches: Histogram::default(),
            refusals: Mutex::default(),
            mounts: Mutex::default(),
            rates: Mutex::default(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Book {
    /// A layer is mounted.
    pub fn note_mount(&self, path: &Path, took: Duration) {
        self.mounted.add(1);
        lock(&self.mounts).entry(path.to_owned()).or_default().mount.observe(took.as_millis() as u64);
    }

    /// It is not any more.
    pub fn note_unmount(&self, path: &Path) {
        lock(&self.mounts).remove(path);
    }

    /// A layer was not mounted lazily. The same reason for the same layer is one entry, however often.
    pub fn note_refusal(&self, image: &str, digest: &str, reason: &str) {
        self.refused.add(1);
        let mut reason = reason.to_owned();
        if let Some((end, _)) = reason.char_indices().find(|(at, _)| *at > REASON_MAX) {
            reason.truncate(end);
        }
        let mut refusals = lock(&self.refusals);
        let same = |old: &Refusal| old.image == image && old.digest == digest && old.reason == reason;
        let times =
            refusals.iter().position(same).and_then(|at| refusals.remove(at)).map_or(0, |old| old.times);
        if refusals.len() == REFUSALS_MAX {
            refusals.pop_front();
        }
        refusals.push_back(Refusal {
            at: SystemTime::now(),
            image: image.to_owned(),
            digest: digest.to_owned(),
            reason,
            times: times + 1,
        });
    }

    /// A layer that was refused is mounted after all.
    pub fn forgive(&self, image: &str, digest: &str) {
        lock(&self.refusals).retain(|old| old.image != image || old.digest != digest);
    }

    /// The refusals that are remembered, the last one first.
    pub fn refusals(&self) -> Vec<Refusal> {
        lock(&self.refusals).iter().rev().cloned().collect()
    }

    /// Does something with each mount's numbers.
    pub fn each_mount(&self, mut look: impl FnMut(&Path, &Mounted)) {
        lock(&self.mounts).iter().for_each(|(path, mounted)| look(path, mounted));
    }

    /// Notes how much was fetched of layers until now; others are forgotten.
    pub fn sample(&self, layers: impl Iterator<Item = (Digest, u64)>, now: Instant) {
        let mut rates = lock(&self.rates);
        let mut seen = HashSet::new();
        for (digest, fetched) in layers {
            seen.insert(digest);
            let rate = rates.entry(digest).or_insert(Rate { at: now, fetched, per_second: 0.0 });
            let passed = now.duration_since(rate.at).as_secs_f64();
            if passed > 0.0 {
                *rate = Rate {
                    at: now,
                    fetched,
                    per_second: fetched.saturating_sub(rate.fetched) as f64 / passed,
                };
            }
        }
        rates.retain(|digest, _| seen.contains(digest));
    }

    /// Bytes of a layer's blob that arrived in a second, as of the last two samples.
    pub fn rate(&self, digest: &Digest) -> f64 {
        lock(&self.rates).get(digest).map_or(0.0, |rate| rate.per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_bounded_and_counted() {
        let book = Book::default();
        for number in 0..REFUSALS_MAX + 10 {
            book.note_refusal("a", &number.to_string(), "no table of contents");
        }
        book.note_refusal("a", "200", "no table of contents");
        let refusals = book.refusals();
        assert_eq!(
            (refusals.len(), refusals[0].digest.as_str(), refusals[0].times),
            (REFUSALS_MAX, "200", 2)
        );
        book.forgive("a", "200");
        assert_eq!(book.refusals().len(), REFUSALS_MAX - 1);
        book.note_refusal("a", "x", &"ä".repeat(5000));
        assert!(book.refusals()[0].reason.len() < REASON_MAX + 4);
    }

    #[test]
    fn a_rate_is_of_the_last_two_samples() {
        let (book, begin, layer) = (Book::default(), Instant::now(), Digest::of(b"x"));
        book.sample([(layer, 100)].into_iter(), begin);
        book.sample([(layer, 300)].into_iter(), begin + Duration::from_secs(2));
        assert_eq!(book.rate(&layer), 100.0);
        book.sample(std::iter::empty(), begin + Duration::from_secs(3));
        assert_eq!(book.rate(&layer), 0.0);
    }
}
