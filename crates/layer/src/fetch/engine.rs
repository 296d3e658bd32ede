//! What a read that misses does.
//!
//! Who owns what: the engine's state is behind short locks ([`Flights`], the read-ahead, the link), none held over an
//! await. A job owns its tickets; its task is owned by the engine and ends with it. Requests are bounded for each layer
//! and priority, so that a registry that hangs holds up its own layers only; decompression, which never waits for
//! anybody, is bounded for all of them together. A job waits for a permit before it reads on, so memory is bounded by
//! permits times [`super::decode`]'s limit, whatever the number of readers.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

use super::flight::{Course, Flights, Request, Ticket, Wait};
use super::link::Link;
use super::memo::Memo;
use super::plan;
use super::readahead::ReadAhead;
use super::siblings::Siblings;
use super::trace::Trace;
use super::traffic::{Priority, Traffic};
use crate::cache::Cache;
use crate::error::{Error, Kind};
use crate::image::ImageFiles;
use crate::source::BlobSource;
use crate::tally::{Flying, Tallies, Tally};

/// Limits of the engine, and what it shares with those of other layers.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Demanded requests at once, for this layer.
    pub requests: usize,
    /// Decompressions at once, shared by all layers.
    pub decoders: Arc<Semaphore>,
    /// After this a read that waits fails. A fetch that broke off is not continued after it either.
    pub read_timeout: Duration,
    /// How often in a row a broken answer is asked for again without any progress.
    pub attempts: u32,
    /// Largest request, bytes of the blob.
    pub job_max: u64,
    /// Told when there are new bits to flush.
    pub dirty: Arc<Notify>,
    /// Who gives way to whom.
    pub traffic: Arc<Traffic>,
    /// Contents of other layers.
    pub siblings: Arc<Siblings>,
    /// Contents that the disk has no room for.
    pub memo: Arc<Memo>,
    /// What happened to all layers of the root.
    pub(crate) tallies: Arc<Tallies>,
    /// Told when the disk is full.
    pub full: Arc<Notify>,
    /// How much room there is.
    pub(crate) cache: Arc<Cache>,
}

/// Requests at once that nobody is blocked on, for each layer and priority.
const UNHURRIED: usize = 4;
/// For so long after a write found no room nothing is fetched that nobody waits for.
const FULL_FOR: Duration = Duration::from_secs(10);
/// A span that arrives within so many round trips is waited for rather than asked for again.
const NEAR: u64 = 4;

/// Fills one layer.
#[derive(Debug)]
pub struct Engine {
    pub(super) files: Arc<ImageFiles>,
    source: Mutex<Arc<dyn BlobSource>>,
    pub(super) flights: Arc<Flights>,
    ahead: Mutex<ReadAhead>,
    link: Mutex<Arc<Mutex<Link>>>,
    /// The store ignores ranges: one request brings everything.
    pub(super) whole_only: AtomicBool,
    permits: [Arc<Semaphore>; 3],
    pub(super) fetched: AtomicU64,
    pub(super) requests: AtomicU64,
    /// Chunks that somebody read, one bit each, and their bytes.
    touched: Box<[AtomicU64]>,
    touched_bytes: AtomicU64,
    /// Who comes first among them.
    trace: Trace,
    pub(super) tally: Arc<Tally>,
    /// After this a read that waits fails, milliseconds.
    read_timeout: AtomicU64,
    /// The rest of the layer is being streamed, because so much of it was read.
    pub(super) streaming: AtomicBool,
    /// Whether the digest of the whole blob was seen: 0 no, 1 it is right, 2 it is wrong.
    pub(crate) blob_digest: AtomicU8,
    full_since: Mutex<Option<Instant>>,
    dirty: AtomicBool,
    closed: AtomicBool,
    jobs: Mutex<JoinSet<()>>,
    pub(super) options: EngineOptions,
}

impl Engine {
    pub(crate) fn new(files: Arc<ImageFiles>, source: Arc<dyn BlobSource>, options: EngineOptions) -> Engine {
        let permits = [options.requests, UNHURRIED, UNHURRIED].map(|count| Arc::new(Semaphore::new(count)));
        let link = options.traffic.link(&source.place());
        options.siblings.join(&files);
        let words = files.tables.chunk_count().div_ceil(64);
        Engine {
            source: Mutex::new(source),
            flights: Arc::default(),
            ahead: Mutex::default(),
            link: Mutex::new(link),
            whole_only: AtomicBool::new(false),
            permits,
            fetched: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            touched: (0..words).map(|_| AtomicU64::new(0)).collect(),
            touched_bytes: AtomicU64::new(0),
            trace: Trace::default(),
            tally: options.tallies.join(),
            read_timeout: AtomicU64::new(options.read_timeout.as_millis() as u64),
            streaming: AtomicBool::new(false),
            blob_digest: AtomicU8::new(0),
            full_since: Mutex::default(),
            dirty: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            jobs: Mutex::default(),
            options,
            files,
        }
    }

