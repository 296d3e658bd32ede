//! Scripts of faults as text, for proxies that are started from a shell.
//!
//! ```text
//! # One rule a line. METHOD, skip, times and every may be left out; PATH is part of a path, or * for all.
//! request /blobs/ GET skip=2 times=1 reset-after 1000
//! request * retry-after 503 2
//! connection every=4 slow 1M
//! outage 5s black-hole 3s
//! ```
//!
//! Faults of requests: `status CODE`, `retry-after CODE SECONDS`, `ignore-range`, `one-range`, `wrong-content-range`,
//! `short-body BYTES`, `reset`, `reset-after BYTES`, `stall-headers TIME`, `stall-body BYTES TIME`,
//! `drip BYTES-PER-SECOND`, `corrupt OFFSET`. Faults of connections: `slow BITS-PER-SECOND`, `reset-after BYTES`,
//! `close-after BYTES`, `stall BYTES TIME`. An outage begins so long after the start of the proxy: `refused` or `black-hole`.
//! Times are `250ms` or `1.5s`; other numbers may end in `k`, `M` or `G` (thousands, millions, milliards).

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::{ConnectionFault, ConnectionRule, Outage};
use crate::registry::{Fault, Rule};

/// A line of a script.
#[derive(Clone, Debug)]
pub enum Step {
    /// For [`super::Proxy::fault`].
    Request(Rule),
    /// For [`super::Proxy::connection_fault`].
    Connection(ConnectionRule),
    /// For [`super::Proxy::outage`], so long after the start.
    Outage {
        /// When it begins.
        at: Duration,
        /// What it is.
        kind: Outage,
        /// How long it lasts.
        time: Duration,
    },
}

/// A line that is not understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptError {
    line: usize,
    text: String,
    problem: String,
}

impl fmt::Display for ScriptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} of the script, {:?}: {}", self.line, self.text, self.problem)
    }
}

impl std::error::Error for ScriptError {}

/// The steps of a script.
///
/// # Errors
/// Names the first line that is not understood.
pub fn parse_script(text: &str) -> Result<Vec<Step>, ScriptError> {
    let lines = text.lines().enumerate().map(|(number, line)| (number + 1, line.trim()));
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|(line, text)| {
            let error = |problem| ScriptError { line, text: text.to_owned(), problem };
            step(&mut Words(text.split_whitespace().collect())).map_err(error)
        })
        .collect()
}

/// What is left of a line.
struct Words<'a>(std::collections::VecDeque<&'a str>);

impl<'a> Words<'a> {
    fn next(&mut self, what: &str) -> Result<&'a str, String> {
        self.0.pop_front().ok_or_else(|| format!("{what} is missing"))
    }

    fn number<T: TryFrom<u64>>(&mut self, what: &str) -> Result<T, String> {
        let word = self.next(what)?;
        let parsed = number(word).and_then(|number| T::try_from(number).ok());
        parsed.ok_or_else(|| format!("{word:?} is not a number for {what}"))
    }

    fn time(&mut self) -> Result<Duration, String> {
        let word = self.next("a time")?;
        let (digits, unit) = match word.strip_suffix("ms") {
            Some(digits) => (digits, 1e-3),
            None => (word.strip_suffix('s').unwrap_or_default(), 1.0),
        };
        let seconds = f64::from_str(digits).ok().map(|number| number * unit);
        seconds
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .ok_or_else(|| format!("{word:?} is not a time like 250ms or 1.5s"))
    }

    /// The value of `NAME=VALUE`, if that is next.
    fn option(&mut self, name: &str) -> Result<Option<u64>, String> {
        let value = self.0.front().and_then(|word| word.strip_prefix(name)?.strip_prefix('='));
        let Some(value) = value else { return Ok(None) };
        let parsed = number(value).ok_or_else(|| format!("{value:?} is not a number for {name}"))?;
        self.0.pop_front();
        Ok(Some(parsed))
    }
}

fn number(word: &str) -> Option<u64> {
    let (digits, unit) = match word.as_bytes().last()? {
        b'k' => (&word[..word.len() - 1], 1_000),
        b'M' => (&word[..word.len() - 1], 1_000_000),
        b'G' => (&word[..word.len() - 1], 1_000_000_000),
        _ => (word, 1),
    };
    u64::from_str(digits).ok()?.checked_mul(unit)
}

fn step(words: &mut Words<'_>) -> Result<Step, String> {
    let step = match words.next("what the rule is for")? {
        "request" => request(words)?,
        "connection" => connection(words)?,
        "outage" => outage(words)?,
        other => return Err(format!("{other:?} is none of request, connection, outage")),
    };
    match words.0.front() {
        None => Ok(step),
        Some(word) => Err(format!("{word:?} is too much")),
    }
}

