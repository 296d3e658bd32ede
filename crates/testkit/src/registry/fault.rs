//! The script of faults: which requests go wrong, and how.

use std::time::Duration;

/// Something that goes wrong with an answer. Offsets in bodies count from the first byte of the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Answer with this status and nothing else. 416 comes with the `Content-Range` that it must have.
    Status(u16),
    /// Answer with 429 or 503 and this `Retry-After`, in seconds.
    RetryAfter {
        /// The status.
        status: u16,
        /// The seconds.
        seconds: u64,
    },
    /// Answer a range with 200 and the whole.
    IgnoreRange,
    /// Send the right bytes of a range under the `Content-Range` of the bytes one later.
    WrongContentRange,
    /// Promise all, send so much of the body, and close the connection.
    ShortBody(usize),
    /// Reset the connection before any answer.
    Reset,
    /// Reset the connection after about so much of the body.
    ResetAfter(usize),
    /// Wait before the answer.
    StallHeaders(Duration),
    /// Wait in the middle of the body.
    StallBody {
        /// After so much of the body.
        after: usize,
        /// For this time.
        pause: Duration,
    },
    /// Send the body at this many bytes per second.
    Drip(u64),
    /// Flip all bits of the byte at this offset of the whole blob or manifest, whenever it is sent.
    CorruptByte(u64),
}

/// A fault and the requests that it befalls.
#[derive(Clone, Debug)]
pub struct Rule {
    path: String,
    method: Option<String>,
    skip: u64,
    times: u64,
    fault: Fault,
}

impl Rule {
    /// Befalls every request whose path contains `path`, for example `/blobs/`, a digest, `/token` or `/cdn/`.
    pub fn new(path: impl Into<String>, fault: Fault) -> Rule {
        Rule { path: path.into(), method: None, skip: 0, times: u64::MAX, fault }
    }

    /// Only requests with this method count.
    pub fn method(mut self, method: &str) -> Rule {
        self.method = Some(method.to_owned());
        self
    }

    /// The first `count` requests go well.
    pub fn skip(mut self, count: u64) -> Rule {
        self.skip = count;
        self
    }

    /// Only `count` requests go wrong.
    pub fn times(mut self, count: u64) -> Rule {
        self.times = count;
        self
    }
}

/// All rules, and how many requests each has seen.
#[derive(Debug, Default)]
pub(super) struct Script {
    rules: Vec<(Rule, u64)>,
}

impl Script {
    pub(super) fn add(&mut self, rule: Rule) {
        self.rules.push((rule, 0));
    }

    /// What goes wrong with the next request.
    pub(super) fn plan(&mut self, method: &str, path: &str) -> Plan {
        let mut plan = Plan::default();
        for (rule, seen) in &mut self.rules {
            if !path.contains(&rule.path) || rule.method.as_ref().is_some_and(|wanted| wanted != method) {
                continue;
            }
            if *seen >= rule.skip && *seen - rule.skip < rule.times {
                plan.add(&rule.fault);
            }
            *seen += 1;
        }
        plan
    }
}

/// The faults of one request, together.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) status: Option<u16>,
    pub(super) retry_after: Option<u64>,
    pub(super) ignore_range: bool,
    pub(super) wrong_content_range: bool,
    pub(super) stall_headers: Duration,
    pub(super) reset_at_once: bool,
    /// Where the body ends early, and how.
    pub(super) cut: Option<(usize, Cut)>,
    pub(super) pauses: Vec<(usize, Duration)>,
    pub(super) bytes_per_second: Option<u64>,
    pub(super) corrupt: Vec<u64>,
}

/// How a connection ends in the middle of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    Close,
    Reset,
}

impl Plan {
    fn add(&mut self, fault: &Fault) {
        match *fault {
            Fault::Status(status) => self.status = Some(status),
            Fault::RetryAfter { status, seconds } => {
                self.status = Some(status);
                self.retry_after = Some(seconds);
            }
            Fault::IgnoreRange => self.ignore_range = true,
            Fault::WrongContentRange => self.wrong_content_range = true,
            Fault::ShortBody(after) => self.cut = Some((after, Cut::Close)),
            Fault::Reset => self.reset_at_once = true,
            Fault::ResetAfter(after) => self.cut = Some((after, Cut::Reset)),
            Fault::StallHeaders(pause) => self.stall_headers += pause,
            Fault::StallBody { after, pause } => {
                self.pauses.push((after, pause));
                self.pauses.sort_unstable();
            }
            Fault::Drip(bytes_per_second) => self.bytes_per_second = Some(bytes_per_second.max(1)),
            Fault::CorruptByte(offset) => self.corrupt.push(offset),
        }
    }
}
