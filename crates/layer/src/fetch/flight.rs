//! One fetch for one span, however many wait for it.
//!
//! There is one exception: a span that is on its way, but far behind other bytes of a long answer or in a job that
//! gives way to others, is fetched a second time for a thread that is blocked on it.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::traffic::Priority;
use crate::error::{Error, Kind};

/// How a flight ended. Success says that every chunk of the span was dealt with; whether a chunk is filled is for its
/// bit to say.
type Outcome = Option<Result<(), Error>>;

/// The kernel repeats a failed read-ahead within this.
const SECOND_TRY: Duration = Duration::from_millis(100);

/// How many fetches of one span there may be at once.
const HOLDERS_MAX: usize = 2;

/// The spans that are being fetched now. The lock guards the table only and is never held while waiting.
#[derive(Debug, Default)]
pub struct Flights {
    table: Mutex<HashMap<usize, Arc<Flight>>>,
}

/// A span on its way.
#[derive(Debug)]
pub struct Flight {
    outcome: watch::Sender<Outcome>,
    /// When somebody was first blocked on it.
    demanded: OnceLock<Instant>,
    /// When somebody was blocked on it for too long.
    given_up: OnceLock<Instant>,
    /// Tickets that have not landed.
    holders: AtomicUsize,
    course: Mutex<Option<Arc<Course>>>,
}

/// How far a job has come. Written by the job, read by whoever wonders whether to wait for it.
#[derive(Debug)]
pub struct Course {
    priority: Priority,
    /// What was asked for, ascending; empty while nothing was.
    runs: Mutex<Arc<[Range<u64>]>>,
    /// Blob offset of the next byte to arrive.
    position: AtomicU64,
    /// Up to here somebody is blocked on the job, whatever its priority is.
    urgent: AtomicU64,
}

impl Course {
    /// A job that has not begun.
    pub fn new(priority: Priority) -> Course {
        let runs = Mutex::new(Arc::from([]));
        Course { priority, runs, position: AtomicU64::new(0), urgent: AtomicU64::new(0) }
    }

    fn runs(&self) -> MutexGuard<'_, Arc<[Range<u64>]>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The job has asked for these pieces of the blob.
    pub fn asked(&self, runs: &[Range<u64>]) {
        *self.runs() = runs.into();
        self.at(runs.first().map_or(0, |run| run.start));
    }

    /// The job's next byte is this one.
    pub fn at(&self, position: u64) {
        self.position.store(position, Ordering::Relaxed);
    }

    /// Whether somebody is blocked on what comes next.
    pub fn urgent(&self) -> bool {
        self.position.load(Ordering::Relaxed) < self.urgent.load(Ordering::Relaxed)
    }

    /// How many bytes come before those at `start`; `None` if nothing was asked for yet.
    fn bytes_before(&self, start: u64) -> Option<u64> {
        let (runs, position) = (self.runs().clone(), self.position.load(Ordering::Relaxed));
        if runs.is_empty() {
            return None;
        }
        let to_come = |run: &Range<u64>| run.end.min(start).saturating_sub(run.start.max(position));
        Some(runs.iter().map(to_come).sum())
    }
}

/// The right and the duty to fetch one span. Whoever waits for the span is told when the ticket lands; a ticket that
/// is dropped (a task that was cancelled or panicked) tells them that it did not.
#[derive(Debug)]
pub struct Ticket {
    span: usize,
    flight: Option<Arc<Flight>>,
    flights: Arc<Flights>,
}

/// A wait for one span.
#[derive(Clone, Debug)]
pub struct Wait {
    outcome: watch::Receiver<Outcome>,
    started: Instant,
    flight: Arc<Flight>,
}

/// What is asked for when boarding.
#[derive(Debug)]
pub struct Request<'a> {
    /// Spans that somebody will wait for, and where they are in the blob.
    pub awaited: &'a [(usize, Range<u64>)],
    /// Spans to fetch.
    pub wanted: &'a [usize],
    /// Who waits.
    pub priority: Priority,
    /// An awaited span that begins to arrive after so many bytes is not fetched again.
    pub near: u64,
}

