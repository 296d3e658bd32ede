//! Where things are in a blob: what readers other than ours rely on.

mod support;

use builder::{
    ANNOTATION_PODMAN_POSITION, ANNOTATION_TOC_DIGEST, ANNOTATION_UNCOMPRESSED_SIZE,
    ANNOTATION_ZSTD_CHECKSUM, ANNOTATION_ZSTD_POSITION, Format, Gzip, Options, Zstd,
};
use format::{Digest, FileRanges, Landmark, NodeKind};
use serde_json::Value;
use support::{ESTARGZ, EXTERNAL, EXTERNAL_FOOTER, LOSSLESS, ZSTD, archive, build, options, toc, toc_bytes};
use testkit::tarball::{self, Member, Type};
use testkit::tree::{Entry, Tree, content};

fn sample() -> Tree {
    Tree::new()
        .with("a/first", Entry::file(content(3, 40_000)))
        .with("a/second", Entry::file("x"))
        .with("b/third", Entry::file(content(4, 16 << 10)))
        .with("b/link", Entry::symlink("third"))
        .with_link("b/zlink", "a/second")
        .with("c/empty", Entry::file(""))
}

fn names(tar: &[u8]) -> Vec<String> {
    tarball::parse(tar).into_iter().map(|parsed| String::from_utf8(parsed.member.name).unwrap()).collect()
}

#[test]
fn prioritized_files_come_first_with_their_parents_and_link_targets() {
    let tar = tarball::write(&sample());
    let mut options = options(ESTARGZ);
    options.prioritized = ["/b/zlink", "./b/third", "b/third", "b"].map(str::to_owned).to_vec();
    let (built, blob) = build(options, &tar);
    let first = ["./", "a/", "a/second", "b/", "b/zlink", "b/third", ".prefetch.landmark"];
    let names = names(&archive(&built, &blob));
    assert_eq!(names[..7], first);
    assert_eq!(names[7..], ["a/first", "b/link", "c/", "c/empty", "stargz.index.json"]);
    let (_, toc) = toc(&built, &blob);
    let Landmark::Prefetch { end } = toc.landmark() else { panic!("{:?}", toc.landmark()) };
    let before = toc.chunks().iter().filter(|chunk| chunk.blob_offset < end).count();
    assert_eq!(before, 2);
}

#[test]
fn without_prioritized_files_nothing_is_to_be_prefetched() {
    let (built, blob) = build(options(ESTARGZ), &tarball::write(&sample()));
    assert_eq!(names(&archive(&built, &blob))[0], ".no.prefetch.landmark");
    assert_eq!(toc(&built, &blob).1.landmark(), Landmark::NoPrefetch);
}

#[test]
fn landmarks_and_tables_of_the_source_are_dropped() {
    let tar = tarball::write(&sample());
    let mut wanting = options(ESTARGZ);
    wanting.prioritized.push("c/empty".to_owned());
    let (_, once) = build(wanting, &tar);
    let (twice, blob) = build(options(ESTARGZ), &once);
    let names = names(&archive(&twice, &blob));
    let count = |name: &str| names.iter().filter(|other| *other == name).count();
    assert_eq!(
        (count(".prefetch.landmark"), count(".no.prefetch.landmark"), count("stargz.index.json")),
        (0, 1, 1)
    );
}

#[test]
fn each_chunk_has_a_member_unless_they_are_to_share() {
    let tar = tarball::write(&sample());
    let members = |min_chunk_size| {
        let format = Format::Estargz(Gzip { level: 6, min_chunk_size });
        let (built, blob) = build(options(format), &tar);
        let (_, toc) = toc(&built, &blob);
        let mut offsets: Vec<_> = toc.chunks().iter().map(|chunk| chunk.blob_offset).collect();
        let chunks = offsets.len();
        offsets.dedup();
        (chunks, offsets.len(), toc.chunks().iter().any(|chunk| chunk.inner_offset > 0))
    };
    // Three chunks and a landmark of one.
    assert_eq!(members(0), (5, 5, false));
    let (chunks, members, inner) = members(100_000);
    assert_eq!((chunks, inner), (5, true));
    assert!(members < chunks, "{members}");
}

