//! What was seen of the way to a blob store.

use std::time::{Duration, Instant};

/// Latency and rate of a way, and how many connections it takes to fill it. Plain data, updated after each answer.
#[derive(Clone, Debug)]
pub struct Link {
    /// Time from a request to the first byte of its answer, smoothed.
    first_byte: Duration,
    /// Bytes each second that one of `n` connections brings when `n` are busy: index `n - 1`.
    lanes: [Option<Lane>; LANES_MAX],
    /// Connections that are busy with a long answer now.
    busy: usize,
    /// The store answers several ranges at once.
    pub many_ranges: bool,
}

#[derive(Clone, Copy, Debug)]
struct Lane {
    rate: f64,
    seen: Instant,
}

/// More connections than this to one store for one layer are not polite.
const LANES_MAX: usize = 4;
/// A far registry over a good line, until it is known better.
const FIRST_BYTE: Duration = Duration::from_millis(10);
const RATE: f64 = 25e6;
/// Bodies smaller than this say more of latency and buffers than of the rate.
const RATE_SAMPLE_MIN: u64 = 96 << 10;
/// Bodies of at least this size are worth a look at how many connections are best.
const LONG: u64 = 1 << 20;
/// Weight of a new sample.
const WEIGHT: f64 = 0.25;
/// The same for times to the first byte that are shorter, or longer, than those before.
const WEIGHT_SHORTER: f64 = 0.5;
const WEIGHT_LONGER: f64 = 0.05;
/// Another connection has to bring at least this much more.
const WORTH: f64 = 1.15;
/// What was learned of a number of connections is tried again after this.
const STALE: Duration = Duration::from_secs(30);

impl Default for Link {
    fn default() -> Link {
        Link { first_byte: FIRST_BYTE, lanes: [None; LANES_MAX], busy: 0, many_ranges: true }
    }
}

/// A connection that is busy. Give it back with [`Link::note`] or [`Link::leave`].
#[derive(Debug)]
pub struct Busy {
    others: usize,
}

impl Link {
    /// Notes that a long answer begins.
    pub fn enter(&mut self) -> Busy {
        self.busy += 1;
        Busy { others: self.busy }
    }

    /// Notes that an answer ended early.
    pub fn leave(&mut self, _: Busy) {
        self.busy = self.busy.saturating_sub(1);
    }

    /// Notes one answer: when its first byte came, how long the rest took (without what the reader itself held up) and
    /// how long it was.
    pub fn note(&mut self, busy: Busy, first_byte: Duration, body: Duration, bytes: u64) {
        let smooth = |old: f64, new: f64| old + (new - old) * WEIGHT;
        let lanes = self.busy.min(busy.others).clamp(1, LANES_MAX);
        self.leave(busy);
        // What a request waits behind other answers is no property of the way: shorter times are believed sooner.
        let (old, new) = (self.first_byte.as_secs_f64(), first_byte.as_secs_f64().min(10.0));
        let weight = if new < old { WEIGHT_SHORTER } else { WEIGHT_LONGER };
        self.first_byte = Duration::from_secs_f64(old + (new - old) * weight);
        if bytes < RATE_SAMPLE_MIN || body.is_zero() {
            return;
        }
        let rate = (bytes as f64 / body.as_secs_f64()).min(10e9);
        let now = Instant::now();
        // Short bodies end before the connections have shared the line for long.
        if lanes > 1 && bytes < LONG {
            return;
        }
        match &mut self.lanes[lanes - 1] {
            Some(lane) if now.duration_since(lane.seen) < STALE => {
                *lane = Lane { rate: smooth(lane.rate, rate), seen: now };
            }
            lane => *lane = Some(Lane { rate, seen: now }),
        }
    }

    fn together(&self, lanes: usize) -> Option<f64> {
        let lane = self.lanes.get(lanes - 1)?.as_ref()?;
        (lane.seen.elapsed() < STALE).then_some(lane.rate * lanes as f64)
    }

    /// How many connections to use for a long read: as many as still make it faster, and now and then one more.
    pub fn best_lanes(&self) -> usize {
        let mut best = 1;
        while best < LANES_MAX {
            match (self.together(best), self.together(best + 1)) {
                (Some(now), Some(more)) if more < now * WORTH => break,
                (Some(_), Some(_)) => best += 1,
                (Some(_), None) => return best + 1,
                (None, _) => break,
            }
        }
        best
    }

    /// Bytes each second over all connections.
    pub fn rate(&self) -> f64 {
        let seen = (1..=LANES_MAX).filter_map(|lanes| self.together(lanes)).fold(0.0, f64::max);
        if seen > 0.0 { seen } else { RATE }
    }

    /// Bytes each second that a connection brings while as many are busy as now.
    pub fn lane_rate(&self) -> f64 {
        self.rate() / self.busy.max(1) as f64
    }

    /// Time from a request to the first byte of its answer.
    pub fn first_byte(&self) -> Duration {
        self.first_byte
    }

    /// What one connection brings while a request goes there and back, bytes: a request that saves another one may cost
    /// this much without taking longer.
    pub fn round_trip(&self) -> u64 {
        let rate = self.together(1).unwrap_or(RATE);
        (self.first_byte.as_secs_f64() * rate) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(link: &mut Link, others: usize, first_byte_ms: u64, bytes: u64, rate: f64) {
        let mut busy: Vec<Busy> = (0..=others).map(|_| link.enter()).collect();
        let mine = busy.pop().unwrap();
        let body = Duration::from_secs_f64(bytes as f64 / rate);
        link.note(mine, Duration::from_millis(first_byte_ms), body, bytes);
        busy.into_iter().for_each(|busy| link.leave(busy));
    }

    #[test]
    fn follows_what_is_seen() {
        let mut link = Link::default();
        for _ in 0..100 {
            note(&mut link, 0, 100, 1 << 20, 1e6);
        }
        assert!((90_000..=110_000).contains(&link.round_trip()), "{}", link.round_trip());
    }

    #[test]
    fn one_connection_is_enough_where_more_share_the_same_line() {
        let mut link = Link::default();
        assert_eq!(link.best_lanes(), 1);
        note(&mut link, 0, 20, 8 << 20, 20e6);
        assert_eq!(link.best_lanes(), 2, "worth a try");
        note(&mut link, 1, 20, 8 << 20, 10e6);
        assert_eq!(link.best_lanes(), 1);
        assert!((link.rate() - 20e6).abs() < 1e6);
    }

    #[test]
    fn slow_connections_are_used_side_by_side() {
        let mut link = Link::default();
        for others in 0..3 {
            assert_eq!(link.best_lanes(), others + 1);
            note(&mut link, others, 20, 8 << 20, 5e6);
        }
        assert_eq!(link.best_lanes(), 4);
        assert!((link.rate() - 15e6).abs() < 1e6);
        assert_eq!(link.busy, 0);
    }
}
