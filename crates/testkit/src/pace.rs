//! A line of limited rate that several connections share.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// How far ahead of the line senders may run: the queue before it. It covers timers (1 ms) and a busy machine, so that
/// the line does not idle while someone has bytes to send, and is shorter than the queue of a real router.
const AHEAD: Duration = Duration::from_millis(10);

/// A line: bytes leave it one after the other, at its rate, in the order in which they came.
#[derive(Debug)]
pub(crate) struct Line {
    bits_per_second: u64,
    free_at: Mutex<Instant>,
}

impl Line {
    /// A line of this rate; 0 is without limit.
    pub(crate) fn new(bits_per_second: u64) -> Line {
        Line { bits_per_second, free_at: Mutex::new(Instant::now()) }
    }

    /// Puts `len` bytes on the line and returns when the last of them will have left it. Waits while the line is busy.
    pub(crate) async fn send(&self, len: usize) -> Instant {
        let now = Instant::now();
        if self.bits_per_second == 0 {
            return now;
        }
        let takes = Duration::from_nanos((len as u64 * 8_000_000_000) / self.bits_per_second);
        let left = {
            let mut free_at = self.free_at.lock().expect("no panics under this lock");
            *free_at = (*free_at).max(now) + takes;
            *free_at
        };
        if left > now + AHEAD {
            sleep_until(left - AHEAD).await;
        }
        left
    }
}

/// Sleeps until `when`, give or take half a millisecond: timers fire up to a millisecond late, never early.
pub(crate) async fn wake_at(when: Instant) {
    const MEAN_LATENESS: Duration = Duration::from_micros(500);
    if when > Instant::now() + MEAN_LATENESS {
        sleep_until(when - MEAN_LATENESS).await;
    }
}
