//! All keychains, asked at once, as one row of credentials.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, timeout_at};

use crate::credential::{Credential, Keychain, KeychainError};
use crate::reference::Reference;

/// Longest time for a keychain to answer.
const DEADLINE: Duration = Duration::from_secs(15);
/// How long credentials that are there wait for keychains that come before theirs.
const GRACE: Duration = Duration::from_secs(2);

type Answer = (usize, Result<Vec<Credential>, KeychainError>);

/// The credentials for one host and repository, in the order in which they are to be tried.
pub(super) struct Candidates<'a> {
    keychains: &'a [Arc<dyn Keychain>],
    asking: FuturesUnordered<Pin<Box<dyn Future<Output = Answer> + Send + 'a>>>,
    unanswered: BTreeSet<usize>,
    /// By keychain; none of them is empty.
    answered: BTreeMap<usize, VecDeque<Credential>>,
    deadline: Instant,
    grace: Option<Instant>,
    host: &'a str,
    /// What went wrong so far, each with `; ` before it.
    pub failures: String,
}

/// A credential and who gave it.
pub(super) struct Candidate {
    pub credential: Credential,
    pub keychain: String,
}

impl<'a> Candidates<'a> {
    /// Asks all keychains; each gets `limit` at most.
    pub fn ask(
        keychains: &'a [Arc<dyn Keychain>],
        host: &'a str,
        reference: &'a Reference,
        limit: Duration,
    ) -> Candidates<'a> {
        let asking = FuturesUnordered::new();
        for (index, keychain) in keychains.iter().enumerate() {
            let asked = keychain.credentials(host, reference);
            let asked: Pin<Box<dyn Future<Output = Answer> + Send + 'a>> =
                Box::pin(async move { (index, asked.await) });
            asking.push(asked);
        }
        Candidates {
            keychains,
            asking,
            unanswered: (0..keychains.len()).collect(),
            answered: BTreeMap::new(),
            deadline: Instant::now() + limit.min(DEADLINE),
            grace: None,
            host,
            failures: String::new(),
        }
    }

    /// The next one; none if no keychain has another one, or those that may have do not answer.
    pub async fn next(&mut self) -> Option<Candidate> {
        loop {
            if let Some(candidate) = self.take() {
                return Some(candidate);
            }
            let until = match self.grace {
                Some(grace) if !self.answered.is_empty() => grace.min(self.deadline),
                _ => self.deadline,
            };
            match timeout_at(until, self.asking.next()).await {
                Ok(Some((index, answer))) => self.note(index, answer),
                Ok(None) if self.answered.is_empty() => return None,
                Err(_) if self.answered.is_empty() => {
                    for index in std::mem::take(&mut self.unanswered) {
                        self.fail(index, KeychainError("no answer in time".into()));
                    }
                    self.asking.clear();
                    return None;
                }
                // Taken now, whatever comes before it.
                Ok(None) | Err(_) => {}
            }
        }
    }

    /// The first credential that there is, unless a keychain before its own may still answer soon.
    fn take(&mut self) -> Option<Candidate> {
        let mut first = self.answered.first_entry()?;
        let index = *first.key();
        let waits = self.unanswered.first().is_some_and(|&unanswered| unanswered < index);
        if waits && self.grace.is_some_and(|grace| Instant::now() < grace.min(self.deadline)) {
            return None;
        }
        let credential = first.get_mut().pop_front()?;
        if first.get().is_empty() {
            first.remove();
        }
        Some(Candidate { credential, keychain: self.keychains[index].name() })
    }

    fn note(&mut self, index: usize, answer: Result<Vec<Credential>, KeychainError>) {
        self.unanswered.remove(&index);
        match answer {
            Ok(found) if found.is_empty() => {}
            Ok(found) => {
                self.answered.insert(index, found.into());
                self.grace.get_or_insert_with(|| Instant::now() + GRACE);
            }
            Err(error) => self.fail(index, error),
        }
    }

    fn fail(&mut self, index: usize, error: KeychainError) {
        let keychain = self.keychains[index].name();
        tracing::warn!(keychain, host = self.host, %error, "a keychain failed");
        // Writing to a String cannot fail. Most keychains name themselves.
        let _ = match error.0.contains(&keychain) {
            true => write!(self.failures, "; {error}"),
            false => write!(self.failures, "; {keychain}: {error}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;

    /// Answers with these users after so many milliseconds; none is a failure.
    #[derive(Debug)]
    struct Slow(u64, Option<&'static [&'static str]>);

    #[async_trait]
    impl Keychain for Slow {
        fn name(&self) -> String {
            format!("keychain {}", self.0)
        }

        async fn credentials(&self, _: &str, _: &Reference) -> Result<Vec<Credential>, KeychainError> {
            tokio::time::sleep(Duration::from_millis(self.0)).await;
            let users = self.1.ok_or_else(|| KeychainError("it is broken".into()))?;
            Ok(users.iter().map(|user| Credential::password(*user, "x")).collect())
        }
    }

    /// The users in their order, the failures, and the time that the first one took.
    async fn run(keychains: &[(u64, Option<&'static [&'static str]>)]) -> (Vec<String>, String, Duration) {
        let keychains: Vec<Arc<dyn Keychain>> =
            keychains.iter().map(|&(delay, users)| Arc::new(Slow(delay, users)) as _).collect();
        let reference = Reference::parse("r.test/a").unwrap();
        let started = Instant::now();
        let mut candidates = Candidates::ask(&keychains, "r.test", &reference, Duration::from_secs(60));
        let (mut users, mut first) = (Vec::new(), None);
        while let Some(Candidate { credential: Credential::Password { user, .. }, .. }) =
            candidates.next().await
        {
            first.get_or_insert(started.elapsed());
            users.push(user);
        }
        (users, candidates.failures, first.unwrap_or_default())
    }

    #[tokio::test(start_paused = true)]
    async fn the_order_is_that_of_the_keychains() {
        let (users, failures, _) =
            run(&[(50, Some(&["a", "b"])), (5, Some(&["c"])), (500, Some(&[])), (1, Some(&["d"]))]).await;
        assert_eq!((users.concat().as_str(), failures.as_str()), ("abcd", ""));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_keychain_delays_the_others_only_a_little() {
        let (users, failures, first) = run(&[(5000, Some(&["slow"])), (5, Some(&["quick"]))]).await;
        assert_eq!(users, ["quick", "slow"], "it is still asked, should the quick one not do");
        assert!(first < Duration::from_millis(2100) && failures.is_empty(), "{first:?}");
        let (users, failures, first) = run(&[(3_600_000, Some(&["never"])), (5, Some(&["quick"]))]).await;
        assert_eq!(users, ["quick"]);
        assert!(first < Duration::from_millis(2100) && failures.contains("keychain 3600000: no answer"));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_told_and_passed_over() {
        let (users, failures, _) = run(&[(5, None), (9, Some(&["a"])), (7, None)]).await;
        assert_eq!(users, ["a"]);
        assert_eq!(failures, "; keychain 5: it is broken; keychain 7: it is broken");
        assert_eq!(run(&[]).await.0.len(), 0);
    }
}
