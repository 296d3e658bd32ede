//! What all engines of one root share: who is served first, and what is known of the ways to the blob stores.
//!
//! Priorities are strict. *Demand* is a thread that is blocked on a read; *prefetch* is what a start waits for;
//! *background* is the rest. Background stops reading, in the middle of an answer, as soon as a demand comes up
//! anywhere, and goes on when all has been quiet for a moment. Prefetch gives way as well, but not for long: somebody
//! waits for it, too.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::link::Link;

/// Who waits for a fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// A thread is blocked on it.
    Demand,
    /// A start waits for it, or a reader that reads everything will come to it soon.
    Prefetch,
    /// Nobody yet.
    Background,
}

/// How long nothing may have been demanded before the background goes on.
const QUIET: Duration = Duration::from_millis(500);
/// How long a prefetch gives way at a time.
const GIVE_WAY: Duration = Duration::from_millis(250);
/// A start is a phase of demands that come one after the other; this long after it began the background keeps still.
const START: Duration = Duration::from_secs(3);
/// Looked at this often while giving way.
const TICK: Duration = Duration::from_millis(25);
/// No node talks to more stores than this at a time; beyond it the table starts over.
const PLACES_MAX: usize = 64;

/// Shared by all engines of one root. The locks are short and never held over an await.
#[derive(Debug)]
pub struct Traffic {
    epoch: Instant,
    /// Demands that wait now.
    demands: AtomicUsize,
    /// Until when the background keeps still, milliseconds since the epoch.
    still_until: AtomicU64,
    links: Mutex<HashMap<String, Arc<Mutex<Link>>>>,
}

impl Default for Traffic {
    fn default() -> Traffic {
        Traffic {
            epoch: Instant::now(),
            demands: AtomicUsize::new(0),
            still_until: AtomicU64::new(0),
            links: Mutex::default(),
        }
    }
}

impl Traffic {
    /// What is known of the way to this store.
    pub fn link(&self, place: &str) -> Arc<Mutex<Link>> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = links.get(place) {
            return link.clone();
        }
        if links.len() == PLACES_MAX {
            links.clear();
        }
        links.entry(place.to_owned()).or_default().clone()
    }

    /// Counts as a demand until the guard is dropped.
    pub fn demand(self: &Arc<Self>) -> Demand {
        self.demands.fetch_add(1, Ordering::AcqRel);
        Demand(self.clone())
    }

    /// A container is about to start: the background keeps still for a while.
    pub fn starting(&self) {
        self.still_for(START);
    }

    fn still_for(&self, time: Duration) {
        let until = (self.epoch.elapsed() + time).as_millis() as u64;
        self.still_until.fetch_max(until, Ordering::AcqRel);
    }

    /// Whether the background may work.
    pub fn quiet(&self) -> bool {
        self.demands.load(Ordering::Acquire) == 0
            && self.epoch.elapsed().as_millis() as u64 >= self.still_until.load(Ordering::Acquire)
    }

    /// Waits for as long as a fetch of this priority has to give way. `promoted` ends the wait: somebody who goes first
    /// has begun to wait for this very fetch.
    pub async fn give_way(&self, priority: Priority, promoted: impl Fn() -> bool) {
        let begun = Instant::now();
        loop {
            let go = promoted()
                || match priority {
                    Priority::Demand => true,
                    Priority::Prefetch => {
                        self.demands.load(Ordering::Acquire) == 0 || begun.elapsed() >= GIVE_WAY
                    }
                    Priority::Background => self.quiet(),
                };
            if go {
                return;
            }
            tokio::time::sleep(TICK).await;
        }
    }
}

/// A demand that waits.
#[derive(Debug)]
pub struct Demand(Arc<Traffic>);

impl Drop for Demand {
    fn drop(&mut self) {
        self.0.still_for(QUIET);
        self.0.demands.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn background_waits_for_quiet_and_prefetch_only_a_moment() {
        let traffic = Arc::new(Traffic::default());
        let demand = traffic.demand();
        traffic.give_way(Priority::Demand, || false).await;
        assert!(!traffic.quiet());
        let waiting = tokio::time::timeout(QUIET * 2, traffic.give_way(Priority::Background, || false));
        assert!(waiting.await.is_err(), "a demand is on");
        traffic.give_way(Priority::Background, || true).await;
        drop(demand);
        assert!(!traffic.quiet(), "the next demand may follow at once");
    }

    #[tokio::test]
    async fn background_goes_on_after_a_while() {
        let traffic = Arc::new(Traffic::default());
        drop(traffic.demand());
        let begun = Instant::now();
        traffic.give_way(Priority::Background, || false).await;
        assert!(begun.elapsed() >= QUIET);
        assert!(traffic.quiet());
    }

    #[test]
    fn the_table_of_places_is_bounded() {
        let traffic = Traffic::default();
        for number in 0..1000 {
            traffic.link(&number.to_string());
        }
        assert!(traffic.links.lock().unwrap().len() <= PLACES_MAX);
    }
}
