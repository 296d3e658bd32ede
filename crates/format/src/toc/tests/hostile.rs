//! Whatever the bytes: an error or a tree that keeps its promises.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::fixture::*;
use crate::toc::{Limits, NodeId, NodeKind, Toc, read_toc};

/// The promises in the documentation of the module.
fn check(toc: &Toc) {
    let mut links = vec![0; toc.nodes().len()];
    links[0] = 2;
    let mut seen = 0;
    for id in (0..toc.nodes().len() as u32).map(NodeId) {
        let mut names = BTreeSet::new();
        let mut last: &[u8] = b"";
        for (name, child) in toc.children(id) {
            assert!(matches!(toc.nodes()[id.index()].kind, NodeKind::Directory { .. }));
            assert!(!matches!(name, b"" | b"." | b"..") && name.len() < 256 && last < name);
            assert!(!name.contains(&0) && !name.contains(&b'/') && names.insert(name));
            assert!(!name.starts_with(b".wh."));
            last = name;
            links[child.index()] += 1;
            if matches!(toc.nodes()[child.index()].kind, NodeKind::Directory { .. }) {
                assert!(child > id);
                links[child.index()] += 1;
                links[id.index()] += 1;
            }
            seen += 1;
        }
    }
    assert_eq!(seen, toc.dirents.len());
    let mut next = 0;
    for (node, links) in toc.nodes().iter().zip(links) {
        assert_eq!(node.nlink, links);
        assert!(links > 0 && node.mode <= 0o7777);
        if let NodeKind::File { size, chunks } = &node.kind {
            assert_eq!(chunks.start, next);
            next = chunks.end;
            let chunks = &toc.chunks()[chunks.start as usize..chunks.end as usize];
            let end = chunks.iter().fold(0, |end, chunk| {
                assert!(chunk.file_offset >= end && chunk.size > 0 && chunk.blob_offset < PAYLOAD_END);
                chunk.file_offset + chunk.size
            });
            assert!(end <= *size);
        }
    }
    assert_eq!(next as usize, toc.chunks().len());
}

fn name() -> impl Strategy<Value = String> {
    let component = prop_oneof![
        8 => "[ab]",
        1 => prop::sample::select(vec![
            ".wh.a", ".wh..wh..opq", ".wh..wh.plnk", ".", "..", "", ".prefetch.landmark", "stargz.index.json", ".wh.",
        ]).prop_map(str::to_owned),
    ];
    prop::collection::vec(component, 1..4).prop_map(|components| components.join("/"))
}

fn entry() -> impl Strategy<Value = Value> {
    let kind = prop_oneof![
        6 => prop::sample::select(vec!["dir", "reg", "hardlink", "chunk", "symlink"]),
        1 => prop::sample::select(vec!["char", "block", "fifo", "nonsense"]),
    ];
    let number = || prop_oneof![8 => 0..6_i64, 1 => any::<i64>()];
    let chunk_type = prop::sample::select(vec!["", "", "zeros", "other"]);
    (name(), kind, name(), number(), number(), (number(), chunk_type), 0..PAYLOAD_END + 9).prop_map(
        |(name, kind, link, size, chunk_offset, (chunk_size, chunk_type), offset)| {
            json!({
                "chunkType": chunk_type,
                "name": name, "type": kind, "linkName": link, "size": size, "chunkOffset": chunk_offset,
                "chunkSize": chunk_size, "offset": offset, "mode": size, "chunkDigest": digest(3),
            })
        },
    )
}

/// Entries that are mostly accepted: files of one chunk with chunk offset 0, and links.
fn tame_entry() -> impl Strategy<Value = Value> {
    let kind = prop::sample::select(vec!["dir", "reg", "hardlink", "symlink", "fifo"]);
    let component = prop::sample::select(vec!["a", "b", "c", ".wh.a", ".wh..wh..opq", ".wh..wh.plnk", "d"]);
    let name = || prop::collection::vec(component.clone(), 1..4).prop_map(|components| components.join("/"));
    (name(), kind, name(), 0..3_u64).prop_map(|(name, kind, link, size)| {
        json!({ "name": name, "type": kind, "linkName": link, "size": size, "digest": digest(4) })
    })
}

/// Drops entries that are refused until the others are not.
fn accepted(mut entries: Vec<Value>) -> Toc {
    loop {
        let (length, mut refused) = (entries.len(), None);
        for end in 1..=length {
            if read(json!(entries[..end])).is_err() {
                refused = Some(end - 1);
                break;
            }
        }
        match refused {
            Some(at) => drop(entries.remove(at)),
            None => return toc(json!(entries)),
        }
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = read_toc(&footer(), &bytes[..], &Limits::default());
        let _ = read_toc(&footer(), &gzip(&bytes)[..], &Limits::default());
        for compressed in [&bytes, &zstd(&bytes)] {
            let _ = read_toc(&chunked_footer(compressed.len(), bytes.len()), &compressed[..], &Limits::default());
        }
        let _ = read_json(&bytes);
    }

    #[test]
    fn random_entries_make_a_right_tree_or_none(entries in prop::collection::vec(entry(), 0..12)) {
        for toc in [read(json!(entries)), read_chunked(json!(entries))].into_iter().flatten() {
            check(&toc);
        }
    }

    #[test]
    fn accepted_entries_make_a_right_tree(entries in prop::collection::vec(tame_entry(), 0..16)) {
        check(&accepted(entries));
    }

    #[test]
    fn mutated_tocs_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        compressed_too in any::<bool>(),
    ) {
        let entries = json!([
            dir("a"), file("a/b", 4), hardlink("a/c", "a/b"), empty("a/.wh.x"), empty("a/.wh..wh..opq"),
            { "name": "f", "type": "reg", "size": 9, "chunkSize": 5, "offset": 7, "chunkDigest": digest(5) },
            { "name": "f", "type": "chunk", "chunkOffset": 5, "offset": 9, "chunkDigest": digest(6) },
            { "name": "s", "type": "symlink", "linkName": "x", "modtime": "2024-01-01T00:00:00Z", "xattrs": { "user.x": "AA==" } },
            file(".prefetch.landmark", 8),
        ]);
        let json = json!({ "version": 1, "entries": entries }).to_string().into_bytes();
        let mut bytes = if compressed_too { compressed(&json) } else { json };
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let read = if compressed_too { read_toc(&footer(), &bytes[..], &Limits::default()) } else { read_json(&bytes) };
        if let Ok(unverified) = read {
            check(&unverified.trust_unverified("test"));
        }
    }
}