    /// Reads from here from now on: another reference or newer credentials for the same blob.
    pub(crate) fn set_source(&self, source: Arc<dyn BlobSource>) {
        let link = self.options.traffic.link(&source.place());
        *self.link.lock().unwrap_or_else(PoisonError::into_inner) = link;
        *self.source.lock().unwrap_or_else(PoisonError::into_inner) = source;
    }

    pub(crate) fn source(&self) -> Arc<dyn BlobSource> {
        self.source.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks at or changes what is known of the way to the store.
    pub(super) fn with_link<T>(&self, look: impl FnOnce(&mut Link) -> T) -> T {
        let link = self.link.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut link = link.lock().unwrap_or_else(PoisonError::into_inner);
        look(&mut link)
    }

    /// Bytes of the blob that arrived, and requests that were made for them.
    pub(crate) fn traffic(&self) -> (u64, u64) {
        (self.fetched.load(Ordering::Relaxed), self.requests.load(Ordering::Relaxed))
    }

    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    pub(crate) fn trace(&self) -> &Trace {
        &self.trace
    }

    /// After this a read that waits fails. A fetch that broke off is not continued after it either.
    pub(super) fn read_timeout(&self) -> Duration {
        Duration::from_millis(self.read_timeout.load(Ordering::Relaxed))
    }

    /// Reads wait so long from now on.
    pub(crate) fn set_read_timeout(&self, limit: Duration) {
        self.read_timeout.store(limit.as_millis() as u64, Ordering::Relaxed);
    }

    /// Bytes of contents that somebody read.
    pub(crate) fn touched(&self) -> u64 {
        self.touched_bytes.load(Ordering::Relaxed)
    }

    /// Whether bits were set since the last call.
    pub(crate) fn take_dirty(&self) -> bool {
        self.dirty.swap(false, Ordering::AcqRel)
    }

    /// Says that a flush failed and is still owed.
    pub(crate) fn mark_dirty(&self) {
        self.dirty.store(true, Ordering::Release);
    }

    /// Ends all jobs and begins no new ones; their waiters get [`Kind::Closed`].
    pub(crate) fn close(&self) {
        let mut jobs = self.jobs();
        // Under the lock under which jobs are begun: none slips through.
        self.closed.store(true, Ordering::Release);
        jobs.abort_all();
    }

    pub(super) fn closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn jobs(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn span_missing(&self, span: usize) -> bool {
        self.files
            .tables
            .span(span)
            .is_some_and(|span| self.files.tables.chunks_of(&span).any(|chunk| !self.files.filled.get(chunk)))
    }

    /// Notes that somebody reads these chunks. Takes no lock.
    pub(crate) fn touch(&self, chunks: Range<usize>) {
        for chunk in chunks {
            let Some(word) = self.touched.get(chunk / 64) else { return };
            let bit = 1 << (chunk % 64);
            if word.load(Ordering::Relaxed) & bit == 0 && word.fetch_or(bit, Ordering::Relaxed) & bit == 0 {
                let size = self.files.tables.chunk(chunk).map_or(0, |chunk| chunk.size);
                self.touched_bytes.fetch_add(size, Ordering::Relaxed);
                self.tally.touched.add(size);
                self.trace.note(chunk);
            }
        }
    }

    /// Makes these chunks filled. Returns when they are, or with the reason why one is not.
    ///
    /// Dropping the future gives up the wait, not the fetch.
    pub async fn fill(self: &Arc<Self>, chunks: Range<usize>) -> Result<(), Error> {
        let mut awaited = self.spans_of_missing(chunks.clone());
        if awaited.is_empty() {
            return Ok(());
        }
        awaited.sort_unstable();
        awaited.dedup();
        let _demand = self.options.traffic.demand();
        let wanted = self.with_read_ahead(&awaited);
        let mut result = Ok(());
        for wait in self.fetch_spans(&awaited, &wanted, Priority::Demand) {
            result = result.and(wait.landed(self.read_timeout()).await);
        }
        self.stream_if_worth_it(&awaited);
        // A neighbour in a span may have failed where our own chunk is good.
        if self.spans_of_missing(chunks).is_empty() {
            return Ok(());
        }
        Err(result.err().unwrap_or_else(|| Error::new(Kind::Closed, "the fetch was given up")))
    }

    /// The bytes of a range of the data area that the disk has no room for, if all that is missing in it is in memory.
    pub(crate) fn unkept(&self, data: Range<u64>) -> Option<Bytes> {
        let files = &self.files;
        let mut out = vec![0; (data.end - data.start) as usize];
        for number in files.tables.chunks_in(data.clone()) {
            let chunk = files.tables.chunk(number)?;
            let (start, end) = (chunk.data.max(data.start), (chunk.data + chunk.size).min(data.end));
            let to = out.get_mut((start - data.start) as usize..(end - data.start) as usize)?;
            match self.options.memo.get(files.meta.digest, number) {
                Some(bytes) => {
                    to.copy_from_slice(bytes.get((start - chunk.data) as usize..(end - chunk.data) as usize)?)
                }
                None if files.read_filled(number..number + 1, start, to).ok()? => {}
                None => return None,
            }
        }
        Some(out.into())
    }

    /// Asks for the wanted spans and gives a wait for each of the awaited ones.
    pub(super) fn fetch_spans(
        self: &Arc<Self>,
        awaited: &[usize],
        wanted: &[usize],
        priority: Priority,
    ) -> Vec<Wait> {
        let place_of = |&span: &usize| Some((span, self.files.tables.span(span)?.blob));
        let awaited: Vec<(usize, Range<u64>)> = awaited.iter().filter_map(place_of).collect();
        let near = self.with_link(|link| link.round_trip()).saturating_mul(NEAR);
        let request = Request { awaited: &awaited, wanted, priority, near };
        let (waits, tickets) = self.flights.board(&request, |span| self.span_missing(span));
        self.start(tickets, priority);
        waits
    }

    fn spans_of_missing(&self, chunks: Range<usize>) -> Vec<usize> {
        let tables = &self.files.tables;
        chunks
            .filter(|&chunk| !self.files.filled.get(chunk))
            .filter_map(|chunk| tables.chunk(chunk))
            .map(|chunk| chunk.span as usize)
            .collect()
    }

    /// The awaited spans and those that are worth their bytes.
    fn with_read_ahead(&self, awaited: &[usize]) -> Vec<usize> {
        if self.whole_only.load(Ordering::Relaxed) {
            return (0..self.files.tables.span_count()).collect();
        }
        let (Some(&first), Some(&last)) = (awaited.first(), awaited.last()) else { return Vec::new() };
        let mut wanted = awaited.to_vec();
        if self.disk_full() || self.streaming.load(Ordering::Relaxed) {
            return wanted;
        }
        let link = self.with_link(|link| link.clone());
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = |span: usize| self.span_missing(span) && !self.flights.has(span);
        wanted.extend(ahead.blocked(&self.files.tables, (first, last), &link, &missing));
        drop(ahead);
        wanted.sort_unstable();
        wanted.dedup();
        wanted
    }

    /// Puts tickets, ascending, into jobs and starts them.
    pub(super) fn start(self: &Arc<Self>, tickets: Vec<Ticket>, priority: Priority) {
        if tickets.is_empty() {
            return;
        }
        let spans = tickets.iter().filter_map(|ticket| {
            let span = self.files.tables.span(ticket.span())?;
            Some((ticket.span(), span.blob))
        });
        let limits = self.limits(priority);
        let plans = plan::jobs(spans, limits);
        let mut tickets = tickets.into_iter();
        let mut jobs = self.jobs();
        if self.closed() {
            // Tickets that are dropped tell their waiters, under another lock.
            drop(jobs);
            return;
        }
        while jobs.try_join_next().is_some() {}
        for plan in plans {
            let mine: Vec<Ticket> = tickets.by_ref().take(plan.spans.len()).collect();
            let course = Arc::new(Course::new(priority));
            mine.iter().for_each(|ticket| ticket.set_course(&course));
            let engine = self.clone();
            let flying = Flying::new(&self.tally, priority, mine.len());
            jobs.spawn(async move {
                let _flying = flying;
                engine.run(mine, priority, course).await;
            });
        }
    }

    /// How requests are cut. What nobody is blocked on is asked for in pieces of the caller's choice.
    pub(super) fn limits(&self, priority: Priority) -> plan::Limits {
        let one_piece = self.whole_only.load(Ordering::Relaxed) || priority != Priority::Demand;
        let job_max = if one_piece { u64::MAX } else { self.options.job_max };
        plan::Limits { job_max, many_ranges: self.with_link(|link| link.many_ranges) }
    }

    pub(super) fn permits(&self, priority: Priority) -> Arc<Semaphore> {
        let [demand, prefetch, background] = &self.permits;
        match priority {
            Priority::Demand => demand.clone(),
            Priority::Prefetch => prefetch.clone(),
            Priority::Background => background.clone(),
        }
    }

    /// Whether a write found no room a short time ago.
    pub(crate) fn disk_full(&self) -> bool {
        let since = *self.full_since.lock().unwrap_or_else(PoisonError::into_inner);
        since.is_some_and(|since| since.elapsed() < FULL_FOR)
    }

    /// Notes that a write found no room.
    pub(super) fn note_disk_full(&self) {
        let mut since = self.full_since.lock().unwrap_or_else(PoisonError::into_inner);
        if since.is_none_or(|since| since.elapsed() >= FULL_FOR * 6) {
            tracing::warn!(
                layer = %self.files.meta.digest,
                dir = %self.files.dir.display(),
                "the disk is full: contents are served from memory and not kept; make room, or set a cache budget"
            );
        }
        *since = Some(Instant::now());
        self.options.full.notify_one();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.options.tallies.leave(&self.tally);
    }
}
