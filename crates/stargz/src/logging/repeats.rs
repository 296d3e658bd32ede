//! Lines that say the same again and again.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Written of lines that are alike, within a window.
const WRITTEN: u32 = 5;
/// Length of a window.
const WINDOW: Duration = Duration::from_secs(30);
/// Kinds of lines that are remembered. Beyond that they are all written.
const KINDS_MAX: usize = 256;

/// What was written a short time ago. Plain data: the clock is the caller's.
#[derive(Debug, Default)]
pub struct Repeats(HashMap<u64, Kind>);

#[derive(Debug)]
struct Kind {
    since: Instant,
    seen: u32,
    left_out: u64,
    message: String,
}

/// What becomes of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is written.
    Write,
    /// It is written; so many before it were not.
    WriteAfter(u64),
    /// It is not.
    LeaveOut,
}

impl Repeats {
    /// Judges a line.
    pub fn see(&mut self, key: u64, message: &str, now: Instant) -> Verdict {
        if !self.0.contains_key(&key) && self.0.len() >= KINDS_MAX {
            self.0.retain(|_, kind| kind.left_out > 0 || now.duration_since(kind.since) < WINDOW);
            if self.0.len() >= KINDS_MAX {
                return Verdict::Write;
            }
        }
        let new = || Kind { since: now, seen: 0, left_out: 0, message: message.to_owned() };
        let kind = self.0.entry(key).or_insert_with(new);
        if now.duration_since(kind.since) >= WINDOW {
            let left_out = kind.left_out;
            *kind = Kind { seen: 1, ..new() };
            return if left_out > 0 { Verdict::WriteAfter(left_out) } else { Verdict::Write };
        }
        kind.seen += 1;
        if kind.seen <= WRITTEN {
            return Verdict::Write;
        }
        kind.left_out += 1;
        Verdict::LeaveOut
    }

    /// Lines whose window is over without another one: message and how many were left out. Told once.
    pub fn over(&mut self, now: Instant) -> Vec<(String, u64)> {
        let mut told = Vec::new();
        self.0.retain(|_, kind| {
            let over = now.duration_since(kind.since) >= WINDOW;
            if over && kind.left_out > 0 {
                told.push((std::mem::take(&mut kind.message), kind.left_out));
            }
            !over
        });
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_few_are_written_the_rest_counted() {
        let (mut repeats, begin) = (Repeats::default(), Instant::now());
        for _ in 0..WRITTEN {
            assert_eq!(repeats.see(1, "m", begin), Verdict::Write);
        }
        assert_eq!(repeats.see(1, "m", begin), Verdict::LeaveOut);
        assert_eq!(repeats.see(2, "n", begin), Verdict::Write);
        assert_eq!(repeats.over(begin), []);
        assert_eq!(repeats.see(1, "m", begin + WINDOW), Verdict::WriteAfter(1));
        for _ in 0..WRITTEN + 2 {
            repeats.see(1, "m", begin + WINDOW);
        }
        assert_eq!(repeats.over(begin + WINDOW * 2), [("m".to_owned(), 3)]);
        assert_eq!(repeats.over(begin + WINDOW * 3), []);
    }

    #[test]
    fn the_table_is_bounded() {
        let (mut repeats, begin) = (Repeats::default(), Instant::now());
        for key in 0..10_000 {
            assert_eq!(repeats.see(key, "m", begin), Verdict::Write);
        }
        assert!(repeats.0.len() <= KINDS_MAX);
    }
}
