//! How much of the disk layers may take, and what goes when that is too much.
//!
//! First go layers that nobody holds, as a whole, least recently used first. Then chunks are punched out of layers that
//! are being read through us: not recently used ones, from the layers whose last read is longest ago, and in each from
//! the end of the data area. A layer that the kernel reads without us is never touched, and what was in use a moment ago
//! neither, even if that is more than the budget.
//!
//! Nothing of this happens on the path of a read. The flusher looks after the budget while layers are being filled.

mod ledger;
mod make_room;
mod punch;
mod room;
mod survey;
mod verify;

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use format::Digest;

pub(crate) use ledger::{Entry, Ledger};
pub use survey::{OnDisk, Survey, survey};
pub(crate) use survey::{digests, dir_of};
pub use verify::{Verified, verify};

pub use crate::image::Taken;

/// How much of the disk layers may take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CacheBudget {
    /// Allocated bytes of all layers together. With a limit, layers that nobody uses stay on disk until it is reached;
    /// without one, whoever owns the layers removes them when they are not used any more.
    ///
    /// What is in use is not given up for it. While layers are being filled it is looked after twice a second, and can
    /// be exceeded by what arrives in that time.
    pub max_bytes: Option<u64>,
    /// Room is made when layers take more than this part of `max_bytes`, above 0, up to 1.
    pub high: f64,
    /// Room is made until layers take less than this part of it, up to `high`. The background fills no further.
    pub low: f64,
    /// Bytes of the file system to leave free for others: the background stops to fill before, and with `max_bytes`
    /// room is made. Never more than a twentieth of the file system.
    pub min_free: u64,
}

impl Default for CacheBudget {
    fn default() -> CacheBudget {
        CacheBudget { max_bytes: None, high: 0.9, low: 0.8, min_free: 64 << 20 }
    }
}

impl CacheBudget {
    /// Bytes above which room is made.
    fn high_bytes(&self) -> u64 {
        self.part(self.high)
    }

    /// Bytes down to which room is made.
    fn low_bytes(&self) -> u64 {
        self.part(self.low.min(self.high))
    }

    fn part(&self, part: f64) -> u64 {
        let part = if part > 0.0 && part <= 1.0 { part } else { 1.0 };
        self.max_bytes.map_or(u64::MAX, |max| (max as f64 * part) as u64)
    }
}

/// How much may be filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes until something has to go for what comes.
    pub free: u64,
    /// Nothing should be fetched that nobody waits for.
    pub low: bool,
}

/// What layers take on disk.
#[derive(Clone, Debug)]
pub struct Usage {
    /// All of them together.
    pub total: Taken,
    /// Each layer, least recently used first.
    pub layers: Vec<LayerUsage>,
}

/// What one layer takes on disk.
#[derive(Clone, Debug)]
pub struct LayerUsage {
    /// Digest of the layer's blob.
    pub digest: Digest,
    /// What it takes.
    pub taken: Taken,
    /// When it was used last.
    pub used: SystemTime,
    /// Whether somebody holds it.
    pub held: bool,
}

/// What was given up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Layers that were removed.
    pub layers: u64,
    /// Bytes that became free by that, and by holes.
    pub bytes: u64,
}

/// Which layers to give up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prune {
    /// Stop when all layers together take no more than this, bytes.
    pub keep: u64,
    /// Give up contents of layers in use as well, as far as nobody used them a moment ago.
    pub contents: bool,
    /// Leave these alone, whether somebody holds them or not.
    pub spare: Vec<Digest>,
    /// Only say what would be given up: whole layers are counted, contents of others are not.
    pub dry_run: bool,
}

/// The budget and the books. One short lock, and one that is held while room is made.
#[derive(Debug)]
pub(crate) struct Cache {
    pub budget: CacheBudget,
    root: PathBuf,
    ledger: Mutex<Ledger>,
    making: tokio::sync::Mutex<()>,
}

impl Cache {
    pub fn new(root: PathBuf, budget: CacheBudget) -> Cache {
        Cache { budget, root, ledger: Mutex::default(), making: tokio::sync::Mutex::default() }
    }

    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // Entries are changed one at a time.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watermarks_out_of_range_mean_all_of_the_budget() {
        let budget = |high, low| CacheBudget { max_bytes: Some(1000), high, low, min_free: 0 };
        assert_eq!((budget(0.9, 0.8).high_bytes(), budget(0.9, 0.8).low_bytes()), (900, 800));
        assert_eq!((budget(0.5, 0.8).high_bytes(), budget(0.5, 0.8).low_bytes()), (500, 500));
        assert_eq!((budget(f64::NAN, 2.0).high_bytes(), budget(-1.0, 0.0).low_bytes()), (1000, 1000));
        assert_eq!(CacheBudget::default().high_bytes(), u64::MAX);
    }
}
