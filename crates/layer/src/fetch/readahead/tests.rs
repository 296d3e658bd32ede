use std::collections::HashSet;

use super::*;
use crate::image::{Chunk, Dir, NO_DIR, SpanEntry, TablesBuilder, open_tables};

/// Spans of 10,000 bytes, placed in `(class, directory)`; every third directory number is a child of the root.
fn tables(spans: impl IntoIterator<Item = (u64, u32, u32)>, dirs: Vec<Dir>) -> (tempfile::TempDir, Tables) {
    let mut at = 0;
    let spans: Vec<SpanEntry> = spans
        .into_iter()
        .map(|(len, class, dir)| {
            let blob = at..at + len;
            at += len;
            SpanEntry { blob, class, dir }
        })
        .collect();
    let chunks = (0..spans.len() as u64)
        .map(|n| Chunk { data: n * 4096, size: 10, span: n as u32, inner_offset: 0, digest: Some([0; 32]) })
        .collect::<Vec<_>>();
    let data_len = chunks.len() as u64 * 4096;
    open_tables(&TablesBuilder { chunks, spans, dirs, data_len })
}

fn flat(count: usize, len: u64) -> (tempfile::TempDir, Tables) {
    tables((0..count).map(|_| (len, 0, NO_DIR)), Vec::new())
}

/// Reads these spans one after the other; gives the requests, each a list of spans.
fn play(tables: &Tables, reads: impl IntoIterator<Item = usize>) -> Vec<Vec<usize>> {
    let (mut ahead, mut have, mut requests) = (ReadAhead::default(), HashSet::new(), Vec::new());
    let link = Link::default();
    for span in reads {
        if have.contains(&span) {
            continue;
        }
        let mut wanted = ahead.blocked(tables, (span, span), &link, &|span| !have.contains(&span));
        wanted.push(span);
        wanted.sort_unstable();
        wanted.dedup();
        assert!(wanted.iter().all(|span| !have.contains(span)), "nothing is asked for twice");
        have.extend(wanted.iter().copied());
        requests.push(wanted);
    }
    requests
}

#[test]
fn a_reader_of_everything_gets_a_doubling_window() {
    let (_dir, tables) = flat(4000, 10_000);
    let sizes: Vec<usize> = play(&tables, 0..4000).iter().map(Vec::len).collect();
    assert_eq!(sizes[..2], [1, 1], "{sizes:?}");
    assert!(sizes[2..6].windows(2).all(|pair| pair[1] >= pair[0] * 3 / 2), "{sizes:?}");
    assert!(sizes.len() < 16, "{sizes:?}");
    assert!(sizes.iter().all(|&size| size as u64 * 10_000 <= WINDOW_MAX + 10_000), "{sizes:?}");
}

#[test]
fn a_large_file_is_read_on_soon() {
    let (_dir, tables) = flat(40, 4 << 20);
    let sizes: Vec<usize> = play(&tables, 0..40).iter().map(Vec::len).collect();
    assert_eq!(sizes[..2], [1, 1], "{sizes:?}");
    assert!(sizes[2] >= 2 && sizes.len() <= 14, "{sizes:?}");
}

#[test]
fn a_reader_that_waits_within_its_window_gets_the_next_one_before_the_end() {
    let (_dir, tables) = flat(4000, 10_000);
    let (mut ahead, link) = (ReadAhead::default(), Link::default());
    let mut on_their_way = HashSet::new();
    let mut extended = 0;
    for span in 0..400 {
        let missing = |span: usize| !on_their_way.contains(&span);
        let inside = on_their_way.contains(&span);
        let more = ahead.blocked(&tables, (span, span), &link, &missing);
        extended += usize::from(inside && !more.is_empty());
        on_their_way.extend(more);
        on_their_way.insert(span);
    }
    assert!(extended > 1, "{extended}");
    let last = on_their_way.iter().max().unwrap();
    assert!(last - 400 > 100, "there is always something on its way: {last}");
}

#[test]
fn a_random_reader_gets_nothing_that_is_not_of_its_kind() {
    let (_dir, tables) = flat(4000, 10_000);
    let requests = play(&tables, (0..100).map(|step| step * 37 * 31 % 4000));
    assert!(requests.iter().all(|spans| spans.len() == 1), "{requests:?}");
}

#[test]
fn kin_come_along_nearest_first_and_others_do_not() {
    // Two packages of two directories each; classes take turns within a directory.
    let dir = |parent, end| Dir { parent, end };
    let dirs = vec![dir(NO_DIR, 7), dir(0, 4), dir(1, 3), dir(1, 4), dir(0, 7), dir(4, 6), dir(4, 7)];
    let placed = [2_u32, 3, 5, 6].into_iter().flat_map(|dir| (0..20).map(move |n| (1_500, n % 2, dir)));
    let (_dir, tables) = tables(placed, dirs);
    let requests = play(&tables, [10]);
    let all_of_class: Vec<usize> = (0..80).step_by(2).collect();
    assert_eq!(requests, std::slice::from_ref(&all_of_class), "the budget is enough for all of the class");
    let order: Vec<usize> = kin_of(&tables, 10).take(12).collect();
    assert_eq!(order, [12, 8, 14, 6, 16, 4, 18, 2, 0, 20, 22, 24]);
}

#[test]
fn a_budget_bounds_what_kin_may_cost_and_grows_with_misses() {
    let dirs = vec![Dir { parent: NO_DIR, end: 1 }];
    let (_dir, tables) = tables((0..1000).map(|_| (20_000, 3, 0)), dirs);
    let sizes: Vec<usize> = play(&tables, [500, 100, 900, 300, 700]).iter().map(Vec::len).collect();
    assert!(sizes[0] < sizes[1] && sizes[1] < sizes[2], "{sizes:?}");
    assert!(sizes.iter().all(|&size| size as u64 * 20_000 <= KIN_MOST.end() + 20_000), "{sizes:?}");
}

#[test]
fn nothing_behind_the_end_is_looked_at() {
    let (_dir, tables) = flat(3, 10_000);
    let mut ahead = ReadAhead::default();
    assert!(ahead.blocked(&tables, (9, 9), &Link::default(), &|_| true).is_empty());
    assert_eq!(play(&tables, [2]), [[2]]);
}
