//! Reads what the tools of stargz-snapshotter and of Podman wrote. `golden/README.md` says how the blobs were made.

use std::fmt::Write as _;
use std::io::Read as _;

use format::{
    Chunk, ChunkedAnnotations, Digest, Footer, Landmark, Limits, Node, NodeId, NodeKind, StreamDecoder, Toc,
    TocKind, UnverifiedToc, decode, read_toc, span_index, spans,
};

macro_rules! golden {
    ($name:literal) => {
        include_bytes!(concat!("golden/", $name))
    };
}

/// A blob, and what the manifest of its image says about it.
struct Sample {
    blob: &'static [u8],
    /// The blob that has its TOC, if that is another one.
    external_toc: Option<&'static [u8]>,
    /// The annotations `containerd.io/snapshot/stargz/toc.digest`,
    toc_digest: Option<&'static str>,
    /// `io.containers.estargz.uncompressed-size`, or where nobody wrote it the size of the archive, from which the first
    /// Podmans dropped the padding at the end,
    uncompressed_size: usize,
    /// and those of zstd:chunked: prefix, checksum and position.
    chunked: Option<(&'static str, &'static str, &'static str)>,
}

const OLD_PREFIX: &str = "io.containers.zstd-chunked.";
const NEW_PREFIX: &str = "io.github.containers.zstd-chunked.";

const ESTARGZ: Sample = Sample {
    blob: golden!("ctr-remote-0.12.esgz"),
    external_toc: None,
    toc_digest: Some("sha256:0509eb7e3990d6450fbac41da1eacf11b761c1be1b909e846d2eefc2b91beb0b"),
    uncompressed_size: 32_256,
    chunked: None,
};
const MIN_CHUNK: Sample = Sample {
    blob: golden!("ctr-remote-0.14-min-chunk.esgz"),
    external_toc: None,
    toc_digest: Some("sha256:7c57869e8e8cff919df6a34d24498b2abfe93a1e8a57cd5386128ff844d43373"),
    uncompressed_size: 146_944,
    chunked: None,
};
const EXTERNAL: Sample = Sample {
    blob: golden!("ctr-remote-0.14-external.esgz"),
    external_toc: Some(golden!("ctr-remote-0.14-external.toc")),
    toc_digest: Some("sha256:ed8d10f885d2ca367318dec9d029f602dbad93d804cc54be68ac2e67bbdc52e9"),
    uncompressed_size: 134_144,
    chunked: None,
};
const LOSSLESS: Sample = Sample {
    blob: golden!("ctr-remote-0.14-lossless.esgz"),
    external_toc: Some(golden!("ctr-remote-0.14-lossless.toc")),
    toc_digest: Some("sha256:367d1b4937848881fa4355b88c1c2f11573b607201486852fa73a74614c9455b"),
    uncompressed_size: 143_360,
    chunked: None,
};
const ZSTD_0_12: Sample = Sample {
    blob: golden!("ctr-remote-0.12.zst"),
    external_toc: None,
    toc_digest: Some("sha256:ab48f0e26710a7f14682d7cbd88bce2b8e30384165747d8b79fa00766e5e68ea"),
    uncompressed_size: 134_144,
    chunked: Some((
        OLD_PREFIX,
        "sha256:d6587a7f2145c799d803c4316b7ff53ab6695af4f4b5bc5f775f3b891b603ee2",
        "2764:1170:4962:1",
    )),
};
const ZSTD_0_14: Sample = Sample {
    blob: golden!("ctr-remote-0.14.zst"),
    external_toc: None,
    toc_digest: Some("sha256:c842d2c48615d0e6a852e3815627e27e3106c0281500a5fcf91adbf4f192a872"),
    uncompressed_size: 134_144,
    chunked: Some((
        OLD_PREFIX,
        "sha256:a41b5d585a058911400f6e6e8457f3e050020b7026266363954cf07895c0aa0e",
        "3990:1901:10273:1",
    )),
};
const SKOPEO_1_9: Sample = Sample {
    blob: golden!("skopeo-1.9.zst"),
    external_toc: None,
    toc_digest: None,
    uncompressed_size: 134_144,
    chunked: Some((
        OLD_PREFIX,
        "sha256:d2d880f4c53e222a0ab7a347bf2b9f076d5d469382c331fd8c7a073a8ee01554",
        "3092:1473:6033:1",
    )),
};
const SKOPEO_1_22: Sample = Sample {
    blob: golden!("skopeo-1.22.zst"),
    external_toc: None,
    toc_digest: None,
    uncompressed_size: 143_360,
    chunked: Some((
        NEW_PREFIX,
        "sha256:50c769f04042371da85d80bdbab17b79de559bc507b4314225af50052f37e774",
        "3079:1470:4540:1",
    )),
};
/// All that were made of the same archive.
const OF_ONE_LAYER: [Sample; 7] =
    [MIN_CHUNK, EXTERNAL, LOSSLESS, ZSTD_0_12, ZSTD_0_14, SKOPEO_1_9, SKOPEO_1_22];

impl Sample {
    fn footer(&self) -> Footer {
        let tail = &self.blob[self.blob.len() - format::FOOTER_SIZE_MAX..];
        Footer::find(tail, self.blob.len() as u64).unwrap()
    }

