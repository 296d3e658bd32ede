//! The order in which hosts are asked, and when they are asked again.

use std::sync::Arc;
use std::time::Duration;

use crate::client::Core;
use crate::error::{Error, Kind, Result};
use crate::health::Health;
use crate::hosts::Endpoint;
use crate::options::Retry;
use crate::reference::Reference;
use crate::retry::{Budget, Fault, Next, backoff};

/// One host to ask once.
#[derive(Clone, Debug)]
pub(crate) struct Site<'a> {
    pub reference: &'a Reference,
    pub endpoint: Arc<Endpoint>,
    /// Place of the host in the order.
    pub index: usize,
    pub budget: Budget,
    /// What tokens have to allow beside what the host demands.
    pub scopes: Option<Arc<str>>,
}

/// What a host is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needed {
    /// Content by its digest.
    Pull,
    /// What a tag means.
    Resolve,
    /// To take something: only the host itself, which is the last one.
    Push,
}

/// The attempts of one call.
///
/// Each round asks every host that may still succeed once, so that a host that is down costs one attempt
/// before the next one serves; waits lie between rounds.
#[derive(Debug)]
pub(crate) struct Rounds<'a> {
    reference: &'a Reference,
    retry: &'a Retry,
    health: &'a Health,
    endpoints: Vec<Arc<Endpoint>>,
    tries: Vec<Try>,
    /// The order of a round: places of hosts.
    order: Vec<usize>,
    /// Hosts passed in this round.
    passed: usize,
    round: u32,
    budget: Budget,
    scopes: Option<Arc<str>>,
}

/// What happened at one host so far.
#[derive(Debug, Default)]
struct Try {
    attempts: u32,
    last: Option<Fault>,
}

impl<'a> Rounds<'a> {
    /// Begins a call for `reference` with the host that has the key `preferred`, unless that is down. Hosts that
    /// may not be asked for what is `needed` are left out.
    pub async fn begin(
        core: &'a Core,
        reference: &'a Reference,
        needed: Needed,
        preferred: Option<&str>,
    ) -> Result<Rounds<'a>> {
        let mut endpoints = core.hosts.of(reference).await?;
        if needed == Needed::Push {
            endpoints.drain(..endpoints.len().saturating_sub(1));
        }
        endpoints.retain(|endpoint| match needed {
            Needed::Push => true,
            Needed::Pull => endpoint.capabilities.pull,
            Needed::Resolve => endpoint.capabilities.resolve,
        });
        if endpoints.is_empty() {
            let what = if needed == Needed::Pull { "pull" } else { "resolve" };
            let text = format!("{reference}: no host for it is configured with the capability {what:?}");
            return Err(Error::new(Kind::InvalidOptions, text));
        }
        let mut order: Vec<usize> = (0..endpoints.len()).collect();
        order.sort_by_key(|&index| {
            let key = endpoints[index].key();
            (core.health.is_down(key), preferred != Some(key))
        });
        let tries = endpoints.iter().map(|_| Try::default()).collect();
        let budget = Budget::new(core.options.fetch_timeout);
        let (retry, health) = (&core.options.retry, &core.health);
        Ok(Rounds {
            reference,
            retry,
            health,
            endpoints,
            tries,
            order,
            passed: 0,
            round: 0,
            budget,
            scopes: None,
        })
    }

    /// Asks for tokens that allow all of this.
    pub fn with_scopes(self, scopes: Arc<str>) -> Rounds<'a> {
        Rounds { scopes: Some(scopes), ..self }
    }

    /// The host to ask next, when it is time to.
    ///
    /// # Errors
    /// When there is none any more: the failure of the last host in the order, which is the one that the
    /// reference names, with those of the mirrors noted.
    pub async fn next(&mut self) -> Result<Site<'a>> {
        loop {
            while self.passed < self.endpoints.len() && !self.budget.left().is_zero() {
                let index = self.order[self.passed];
                self.passed += 1;
                if !self.tries[index].is_over() {
                    let endpoint = Arc::clone(&self.endpoints[index]);
                    let (reference, budget, scopes) = (self.reference, self.budget, self.scopes.clone());
                    return Ok(Site { reference, endpoint, index, budget, scopes });
                }
            }
            let Some(wait) = self.wait().filter(|wait| *wait < self.budget.left()) else {
                return Err(self.verdict());
            };
            tracing::debug!(reference = %self.reference, round = self.round, ?wait, "no host succeeded, trying again");
            tokio::time::sleep(wait).await;
            self.round += 1;
            self.passed = 0;
        }
    }

    /// Notes how asking the host of the last [`next`](Rounds::next) failed.
    pub fn note(&mut self, site: &Site<'_>, fault: Fault) {
        tracing::debug!(host = site.endpoint.name, error = %fault.error, next = ?fault.next, "attempt failed");
        if matches!(fault.error.kind(), Kind::Network | Kind::Timeout | Kind::Unavailable) {
            let asked_for = if let Next::RetryAfter(wait) = fault.next { Some(wait) } else { None };
            self.health.note_failure(site.endpoint.key(), asked_for);
        }
        let tried = &mut self.tries[site.index];
        tried.attempts += 1;
        tried.last = Some(fault);
    }

    /// The wait before the next round; none if there is to be none.
    fn wait(&self) -> Option<Duration> {
        let asked_for = self.tries.iter().filter_map(Try::wait).min()?;
        let wait = asked_for.min(self.retry.max_wait).max(backoff(self.retry, self.round));
        (self.round < self.retry.max_retries).then_some(wait)
    }

    fn verdict(&mut self) -> Error {
        let tries = std::mem::take(&mut self.tries);
        let failed = self.endpoints.iter().zip(tries).filter_map(|(endpoint, tried)| {
            let times =
                if tried.attempts > 1 { format!(" ({} attempts)", tried.attempts) } else { String::new() };
            Some((&endpoint.name, times, tried.last?.error))
        });
        let mut failed: Vec<_> = failed.collect();
        let Some((_, times, error)) = failed.pop() else {
            let text = format!("{}: no time is left to ask any host", self.reference);
            return Error::new(Kind::Timeout, text);
        };
        let mirrors = failed.iter().map(|(host, times, error)| format!("; mirror {host}: {error}{times}"));
        error.append(&mirrors.fold(times, |note, mirror| note + &mirror))
    }
}

impl Try {
    fn is_over(&self) -> bool {
        self.last.as_ref().is_some_and(|fault| fault.next == Next::GiveUp)
    }

    /// How long to leave the host alone; none if it is not to be asked again.
    fn wait(&self) -> Option<Duration> {
        match self.last.as_ref().map(|fault| fault.next) {
            Some(Next::GiveUp) => None,
            Some(Next::RetryAfter(wait)) => Some(wait),
            Some(Next::Retry) | None => Some(Duration::ZERO),
        }
    }
}