fn request(words: &mut Words<'_>) -> Result<Step, String> {
    let path = words.next("a path")?;
    let path = if path == "*" { "" } else { path };
    let method = words.0.front().filter(|word| word.bytes().all(|byte| byte.is_ascii_uppercase())).copied();
    if method.is_some() {
        words.0.pop_front();
    }
    let (skip, times) = (words.option("skip")?, words.option("times")?);
    let mut rule = Rule::new(path, request_fault(words)?);
    if let Some(method) = method {
        rule = rule.method(method);
    }
    Ok(Step::Request(rule.skip(skip.unwrap_or(0)).times(times.unwrap_or(u64::MAX))))
}

fn request_fault(words: &mut Words<'_>) -> Result<Fault, String> {
    Ok(match words.next("a fault")? {
        "status" => Fault::Status(words.number("a status")?),
        "retry-after" => {
            Fault::RetryAfter { status: words.number("a status")?, seconds: words.number("seconds")? }
        }
        "ignore-range" => Fault::IgnoreRange,
        "one-range" => Fault::OneRange,
        "wrong-content-range" => Fault::WrongContentRange,
        "short-body" => Fault::ShortBody(words.number("bytes")?),
        "reset" => Fault::Reset,
        "reset-after" => Fault::ResetAfter(words.number("bytes")?),
        "stall-headers" => Fault::StallHeaders(words.time()?),
        "stall-body" => Fault::StallBody { after: words.number("bytes")?, pause: words.time()? },
        "drip" => Fault::Drip(words.number("bytes per second")?),
        "corrupt" => Fault::CorruptByte(words.number("an offset")?),
        other => return Err(format!("{other:?} is not a fault of requests")),
    })
}

fn connection(words: &mut Words<'_>) -> Result<Step, String> {
    let (skip, times, every) = (words.option("skip")?, words.option("times")?, words.option("every")?);
    let fault = match words.next("a fault")? {
        "slow" => ConnectionFault::Slow(words.number("bits per second")?),
        "reset-after" => ConnectionFault::ResetAfter(words.number("bytes")?),
        "close-after" => ConnectionFault::CloseAfter(words.number("bytes")?),
        "stall" => ConnectionFault::Stall { after: words.number("bytes")?, pause: words.time()? },
        other => return Err(format!("{other:?} is not a fault of connections")),
    };
    let every = every.unwrap_or(1);
    if every == 0 {
        return Err("each 0th connection is none".to_owned());
    }
    let rule =
        ConnectionRule::new(fault).skip(skip.unwrap_or(0)).times(times.unwrap_or(u64::MAX)).every(every);
    Ok(Step::Connection(rule))
}

fn outage(words: &mut Words<'_>) -> Result<Step, String> {
    let at = words.time()?;
    let kind = match words.next("a kind of outage")? {
        "refused" => Outage::Refused,
        "black-hole" => Outage::BlackHole,
        other => return Err(format!("{other:?} is none of refused, black-hole")),
    };
    Ok(Step::Outage { at, kind, time: words.time()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_rules() {
        let text = "# a comment\n\n request /blobs/ GET skip=2 times=1 stall-body 4k 1.5s\nrequest * retry-after 503 2\n\
                    connection skip=1 every=4 slow 1M\noutage 5s black-hole 250ms";
        let steps = parse_script(text).unwrap();
        let [
            Step::Request(first),
            Step::Request(second),
            Step::Connection(third),
            Step::Outage { at, kind, time },
        ] = steps.as_slice()
        else {
            panic!("{steps:?}")
        };
        assert_eq!(*first.fault(), Fault::StallBody { after: 4000, pause: Duration::from_millis(1500) });
        assert_eq!(*second.fault(), Fault::RetryAfter { status: 503, seconds: 2 });
        assert_eq!(*third, ConnectionRule::new(ConnectionFault::Slow(1_000_000)).skip(1).every(4));
        assert_eq!(
            (*at, *kind, *time),
            (Duration::from_secs(5), Outage::BlackHole, Duration::from_millis(250))
        );
    }

    #[test]
    fn errors_name_the_line_and_what_is_wrong() {
        let problem = |line: &str| parse_script(&format!("\n{line}")).unwrap_err().to_string();
        assert_eq!(
            problem("reset"),
            "line 2 of the script, \"reset\": \"reset\" is none of request, connection, outage"
        );
        assert!(problem("request * reset-after").ends_with("bytes is missing"));
        assert!(problem("request * reset-after x").ends_with("\"x\" is not a number for bytes"));
        assert!(problem("request * reset now").ends_with("\"now\" is too much"));
        assert!(problem("request * stall-headers 5").ends_with("is not a time like 250ms or 1.5s"));
        assert!(problem("connection every=0 slow 1").ends_with("none"));
        assert!(problem("outage 1s fire 1s").ends_with("is none of refused, black-hole"));
    }
}
