//! TOCs as containers/storage writes them.

use serde_json::{Value, json};

use super::fixture::*;
use crate::toc::{Chunk, NodeKind, Toc};
use crate::{EntryError, FormatError};

#[track_caller]
fn toc(entries: Value) -> Toc {
    read_chunked(entries).unwrap_or_else(|error| panic!("{error}"))
}

#[track_caller]
fn problem(entries: Value) -> EntryError {
    match read_chunked(entries) {
        Err(FormatError::Entry { problem, .. }) => problem,
        other => panic!("expected a refused entry, got {other:?}"),
    }
}

fn places(chunks: &[Chunk]) -> Vec<(u64, u64, u64)> {
    chunks.iter().map(|chunk| (chunk.file_offset, chunk.size, chunk.blob_offset)).collect()
}

/// A file of 100 bytes whose first chunk has these fields, and its further chunks.
fn file_of(first: Value, further: &[Value]) -> Value {
    let mut entries = vec![
        json!({ "type": "reg", "name": "f", "size": 100, "mode": 420, "digest": digest(9), "offset": 10, "endOffset": 99 }),
    ];
    for (key, value) in first.as_object().unwrap() {
        entries[0][key] = value.clone();
    }
    for fields in further {
        let mut entry = json!({ "type": "chunk", "name": "f" });
        for (key, value) in fields.as_object().unwrap() {
            entry[key] = value.clone();
        }
        entries.push(entry);
    }
    entries.push(file("g", 200));
    json!(entries)
}

#[test]
fn fields_that_only_podman_knows_are_ignored() {
    let entry = json!({
        "type": "reg", "name": "f", "mode": 33261, "size": 1, "uid": 1, "gid": 2, "modtime": "2023-11-14T22:13:20Z",
        "accesstime": "0001-01-01T00:00:00Z", "changetime": "0001-01-01T00:00:00Z", "xattrs": { "user.x": "eA==" },
        "digest": digest(7), "offset": 20, "endOffset": 40,
    });
    let toc = toc(json!([entry]));
    assert_eq!((toc.nodes()[1].mode, toc.nodes()[1].xattrs.len()), (0o755, 1));
    assert_eq!(toc.chunks()[0].digest, Some([7; 32]));
}

#[test]
fn chunks_have_the_sizes_that_their_content_gave_them() {
    let toc = toc(file_of(
        json!({ "chunkSize": 71, "chunkDigest": digest(1) }),
        &[
            json!({ "chunkOffset": 71, "chunkSize": 1, "offset": 50, "chunkDigest": digest(2) }),
            json!({ "chunkOffset": 72, "chunkSize": 28, "offset": 60, "chunkDigest": digest(3) }),
        ],
    ));
    assert_eq!(places(toc.chunks()), [(0, 71, 10), (71, 1, 50), (72, 28, 60), (0, 1, 200)]);
}

#[test]
fn zeros_are_holes_wherever_they_are() {
    let data = |offset: u64, size: u64| json!({ "chunkOffset": offset, "chunkSize": size, "offset": 50, "chunkDigest": digest(2) });
    let zeros = |offset: u64, size: u64| json!({ "chunkOffset": offset, "chunkSize": size, "offset": 60, "chunkType": "zeros", "chunkDigest": digest(3) });
    for (first, further, expected) in [
        (zeros(0, 30), vec![data(30, 70)], vec![(30, 70, 50)]),
        (data(0, 30), vec![zeros(30, 20), data(50, 50)], vec![(0, 30, 50), (50, 50, 50)]),
        (data(0, 30), vec![zeros(30, 70)], vec![(0, 30, 50)]),
        (zeros(0, 30), vec![zeros(30, 70)], vec![]),
        (json!({ "chunkType": "zeros" }), vec![], vec![]),
    ] {
        let toc = toc(file_of(first, &further));
        let NodeKind::File { size: 100, chunks } = &toc.nodes()[1].kind else {
            panic!("{:?}", toc.nodes()[1])
        };
        assert_eq!(places(&toc.chunks()[chunks.start as usize..chunks.end as usize]), expected);
        assert_eq!(toc.chunks().len(), expected.len() + 1);
    }
}

