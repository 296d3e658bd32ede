//! Filling in the order of the blob.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::engine::Engine;
use super::flight::Wait;
use super::traffic::Priority;
use crate::error::{Error, Kind};

/// One request of the background: short enough to give way soon, long enough for the line.
const BACKGROUND_PIECE: u64 = 4 << 20;
/// One request of a reader of everything.
const STREAM_PIECE: u64 = 8 << 20;
/// Nothing that is not demanded has to be done after this.
const SWEEP_LIMIT: Duration = Duration::from_secs(24 * 3600);
/// A reader of so much of a layer will read the rest: in percent of its contents.
const READS_ALL: u64 = 35;
/// Smaller layers come along anyway.
const STREAM_MIN: u64 = 4 << 20;

impl Engine {
    /// Makes every chunk filled whose span begins before this byte of the blob, over as many connections as make it
    /// faster, in one request each; then the parts of files that the image's author named.
    pub async fn prefetch(self: &Arc<Self>, blob_end: u64) -> Result<(), Error> {
        let end = self.first_span_at(blob_end);
        self.prefetch_runs(std::iter::once(0..end).collect(), false).await?;
        let count = self.files.tables.span_count();
        let named = self.files.meta.prefetch_spans.iter();
        let named = named.map(|run| (run.start as usize).max(end)..(run.end as usize).min(count)).collect();
        // A hint, not to be paid for with what somebody uses.
        self.prefetch_runs(named, true).await
    }

    async fn prefetch_runs(self: &Arc<Self>, runs: Vec<Range<usize>>, spare: bool) -> Result<(), Error> {
        let missing = runs.iter().cloned().flatten().filter(|&span| self.span_missing(span));
        let bytes: u64 = missing.map(|span| self.bytes_of(span)).sum();
        let lanes = self.with_link(|link| link.best_lanes()) as u64;
        let piece = bytes.div_ceil(lanes).max(STREAM_PIECE);
        self.sweep(runs.into_iter().flatten(), piece, Priority::Prefetch, spare).await
    }

    /// Makes every chunk filled, giving way to everybody. Ends at the first failure.
    pub async fn complete(self: &Arc<Self>) -> Result<(), Error> {
        let all = 0..self.files.tables.span_count();
        self.sweep(all, BACKGROUND_PIECE, Priority::Background, true).await
    }

    /// Streams the rest of the layer once so much of it was read that the rest will be, too.
    pub(super) fn stream_if_worth_it(self: &Arc<Self>, awaited: &[usize]) {
        let all = self.files.meta.data_len;
        let read_much = self.touched().saturating_mul(100) >= all.saturating_mul(READS_ALL);
        let no_room = || self.disk_full() || self.options.cache.short_for(&self.files);
        if all < STREAM_MIN || !read_much || no_room() || self.streaming.swap(true, Ordering::Relaxed) {
            return;
        }
        let from = awaited.first().copied().unwrap_or(0);
        let engine = self.clone();
        tracing::debug!(layer = %self.files.meta.digest, "most of the layer is being read, streaming the rest");
        tokio::spawn(async move {
            let count = engine.files.tables.span_count();
            for part in [from..count, 0..from] {
                if let Err(error) = engine.sweep(part, STREAM_PIECE, Priority::Prefetch, true).await {
                    tracing::debug!(%error, "streaming the rest ended early");
                    break;
                }
            }
            engine.streaming.store(false, Ordering::Relaxed);
        });
    }

    pub(super) fn first_span_at(&self, blob: u64) -> usize {
        let tables = &self.files.tables;
        let (mut low, mut high) = (0, tables.span_count());
        while low < high {
            let middle = low + (high - low) / 2;
            match tables.span(middle) {
                Some(span) if span.blob.start < blob => low = middle + 1,
                _ => high = middle,
            }
        }
        low
    }

    pub(super) fn bytes_of(&self, span: usize) -> u64 {
        self.files.tables.span(span).map_or(0, |span| span.blob.end - span.blob.start)
    }

    /// Fills spans in order, `piece` bytes at a time, with as many pieces on their way as make it faster. What is only
    /// `spare`, asked for by nobody, ends when room gets short: it would push out what somebody uses.
    async fn sweep(
        self: &Arc<Self>,
        spans: impl Iterator<Item = usize> + Send,
        piece: u64,
        priority: Priority,
        spare: bool,
    ) -> Result<(), Error> {
        let mut spans = spans.peekable();
        let mut on_their_way: VecDeque<Vec<Wait>> = VecDeque::new();
        loop {
            // One more than there are connections, so that none of them idles between two pieces.
            let most = self.with_link(|link| link.best_lanes()) + usize::from(priority == Priority::Prefetch);
            while on_their_way.len() < most && spans.peek().is_some() {
                self.options.traffic.give_way(priority, || false).await;
                if self.closed() {
                    return Err(Error::new(Kind::Closed, "the layer is closed"));
                }
                if self.disk_full() || (spare && self.options.cache.short_for(&self.files)) {
                    return Err(Error::new(Kind::DiskFull, "no room to fill the layer"));
                }
                let (mut wanted, mut bytes) = (Vec::new(), 0);
                while bytes < piece
                    && let Some(span) = spans.next()
                {
                    if self.span_missing(span) {
                        bytes += self.bytes_of(span);
                        wanted.push(span);
                    }
                }
                on_their_way.push_back(self.fetch_spans(&wanted, &wanted, priority));
            }
            let Some(first) = on_their_way.pop_front() else { return Ok(()) };
            for wait in first {
                wait.landed(SWEEP_LIMIT).await?;
            }
        }
    }
}
