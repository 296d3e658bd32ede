//! One job: its requests, and what becomes of the bytes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use format::digest::{Algorithm, Hasher};
use tokio::task::JoinSet;

use super::decode::{Compressed, fill_span, write};
use super::engine::Engine;
use super::flight::{Course, Request, Ticket};
use super::link::Busy;
use super::plan::{self, Job};
use super::span_reader::{Arrived, SpanReader};
use super::traffic::Priority;
use crate::error::{Error, Kind};
use crate::source::BlobBody;
use crate::tally::Cause;

/// How often a job leaves a connection that is much slower than others, or silent.
const RESTARTS: u32 = 2;
/// A connection is judged after so long.
const JUDGED_AFTER: Duration = Duration::from_secs(2);
/// And left if it brought less than this part of what others bring.
const STRAGGLER: f64 = 0.2;
/// Not worth a new connection.
const SMALL_REST: u64 = 256 << 10;
/// Between two attempts at a store that is away, each of which has its own retries.
const AWAY: Duration = Duration::from_millis(250);
/// Stores that have to fetch a blob themselves take their time to begin an answer.
const NO_ANSWER: Duration = Duration::from_secs(10);
/// Silence of this length, or of some round trips if that is longer, is not normal.
const SILENCE: Duration = Duration::from_secs(3);

/// What a job knows of itself.
#[derive(Debug)]
struct Run<'a> {
    priority: Priority,
    course: &'a Course,
    restarts: u32,
    /// Decoders that are at work; each gives back the tickets of spans that were bad.
    decoding: JoinSet<Vec<(Ticket, Error)>>,
}

impl Engine {
    /// Fetches the spans of these tickets (ascending) and lands every ticket.
    pub(super) async fn run(self: Arc<Self>, tickets: Vec<Ticket>, priority: Priority, course: Arc<Course>) {
        let Ok(_permit) = self.permits(priority).acquire_owned().await else { return };
        let mut tickets = self.copy_local(tickets).await;
        // Bytes that fail verification are asked for once more: a proxy on the way may have broken them.
        for last in [false, true] {
            let failed = self.fetch(tickets, priority, &course).await;
            tickets = Vec::new();
            for (ticket, error) in failed {
                let bad_bytes = matches!(error.kind(), Kind::Integrity);
                if bad_bytes {
                    self.tally.bad.add(1);
                }
                if bad_bytes && !last {
                    self.tally.retry(Cause::BadBytes);
                    tracing::warn!(layer = %self.files.meta.digest, span = ticket.span(), %error, "bad bytes from the registry, asking once more");
                    tickets.push(ticket);
                } else {
                    ticket.land(Err(error));
                }
            }
            if tickets.is_empty() {
                return;
            }
            tickets.sort_by_key(Ticket::span);
        }
    }

