#![allow(clippy::single_range_in_vec_init, reason = "a list of one span is a list of one range")]

use proptest::prelude::*;

use super::*;

fn spans<const N: usize>(blobs: [Range<u64>; N]) -> Vec<SpanEntry> {
    blobs.map(|blob| SpanEntry { blob, class: 0, dir: NO_DIR }).into()
}

fn built(builder: &TablesBuilder) -> Tables {
    open_tables(builder).1
}

fn chunk(data: u64, size: u64, span: u32, inner_offset: u64) -> Chunk {
    Chunk { data, size, span, inner_offset, digest: Some([span as u8; 32]) }
}

#[test]
fn spans_list_their_chunks_in_the_order_of_decompression() {
    let chunks = vec![chunk(0, 10, 1, 50), chunk(4096, 10, 0, 0), chunk(8192, 10, 1, 0)];
    let tables =
        built(&TablesBuilder { chunks, spans: spans([0..100, 100..200]), dirs: Vec::new(), data_len: 12288 });
    let of = |span| tables.chunks_of(&tables.span(span).unwrap()).collect::<Vec<_>>();
    assert_eq!((of(0), of(1)), (vec![1], vec![2, 0]));
    assert_eq!(tables.span(1).unwrap().blob, 100..200);
    assert_eq!(tables.chunk(0).unwrap(), chunk(0, 10, 1, 50));
    assert_eq!((tables.chunk(3), tables.span(2)), (None, None));
}

#[test]
fn a_range_in_the_padding_has_no_chunk() {
    let chunks = vec![chunk(0, 10, 0, 0), chunk(4096, 4096, 0, 10)];
    let tables = built(&TablesBuilder { chunks, spans: spans([0..100]), dirs: Vec::new(), data_len: 8192 });
    assert_eq!(tables.chunks_in(10..4096), 1..1);
    assert_eq!(tables.chunks_in(9..4097), 0..2);
    assert_eq!(tables.chunks_in(8192..9000), 2..2);
}

#[test]
fn torn_and_lying_files_are_refused() {
    let chunks = vec![chunk(0, 10, 0, 0)];
    let good = TablesBuilder { chunks, spans: spans([0..100]), dirs: Vec::new(), data_len: 4096 }.encode();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("chunks");
    let mut cases = vec![good[..good.len() - 1].to_vec(), Vec::new(), vec![0; 64]];
    for (at, value) in
        [(0, 0), (8, 200), (64 + 24, 9), (64 + 15, 0xff), (160, 2), (164, 2), (168, 2), (156, 5)]
    {
        let mut bad = good.clone();
        bad[at] = value;
        cases.push(bad);
    }
    for (number, bad) in cases.iter().enumerate() {
        std::fs::write(&path, bad).unwrap();
        assert!(Tables::open(&path).is_err(), "case {number}");
    }
}

proptest! {
    #[test]
    fn range_lookup_equals_a_scan(sizes in prop::collection::vec(1u64..9000, 0..40), start in 0u64..400_000, len in 0u64..40_000) {
        let mut data = 0;
        let chunks: Vec<Chunk> = sizes.iter().map(|&size| {
            let next = chunk(data, size, 0, data);
            data = (data + size).next_multiple_of(4096);
            next
        }).collect();
        let expected: Vec<usize> = (0..chunks.len())
            .filter(|&i| chunks[i].data < start + len && start < chunks[i].data + chunks[i].size && len > 0)
            .collect();
        let tables = built(&TablesBuilder { chunks, spans: spans([0..100]), dirs: Vec::new(), data_len: data });
        let found: Vec<usize> = if len == 0 { vec![] } else { tables.chunks_in(start..start + len).collect() };
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn digests_are_found() {
    let chunks: Vec<Chunk> = (0..20).map(|n| chunk(n * 4096, 10, (n * 7 % 20) as u32, 0)).collect();
    let blobs = (0..20).map(|n| SpanEntry { blob: n * 10..n * 10 + 10, class: 0, dir: NO_DIR }).collect();
    let tables = built(&TablesBuilder { chunks, spans: blobs, dirs: Vec::new(), data_len: 20 * 4096 });
    for n in 0..20 {
        assert_eq!(tables.find(&[(n * 7 % 20) as u8; 32]), Some(n));
    }
    assert_eq!(tables.find(&[99; 32]), None);
}

#[test]
fn kin_are_of_one_class_and_below_one_directory() {
    // /  /a  /a/x  /a/y  /b
    let dir = |parent, end| Dir { parent, end };
    let dirs = vec![dir(NO_DIR, 5), dir(0, 4), dir(1, 3), dir(1, 4), dir(0, 5)];
    let placed = [(7, 2), (7, 3), (9, 2), (7, 4), (7, 2), (7, 1), (7, NO_DIR)];
    let spans = placed.iter().enumerate().map(|(n, &(class, dir))| {
        let start = n as u64 * 10;
        SpanEntry { blob: start..start + 10, class, dir }
    });
    let chunks = vec![chunk(0, 10, 0, 0)];
    let tables = built(&TablesBuilder { chunks, spans: spans.collect(), dirs, data_len: 4096 });
    let kin = |span, up| {
        let places = tables.kin(span, up).unwrap_or(0..0);
        places.filter_map(|place| tables.kin_at(place)).collect::<Vec<_>>()
    };
    assert_eq!(kin(0, 0), [0, 4]);
    assert_eq!(kin(0, 1), [5, 0, 4, 1]);
    assert_eq!(kin(0, 2), [5, 0, 4, 1, 3]);
    assert!(kin(0, 3).is_empty());
    assert_eq!(kin(2, 2), [2]);
    assert!(kin(6, 0).is_empty());
    assert!(kin(99, 0).is_empty());
}