    fn annotations(&self) -> ChunkedAnnotations {
        ChunkedAnnotations::read(|key| {
            let (prefix, checksum, position) = self.chunked?;
            match key.strip_prefix(prefix)? {
                "manifest-checksum" => Some(checksum),
                "manifest-position" => Some(position),
                _ => None,
            }
        })
        .unwrap()
    }

    fn unverified(&self) -> UnverifiedToc {
        let footer = self.footer();
        let compressed = match (self.external_toc, footer.toc.clone()) {
            (Some(toc), None) => toc,
            (None, Some(place)) => &self.blob[place.start as usize..place.end as usize],
            (external, place) => panic!("external {}, place {place:?}", external.is_some()),
        };
        read_toc(&footer, compressed, &Limits::default()).unwrap()
    }

    fn toc(&self) -> Toc {
        match (self.toc_digest, self.annotations().checksum) {
            (Some(digest), _) => self.unverified().verify(&digest.parse().unwrap()).unwrap(),
            (None, checksum) => self.unverified().verify_compressed(&checksum.unwrap()).unwrap(),
        }
    }

    /// The content of a file, put together as a reader does it.
    fn content(&self, toc: &Toc, size: u64, chunks: &[Chunk]) -> Vec<u8> {
        let footer = self.footer();
        let spans = spans(toc.chunks(), footer.payload_end);
        let (mut content, mut out) = (vec![0; size as usize], Vec::new());
        for chunk in chunks {
            let span = &spans[span_index(&spans, chunk).unwrap()];
            let compressed = &self.blob[span.blob.start as usize..span.blob.end as usize];
            decode(footer.compression(), compressed, span.needed as usize, &mut out).unwrap();
            let bytes = &out[chunk.inner_offset as usize..chunk.inner_end() as usize];
            assert!(Digest::from_sha256(chunk.digest.unwrap()).matches(bytes));
            content[chunk.file_offset as usize..][..bytes.len()].copy_from_slice(bytes);
        }
        content
    }
}

#[test]
fn the_kinds_are_told_apart() {
    let kinds = OF_ONE_LAYER.map(|sample| sample.footer().kind);
    let chunked = |json_size| TocKind::ZstdChunked { json_size };
    let expected = [
        TocKind::Estargz,
        TocKind::ExternalToc,
        TocKind::ExternalToc,
        chunked(4962),
        chunked(10273),
        chunked(6033),
        chunked(4540),
    ];
    assert_eq!(kinds, expected);
}

#[test]
fn every_writer_leads_to_the_layer_that_it_was_given() {
    let expected = include_str!("golden/layer.txt");
    for sample in OF_ONE_LAYER {
        let toc = sample.toc();
        let text = lines(&toc, |node| {
            let mut text = describe(node, &node.mtime.secs.to_string(), |value| {
                value.iter().map(|byte| format!("{byte:02x}")).collect()
            });
            if let NodeKind::File { size, chunks } = &node.kind {
                let content = sample.content(&toc, *size, chunks_of(&toc, chunks));
                write!(text, " {}", Digest::of(&content)).unwrap();
            }
            text
        });
        assert_eq!(text, expected, "{:?}", sample.footer().kind);
    }
}

#[test]
fn the_manifest_and_the_footer_say_the_same() {
    for sample in [ZSTD_0_12, ZSTD_0_14, SKOPEO_1_9, SKOPEO_1_22] {
        let position = sample.annotations().position.unwrap();
        assert_eq!(position.locate(sample.blob.len() as u64).unwrap(), sample.footer());
    }
    assert_eq!(ESTARGZ.annotations(), ChunkedAnnotations::default());
}

#[test]
fn either_digest_pins_the_toc() {
    for sample in [ZSTD_0_12, ZSTD_0_14, SKOPEO_1_9, SKOPEO_1_22] {
        let checksum = sample.annotations().checksum.unwrap();
        let unverified = sample.unverified();
        assert_eq!(unverified.compressed_digest(), Some(checksum));
        assert!(unverified.verify(&checksum).is_err());
        let digest = sample.unverified().digest();
        assert!(sample.unverified().verify_compressed(&digest).is_err());
        assert!(sample.toc_digest.is_none_or(|expected| digest.to_string() == expected));
        let toc = sample.unverified().verify_compressed(&checksum).unwrap();
        assert_eq!((toc.digest(), toc.compressed_digest()), (digest, Some(checksum)));
    }
    assert_eq!(EXTERNAL.toc().compressed_digest(), None);
}

#[test]
fn holes_have_no_chunks() {
    let toc = SKOPEO_1_22.toc();
    let holes: Vec<_> = toc
        .nodes()
        .iter()
        .filter_map(|node| match &node.kind {
            NodeKind::File { size, chunks } => Some((*size, chunks_of(&toc, chunks))),
            _ => None,
        })
        .map(|(size, chunks)| size - chunks.iter().map(|chunk| chunk.size).sum::<u64>())
        .filter(|hole| *hole > 0)
        .collect();
    assert_eq!(holes, [55_000, 3000]);
}

#[test]
fn a_file_may_be_cut_by_its_content() {
    let toc = SKOPEO_1_9.toc();
    let sizes: Vec<_> = toc.chunks()[1..4].iter().map(|chunk| chunk.size).collect();
    assert_eq!(sizes, [15_464, 4464, 2200]);
}

#[test]
fn several_chunks_may_share_a_member() {
    let toc = MIN_CHUNK.toc();
    let spans = spans(toc.chunks(), MIN_CHUNK.footer().payload_end);
    assert!(toc.chunks().iter().any(|chunk| chunk.inner_offset > 0));
    assert!(spans.len() < toc.chunks().len());
}

#[test]
fn every_chunk_and_name_of_an_estargz_is_the_one_that_was_converted() {
    let toc = ESTARGZ.toc();
    let text = lines(&toc, |node| {
        let mtime = format!("{}.{:09}", node.mtime.secs, node.mtime.nanos);
        let mut text = describe(node, &mtime, |value| format!("{value:02x?}"));
        if let NodeKind::File { size, chunks } = &node.kind {
            ESTARGZ.content(&toc, *size, chunks_of(&toc, chunks));
            for chunk in chunks_of(&toc, chunks) {
                let (from, size) = (chunk.file_offset, chunk.size);
                write!(text, " {from}+{size}@{}+{}", chunk.blob_offset, chunk.inner_offset).unwrap();
            }
        }
        text
    });
    assert_eq!(text, include_str!("golden/ctr-remote-0.12.txt"));
}

#[test]
fn a_whole_blob_is_one_stream() {
    for sample in [ESTARGZ].iter().chain(&OF_ONE_LAYER) {
        let mut tar = Vec::new();
        StreamDecoder::new(sample.footer().compression(), sample.blob).read_to_end(&mut tar).unwrap();
        assert_eq!(tar.len(), sample.uncompressed_size);
    }
}

#[test]
fn there_is_nothing_to_prefetch() {
    assert_eq!(ESTARGZ.toc().landmark(), Landmark::NoPrefetch);
    assert_eq!(ZSTD_0_14.toc().landmark(), Landmark::NoPrefetch);
    assert_eq!(SKOPEO_1_22.toc().landmark(), Landmark::None);
    assert_eq!(LOSSLESS.toc().landmark(), Landmark::None);
}

#[test]
fn a_damaged_toc_is_noticed() {
    for sample in [SKOPEO_1_22, ZSTD_0_14] {
        let (footer, checksum) = (sample.footer(), sample.annotations().checksum.unwrap());
        let place = footer.toc.clone().unwrap();
        let compressed = &sample.blob[place.start as usize..place.end as usize];
        for at in (0..compressed.len()).step_by(7) {
            let mut damaged = compressed.to_vec();
            damaged[at] ^= 0x10;
            let read = read_toc(&footer, &damaged[..], &Limits::default());
            assert!(read.and_then(|toc| toc.verify_compressed(&checksum)).is_err(), "byte {at}");
        }
    }
}

fn chunks_of<'a>(toc: &'a Toc, chunks: &std::ops::Range<u32>) -> &'a [Chunk] {
    &toc.chunks()[chunks.start as usize..chunks.end as usize]
}

