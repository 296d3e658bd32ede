//! One fetch for one span, however many wait for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::{Error, Kind};

/// How a flight ended. Success says that every chunk of the span was dealt with; whether a chunk is filled is for its
/// bit to say.
type Outcome = Option<Result<(), Error>>;

/// The spans that are being fetched now. The lock guards the table only and is never held while waiting.
#[derive(Debug, Default)]
pub struct Flights {
    table: Mutex<HashMap<usize, Wait>>,
}

/// The right and the duty to fetch one span. Whoever waits for the span is told when the ticket lands; a ticket that
/// is dropped (a task that was cancelled or panicked) tells them that it did not.
#[derive(Debug)]
pub struct Ticket {
    span: usize,
    outcome: Option<watch::Sender<Outcome>>,
    flights: Arc<Flights>,
}

/// A wait for one span.
#[derive(Clone, Debug)]
pub struct Wait {
    outcome: watch::Receiver<Outcome>,
    started: Instant,
}

impl Flights {
    fn lock(&self) -> MutexGuard<'_, HashMap<usize, Wait>> {
        // The table is whole between any two statements that hold the lock.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes tickets for those `wanted` spans that are not in flight, and a wait for each of the `awaited` ones that
    /// is in flight afterwards. `missing` is asked under the lock: a span that landed a moment ago is not fetched
    /// again.
    pub fn board(
        self: &Arc<Self>,
        awaited: &[usize],
        wanted: impl IntoIterator<Item = usize>,
        missing: impl Fn(usize) -> bool,
    ) -> (Vec<Wait>, Vec<Ticket>) {
        let mut table = self.lock();
        let mut tickets = Vec::new();
        for span in wanted {
            if table.contains_key(&span) || !missing(span) {
                continue;
            }
            let (sender, outcome) = watch::channel(None);
            table.insert(span, Wait { outcome, started: Instant::now() });
            tickets.push(Ticket { span, outcome: Some(sender), flights: self.clone() });
        }
        let waits = awaited.iter().filter_map(|span| table.get(span).cloned()).collect();
        (waits, tickets)
    }

    /// Number of spans in flight.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether nothing is in flight.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Ticket {
    /// The span to fetch.
    pub fn span(&self) -> usize {
        self.span
    }

    /// Tells everybody who waits. A failure is not remembered: the next read tries again.
    pub fn land(mut self, outcome: Result<(), Error>) {
        self.tell(outcome);
    }

    fn tell(&mut self, outcome: Result<(), Error>) {
        if let Some(sender) = self.outcome.take() {
            self.flights.lock().remove(&self.span);
            sender.send_replace(Some(outcome));
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.tell(Err(Error::new(Kind::Closed, "the fetch was given up")));
    }
}

impl Wait {
    /// Waits until the span has landed, for at most `limit` after its fetch began. A reader that comes back to a fetch
    /// that is stuck does not wait all over again.
    pub async fn landed(mut self, limit: Duration) -> Result<(), Error> {
        match tokio::time::timeout_at(self.started + limit, self.outcome.wait_for(Option::is_some)).await {
            Ok(Ok(outcome)) => outcome.clone().unwrap_or(Ok(())),
            Ok(Err(_)) => Err(Error::new(Kind::Closed, "the fetch was given up")),
            Err(_) => Err(Error::new(Kind::Timeout, format!("nothing arrived in {} s", limit.as_secs_f32()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(_: usize) -> bool {
        true
    }

    #[tokio::test]
    async fn the_second_reader_waits_for_the_first_ones_fetch() {
        let flights = Arc::new(Flights::default());
        let (first, mut tickets) = flights.board(&[1], [1, 2], all);
        let (second, none) = flights.board(&[1], [1], all);
        assert_eq!((first.len(), tickets.len(), second.len(), none.len()), (1, 2, 1, 0));
        tickets.remove(0).land(Ok(()));
        for wait in first.into_iter().chain(second) {
            wait.landed(Duration::from_secs(10)).await.unwrap();
        }
        assert_eq!(flights.len(), 1);
    }

    #[tokio::test]
    async fn a_dropped_ticket_fails_its_waiters_and_frees_the_span() {
        let flights = Arc::new(Flights::default());
        let (waits, tickets) = flights.board(&[7], [7], all);
        drop(tickets);
        for wait in waits {
            assert_eq!(wait.landed(Duration::from_secs(10)).await.unwrap_err().kind(), Kind::Closed);
        }
        let (_, again) = flights.board(&[], [7], all);
        assert_eq!(again.len(), 1);
    }

    #[test]
    fn what_is_not_missing_any_more_is_not_fetched() {
        let flights = Arc::new(Flights::default());
        let (waits, tickets) = flights.board(&[1, 2], [1, 2], |span| span == 2);
        assert_eq!((waits.len(), tickets.len()), (1, 1));
    }
}
