//! When to try again: decisions only, no clock and no waiting of its own.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant, SystemTime};

use reqwest::header::{HeaderMap, RETRY_AFTER};

use crate::error::{Error, Kind};
use crate::options::Retry;

/// Stands for "no limit"; keeps sums of instants and durations in range.
const FOREVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// The failure of one attempt at one host.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub error: Error,
    pub next: Next,
}

/// What the failure of an attempt means for the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// It will fail again.
    GiveUp,
    /// It may succeed later.
    Retry,
    /// It asked not to be asked again before this time has passed.
    RetryAfter(Duration),
}

impl Fault {
    pub fn give_up(error: Error) -> Fault {
        Fault { error, next: Next::GiveUp }
    }

    pub fn retry(error: Error) -> Fault {
        Fault { error, next: Next::Retry }
    }

    /// A failure while a body is read: what the network did may go better next time, what the server said
    /// will not.
    pub fn of_body(error: Error) -> Fault {
        match error.kind() {
            Kind::ShortBody | Kind::Network | Kind::Timeout => Fault::retry(error),
            _ => Fault::give_up(error),
        }
    }
}

/// The time that one call may still take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    deadline: Instant,
}

impl Budget {
    pub fn new(total: Duration) -> Budget {
        Budget { deadline: Instant::now() + total.min(FOREVER) }
    }

    pub fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// What is left if the deadline were moved by `more`.
    pub fn left_with(&self, more: Duration) -> Duration {
        (self.deadline + more.min(FOREVER)).saturating_duration_since(Instant::now())
    }

    /// `limit`, or what is left if that is less.
    pub fn cap(&self, limit: Duration) -> Duration {
        limit.min(self.left())
    }
}

/// The wait before retry number `retry` (from 0): doubling from the minimum, with a random part so that many
/// clients do not come back at once, never above the maximum.
pub(crate) fn backoff(options: &Retry, retry: u32) -> Duration {
    let base = options.min_wait.saturating_mul(1_u32.checked_shl(retry).unwrap_or(u32::MAX));
    let base = base.min(options.max_wait);
    base.saturating_add(base.mul_f64(random_fraction())).min(options.max_wait)
}

/// In [0, 1). The standard library's hash seeds are random enough to spread retries.
fn random_fraction() -> f64 {
    let bits = RandomState::new().build_hasher().finish();
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

/// The wait that the server asks for: seconds, or a date of HTTP.
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds).min(FOREVER));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_with_jitter_between_its_bounds() {
        let options = Retry {
            max_retries: 9,
            min_wait: Duration::from_millis(10),
            max_wait: Duration::from_millis(500),
        };
        for (retry, least, most) in
            [(0, 10, 20), (1, 20, 40), (4, 160, 320), (5, 320, 500), (6, 500, 500), (99, 500, 500)]
        {
            for _ in 0..50 {
                let wait = backoff(&options, retry).as_millis();
                assert!((least..=most).contains(&wait), "retry {retry} waits {wait} ms");
            }
        }
        let unbounded = Retry { max_wait: Duration::MAX, ..options };
        assert!(backoff(&unbounded, 1000) > Duration::from_secs(3600));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777); // Sun, 06 Nov 1994 08:49:37 GMT
        let rows = [
            ("7", Some(7)),
            (" 0 ", Some(0)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
            ("Sun, 06 Nov 1994 08:49:00 GMT", Some(0)),
            ("-3", None),
            ("soon", None),
            ("", None),
        ];
        for (text, seconds) in rows {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
            assert_eq!(retry_after(&headers, now), seconds.map(Duration::from_secs), "{text}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
        let huge = HeaderMap::from_iter([(RETRY_AFTER, u64::MAX.to_string().parse().unwrap())]);
        assert_eq!(retry_after(&huge, now), Some(FOREVER));
    }
}