    /// Lands what other layers of this node have, and returns the rest.
    async fn copy_local(self: &Arc<Self>, tickets: Vec<Ticket>) -> Vec<Ticket> {
        let (mut rest, mut here) = (Vec::new(), Vec::new());
        for ticket in tickets {
            match self.found_elsewhere(ticket.span()) {
                Some(copies) => here.push((ticket, copies)),
                None => rest.push(ticket),
            }
        }
        if here.is_empty() {
            return rest;
        }
        let Ok(permit) = self.options.decoders.clone().acquire_owned().await else { return rest };
        let engine = self.clone();
        let copied = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let mut failed = Vec::new();
            for (ticket, copies) in here {
                for (number, chunk, found) in copies {
                    let read = match found.read() {
                        Ok(Some(bytes)) => bytes,
                        Ok(None) => continue,
                        // The network may do better than this disk.
                        Err(error) => {
                            tracing::debug!(%error, "content of another layer could not be read");
                            continue;
                        }
                    };
                    let filling = engine.files.filling();
                    let shared = engine.options.siblings.share(&found, &engine.files, number);
                    if shared || write(&engine.files, &read, chunk.data).is_ok() {
                        engine.files.mark_filled(number, &filling);
                    }
                }
                if engine.span_missing(ticket.span()) {
                    failed.push(ticket);
                } else {
                    ticket.land(Ok(()));
                }
            }
            engine.mark_dirty();
            engine.options.dirty.notify_one();
            failed
        });
        rest.extend(copied.await.unwrap_or_default());
        rest.sort_by_key(Ticket::span);
        rest
    }

    /// Where all missing chunks of a span are to be had from, if other layers have them all.
    fn found_elsewhere(
        &self,
        span: usize,
    ) -> Option<Vec<(usize, crate::image::Chunk, super::siblings::Found)>> {
        let tables = &self.files.tables;
        let missing = tables.span(span)?;
        tables
            .chunks_of(&missing)
            .filter(|&number| !self.files.filled.get(number))
            .map(|number| {
                let chunk = tables.chunk(number)?;
                Some((number, chunk, self.options.siblings.find(&self.files, &chunk)?))
            })
            .collect()
    }

    /// One or more requests until every ticket has landed or failed. Failed ones are returned.
    async fn fetch(
        self: &Arc<Self>,
        tickets: Vec<Ticket>,
        priority: Priority,
        course: &Course,
    ) -> Vec<(Ticket, Error)> {
        let mut reader = SpanReader::new(self.files.clone(), tickets);
        let mut run = Run { priority, course, restarts: 0, decoding: JoinSet::new() };
        let (mut attempt, started) = (0, Instant::now());
        while let Some(job) = self.next_request(&mut reader, priority) {
            self.options.traffic.give_way(priority, || course.urgent()).await;
            let (before, restarts) = (reader.remaining().count(), run.restarts);
            course.asked(&job.runs);
            let error = match self.ask_patiently(&job, &mut run).await {
                Ok(Some((body, asked))) => match self.receive(body, asked, &mut reader, &mut run).await {
                    Ok(()) => continue,
                    Err(error) => error,
                },
                // Asked for several ranges of a store that answers one: next time it is asked for one.
                Ok(None) => continue,
                // A store that is away may be back before the reader's time is up.
                Err(error) if error.kind() != Kind::Refused && started.elapsed() < self.read_timeout() => {
                    tracing::debug!(layer = %self.files.meta.digest, %error, "the store is away, asking again");
                    self.tally.retry(Cause::StoreAway);
                    tokio::time::sleep(AWAY).await;
                    continue;
                }
                // It has tried again by itself whatever may help against a refusal.
                Err(error) => {
                    let mut failed = reader.fail(&error);
                    failed.extend(collect(run.decoding).await);
                    return failed;
                }
            };
            attempt = if reader.remaining().count() < before { 0 } else { attempt + 1 };
            let late = attempt > 0 && started.elapsed() >= self.read_timeout();
            if late || attempt >= self.options.attempts || !worth_a_retry(&error) {
                let mut failed = reader.fail(&error);
                failed.extend(collect(run.decoding).await);
                return failed;
            }
            if run.restarts == restarts {
                self.tally.retry(Cause::BrokeOff);
            }
            tracing::debug!(layer = %self.files.meta.digest, %error, attempt, "answer broke off, asking for the rest");
            if attempt > 0 {
                tokio::time::sleep(Duration::from_millis(20 << attempt.min(8))).await;
            }
        }
        collect(run.decoding).await
    }

    /// What to ask for next. Spans that do not fit into one request become jobs of their own.
    fn next_request(self: &Arc<Self>, reader: &mut SpanReader, priority: Priority) -> Option<Job> {
        let limits = plan::Limits { job_max: u64::MAX, ..self.limits(priority) };
        let mut jobs = plan::jobs(reader.remaining(), limits).into_iter();
        let first = jobs.next()?;
        if let Some(start) = jobs.next().and_then(|second| second.runs.first().map(|run| run.start)) {
            let rest = reader.split_off(start);
            self.start(rest, priority);
        }
        Some(first)
    }

    /// Asks again on another connection when nothing comes back for long. The last attempt is the store's to time.
    async fn ask_patiently(
        &self,
        job: &Job,
        run: &mut Run<'_>,
    ) -> Result<Option<(Box<dyn BlobBody>, Instant)>, Error> {
        while run.restarts < RESTARTS {
            match tokio::time::timeout(NO_ANSWER, self.ask(job, run.priority)).await {
                Ok(answer) => return answer,
                Err(_) => {
                    run.restarts += 1;
                    self.tally.retry(Cause::Silent);
                }
            }
        }
        self.ask(job, run.priority).await
    }

    async fn ask(
        &self,
        job: &Job,
        priority: Priority,
    ) -> Result<Option<(Box<dyn BlobBody>, Instant)>, Error> {
        let (source, asked) = (self.source(), Instant::now());
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.tally.requests.add(1);
        tracing::trace!(
            layer = %self.files.meta.digest,
            from = job.runs.first().map_or(0, |run| run.start),
            runs = job.runs.len(),
            bytes = job.runs.iter().map(|run| run.end - run.start).sum::<u64>(),
            spans = job.spans.len(),
            ?priority,
            "asking for contents"
        );
        if let [run] = job.runs.as_slice() {
            return Ok(Some((source.read(run.clone()).await?, asked)));
        }
        let body = source.read_many(&job.runs).await?;
        if body.is_none() {
            self.requests.fetch_sub(1, Ordering::Relaxed);
            self.with_link(|link| link.many_ranges = false);
        }
        Ok(body.map(|body| (body, asked)))
    }

    /// Reads the body of an answer and hands complete spans to the decoders.
    async fn receive(
        self: &Arc<Self>,
        mut body: Box<dyn BlobBody>,
        asked: Instant,
        reader: &mut SpanReader,
        run: &mut Run<'_>,
    ) -> Result<(), Error> {
        if body.whole() {
            self.take_all(reader);
        }
        reader.restart();
        let mut meter = Meter::new(self, asked);
        let mut whole = body.whole().then(|| Whole { hasher: Hasher::new(Algorithm::Sha256), next: 0 });
        loop {
            let piece = match meter.patience(run.restarts) {
                Some(limit) => match tokio::time::timeout(limit, body.next()).await {
                    Ok(piece) => piece?,
                    Err(_) => {
                        run.restarts += 1;
                        self.tally.retry(Cause::Silent);
                        return Err(Error::new(Kind::Source, "a connection went silent"));
                    }
                },
                None => body.next().await?,
            };
            let Some(piece) = piece else { break };
            meter.add(piece.bytes.len() as u64);
            run.course.at(piece.offset + piece.bytes.len() as u64);
            if let Some(whole) = &mut whole {
                whole.push(piece.offset, &piece.bytes);
            }
            let arrived = reader.push(piece)?;
            let held_up = Instant::now();
            if !arrived.is_empty() {
                self.decode(arrived, &mut run.decoding).await?;
            }
            if run.priority != Priority::Demand {
                self.options.traffic.give_way(run.priority, || run.course.urgent()).await;
            }
            meter.exclude(held_up.elapsed());
            if run.restarts < RESTARTS && meter.straggles(reader) {
                run.restarts += 1;
                self.tally.retry(Cause::Slow);
                return Err(Error::new(Kind::Source, "a connection is much slower than others"));
            }
        }
        meter.done();
        if let Some(whole) = whole {
            self.check_blob(whole);
        }
        // What of an answer to several ranges did not come is asked for again.
        if reader.remaining().next().is_some() {
            return Err(Error::new(Kind::Source, "the answer ended before the last span was whole"));
        }
        Ok(())
    }

    /// The store sends everything whatever it is asked for: takes all that nobody fetches yet.
    fn take_all(self: &Arc<Self>, reader: &mut SpanReader) {
        if !self.whole_only.swap(true, Ordering::Relaxed) {
            tracing::info!(layer = %self.files.meta.digest, "the registry ignores ranges, reading the layer in one piece");
        }
        let all: Vec<usize> = (0..self.files.tables.span_count()).collect();
        let request = Request { awaited: &[], wanted: &all, priority: Priority::Prefetch, near: 0 };
        let (_, more) = self.flights.board(&request, |span| self.span_missing(span));
        reader.add(more);
    }

    fn check_blob(&self, whole: Whole) {
        if whole.next != self.files.meta.blob_size {
            return;
        }
        let right = whole.hasher.finish() == self.files.meta.digest;
        self.blob_digest.store(if right { 1 } else { 2 }, Ordering::Relaxed);
        if !right {
            // Every content was verified on its own; what is wrong lies between them.
            tracing::warn!(layer = %self.files.meta.digest, "the registry sent a blob that has not its digest");
        }
    }

    async fn decode(
        self: &Arc<Self>,
        arrived: Vec<Arrived>,
        decoding: &mut JoinSet<Vec<(Ticket, Error)>>,
    ) -> Result<(), Error> {
        let permit = self.options.decoders.clone().acquire_owned().await;
        let permit = permit.map_err(|_| Error::new(Kind::Closed, "the engine is closed"))?;
        let engine = self.clone();
        decoding.spawn_blocking(move || {
            let _permit = permit;
            let mut failed = Vec::new();
            for Arrived { ticket, compressed } in arrived {
                match engine.fill_one(ticket.span(), compressed) {
                    Ok(()) => ticket.land(Ok(())),
                    Err(error) => failed.push((ticket, error)),
                }
            }
            failed
        });
        Ok(())
    }

    fn fill_one(&self, span: usize, compressed: Compressed) -> Result<(), Error> {
        let result = fill_span(&self.files, span, compressed, &self.options.memo);
        if result.as_ref().is_err_and(|error| error.kind() == Kind::DiskFull) {
            self.note_disk_full();
        }
        self.mark_dirty();
        self.options.dirty.notify_one();
        result
    }
}

