//! Property: whatever the bytes are, as a compressed TOC or as the JSON in one, reading ends in an error or in a tree in
//! which every node has as many names as its link count says, names are sorted, and chunks lie in their files without
//! overlapping.
#![no_main]

use std::io::Write as _;

use format::{Footer, Limits, NodeId, NodeKind, Toc, TocKind, read_toc, span_index, spans};
use libfuzzer_sys::fuzz_target;

const PAYLOAD_END: u64 = 1 << 20;

fuzz_target!(|input: &[u8]| {
    let limits = Limits { json_bytes: 1 << 20, entries: 10_000, ..Limits::default() };
    let gzip = Footer { kind: TocKind::Estargz, toc: Some(PAYLOAD_END..2 * PAYLOAD_END), payload_end: PAYLOAD_END };
    let external = Footer { kind: TocKind::ExternalToc, toc: None, ..gzip.clone() };
    for compressed in [input, &wrap(input)] {
        for footer in [&gzip, &external] {
            if let Ok(toc) = read_toc(footer, compressed, &limits) {
                check(&toc.trust_unverified("fuzzing"));
            }
        }
    }
    // A size of the JSON that may be right for the input compressed, and the one that is right for the frame.
    for (compressed, json_size) in [(input, input.len() * 4), (&frame(input), input.len())] {
        let kind = TocKind::ZstdChunked { json_size: json_size as u64 };
        if let Ok(toc) = read_toc(&Footer { kind, ..gzip.clone() }, compressed, &limits) {
            check(&toc.trust_unverified("fuzzing"));
        }
    }
});

/// A zstd frame with this content, in one block that is not compressed.
fn frame(json: &[u8]) -> Vec<u8> {
    let header = (json.len() as u32) << 3 | 1;
    [b"\x28\xb5\x2f\xfd\x00\x38", &header.to_le_bytes()[..3], json].concat()
}

/// The compressed TOC with this JSON. Stored, since compression takes time and finds nothing.
fn wrap(json: &[u8]) -> Vec<u8> {
    let mut header = [0; 512];
    header[..17].copy_from_slice(b"stargz.index.json");
    header[124..135].copy_from_slice(format!("{:011o}", json.len()).as_bytes());
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    encoder.write_all(&header).and_then(|()| encoder.write_all(json)).expect("a vector takes everything");
    encoder.finish().expect("a vector takes everything")
}

fn check(toc: &Toc) {
    let mut links = vec![0; toc.nodes().len()];
    links[0] = 2;
    for id in (0..toc.nodes().len() as u32).map(NodeId) {
        let mut last: &[u8] = b"";
        for (name, child) in toc.children(id) {
            assert!(last < name && name.len() < 256 && !matches!(name, b"." | b".."));
            assert!(!name.contains(&0) && !name.contains(&b'/'));
            last = name;
            links[child.index()] += 1;
            if matches!(toc.nodes()[child.index()].kind, NodeKind::Directory { .. }) {
                assert!(child > id);
                links[child.index()] += 1;
                links[id.index()] += 1;
            }
        }
    }
    let spans = spans(toc.chunks(), PAYLOAD_END);
    for (node, links) in toc.nodes().iter().zip(links) {
        assert!(node.nlink == links && links > 0);
        if let NodeKind::File { size, chunks } = &node.kind {
            let mut end = 0;
            for chunk in &toc.chunks()[chunks.start as usize..chunks.end as usize] {
                assert!(chunk.file_offset >= end && chunk.size > 0);
                assert!(span_index(&spans, chunk).is_some_and(|span| !spans[span].blob.is_empty()));
                end = chunk.file_offset + chunk.size;
            }
            assert!(end <= *size);
        }
    }
}
