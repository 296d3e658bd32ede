//! The input and output of the engine.
//!
//! Who owns what: the engine's state is behind two short locks ([`Flights`] and the read-ahead), neither held over an
//! await. A job owns its tickets; its task is owned by the engine and ends with it. Requests are bounded for each layer,
//! so that a registry that hangs holds up its own layers only; decompression, which never waits for anybody, is bounded
//! for all of them together. A job waits for a permit before it reads on, so memory is bounded by permits times
//! [`super::decode`]'s limit, whatever the number of readers.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

use super::decode::{Compressed, fill_span};
use super::flight::{Flights, Ticket};
use super::plan;
use super::readahead::{Link, Streams};
use super::span_reader::{Arrived, SpanReader};
use crate::error::{Error, Kind};
use crate::image::ImageFiles;
use crate::source::{BlobBody, BlobSource};

/// Limits of the engine.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Requests at once, for this layer.
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
}

/// A prefetch that takes longer than this has failed, whatever still goes on.
const PREFETCH_LIMIT: Duration = Duration::from_secs(3600);

/// Fills one layer.
#[derive(Debug)]
pub struct Engine {
    files: Arc<ImageFiles>,
    source: Mutex<Arc<dyn BlobSource>>,
    flights: Arc<Flights>,
    ahead: Mutex<(Link, Streams)>,
    /// The store ignores ranges: one request brings everything.
    whole_only: AtomicBool,
    permits: Arc<Semaphore>,
    fetched: AtomicU64,
    requests: AtomicU64,
    dirty: AtomicBool,
    jobs: Mutex<JoinSet<()>>,
    options: EngineOptions,
}

impl Engine {
    pub(crate) fn new(files: Arc<ImageFiles>, source: Arc<dyn BlobSource>, options: EngineOptions) -> Engine {
        Engine {
            files,
            source: Mutex::new(source),
            flights: Arc::default(),
            ahead: Mutex::default(),
            whole_only: AtomicBool::new(false),
            permits: Arc::new(Semaphore::new(options.requests)),
            fetched: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            dirty: AtomicBool::new(false),
            jobs: Mutex::default(),
            options,
        }
    }

    /// Reads from here from now on: another reference or newer credentials for the same blob.
    pub(crate) fn set_source(&self, source: Arc<dyn BlobSource>) {
        *self.source.lock().unwrap_or_else(PoisonError::into_inner) = source;
    }

