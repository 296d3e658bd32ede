//! How far to read ahead of a miss.
//!
//! Two thoughts. *A round trip is worth the bytes that the link moves in it*: reading on for that long at most doubles
//! the time of a miss, and each later miss that it saves is a whole round trip saved. And *who reads on where the last
//! window ended will go on*: the window doubles for as long as that happens, so a sequential reader soon runs at the
//! speed of the link, and a random one never pays for more than a round trip.

use std::time::Duration;

/// What was seen of the way to the blob store. Plain data, updated after each answer.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// Time from a request to the first byte of its answer, smoothed.
    first_byte: Duration,
    /// Bytes each second while an answer arrives, smoothed.
    rate: f64,
}

impl Default for Link {
    /// A far registry over a good line, until it is known better.
    fn default() -> Link {
        Link { first_byte: Duration::from_millis(10), rate: 25e6 }
    }
}

/// Bodies smaller than this say more of latency and buffers than of the rate.
const RATE_SAMPLE_MIN: u64 = 96 << 10;
/// Weight of a new sample.
const WEIGHT: f64 = 0.25;
/// Smallest and largest first window, bytes of the blob.
const WINDOW_MIN: u64 = 128 << 10;
const WINDOW_FIRST_MAX: u64 = 1 << 20;
/// Where doubling ends: enough for 1 Gbit/s at 60 ms.
const WINDOW_MAX: u64 = 8 << 20;

impl Link {
    /// Notes one answer: when its first byte came, how long the rest took and how long it was.
    pub fn note(&mut self, first_byte: Duration, body: Duration, bytes: u64) {
        let smooth = |old: f64, new: f64| old + (new - old) * WEIGHT;
        self.first_byte = Duration::from_secs_f64(smooth(
            self.first_byte.as_secs_f64(),
            first_byte.as_secs_f64().min(10.0),
        ));
        if bytes >= RATE_SAMPLE_MIN && !body.is_zero() {
            self.rate = smooth(self.rate, (bytes as f64 / body.as_secs_f64()).min(10e9));
        }
    }

    /// The first window of a new stream, bytes of the blob.
    pub fn first_window(&self) -> u64 {
        let round_trip = self.first_byte.as_secs_f64() * self.rate;
        (round_trip as u64).clamp(WINDOW_MIN, WINDOW_FIRST_MAX)
    }
}

/// Places in the blob at which somebody seems to read on. Plain data.
#[derive(Debug, Default)]
pub struct Streams {
    /// Most recently used last.
    streams: Vec<Stream>,
}

#[derive(Clone, Copy, Debug)]
struct Stream {
    /// End of what was read ahead for it.
    end: u64,
    window: u64,
}

/// Threads of a container that read different files at once rarely are more.
const STREAMS_MAX: usize = 8;

impl Streams {
    /// A read missed at `start..end` of the blob. Returns up to where to read, at least `end`.
    pub fn miss(&mut self, start: u64, end: u64, link: &Link) -> u64 {
        let first = link.first_window();
        // On the window's end, or a little behind it: what lay between was there already.
        let continued =
            self.streams.iter().position(|s| s.end <= start && start - s.end <= s.window.max(first));
        let window = match continued {
            Some(index) => (self.streams.remove(index).window * 2).min(WINDOW_MAX),
            None => first,
        };
        if self.streams.len() == STREAMS_MAX {
            self.streams.remove(0);
        }
        let ahead = end.max(start.saturating_add(window));
        self.streams.push(Stream { end: ahead, window });
        ahead
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn far() -> Link {
        Link { first_byte: Duration::from_millis(20), rate: 25e6 }
    }

    #[test]
    fn the_first_window_is_what_the_link_moves_in_a_round_trip() {
        assert_eq!(far().first_window(), 500_000);
        let near = Link { first_byte: Duration::from_micros(300), rate: 300e6 };
        assert_eq!(near.first_window(), WINDOW_MIN);
        let satellite = Link { first_byte: Duration::from_millis(600), rate: 25e6 };
        assert_eq!(satellite.first_window(), WINDOW_FIRST_MAX);
    }

    #[test]
    fn a_sequential_reader_gets_a_doubling_window() {
        let (mut streams, link) = (Streams::default(), far());
        let mut at = 0;
        let mut windows = Vec::new();
        for _ in 0..7 {
            let next = streams.miss(at, at + 10, &link);
            windows.push(next - at);
            at = next;
        }
        assert_eq!(windows, [500_000, 1_000_000, 2_000_000, 4_000_000, 8_000_000, WINDOW_MAX, WINDOW_MAX]);
    }

    #[test]
    fn a_random_reader_never_gets_more_than_the_first_window() {
        let (mut streams, link) = (Streams::default(), far());
        for step in 0..100u64 {
            let at = (step * 37 % 100) * 50_000_000;
            assert_eq!(streams.miss(at, at + 10, &link) - at, 500_000);
        }
        assert!(streams.streams.len() <= STREAMS_MAX);
    }

    #[test]
    fn what_was_asked_for_is_always_in() {
        let mut streams = Streams::default();
        assert_eq!(streams.miss(0, 50 << 20, &far()), 50 << 20);
        assert_eq!(streams.miss(u64::MAX - 5, u64::MAX, &far()), u64::MAX);
    }

    #[test]
    fn the_link_follows_what_is_seen() {
        let mut link = far();
        for _ in 0..40 {
            link.note(Duration::from_millis(100), Duration::from_secs(1), 1_000_000);
        }
        assert!((90_000..=131_072).contains(&link.first_window()), "{}", link.first_window());
    }
}
