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
    /// Answer several ranges with 200 and the whole, as object stores do.
    OneRange,
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
    /// Make every bearer token handed out so far void before the request is looked at.
    ExpireTokens,
    /// Make every URL of the CDN handed out so far void before the request is looked at.
    ExpireRedirects,
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

    /// What goes wrong.
    pub(crate) fn fault(&self) -> &Fault {
        &self.fault
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
pub(crate) struct Script {
    rules: Vec<(Rule, u64)>,
}

impl Script {
    pub(crate) fn add(&mut self, rule: Rule) {
        self.rules.push((rule, 0));
    }

    /// What goes wrong with the next request.
    pub(crate) fn plan(&mut self, method: &str, path: &str) -> Plan {
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
pub(crate) struct Plan {
    pub(crate) status: Option<u16>,
    pub(crate) retry_after: Option<u64>,
    pub(crate) ignore_range: bool,
    pub(crate) one_range: bool,
    pub(crate) wrong_content_range: bool,
    pub(crate) stall_headers: Duration,
    pub(crate) reset_at_once: bool,
    /// Where the body ends early, and how.
    pub(crate) cut: Option<(usize, Cut)>,
    pub(crate) pauses: Vec<(usize, Duration)>,
    pub(crate) bytes_per_second: Option<u64>,
    pub(crate) corrupt: Vec<u64>,
    pub(crate) expire_tokens: bool,
    pub(crate) expire_redirects: bool,
}

/// How a connection ends in the middle of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
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
            Fault::OneRange => self.one_range = true,
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
            Fault::ExpireTokens => self.expire_tokens = true,
            Fault::ExpireRedirects => self.expire_redirects = true,
        }
    }
}