    fn source(&self) -> Arc<dyn BlobSource> {
        self.source.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Bytes of the blob that arrived, and requests that were made for them.
    pub(crate) fn traffic(&self) -> (u64, u64) {
        (self.fetched.load(Ordering::Relaxed), self.requests.load(Ordering::Relaxed))
    }

    /// Whether bits were set since the last call.
    pub(crate) fn take_dirty(&self) -> bool {
        self.dirty.swap(false, Ordering::AcqRel)
    }

    /// Says that a flush failed and is still owed.
    pub(crate) fn mark_dirty(&self) {
        self.dirty.store(true, Ordering::Release);
    }

    /// Ends all jobs; their waiters get [`Kind::Closed`].
    pub(crate) fn close(&self) {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }

    fn span_missing(&self, span: usize) -> bool {
        self.files
            .tables
            .span(span)
            .is_some_and(|span| self.files.tables.chunks_of(&span).any(|chunk| !self.files.filled.get(chunk)))
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
        let wanted = self.with_read_ahead(&awaited);
        let (waits, tickets) = self.flights.board(&awaited, wanted, |span| self.span_missing(span));
        self.start(tickets);
        let mut result = Ok(());
        for wait in waits {
            result = result.and(wait.landed(self.options.read_timeout).await);
        }
        // A neighbour in a span may have failed where our own chunk is good.
        if self.spans_of_missing(chunks).is_empty() {
            return Ok(());
        }
        Err(result.err().unwrap_or_else(|| Error::new(Kind::Closed, "the fetch was given up")))
    }

    /// Makes every chunk filled whose span begins before this byte of the blob.
    pub async fn fill_until(self: &Arc<Self>, blob_end: u64) -> Result<(), Error> {
        let tables = &self.files.tables;
        let spans: Vec<usize> = (0..tables.span_count())
            .take_while(|&span| tables.span(span).is_some_and(|span| span.blob.start < blob_end))
            .filter(|&span| self.span_missing(span))
            .collect();
        let (waits, tickets) =
            self.flights.board(&spans, spans.iter().copied(), |span| self.span_missing(span));
        self.start(tickets);
        // Nobody reads yet, so each request may take its own time.
        let mut result = Ok(());
        for wait in waits {
            result = result.and(wait.landed(PREFETCH_LIMIT).await);
        }
        result
    }

    fn spans_of_missing(&self, chunks: Range<usize>) -> Vec<usize> {
        let tables = &self.files.tables;
        chunks
            .filter(|&chunk| !self.files.filled.get(chunk))
            .filter_map(|chunk| tables.chunk(chunk))
            .map(|chunk| chunk.span as usize)
            .collect()
    }

    /// The awaited spans and those behind them that are worth their bytes.
    fn with_read_ahead(&self, awaited: &[usize]) -> Vec<usize> {
        let tables = &self.files.tables;
        if self.whole_only.load(Ordering::Relaxed) {
            return (0..tables.span_count()).collect();
        }
        let (Some(&first), Some(&last)) = (awaited.first(), awaited.last()) else { return Vec::new() };
        let (Some(from), Some(to)) = (tables.span(first), tables.span(last)) else { return awaited.to_vec() };
        let until = {
            let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
            let (link, streams) = &mut *ahead;
            streams.miss(from.blob.start, to.blob.end, link)
        };
        let mut wanted = awaited.to_vec();
        wanted.extend(
            (last + 1..tables.span_count())
                .take_while(|&span| tables.span(span).is_some_and(|span| span.blob.end <= until)),
        );
        wanted
    }

    fn start(self: &Arc<Self>, tickets: Vec<Ticket>) {
        if tickets.is_empty() {
            return;
        }
        let spans = tickets.iter().filter_map(|ticket| {
            let span = self.files.tables.span(ticket.span())?;
            Some((ticket.span(), span.blob))
        });
        let max = if self.whole_only.load(Ordering::Relaxed) { u64::MAX } else { self.options.job_max };
        let plans = plan::jobs(spans, max);
        let mut tickets = tickets.into_iter();
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        while jobs.try_join_next().is_some() {}
        for plan in plans {
            let mine: Vec<Ticket> = tickets.by_ref().take(plan.spans.len()).collect();
            let engine = self.clone();
            jobs.spawn(async move { engine.run(mine).await });
        }
    }

    /// Fetches the spans of these tickets (ascending) and lands every ticket.
    async fn run(self: Arc<Self>, mut tickets: Vec<Ticket>) {
        let Ok(_permit) = self.permits.clone().acquire_owned().await else { return };
        // Bytes that fail verification are asked for once more: a proxy on the way may have broken them.
        for last in [false, true] {
            let failed = self.fetch(tickets).await;
            tickets = Vec::new();
            for (ticket, error) in failed {
                let bad_bytes = matches!(error.kind(), Kind::Integrity);
                if bad_bytes && !last {
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

    /// One or more requests until every ticket has landed or failed. Failed ones are returned.
    async fn fetch(self: &Arc<Self>, tickets: Vec<Ticket>) -> Vec<(Ticket, Error)> {
        let mut reader = SpanReader::new(self.files.clone(), tickets);
        let mut decoding: JoinSet<Vec<(Ticket, Error)>> = JoinSet::new();
        let (mut attempt, started) = (0, Instant::now());
        while let Some(range) = reader.remaining() {
            let before = reader.remaining_spans();
            let asked = Instant::now();
            self.requests.fetch_add(1, Ordering::Relaxed);
            // The store has tried again by itself whatever may help against a refusal.
            let body = match self.source().read(range).await {
                Ok(body) => body,
                Err(error) => {
                    let mut failed = reader.fail(&error);
                    failed.extend(collect(decoding).await);
                    return failed;
                }
            };
            let Err(error) = self.receive(body, asked, &mut reader, &mut decoding).await else { continue };
            attempt = if reader.remaining_spans() < before { 0 } else { attempt + 1 };
            let late = attempt > 0 && started.elapsed() >= self.options.read_timeout;
            if late || attempt >= self.options.attempts || !worth_a_retry(&error) {
                let mut failed = reader.fail(&error);
                failed.extend(collect(decoding).await);
                return failed;
            }
            tracing::debug!(layer = %self.files.meta.digest, %error, attempt, "answer broke off, asking for the rest");
            tokio::time::sleep(Duration::from_millis(20 << attempt.min(8))).await;
        }
        collect(decoding).await
    }

    /// Reads the body of an answer and hands complete spans to the decoders.
    async fn receive(
        self: &Arc<Self>,
        mut body: Box<dyn BlobBody>,
        asked: Instant,
        reader: &mut SpanReader,
        decoding: &mut JoinSet<Vec<(Ticket, Error)>>,
    ) -> Result<(), Error> {
        if body.whole() && !self.whole_only.swap(true, Ordering::Relaxed) {
            tracing::info!(layer = %self.files.meta.digest, "the registry ignores ranges, reading the layer in one piece");
        }
        if body.whole() {
            let all = 0..self.files.tables.span_count();
            let (_, more) = self.flights.board(&[], all, |span| self.span_missing(span));
            reader.add(more);
        }
        reader.seek(body.offset());
        let mut first_byte = None;
        let mut bytes = 0;
        while let Some(piece) = body.next().await? {
            first_byte.get_or_insert_with(|| asked.elapsed());
            bytes += piece.len() as u64;
            self.fetched.fetch_add(piece.len() as u64, Ordering::Relaxed);
            let arrived = reader.push(piece)?;
            if !arrived.is_empty() {
                self.decode(arrived, decoding).await?;
            }
            // An answer to a range is read to its end, so that the connection can be used again.
            if body.whole() && reader.remaining().is_none() {
                break;
            }
        }
        if let Some(first_byte) = first_byte {
            let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
            ahead.0.note(first_byte, asked.elapsed() - first_byte, bytes);
        }
        if reader.remaining().is_some() {
            return Err(Error::new(Kind::Source, "the answer ended before the last span was whole"));
        }
        Ok(())
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
        let result = fill_span(&self.files, span, compressed);
        self.mark_dirty();
        self.options.dirty.notify_one();
        result
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
    matches!(error.kind(), Kind::Source | Kind::Timeout)
}
