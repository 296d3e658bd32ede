//! How much room there is, by the budget and on the file system.

use super::{Cache, Room};
use crate::image::ImageFiles;

/// No more than one part in so many of the file system is kept free or asked for at once.
const PART_MAX: u64 = 20;

/// What the file system has, bytes.
#[derive(Clone, Copy, Debug)]
struct Space {
    total: u64,
    available: u64,
}

impl Space {
    /// Never more than a small part of it.
    fn part(&self, bytes: u64) -> u64 {
        bytes.min(self.total / PART_MAX)
    }
}

impl Cache {
    /// Notes what a layer takes now, if it is still there.
    pub fn measure(&self, files: &ImageFiles) {
        match files.taken() {
            Ok(taken) => self.ledger().update(&files.meta.digest, taken, files.recent.last()),
            Err(error) => {
                tracing::debug!(layer = %files.meta.digest, %error, "what a layer takes on disk is not known");
            }
        }
    }

    /// Whether a layer should not be filled any further with what nobody waits for.
    pub fn short_for(&self, files: &ImageFiles) -> bool {
        self.measure(files);
        self.room().low
    }

    /// How much may be filled.
    pub fn room(&self) -> Room {
        let (budget, space) = (&self.budget, self.space());
        let taken = self.ledger().total().bytes;
        let min_free = space.part(budget.min_free);
        let spare = space.available.saturating_sub(min_free);
        let free = budget.high_bytes().saturating_sub(taken).min(spare);
        Room { free, low: taken >= budget.low_bytes() || spare <= min_free }
    }

    /// Bytes that have to go, if any have to.
    pub fn too_much(&self) -> Option<u64> {
        let (budget, space) = (&self.budget, self.space());
        let taken = self.ledger().total().bytes;
        let over = if taken > budget.high_bytes() { taken - budget.low_bytes() } else { 0 };
        // Without a budget, what is on disk is in use, and others take what would be made free.
        let short = match budget.max_bytes {
            Some(_) => space.part(budget.min_free).saturating_sub(space.available),
            None => 0,
        };
        Some(over.max(short)).filter(|&bytes| bytes > 0)
    }

    /// So many bytes, but no more than a small part of the file system.
    pub fn part_of_disk(&self, bytes: u64) -> u64 {
        self.space().part(bytes)
    }

    fn space(&self) -> Space {
        match rustix::fs::statvfs(&self.root) {
            Ok(found) => Space {
                total: found.f_blocks.saturating_mul(found.f_frsize),
                available: found.f_bavail.saturating_mul(found.f_frsize),
            },
            // A root that can't be asked is not full until a write says so.
            Err(_) => Space { total: u64::MAX, available: u64::MAX },
        }
    }
}