impl Flights {
    fn lock(&self) -> MutexGuard<'_, HashMap<usize, Arc<Flight>>> {
        // The table is whole between any two statements that hold the lock.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes tickets for those wanted spans that are not in flight, and a wait for each of the awaited ones that is in
    /// flight afterwards. `missing` is asked under the lock: a span that landed a moment ago is not fetched again.
    pub fn board(
        self: &Arc<Self>,
        request: &Request<'_>,
        missing: impl Fn(usize) -> bool,
    ) -> (Vec<Wait>, Vec<Ticket>) {
        let mut table = self.lock();
        let mut tickets = Vec::new();
        for (span, blob) in request.awaited {
            let Some(flight) = table.get(span).filter(|flight| !flight.doomed()) else { continue };
            if request.priority == Priority::Demand && !flight.hasten(blob, request.near) {
                flight.holders.fetch_add(1, Ordering::Relaxed);
                tickets.push(Ticket { span: *span, flight: Some(flight.clone()), flights: self.clone() });
            }
        }
        for &span in request.wanted {
            if table.get(&span).is_some_and(|flight| !flight.doomed()) || !missing(span) {
                continue;
            }
            let flight = Arc::new(Flight {
                outcome: watch::channel(None).0,
                demanded: OnceLock::new(),
                given_up: OnceLock::new(),
                holders: AtomicUsize::new(1),
                course: Mutex::default(),
            });
            table.insert(span, flight.clone());
            tickets.push(Ticket { span, flight: Some(flight), flights: self.clone() });
        }
        tickets.sort_by_key(|ticket| ticket.span);
        let waits = request.awaited.iter().filter_map(|(span, _)| table.get(span));
        (waits.map(|flight| flight.wait(request.priority)).collect(), tickets)
    }

    /// Whether this span is in flight.
    pub fn has(&self, span: usize) -> bool {
        self.lock().contains_key(&span)
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

impl Flight {
    fn wait(self: &Arc<Self>, priority: Priority) -> Wait {
        let started = match priority {
            Priority::Demand => *self.demanded.get_or_init(Instant::now),
            Priority::Prefetch | Priority::Background => Instant::now(),
        };
        Wait { outcome: self.outcome.subscribe(), started, flight: self.clone() }
    }

    /// Whether it takes so long that whoever comes now begins anew. The kernel's own second try, which follows at once,
    /// does not: a reader would wait twice.
    fn doomed(&self) -> bool {
        self.given_up.get().is_some_and(|since| since.elapsed() > SECOND_TRY)
    }

    fn course(&self) -> MutexGuard<'_, Option<Arc<Course>>> {
        self.course.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the job that has this span go on for somebody who is blocked. False if it has to be fetched again to be
    /// there soon.
    fn hasten(&self, blob: &Range<u64>, near: u64) -> bool {
        if self.holders.load(Ordering::Relaxed) >= HOLDERS_MAX {
            return true;
        }
        let course = self.course();
        let Some(course) = course.as_ref() else { return true };
        match course.bytes_before(blob.start) {
            Some(before) if before <= near => {
                course.urgent.fetch_max(blob.end, Ordering::Relaxed);
                true
            }
            Some(_) => false,
            // What was demanded first and waits for its turn does not come sooner for being asked for twice.
            None => course.priority == Priority::Demand,
        }
    }
}

impl Ticket {
    /// The span to fetch.
    pub fn span(&self) -> usize {
        self.span
    }

    /// Says which job has the span.
    pub fn set_course(&self, course: &Arc<Course>) {
        if let Some(flight) = &self.flight {
            *flight.course() = Some(course.clone());
        }
    }

    /// Tells everybody who waits. A failure is not remembered: the next read tries again.
    pub fn land(mut self, outcome: Result<(), Error>) {
        self.tell(outcome);
    }

    fn tell(&mut self, outcome: Result<(), Error>) {
        let Some(flight) = self.flight.take() else { return };
        let mut table = self.flights.lock();
        let others = flight.holders.fetch_sub(1, Ordering::Relaxed) > 1;
        // Somebody else still fetches it and may do better.
        if outcome.is_err() && others {
            return;
        }
        if table.get(&self.span).is_some_and(|current| Arc::ptr_eq(current, &flight)) {
            table.remove(&self.span);
        }
        drop(table);
        flight.outcome.send_if_modified(|told| {
            let news = told.is_none();
            told.get_or_insert(outcome);
            news
        });
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.tell(Err(Error::new(Kind::Closed, "the fetch was given up")));
    }
}

impl Wait {
    /// Waits until the span has landed, for at most `limit` after somebody was first blocked on it. A reader that comes
    /// back to a fetch that is stuck does not wait all over again.
    pub async fn landed(mut self, limit: Duration) -> Result<(), Error> {
        match tokio::time::timeout_at(self.started + limit, self.outcome.wait_for(Option::is_some)).await {
            Ok(Ok(outcome)) => outcome.clone().unwrap_or(Ok(())),
            Ok(Err(_)) => Err(Error::new(Kind::Closed, "the fetch was given up")),
            Err(_) => {
                self.flight.given_up.get_or_init(Instant::now);
                Err(Error::new(Kind::Timeout, format!("nothing arrived in {} s", limit.as_secs_f32())))
            }
        }
    }
}

#[cfg(test)]
mod tests;
