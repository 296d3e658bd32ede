//! Counters and histograms, and their text for Prometheus.
//!
//! What is on a hot path is a relaxed atomic addition or two and nothing else. Names, labels and help live with whoever
//! writes the page: what counts does not know how it is called.
#![forbid(unsafe_code)]

mod histogram;
mod page;

use std::sync::atomic::{AtomicU64, Ordering};

pub use histogram::{Histogram, Snapshot};
pub use page::{CONTENT_TYPE, Family, Kind, Page, Value};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds.
    pub fn add(&self, number: u64) {
        self.0.fetch_add(number, Ordering::Relaxed);
    }

    /// What it is now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number of things that are there, which come and go.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Some come.
    pub fn add(&self, number: u64) {
        self.0.fetch_add(number, Ordering::Relaxed);
    }

    /// Some of those that came go.
    pub fn sub(&self, number: u64) {
        self.0.fetch_sub(number, Ordering::Relaxed);
    }

    /// How many there are.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