#[test]
fn chunks_say_their_size_unless_they_are_the_short_end_of_a_file() {
    let (built, blob) = build(options(ZSTD), &tarball::write(&sample()));
    let entries = zstd_toc(&built, &blob)["entries"].as_array().unwrap().clone();
    let chunks = |name: &str| -> Vec<_> {
        let of_name = entries.iter().filter(|entry| entry["name"] == name);
        of_name
            .map(|e| (e["type"].as_str().unwrap(), e["chunkOffset"].as_u64(), e["chunkSize"].as_u64()))
            .collect()
    };
    let size = 16 << 10;
    let expected =
        [("reg", None, Some(size)), ("chunk", Some(size), Some(size)), ("chunk", Some(2 * size), None)];
    assert_eq!(chunks("a/first"), expected);
    assert_eq!(chunks("b/third"), [("reg", None, Some(size))]);
    assert_eq!(chunks("a/second"), [("reg", None, None)]);
    let empty = entries.iter().find(|entry| entry["name"] == "c/empty").unwrap();
    assert_eq!(empty["digest"], Digest::of(b"").to_string());
    assert_eq!((empty.get("size"), empty.get("offset"), empty.get("chunkDigest")), (None, None, None));
}

fn zstd_toc(built: &builder::Built, blob: &[u8]) -> Value {
    let footer = &blob[blob.len() - 40..];
    assert_eq!(&footer[32..], b"GnUlInUx");
    assert_eq!(blob[blob.len() - 48..][..8], *b"\x50\x2a\x4d\x18\x28\0\0\0");
    let number = |position: usize| u64::from_le_bytes(footer[position * 8..][..8].try_into().unwrap());
    let [offset, compressed, uncompressed, kind] = [0, 1, 2, 3].map(number);
    let bytes = &blob[offset as usize..][..compressed as usize];
    assert_eq!(blob[offset as usize - 8..][..4], *b"\x50\x2a\x4d\x18");
    assert_eq!(offset + compressed + 48, blob.len() as u64);
    let json = zstd::decode_all(bytes).unwrap();
    assert_eq!((json.len() as u64, kind), (uncompressed, 1));
    assert_eq!(built.toc_digest, Digest::of(&json));
    assert_eq!(built.annotations[ANNOTATION_ZSTD_CHECKSUM], Digest::of(bytes).to_string());
    assert_eq!(
        built.annotations[ANNOTATION_ZSTD_POSITION],
        format!("{offset}:{compressed}:{uncompressed}:1")
    );
    serde_json::from_slice(&json).unwrap()
}

#[test]
fn a_zstd_chunk_is_at_the_start_of_its_frame() {
    let tree = sample();
    let (built, blob) = build(options(ZSTD), &tarball::write(&tree));
    for entry in zstd_toc(&built, &blob)["entries"].as_array().unwrap() {
        let Some(digest) = entry["chunkDigest"].as_str() else { continue };
        let path = entry["name"].as_str().unwrap();
        let (offset, start) = (entry["offset"].as_u64().unwrap(), entry["chunkOffset"].as_u64().unwrap_or(0));
        let content =
            tree.get(path.as_bytes()).and_then(Entry::content).map_or(&b"\x0f"[..], |content| content);
        let chunk = &content[start as usize..content.len().min(start as usize + (16 << 10))];
        let mut frame = zstd::Decoder::new(&blob[offset as usize..]).unwrap();
        let mut expanded = vec![0; chunk.len()];
        std::io::Read::read_exact(&mut frame, &mut expanded).unwrap();
        assert_eq!(expanded, chunk);
        assert_eq!(Digest::of(chunk).to_string(), digest);
    }
}

#[test]
fn annotations_are_those_of_the_format() {
    let tar = tarball::write(&sample());
    let podman = Format::ZstdChunked(Zstd { level: 3, podman: true });
    for (format, count) in [(ESTARGZ, 2), (EXTERNAL, 2), (LOSSLESS, 2), (ZSTD, 4), (podman, 6)] {
        let (built, _) = build(options(format), &tar);
        assert_eq!(built.annotations.len(), count);
        assert_eq!(built.annotations[ANNOTATION_TOC_DIGEST], built.toc_digest.to_string());
        assert_eq!(built.annotations[ANNOTATION_UNCOMPRESSED_SIZE], built.uncompressed_size.to_string());
        assert_eq!(built.annotations.contains_key(ANNOTATION_PODMAN_POSITION), format == podman);
        assert_eq!(built.source_diff_id, Digest::of(&tar));
    }
}

