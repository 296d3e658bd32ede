//! Values that are fetched once for everyone who asks at the same time, and kept for a short time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::Result;

/// Values kept at most, unless more are being fetched at once.
const MAX_VALUES: usize = 128;

/// A cache of results by name.
#[derive(Debug)]
pub(crate) struct Kept<V> {
    ttl: Duration,
    slots: Mutex<HashMap<String, Arc<Slot<V>>>>,
}

/// Its lock is held while the value is fetched. One who is cancelled lets the next one fetch.
type Slot<V> = tokio::sync::Mutex<Option<(Instant, Result<V>)>>;

impl<V: Clone> Kept<V> {
    pub fn new(ttl: Duration) -> Kept<V> {
        Kept { ttl, slots: Mutex::default() }
    }

    /// The value of `name`: the one that is kept, or else what `fetch` gives. A failure is only given to those
    /// who waited for it.
    pub async fn get(&self, name: &str, fetch: impl Future<Output = Result<V>>) -> Result<V> {
        let asked = Instant::now();
        let slot = self.slot(name);
        let mut kept = slot.lock().await;
        if let Some((at, result)) = kept.as_ref()
            && (*at >= asked || (result.is_ok() && at.elapsed() < self.ttl))
        {
            return result.clone();
        }
        let result = fetch.await;
        *kept = Some((Instant::now(), result.clone()));
        result
    }

    fn slot(&self, name: &str) -> Arc<Slot<V>> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get(name) {
            return Arc::clone(slot);
        }
        if slots.len() >= MAX_VALUES {
            let ttl = self.ttl;
            slots.retain(|_, slot| Arc::strong_count(slot) > 1 || is_fresh(slot, ttl));
        }
        if slots.len() >= MAX_VALUES {
            slots.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        Arc::clone(slots.entry(name.to_owned()).or_default())
    }
}

fn is_fresh<V>(slot: &Slot<V>, ttl: Duration) -> bool {
    slot.try_lock().is_ok_and(|kept| kept.as_ref().is_some_and(|(at, _)| at.elapsed() < ttl))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::error::{Error, Kind};

    #[tokio::test]
    async fn values_are_fetched_once_and_expire() {
        let kept = Kept::new(Duration::from_millis(40));
        let count = AtomicUsize::new(0);
        let fetch = || async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            Ok(count.fetch_add(1, Ordering::Relaxed))
        };
        let (a, b, c) = tokio::join!(kept.get("a", fetch()), kept.get("a", fetch()), kept.get("b", fetch()));
        let (a, b, c) = (a.unwrap(), b.unwrap(), c.unwrap());
        assert!(a == b && a != c && count.load(Ordering::Relaxed) == 2);
        assert_eq!(kept.get("a", fetch()).await.unwrap(), a);
        tokio::time::sleep(Duration::from_millis(45)).await;
        assert_eq!(kept.get("a", fetch()).await.unwrap(), 2);
    }

    #[tokio::test]
    async fn failures_are_shared_but_not_kept() {
        let kept: Kept<()> = Kept::new(Duration::from_secs(60));
        let count = AtomicUsize::new(0);
        let fetch = || async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            count.fetch_add(1, Ordering::Relaxed);
            Err(Error::new(Kind::Network, "down"))
        };
        let (a, b) = tokio::join!(kept.get("a", fetch()), kept.get("a", fetch()));
        assert!(a.is_err() && b.is_err());
        assert_eq!(count.load(Ordering::Relaxed), 1);
        kept.get("a", fetch()).await.unwrap_err();
        assert_eq!(count.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn the_number_of_values_is_bounded() {
        let kept = Kept::new(Duration::from_secs(60));
        for i in 0..3 * MAX_VALUES {
            kept.get(&i.to_string(), async { Ok(i) }).await.unwrap();
        }
        assert!(kept.slots.lock().unwrap().len() <= MAX_VALUES);
    }
}
