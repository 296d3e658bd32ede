//! The script of connections: which of them go wrong, and how.

use std::time::Duration;

/// Something that goes wrong with a connection. Offsets count the bytes that come from the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionFault {
    /// It carries this many bits per second at most, much less than others: a straggler.
    Slow(u64),
    /// It is reset after so many bytes.
    ResetAfter(u64),
    /// It is closed after so many bytes, as if they were all.
    CloseAfter(u64),
    /// Nothing comes for a while.
    Stall {
        /// After so many bytes.
        after: u64,
        /// For this time.
        pause: Duration,
    },
}

/// A fault and the connections that it befalls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionRule {
    fault: ConnectionFault,
    skip: u64,
    times: u64,
    every: u64,
}

impl ConnectionRule {
    /// Befalls every connection from now on.
    pub fn new(fault: ConnectionFault) -> ConnectionRule {
        ConnectionRule { fault, skip: 0, times: u64::MAX, every: 1 }
    }

    /// The first `count` connections go well.
    pub fn skip(mut self, count: u64) -> ConnectionRule {
        self.skip = count;
        self
    }

    /// Only `count` connections go wrong.
    pub fn times(mut self, count: u64) -> ConnectionRule {
        self.times = count;
        self
    }

    /// Only each `count`-th connection goes wrong, the first of those not skipped among them.
    ///
    /// # Panics
    /// When `count` is 0.
    pub fn every(mut self, count: u64) -> ConnectionRule {
        assert!(count > 0, "each 0th connection is none");
        self.every = count;
        self
    }
}

/// All rules, and how many connections each has seen.
#[derive(Debug, Default)]
pub(super) struct Script {
    rules: Vec<(ConnectionRule, u64)>,
}

/// The faults of one connection, together.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) bits_per_second: Option<u64>,
    /// What happens after how many bytes, in order.
    pub(super) events: Vec<(u64, Event)>,
}

/// Something that happens once in an answer or a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    Pause(Duration),
    Reset,
    Close,
}

impl Script {
    pub(super) fn add(&mut self, rule: ConnectionRule) {
        self.rules.push((rule, 0));
    }

    /// What goes wrong with the next connection.
    pub(super) fn plan(&mut self) -> Plan {
        let mut plan = Plan::default();
        for (rule, seen) in &mut self.rules {
            let number = seen.checked_sub(rule.skip);
            *seen += 1;
            let hit = number.filter(|number| number % rule.every == 0 && number / rule.every < rule.times);
            if hit.is_some() {
                plan.add(rule.fault);
            }
        }
        plan.events.sort_unstable();
        plan
    }
}

impl Plan {
    fn add(&mut self, fault: ConnectionFault) {
        match fault {
            ConnectionFault::Slow(bits) => self.bits_per_second = Some(bits.max(1)),
            ConnectionFault::ResetAfter(after) => self.events.push((after, Event::Reset)),
            ConnectionFault::CloseAfter(after) => self.events.push((after, Event::Close)),
            ConnectionFault::Stall { after, pause } => self.events.push((after, Event::Pause(pause))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_count_connections() {
        let mut script = Script::default();
        script.add(ConnectionRule::new(ConnectionFault::ResetAfter(1)).skip(1).every(2).times(2));
        let hits: Vec<_> = (0..8).map(|_| !script.plan().events.is_empty()).collect();
        assert_eq!(hits, [false, true, false, true, false, false, false, false]);
    }
}
