//! What happened to layers, in numbers.
//!
//! Each layer counts for itself, with relaxed additions and nothing else on the way of a read. What a layer has counted
//! is kept in the totals of its root when it goes, so that totals never fall.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use metrics::{Counter, Gauge, Histogram, Snapshot};

use crate::error::Error;
use crate::fetch::Priority;

/// Why contents were asked for again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// No host could be reached, or none could answer.
    StoreAway,
    /// An answer ended early.
    BrokeOff,
    /// A connection went silent.
    Silent,
    /// A connection was much slower than others.
    Slow,
    /// Bytes did not have their digest.
    BadBytes,
}

impl Cause {
    /// All of them.
    pub const ALL: [Cause; 5] =
        [Cause::StoreAway, Cause::BrokeOff, Cause::Silent, Cause::Slow, Cause::BadBytes];

    /// For machines.
    pub fn name(self) -> &'static str {
        match self {
            Cause::StoreAway => "store_away",
            Cause::BrokeOff => "broke_off",
            Cause::Silent => "silent",
            Cause::Slow => "slow",
            Cause::BadBytes => "bad_bytes",
        }
    }
}

impl Priority {
    /// All of them.
    pub const ALL: [Priority; 3] = [Priority::Demand, Priority::Prefetch, Priority::Background];

    /// For machines.
    pub fn name(self) -> &'static str {
        match self {
            Priority::Demand => "demand",
            Priority::Prefetch => "prefetch",
            Priority::Background => "background",
        }
    }
}

/// A failure, and when it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// When.
    pub at: SystemTime,
    /// The error's whole text.
    pub text: String,
}

/// What happened to one layer in this process.
#[derive(Debug, Default)]
pub struct Tally {
    /// Reads answered from the image file, microseconds. A read that waited before is here as well when it is answered.
    pub local: Histogram,
    /// Waits of reads for contents that were missing, microseconds.
    pub remote: Histogram,
    /// Bytes that readers got.
    pub served: Counter,
    /// Reads that failed.
    pub failed: Counter,
    /// Bytes of the blob that arrived.
    pub fetched: Counter,
    /// Bytes of the blob that were asked for before anybody read them, because a start would need them.
    pub prefetched: Counter,
    /// Requests for contents.
    pub requests: Counter,
    /// Bytes of contents that somebody read.
    pub touched: Counter,
    /// Times that bytes did not have their digest.
    pub bad: Counter,
    retries: [Counter; Cause::ALL.len()],
    in_flight: [Gauge; Priority::ALL.len()],
    last_failure: Mutex<Option<Failure>>,
}

impl Tally {
    /// A read was answered from the image file.
    pub(crate) fn answered(&self, took: Duration, bytes: usize) {
        self.local.observe(took.as_micros() as u64);
        self.served.add(bytes as u64);
    }

    /// A read has waited for contents.
    pub(crate) fn waited(&self, took: Duration, failure: Option<&Error>) {
        self.remote.observe(took.as_micros() as u64);
        if let Some(error) = failure {
            self.failed.add(1);
            *self.failure() = Some(Failure { at: SystemTime::now(), text: error.to_string() });
        }
    }

    pub(crate) fn retry(&self, cause: Cause) {
        if let Some(counter) = self.retries.get(cause as usize) {
            counter.add(1);
        }
    }

    /// How often contents were asked for again for this cause.
    pub fn retries(&self, cause: Cause) -> u64 {
        self.retries.get(cause as usize).map_or(0, Counter::get)
    }

    /// Spans that are being fetched with this priority.
    pub fn in_flight(&self, priority: Priority) -> u64 {
        self.in_flight.get(priority as usize).map_or(0, Gauge::get)
    }

    fn failure(&self) -> MutexGuard<'_, Option<Failure>> {
        self.last_failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last read that failed.
    pub fn last_failure(&self) -> Option<Failure> {
        self.failure().clone()
    }
}

