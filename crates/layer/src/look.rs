//! What can be seen of a layer from outside.

use std::time::{Duration, Instant};

use crate::error::Error;
use crate::image::Compression;
use crate::layer::Layer;
use crate::tally::Tally;

impl Layer {
    /// What happened to it in this process.
    pub fn tally(&self) -> &Tally {
        self.engine().tally()
    }

    /// The format of its blob, as people call it.
    pub fn format_name(&self) -> &'static str {
        match self.files().meta.compression {
            Compression::Gzip => "estargz",
            Compression::Zstd => "zstd:chunked",
        }
    }

    /// How far each of so many equal parts of its contents is filled, from 0 (not at all) to 1.
    pub fn map(&self, parts: usize) -> Vec<f64> {
        let files = self.files();
        let mut cells = vec![(0_u64, 0_u64); parts.max(1)];
        let width = (files.meta.data_len / cells.len() as u64).max(1);
        for number in 0..files.tables.chunk_count() {
            let Some(chunk) = files.tables.chunk(number) else { continue };
            let last = cells.len() - 1;
            if let Some((filled, all)) = cells.get_mut(((chunk.data / width) as usize).min(last)) {
                *all += chunk.size;
                *filled += if files.filled.get(number) { chunk.size } else { 0 };
            }
        }
        // A part without a beginning of a chunk looks like the one before it.
        let mut before = 1.0;
        let part = |(filled, all): (u64, u64)| {
            before = if all == 0 { before } else { filled as f64 / all as f64 };
            before
        };
        cells.into_iter().map(part).collect()
    }

    /// Notes in which order contents are first read, for so long from now on.
    pub fn record_for(&self, time: Duration) {
        if !self.complete() {
            self.engine().trace().record_for(time, self.files().tables.chunk_count());
        }
    }

    /// How many first reads were noted, and whether more may be.
    pub fn recorded(&self) -> (usize, bool) {
        self.engine().trace().state()
    }

    /// Where in the data area the chunks begin that were read first, in the order in which they were.
    pub fn first_reads(&self) -> Vec<u64> {
        let entries = self.engine().trace().entries();
        entries.into_iter().filter_map(|(_, chunk)| Some(self.files().tables.chunk(chunk)?.data)).collect()
    }

    /// What was noted: when, and the beginning in the blob of the span that was read.
    pub fn record(&self) -> Vec<(Instant, u64)> {
        let entries = self.engine().trace().entries();
        let of = |(at, chunk): (Instant, usize)| Some((at, *self.engine().places_of([chunk]).first()?));
        let mut seen = std::collections::HashSet::new();
        entries.into_iter().filter_map(of).filter(|(_, place)| seen.insert(*place)).collect()
    }

    /// Fetches the spans that begin at these bytes of the blob, about in this order, and returns how many bytes of the
    /// blob were asked for.
    ///
    /// # Errors
    /// As [`fill`](Layer::fill).
    pub async fn prefetch_places(&self, places: &[u64]) -> Result<u64, Error> {
        self.engine().prefetch_places(places).await.map_err(|error| error.of_layer(&self.digest()))
    }

    /// A read that waits for the network fails after this from now on.
    pub fn set_read_timeout(&self, limit: Duration) {
        self.engine().set_read_timeout(limit);
    }
}
