//! In which order the contents of a layer were first read, for a while after a container started.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Reads that are remembered.
const ENTRIES_MAX: usize = 32 << 10;

/// A bounded memory of first reads. Costs nothing while nothing is recorded, and takes no lock while something is.
#[derive(Debug)]
pub struct Trace {
    epoch: Instant,
    /// Until when it records, milliseconds since the epoch.
    until: AtomicU64,
    next: AtomicUsize,
    /// Whether anything is recorded, as far as anybody has looked.
    recording: AtomicBool,
    /// Milliseconds since the epoch in the upper half, one more than the chunk in the lower one.
    entries: OnceLock<Box<[AtomicU64]>>,
}

impl Default for Trace {
    fn default() -> Trace {
        Trace {
            epoch: Instant::now(),
            until: AtomicU64::new(0),
            next: AtomicUsize::new(0),
            recording: AtomicBool::new(false),
            entries: OnceLock::new(),
        }
    }
}

impl Trace {
    /// Records for so long from now on, in a layer of so many chunks.
    pub fn record_for(&self, time: Duration, chunks: usize) {
        self.entries.get_or_init(|| (0..chunks.min(ENTRIES_MAX)).map(|_| AtomicU64::new(0)).collect());
        self.until.fetch_max((self.epoch.elapsed() + time).as_millis() as u64, Ordering::Relaxed);
        self.recording.store(true, Ordering::Relaxed);
    }

    /// Whether it is worth to note anything.
    pub fn recording(&self) -> bool {
        self.recording.load(Ordering::Relaxed)
    }

    /// Notes the first read of a chunk.
    pub fn note(&self, chunk: usize) {
        let Some(entries) = self.entries.get() else { return };
        let now = self.epoch.elapsed().as_millis() as u64;
        if now > self.until.load(Ordering::Relaxed) {
            self.recording.store(false, Ordering::Relaxed);
            return;
        }
        let at = self.next.fetch_add(1, Ordering::Relaxed);
        if let (Some(entry), Ok(chunk)) = (entries.get(at), u32::try_from(chunk)) {
            entry.store(now << 32 | u64::from(chunk.saturating_add(1)), Ordering::Relaxed);
        }
    }

    /// What was noted: when, and which chunk, in the order of time.
    pub fn entries(&self) -> Vec<(Instant, usize)> {
        let entries = self.entries.get().map_or(&[][..], |entries| entries);
        let taken = self.next.load(Ordering::Relaxed).min(entries.len());
        let noted = entries.iter().take(taken).map(|entry| entry.load(Ordering::Relaxed));
        // One that is being written at this moment comes next time.
        let mut noted: Vec<u64> = noted.filter(|entry| *entry != 0).collect();
        noted.sort_by_key(|entry| entry >> 32);
        noted
            .into_iter()
            .map(|entry| {
                (self.epoch + Duration::from_millis(entry >> 32), (entry & 0xffff_ffff) as usize - 1)
            })
            .collect()
    }

    /// How many there are, and whether more may come.
    pub fn state(&self) -> (usize, bool) {
        let open = self.epoch.elapsed().as_millis() as u64 <= self.until.load(Ordering::Relaxed);
        (self.next.load(Ordering::Relaxed).min(ENTRIES_MAX), open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_read_in_time_is_noted_in_order() {
        let trace = Trace::default();
        trace.note(1);
        assert!(trace.entries().is_empty());
        trace.record_for(Duration::from_secs(600), 3);
        [7, 0, 5, 9].into_iter().for_each(|chunk| trace.note(chunk));
        let chunks: Vec<_> = trace.entries().into_iter().map(|(_, chunk)| chunk).collect();
        assert_eq!(chunks, [7, 0, 5], "as many as there are chunks");
        assert!(trace.state().1);
    }
}
