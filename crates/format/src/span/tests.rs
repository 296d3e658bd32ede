use proptest::prelude::*;

use super::*;

fn chunk(blob_offset: u64, inner_offset: u64, size: u64) -> Chunk {
    Chunk { file_offset: 0, size, blob_offset, inner_offset, digest: Some([0; 32]) }
}

#[test]
fn chunks_of_one_stream_share_a_span() {
    let chunks = [chunk(50, 0, 5), chunk(10, 512, 4), chunk(10, 0, 4), chunk(90, 0, 1)];
    let spans = spans(&chunks, 100);
    let span = |blob, needed| Span { blob, needed };
    assert_eq!(spans, [span(10..50, 516), span(50..90, 5), span(90..100, 1)]);
    let indices: Vec<_> = chunks.iter().map(|chunk| span_index(&spans, chunk)).collect();
    assert_eq!(indices, [Some(1), Some(0), Some(0), Some(2)]);
    assert_eq!(span_index(&spans, &chunk(11, 0, 1)), None);
}

#[test]
fn without_chunks_there_are_no_spans() {
    assert_eq!(spans(&[], 100), []);
}

proptest! {
    #[test]
    fn spans_are_what_a_naive_search_finds(
        places in prop::collection::vec((0..40_u64, 0..9_u64, 1..9_u64), 0..30),
    ) {
        const PAYLOAD_END: u64 = 40;
        let chunks: Vec<_> = places.iter().map(|(blob, inner, size)| chunk(*blob, *inner, *size)).collect();
        let mut expected = Vec::new();
        for start in 0..PAYLOAD_END {
            let inside = || chunks.iter().filter(|chunk| chunk.blob_offset == start);
            let Some(needed) = inside().map(|chunk| chunk.inner_offset + chunk.size).max() else { continue };
            let end = (start + 1..PAYLOAD_END).find(|at| chunks.iter().any(|chunk| chunk.blob_offset == *at));
            expected.push(Span { blob: start..end.unwrap_or(PAYLOAD_END), needed });
        }
        let spans = spans(&chunks, PAYLOAD_END);
        for chunk in &chunks {
            let span = &spans[span_index(&spans, chunk).unwrap()];
            prop_assert_eq!(span.blob.start, chunk.blob_offset);
        }
        prop_assert_eq!(spans, expected);
    }
}