/// The tree, a line for a name.
fn lines(toc: &Toc, describe: impl Fn(&Node) -> String) -> String {
    let mut text = String::new();
    let mut todo = vec![(NodeId::ROOT, String::from("/"))];
    while let Some((id, path)) = todo.pop() {
        writeln!(text, "{path} {}", describe(&toc.nodes()[id.index()])).unwrap();
        let children: Vec<_> = toc.children(id).collect();
        for (name, child) in children.into_iter().rev() {
            todo.push((child, format!("{}/{}", path.trim_end_matches('/'), String::from_utf8_lossy(name))));
        }
    }
    text
}

fn describe(node: &Node, mtime: &str, value_text: impl Fn(&[u8]) -> String) -> String {
    let mut text = match &node.kind {
        NodeKind::Directory { opaque } => format!("dir opaque={opaque}"),
        NodeKind::File { size, .. } => format!("file {size}"),
        NodeKind::Symlink { target } => format!("symlink {}", String::from_utf8_lossy(target)),
        NodeKind::CharDevice { major, minor } => format!("char {major}:{minor}"),
        NodeKind::BlockDevice { major, minor } => format!("block {major}:{minor}"),
        NodeKind::Fifo => "fifo".to_owned(),
        NodeKind::Whiteout => "whiteout".to_owned(),
    };
    write!(text, " {:04o} {}:{} {mtime} nlink={}", node.mode, node.uid, node.gid, node.nlink).unwrap();
    for (name, value) in &node.xattrs {
        write!(text, " {}={}", String::from_utf8_lossy(name), value_text(value)).unwrap();
    }
    text
}
