//! Reads what the tools of stargz-snapshotter wrote.

use std::fmt::Write as _;
use std::io::Read as _;

use format::{
    Compression, Digest, Footer, Landmark, Limits, Node, NodeId, NodeKind, StreamDecoder, Toc, decode,
    read_toc, span_index, spans,
};

const BLOB: &[u8] = include_bytes!("golden/ctr-remote-0.12.esgz");
const DUMP: &str = include_str!("golden/ctr-remote-0.12.txt");
const TOC_DIGEST: &str = "sha256:0509eb7e3990d6450fbac41da1eacf11b761c1be1b909e846d2eefc2b91beb0b";

fn read() -> (Footer, Toc) {
    let footer = Footer::find(&BLOB[BLOB.len() - format::FOOTER_SIZE_MAX..], BLOB.len() as u64).unwrap();
    let compressed = &BLOB[footer.toc.start as usize..footer.toc.end as usize];
    let toc = read_toc(&footer, compressed, &Limits::default()).unwrap();
    (footer, toc.verify(&TOC_DIGEST.parse().unwrap()).unwrap())
}

#[test]
fn the_tree_is_the_one_that_was_converted() {
    let (_, toc) = read();
    assert_eq!(dump(&toc), DUMP);
}

#[test]
fn every_chunk_can_be_expanded_from_its_span_and_is_right() {
    let (footer, toc) = read();
    let spans = spans(toc.chunks(), footer.payload_end);
    let mut out = Vec::new();
    for chunk in toc.chunks() {
        let span = &spans[span_index(&spans, chunk).unwrap()];
        let compressed = &BLOB[span.blob.start as usize..span.blob.end as usize];
        decode(Compression::Gzip, compressed, span.needed as usize, &mut out).unwrap();
        let content = &out[chunk.inner_offset as usize..chunk.inner_end() as usize];
        assert!(Digest::from_sha256(chunk.digest).matches(content));
    }
}

#[test]
fn the_whole_blob_is_one_stream() {
    let mut tar = Vec::new();
    StreamDecoder::new(Compression::Gzip, BLOB).read_to_end(&mut tar).unwrap();
    assert_eq!(tar.len(), 32_256);
}

#[test]
fn there_is_nothing_to_prefetch() {
    assert_eq!(read().1.landmark(), Landmark::NoPrefetch);
}

fn dump(toc: &Toc) -> String {
    let mut text = String::new();
    let mut todo = vec![(NodeId::ROOT, String::from("/"))];
    while let Some((id, path)) = todo.pop() {
        writeln!(text, "{path} {}", describe(toc, &toc.nodes()[id.index()])).unwrap();
        let children: Vec<_> = toc.children(id).collect();
        for (name, child) in children.into_iter().rev() {
            todo.push((child, format!("{}/{}", path.trim_end_matches('/'), String::from_utf8_lossy(name))));
        }
    }
    text
}

fn describe(toc: &Toc, node: &Node) -> String {
    let mut text = match &node.kind {
        NodeKind::Directory { opaque } => format!("dir opaque={opaque}"),
        NodeKind::File { size, .. } => format!("file {size}"),
        NodeKind::Symlink { target } => format!("symlink {}", String::from_utf8_lossy(target)),
        NodeKind::CharDevice { major, minor } => format!("char {major}:{minor}"),
        NodeKind::BlockDevice { major, minor } => format!("block {major}:{minor}"),
        NodeKind::Fifo => "fifo".to_owned(),
        NodeKind::Whiteout => "whiteout".to_owned(),
    };
    let mtime = node.mtime;
    write!(text, " {:04o} {}:{} {}.{:09}", node.mode, node.uid, node.gid, mtime.secs, mtime.nanos).unwrap();
    write!(text, " nlink={}", node.nlink).unwrap();
    for (name, value) in &node.xattrs {
        write!(text, " {}={value:02x?}", String::from_utf8_lossy(name)).unwrap();
    }
    if let NodeKind::File { chunks, .. } = &node.kind {
        for chunk in &toc.chunks()[chunks.start as usize..chunks.end as usize] {
            let (from, size) = (chunk.file_offset, chunk.size);
            write!(text, " {from}+{size}@{}+{}", chunk.blob_offset, chunk.inner_offset).unwrap();
        }
    }
    text
}