/// The digest of a blob that comes in one piece.
struct Whole {
    hasher: Hasher,
    next: u64,
}

impl Whole {
    fn push(&mut self, offset: u64, bytes: &[u8]) {
        if offset == self.next {
            self.hasher.update(bytes);
            self.next += bytes.len() as u64;
        }
    }
}

/// Measures one answer. Time that the reader itself held up does not count.
struct Meter<'a> {
    engine: &'a Engine,
    asked: Instant,
    first_byte: Option<Duration>,
    busy: Option<Busy>,
    bytes: u64,
    excluded: Duration,
    /// Since when, and with how many bytes, the connection is being judged.
    judged: (Instant, u64),
}

impl<'a> Meter<'a> {
    fn new(engine: &'a Engine, asked: Instant) -> Meter<'a> {
        let busy = engine.with_link(|link| link.enter());
        Meter {
            engine,
            asked,
            first_byte: None,
            busy: Some(busy),
            bytes: 0,
            excluded: Duration::ZERO,
            judged: (Instant::now(), 0),
        }
    }

    /// How long to wait for the next piece before trying another connection.
    fn patience(&self, restarts: u32) -> Option<Duration> {
        let round_trips = self.engine.with_link(|link| link.first_byte()) * 10;
        (restarts < RESTARTS).then(|| SILENCE.max(round_trips))
    }

    fn add(&mut self, bytes: u64) {
        self.first_byte.get_or_insert_with(|| self.asked.elapsed());
        self.bytes += bytes;
        self.engine.fetched.fetch_add(bytes, Ordering::Relaxed);
        self.engine.tally.fetched.add(bytes);
    }

    fn exclude(&mut self, time: Duration) {
        self.excluded += time;
        self.judged.0 += time;
    }

    /// Whether another connection would bring the rest sooner.
    fn straggles(&mut self, reader: &SpanReader) -> bool {
        let (since, before) = self.judged;
        let passed = since.elapsed();
        if passed < JUDGED_AFTER {
            return false;
        }
        self.judged = (Instant::now(), self.bytes);
        let normal = self.engine.with_link(|link| link.lane_rate()) * passed.as_secs_f64();
        let rest = reader.remaining().map(|(_, range)| range.end - range.start).sum::<u64>();
        ((self.bytes - before) as f64) < normal * STRAGGLER && rest > SMALL_REST
    }

    fn done(&mut self) {
        let (Some(first_byte), Some(busy)) = (self.first_byte, self.busy.take()) else { return };
        let body = self.asked.elapsed().saturating_sub(first_byte + self.excluded);
        self.engine.with_link(|link| link.note(busy, first_byte, body, self.bytes));
    }
}

impl Drop for Meter<'_> {
    fn drop(&mut self) {
        if let Some(busy) = self.busy.take() {
            self.engine.with_link(|link| link.leave(busy));
        }
    }
}

async fn collect(mut decoding: JoinSet<Vec<(Ticket, Error)>>) -> Vec<(Ticket, Error)> {
    let mut failed = Vec::new();
    while let Some(batch) = decoding.join_next().await {
        match batch {
            Ok(batch) => failed.extend(batch),
            // The tickets of a decoder that panicked have told their waiters when they were dropped.
            Err(error) => tracing::error!(%error, "a decoder did not end well"),
        }
    }
    failed
}

/// Whether a body that ended with this error only broke off.
fn worth_a_retry(error: &Error) -> bool {
    matches!(error.kind(), Kind::Source | Kind::Timeout | Kind::Refused)
}