#[test]
fn an_external_table_leaves_the_layer_without_one() {
    let tar = tarball::write(&sample());
    for format in [EXTERNAL, LOSSLESS] {
        let (built, blob) = build(options(format), &tar);
        assert!(blob.ends_with(EXTERNAL_FOOTER));
        assert!(!names(&archive(&built, &blob)).contains(&"stargz.index.json".to_owned()));
        let toc = built.toc.as_ref().unwrap();
        let mut unpacked = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::MultiGzDecoder::new(&toc.bytes[..]), &mut unpacked)
            .unwrap();
        assert_eq!(names(&unpacked), ["stargz.index.json"]);
        assert_eq!(toc.diff_id, Digest::of(&unpacked));
        assert_eq!(built.toc_digest, Digest::of(&tarball::parse(&unpacked)[0].member.content));
    }
    let (lossless, _) = build(options(LOSSLESS), &tar);
    assert_eq!((lossless.diff_id, lossless.uncompressed_size), (Digest::of(&tar), tar.len() as u64));
}

#[test]
fn headers_without_contents_are_cut_too_and_large_tables_are_read() {
    // 20 MB of headers, and several MB of TOC.
    let members: Vec<_> = (0..25_000)
        .map(|i| Member {
            link: "target".into(),
            ..Member::new(Type::Symlink, format!("{i:06}/{}", "é".repeat(60)))
        })
        .collect();
    let tar = tarball::archive(&members);
    for format in [ESTARGZ, LOSSLESS] {
        let (built, blob) = build(Options { chunk_size: 4 << 20, ..options(format) }, &tar);
        let (_, toc) = toc(&built, &blob);
        let links = toc.nodes().iter().filter(|node| matches!(node.kind, NodeKind::Symlink { .. })).count();
        assert_eq!(links, members.len());
        // Readers that know gzip members of one file do not look for a second one.
        let mut first = flate2::read::GzDecoder::new(toc_bytes(&built, &blob).1);
        let mut unpacked = Vec::new();
        std::io::Read::read_to_end(&mut first, &mut unpacked).unwrap();
        assert!(unpacked.len() > 4 << 20 && unpacked.ends_with(&[0; 1024]));
        archive(&built, &blob);
    }
}

#[test]
fn the_same_in_any_number_of_threads() {
    let mut tree = Tree::new().with("big", Entry::file(content(3, 9 << 20)));
    for i in 0..300 {
        tree.insert(
            format!("dir{}/file{i}", i % 7).as_bytes(),
            Entry::file(content(i % 5, i as usize * 100)),
        );
    }
    let tar = tarball::write(&tree);
    for format in [ESTARGZ, support::SHARED, EXTERNAL, LOSSLESS, ZSTD] {
        let digest = |threads| {
            let options = Options { threads, chunk_size: 1 << 20, ..options(format) };
            build(options, &tar).0.blob_digest
        };
        let one = digest(1);
        for threads in [2, 3, 16] {
            assert_eq!(digest(threads), one, "{format:?} by {threads} threads");
        }
    }
}

#[test]
fn wanted_parts_of_files_are_in_the_toc_and_the_files_stay_behind_the_landmark() {
    let tar = tarball::write(&sample());
    for format in [ESTARGZ, EXTERNAL, LOSSLESS, ZSTD] {
        let mut options = options(format);
        let lossless = format == LOSSLESS;
        let ranges = |text: &str| text.parse::<FileRanges>().unwrap();
        options.ranges.insert("/a/first".to_owned(), ranges("20000+1,39999+100"));
        options.ranges.insert("b/zlink".to_owned(), ranges("0+1"));
        options.ranges.insert("nowhere".to_owned(), ranges("0+1"));
        if !lossless {
            options.prioritized.push("b/third".to_owned());
            options.ranges.insert("b/third".to_owned(), ranges("0+1"));
        }
        options.allow_missing = true;
        let (built, blob) = build(options, &tar);
        assert_eq!(built.missing, ["nowhere"]);
        let (_, toc) = toc(&built, &blob);
        let named: Vec<_> = toc
            .prefetch_ranges()
            .iter()
            .map(|(node, ranges)| (toc.nodes()[node.index()].nlink, ranges.to_string()))
            .collect();
        // The content of a link is its target's; what comes first comes whole.
        let expected = [(1, "20000+1,39999+1"), (2, "0+1")];
        assert_eq!(named, expected.map(|(links, ranges)| (links, ranges.to_owned())), "{format:?}");
        let Landmark::Prefetch { end } = toc.landmark() else {
            assert!(lossless);
            continue;
        };
        assert_eq!(toc.chunks().iter().filter(|chunk| chunk.blob_offset < end).count(), 1, "{format:?}");
    }
}
