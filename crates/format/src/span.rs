//! Spans: the pieces of a blob that decompress on their own.

use std::ops::Range;

use crate::toc::Chunk;

/// The bytes of a blob from the start of one compression stream that holds chunks to the next such start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Where it is in the blob.
    pub blob: Range<u64>,
    /// How many bytes of it, decompressed, hold all its chunks.
    pub needed: u64,
}

/// The spans that hold these chunks, in the order of the blob, disjoint.
///
/// Every chunk has to start before `payload_end`, as all chunks of a [`Toc`](crate::Toc) do for the
/// [`Footer`](crate::Footer) that it was read with.
pub fn spans(chunks: &[Chunk], payload_end: u64) -> Vec<Span> {
    let mut pieces: Vec<(u64, u64)> =
        chunks.iter().map(|chunk| (chunk.blob_offset, chunk.inner_end())).collect();
    pieces.sort_unstable();
    // The last of the pieces with the same start is the one that ends last.
    let mut spans = Vec::new();
    let mut pieces = pieces.into_iter().peekable();
    while let Some((start, needed)) = pieces.next() {
        let next = pieces.peek().map(|piece| piece.0);
        if next != Some(start) {
            spans.push(Span { blob: start..next.unwrap_or(payload_end).max(start), needed });
        }
    }
    spans
}

/// Which of the `spans` holds `chunk`. `None` only when they were made for other chunks.
pub fn span_index(spans: &[Span], chunk: &Chunk) -> Option<usize> {
    spans.binary_search_by_key(&chunk.blob_offset, |span| span.blob.start).ok()
}

#[cfg(test)]
mod tests;
