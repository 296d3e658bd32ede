use serde_json::{Value, json};

use super::fixture::*;
use crate::EntryError;
use crate::toc::{Chunk, NodeKind};

fn reg(fields: Value) -> Value {
    merged(json!({ "name": "f", "type": "reg", "chunkDigest": digest(1) }), fields)
}

fn chunk(fields: Value) -> Value {
    merged(json!({ "name": "f", "type": "chunk", "chunkDigest": digest(2) }), fields)
}

fn merged(mut base: Value, fields: Value) -> Value {
    for (key, value) in fields.as_object().unwrap() {
        base[key] = value.clone();
    }
    base
}

#[track_caller]
fn problem(entries: Value) -> EntryError {
    let (path, problem) = refused(entries);
    assert_eq!(path, "f");
    problem
}

#[test]
fn a_file_without_chunk_size_is_one_chunk() {
    let toc = toc(json!([reg(json!({ "size": 10, "offset": 5, "innerOffset": 512 }))]));
    let expected =
        Chunk { file_offset: 0, size: 10, blob_offset: 5, inner_offset: 512, digest: Some([1; 32]) };
    assert_eq!(toc.chunks(), [expected]);
    assert_eq!(toc.nodes()[1].kind, NodeKind::File { size: 10, chunks: 0..1 });
}

#[test]
fn chunk_entries_continue_the_file_before_them() {
    let toc = toc(json!([
        reg(json!({ "size": 10, "offset": 5, "chunkSize": 4 })),
        chunk(json!({ "offset": 20, "chunkOffset": 4, "chunkSize": 4 })),
        chunk(json!({ "offset": 30, "chunkOffset": 8 })),
        file("g", 40),
    ]));
    let places: Vec<_> = toc.chunks().iter().map(|c| (c.file_offset, c.size, c.blob_offset)).collect();
    assert_eq!(places, [(0, 4, 5), (4, 4, 20), (8, 2, 30), (0, 1, 40)]);
    assert_eq!(toc.nodes()[1].kind, NodeKind::File { size: 10, chunks: 0..3 });
    assert_eq!(toc.nodes()[2].kind, NodeKind::File { size: 1, chunks: 3..4 });
}

#[test]
fn an_empty_file_has_no_chunks() {
    let toc = toc(json!([reg(json!({ "offset": 7, "digest": digest(9) }))]));
    assert!(toc.chunks().is_empty());
}

#[test]
fn the_digest_of_a_file_is_that_of_its_only_chunk() {
    let entry = json!({ "name": "f", "type": "reg", "size": 3, "chunkSize": 3, "digest": digest(9) });
    assert_eq!(toc(json!([entry])).chunks()[0].digest, Some([9; 32]));
    let both = reg(json!({ "size": 3, "digest": digest(9) }));
    assert_eq!(toc(json!([both])).chunks()[0].digest, Some([1; 32]));
}

#[test]
fn every_chunk_needs_a_digest() {
    let first = json!({ "name": "f", "type": "reg", "size": 3, "chunkSize": 2, "digest": digest(9) });
    let second = json!({ "name": "f", "type": "chunk", "chunkOffset": 2, "digest": digest(9) });
    assert_eq!(problem(json!([first, second])), EntryError::MissingDigest(0));
    let first = reg(json!({ "size": 3, "chunkSize": 2 }));
    assert_eq!(problem(json!([first, second])), EntryError::MissingDigest(2));
    let sha512 = format!("sha512:{}", "ab".repeat(64));
    for wrong in ["sha256:12", &sha512] {
        let entry = reg(json!({ "size": 3, "chunkDigest": wrong }));
        assert_eq!(problem(json!([entry])), EntryError::BadDigest(wrong.to_owned()));
    }
}

#[test]
fn chunks_cover_their_file_exactly() {
    let first = reg(json!({ "size": 10, "chunkSize": 4 }));
    for (next, expected) in [
        (empty("g"), EntryError::ChunksMissing { covered: 4, file_size: 10 }),
        (
            chunk(json!({ "chunkOffset": 4, "chunkSize": 4 })),
            EntryError::ChunksMissing { covered: 8, file_size: 10 },
        ),
        (chunk(json!({ "chunkOffset": 5, "chunkSize": 4 })), EntryError::ChunkGap { expected: 4, got: 5 }),
        (chunk(json!({ "chunkOffset": 0, "chunkSize": 4 })), EntryError::ChunkGap { expected: 4, got: 0 }),
        (
            chunk(json!({ "chunkOffset": 4, "chunkSize": 7 })),
            EntryError::ChunkSize { offset: 4, chunk_size: 7, file_size: 10 },
        ),
        (
            chunk(json!({ "chunkOffset": 4, "chunkSize": i64::MAX })),
            EntryError::ChunkSize { offset: 4, chunk_size: i64::MAX as u64, file_size: 10 },
        ),
        (
            chunk(json!({ "chunkOffset": 4, "chunkSize": -1 })),
            EntryError::OutOfRange { field: "chunkSize", value: -1 },
        ),
        (
            chunk(json!({ "chunkOffset": -4, "chunkSize": 1 })),
            EntryError::OutOfRange { field: "chunkOffset", value: -4 },
        ),
    ] {
        assert_eq!(problem(json!([first, next])), expected);
    }
    let late = chunk(json!({ "chunkOffset": 10 }));
    let expected = EntryError::ChunkSize { offset: 10, chunk_size: 0, file_size: 10 };
    assert_eq!(problem(json!([reg(json!({ "size": 10 })), late])), expected);
    let expected = EntryError::ChunkSize { offset: 0, chunk_size: 11, file_size: 10 };
    assert_eq!(problem(json!([reg(json!({ "size": 10, "chunkSize": 11 }))])), expected);
}

#[test]
fn a_chunk_needs_a_file() {
    for before in [json!([]), json!([dir("d")]), json!([reg(json!({ "size": 1 })), hardlink("l", "f")])] {
        let mut entries = before;
        entries.as_array_mut().unwrap().push(chunk(json!({})));
        assert_eq!(problem(entries), EntryError::OrphanChunk);
    }
}

#[test]
fn chunks_lie_in_the_payload() {
    let at =
        |offset: i64, inner: i64| json!([reg(json!({ "size": 1, "offset": offset, "innerOffset": inner }))]);
    let payload_end = PAYLOAD_END;
    assert!(read(at(PAYLOAD_END as i64 - 1, 1031)).is_ok());
    assert_eq!(
        problem(at(PAYLOAD_END as i64, 0)),
        EntryError::ChunkOutsidePayload { offset: PAYLOAD_END, payload_end }
    );
    assert_eq!(
        problem(at(i64::MAX, 0)),
        EntryError::ChunkOutsidePayload { offset: i64::MAX as u64, payload_end }
    );
    assert_eq!(problem(at(-1, 0)), EntryError::OutOfRange { field: "offset", value: -1 });
    assert_eq!(problem(at(0, -1)), EntryError::OutOfRange { field: "innerOffset", value: -1 });
    assert_eq!(
        problem(at(PAYLOAD_END as i64 - 1, 1032)),
        EntryError::ChunkTooLarge { offset: PAYLOAD_END - 1 }
    );
    assert_eq!(problem(at(0, i64::MAX)), EntryError::ChunkTooLarge { offset: 0 });
    let huge = reg(json!({ "size": i64::MAX, "innerOffset": i64::MAX }));
    assert_eq!(problem(json!([huge])), EntryError::ChunkTooLarge { offset: 0 });
}