#[test]
fn a_hole_needs_neither_digest_nor_place() {
    let hole = json!({ "chunkOffset": 40, "chunkSize": 60, "chunkType": "zeros", "offset": i64::MAX });
    let toc = toc(file_of(json!({ "chunkSize": 40, "chunkDigest": digest(1) }), &[hole]));
    assert_eq!(places(toc.chunks()), [(0, 40, 10), (0, 1, 200)]);
}

#[test]
fn holes_and_data_cover_the_file_exactly() {
    let first = json!({ "chunkSize": 40, "chunkDigest": digest(1) });
    let zeros =
        |offset: i64, size: i64| json!({ "chunkOffset": offset, "chunkSize": size, "chunkType": "zeros" });
    for (further, expected) in [
        (vec![zeros(40, 59)], EntryError::ChunksMissing { covered: 99, file_size: 100 }),
        (vec![zeros(40, 61)], EntryError::ChunkSize { offset: 40, chunk_size: 61, file_size: 100 }),
        (vec![zeros(39, 61)], EntryError::ChunkGap { expected: 40, got: 39 }),
        (vec![zeros(41, 59)], EntryError::ChunkGap { expected: 40, got: 41 }),
        (
            vec![zeros(40, 60), zeros(100, 1)],
            EntryError::ChunkSize { offset: 100, chunk_size: 1, file_size: 100 },
        ),
        (vec![zeros(40, -1)], EntryError::OutOfRange { field: "chunkSize", value: -1 }),
    ] {
        assert_eq!(problem(file_of(first.clone(), &further)), expected);
    }
}

#[test]
fn what_is_not_zeros_needs_a_digest() {
    let data = json!({ "chunkOffset": 40, "chunkSize": 60, "offset": 50 });
    let first = json!({ "chunkSize": 40, "chunkDigest": digest(1) });
    assert_eq!(problem(file_of(first.clone(), &[data])), EntryError::MissingDigest(40));
    let other = json!({ "chunkOffset": 40, "chunkSize": 60, "chunkType": "copy", "chunkDigest": digest(1) });
    assert_eq!(problem(file_of(first, &[other])), EntryError::UnknownChunkType("copy".to_owned()));
    assert_eq!(problem(file_of(json!({ "digest": "" }), &[])), EntryError::MissingDigest(0));
}

#[test]
fn names_are_those_of_the_archive() {
    let toc = toc(json!([
        dir("./"),
        dir("./a/"),
        empty("/b"),
        dir("/c/"),
        empty("/c/d"),
        hardlink("e", "./b"),
        hardlink("f", "/c/d"),
    ]));
    assert_eq!(
        tree(&toc),
        "/ dir 4\n/a dir 2\n/b file:0 2\n/c dir 2\n/c/d file:0 2\n/e file:0 2\n/f file:0 2\n"
    );
    for name in ["/..", "/../x", "//a/../x", "/a\0"] {
        assert!(read_chunked(json!([empty(name)])).is_err(), "{name:?}");
    }
    assert_eq!(problem(json!([empty("a"), empty("/a")])), EntryError::Duplicate);
    assert_eq!(problem(json!([empty("/")])), EntryError::RootNotDirectory);
    let outside = json!([empty("a"), hardlink("b", "/../a")]);
    assert!(matches!(problem(outside), EntryError::BadLinkTarget { .. }));
}

#[test]
fn a_chunk_may_expand_as_far_as_zstd_can() {
    let at_end = |size: u64| json!([{ "type": "reg", "name": "f", "size": size, "offset": PAYLOAD_END - 1, "digest": digest(1) }]);
    assert_eq!(toc(at_end(32_768)).chunks().len(), 1);
    assert_eq!(problem(at_end(32_769)), EntryError::ChunkTooLarge { offset: PAYLOAD_END - 1 });
    // What follows the payload is the frame of the TOC.
    let behind =
        json!([{ "type": "reg", "name": "f", "size": 1, "offset": PAYLOAD_END, "digest": digest(1) }]);
    assert!(matches!(problem(behind), EntryError::ChunkOutsidePayload { .. }));
}
