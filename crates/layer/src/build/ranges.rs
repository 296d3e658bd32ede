//! What is to be prefetched besides the landmark: the spans of the parts of files that a TOC names.

use std::collections::HashMap;
use std::ops::Range;

use format::{Landmark, Toc};

use crate::image::TablesBuilder;

/// Runs of spans that are remembered of a layer: as many fit into the description of one.
const RUNS_MAX: usize = 1024;

/// Runs of spans, by their numbers, ascending. They cover everything that the TOC names, and a little more where it names
/// more pieces than are remembered.
pub(super) fn wanted(toc: &Toc, tables: &TablesBuilder, offsets: &HashMap<usize, u64>) -> Vec<Range<u32>> {
    if toc.landmark() == Landmark::NoPrefetch {
        return Vec::new();
    }
    let mut spans = Vec::new();
    for (node, ranges) in toc.prefetch_ranges() {
        let Some(data) = offsets.get(&node.index()) else { continue };
        for range in ranges.as_slice() {
            // Within the file, whose place was checked to be within the data area.
            let (start, end) = (data + range.start, data + range.end);
            let first = tables.chunks.partition_point(|chunk| chunk.data + chunk.size <= start);
            let touched = tables.chunks.iter().skip(first).take_while(|chunk| chunk.data < end);
            // Chunks that share a span follow each other.
            for span in touched.map(|chunk| chunk.span) {
                if spans.last() != Some(&span) {
                    spans.push(span);
                }
            }
        }
    }
    spans.sort_unstable();
    spans.dedup();
    let mut gap = 0;
    loop {
        let runs = runs(&spans, gap);
        if runs.len() <= RUNS_MAX {
            return runs;
        }
        gap = gap * 2 + 1;
    }
}

/// Ascending numbers as runs that have more than `gap` numbers between them.
fn runs(numbers: &[u32], gap: u32) -> Vec<Range<u32>> {
    let mut runs: Vec<Range<u32>> = Vec::new();
    for &number in numbers {
        match runs.last_mut() {
            Some(run) if number <= run.end.saturating_add(gap) => run.end = number + 1,
            _ => runs.push(number..number + 1),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::single_range_in_vec_init, reason = "a list of one run is a list of one range")]
    fn numbers_become_runs() {
        assert_eq!(runs(&[], 0), []);
        assert_eq!(runs(&[1, 2, 3, 7, 9], 0), [1..4, 7..8, 9..10]);
        assert_eq!(runs(&[1, 2, 3, 7, 9], 1), [1..4, 7..10]);
        assert_eq!(runs(&[1, 2, 3, 7, 9], 3), [1..10]);
    }
}