/// Counts spans as being fetched until it is dropped.
#[derive(Debug)]
pub(crate) struct Flying {
    tally: Arc<Tally>,
    priority: Priority,
    spans: u64,
}

impl Flying {
    pub(crate) fn new(tally: &Arc<Tally>, priority: Priority, spans: usize) -> Flying {
        let spans = spans as u64;
        if let Some(gauge) = tally.in_flight.get(priority as usize) {
            gauge.add(spans);
        }
        Flying { tally: tally.clone(), priority, spans }
    }
}

impl Drop for Flying {
    fn drop(&mut self) {
        if let Some(gauge) = self.tally.in_flight.get(self.priority as usize) {
            gauge.sub(self.spans);
        }
    }
}

/// Sums over all layers of a root, those that are gone included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// As [`Tally::local`].
    pub local: Snapshot,
    /// As [`Tally::remote`].
    pub remote: Snapshot,
    /// As [`Tally::served`].
    pub served: u64,
    /// As [`Tally::failed`].
    pub failed: u64,
    /// As [`Tally::fetched`].
    pub fetched: u64,
    /// As [`Tally::requests`].
    pub requests: u64,
    /// As [`Tally::touched`].
    pub touched: u64,
    /// As [`Tally::bad`].
    pub bad: u64,
    /// In the order of [`Cause::ALL`].
    pub retries: [u64; Cause::ALL.len()],
    /// In the order of [`Priority::ALL`].
    pub in_flight: [u64; Priority::ALL.len()],
}

impl Totals {
    fn take_in(&mut self, tally: &Tally) {
        self.local.absorb(&tally.local.snapshot());
        self.remote.absorb(&tally.remote.snapshot());
        self.served += tally.served.get();
        self.failed += tally.failed.get();
        self.fetched += tally.fetched.get();
        self.requests += tally.requests.get();
        self.touched += tally.touched.get();
        self.bad += tally.bad.get();
        self.retries.iter_mut().zip(&tally.retries).for_each(|(to, from)| *to += from.get());
        self.in_flight.iter_mut().zip(&tally.in_flight).for_each(|(to, from)| *to += from.get());
    }
}

/// The tallies of one root. The lock is for those who come, go or want sums; reads take none.
#[derive(Debug, Default)]
pub struct Tallies(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    live: Vec<Arc<Tally>>,
    gone: Totals,
}

impl Tallies {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A tally for a new layer.
    pub(crate) fn join(&self) -> Arc<Tally> {
        let tally = Arc::new(Tally::default());
        self.inner().live.push(tally.clone());
        tally
    }

    /// Keeps the sums of a layer that goes.
    pub(crate) fn leave(&self, tally: &Arc<Tally>) {
        let mut inner = self.inner();
        inner.live.retain(|other| !Arc::ptr_eq(other, tally));
        let in_flight = inner.gone.in_flight;
        inner.gone.take_in(tally);
        inner.gone.in_flight = in_flight;
    }

    /// Sums over all that ever joined.
    pub fn totals(&self) -> Totals {
        let inner = self.inner();
        let mut totals = inner.gone.clone();
        inner.live.iter().for_each(|tally| totals.take_in(tally));
        totals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_do_not_fall_when_a_layer_goes() {
        let tallies = Tallies::default();
        let (one, other) = (tallies.join(), tallies.join());
        one.answered(Duration::from_micros(3), 10);
        one.retry(Cause::Slow);
        other.waited(Duration::from_millis(1), None);
        let flying = Flying::new(&one, Priority::Prefetch, 7);
        assert_eq!(tallies.totals().in_flight, [0, 7, 0]);
        drop(flying);
        let before = tallies.totals();
        assert_eq!((before.served, before.retries, before.remote.count()), (10, [0, 0, 0, 1, 0], 1));
        tallies.leave(&one);
        assert_eq!(tallies.totals(), before);
        assert_eq!(tallies.inner().live.len(), 1);
    }
}
