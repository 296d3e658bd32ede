//! Filling in an order that somebody else knows: that of an earlier start.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::engine::Engine;
use super::flight::Wait;
use super::traffic::Priority;
use crate::error::{Error, Kind};

/// What is asked for together: large enough to join what is near, small enough for the first to come first.
const PIECE: u64 = 4 << 20;
/// Nothing that is not demanded has to be done after this.
const LIMIT: Duration = Duration::from_secs(3600);

impl Engine {
    /// The beginnings in the blob of the spans in which these chunks are, each once, in this order.
    pub(crate) fn places_of(&self, chunks: impl IntoIterator<Item = usize>) -> Vec<u64> {
        let tables = &self.files.tables;
        let mut seen = std::collections::HashSet::new();
        let spans = chunks.into_iter().filter_map(|chunk| Some(tables.chunk(chunk)?.span as usize));
        let new = spans.filter(|span| seen.insert(*span)).collect::<Vec<_>>();
        new.into_iter().filter_map(|span| Some(tables.span(span)?.blob.start)).collect()
    }

    /// Makes the spans filled that begin at these bytes of the blob, about in this order. Bytes at which none begins
    /// are passed over. Returns how many bytes of the blob were asked for.
    pub(crate) async fn prefetch_places(self: &Arc<Self>, places: &[u64]) -> Result<u64, Error> {
        let tables = &self.files.tables;
        let span_at = |place: &u64| {
            let span = self.first_span_at(*place);
            tables.span(span).filter(|found| found.blob.start == *place).map(|_| span)
        };
        let mut spans = places.iter().filter_map(span_at).peekable();
        let mut on_their_way: VecDeque<Vec<Wait>> = VecDeque::new();
        let mut asked = 0;
        loop {
            let most = self.with_link(|link| link.best_lanes()) + 1;
            while on_their_way.len() < most && spans.peek().is_some() {
                self.options.traffic.give_way(Priority::Prefetch, || false).await;
                if self.closed() {
                    return Err(Error::new(Kind::Closed, "the layer is closed"));
                }
                if self.disk_full() {
                    return Err(Error::new(Kind::DiskFull, "no room to fill the layer"));
                }
                let (mut wanted, mut bytes) = (Vec::new(), 0);
                while bytes < PIECE
                    && let Some(span) = spans.next()
                {
                    if self.span_missing(span) {
                        bytes += self.bytes_of(span);
                        wanted.push(span);
                    }
                }
                wanted.sort_unstable();
                wanted.dedup();
                asked += bytes;
                self.tally.prefetched.add(bytes);
                on_their_way.push_back(self.fetch_spans(&wanted, &wanted, Priority::Prefetch));
            }
            let Some(first) = on_their_way.pop_front() else { return Ok(asked) };
            for wait in first {
                wait.landed(LIMIT).await?;
            }
        }
    }
}
