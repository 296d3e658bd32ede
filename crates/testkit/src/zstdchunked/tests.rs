use std::collections::BTreeSet;
use std::io::{self, Read as _};

use proptest::prelude::*;

use super::hostile::Lie;
use super::*;
use crate::estargz::{NO_PREFETCH_LANDMARK, PREFETCH_LANDMARK};
use crate::tree::{self, Entry, Kind, Tree, content};

/// Reads every chunk the way a reader does: one frame, skipping the inner offset.
fn check_chunks(blob: &Blob, tree: &Tree) {
    let toc = blob.toc();
    let entries = toc["entries"].as_array().unwrap();
    let mut files = 0;
    for (number, first) in entries.iter().enumerate().filter(|(_, entry)| entry["type"] == "reg") {
        let path = tarball::clean(first["name"].as_str().unwrap().as_bytes());
        let Some(Kind::File(content)) = tree.get(&path).map(|entry| &entry.kind) else {
            continue; // a marker
        };
        assert_eq!(first["size"].as_u64().unwrap_or(0), content.len() as u64);
        if content.is_empty() {
            continue;
        }
        assert_eq!(first["digest"], Digest::of(content).to_string());
        let mut done = 0;
        for entry in std::iter::once(first)
            .chain(entries[number + 1..].iter().take_while(|entry| entry["type"] == "chunk"))
        {
            let get = |key: &str| entry[key].as_u64().unwrap_or(0);
            assert_eq!(get("chunkOffset"), done);
            let size = if get("chunkSize") == 0 { content.len() as u64 - done } else { get("chunkSize") };
            let bytes = &blob.bytes[get("offset") as usize..];
            let mut frame = zstd::stream::read::Decoder::new(bytes).unwrap().single_frame();
            io::copy(&mut frame.by_ref().take(get("innerOffset")), &mut io::sink()).unwrap();
            let mut chunk = vec![0; size as usize];
            frame.read_exact(&mut chunk).unwrap();
            assert_eq!(chunk, content[done as usize..][..size as usize]);
            let digest = entry.get("chunkDigest").unwrap_or(&entry["digest"]);
            assert_eq!(*digest, Digest::of(&chunk).to_string());
            if entry["chunkType"] == "zeros" {
                assert!(chunk.iter().all(|byte| *byte == 0) && chunk.len() >= podman::HOLE);
            }
            done += size;
        }
        assert_eq!(done, content.len() as u64);
        files += 1;
    }
    let expected =
        tree.entries.values().filter(|entry| entry.content().is_some_and(|bytes| !bytes.is_empty()));
    assert_eq!(files, expected.count());
}

fn check_whole(blob: &Blob) -> Vec<u8> {
    let tar = unzstd(&blob.bytes);
    assert_eq!(Digest::of(&tar), blob.diff_id);
    assert_eq!(tar.len() as u64, blob.uncompressed_size);
    let toc = &blob.bytes[blob.toc.offset as usize..][..blob.toc.compressed as usize];
    assert_eq!(Digest::of(toc), blob.toc_checksum);
    assert_eq!(unzstd(toc), blob.toc_json);
    assert_eq!(blob.toc_json.len() as u64, blob.toc.uncompressed);
    tar
}

#[test]
fn a_blob_of_ctr_remote_ends_as_its_readers_expect() {
    let tar = tarball::write(&Tree::new().with("f", Entry::file("x")));
    let blob = build(&tar, &Default::default(), Zstd::default());
    let Position { offset, compressed, uncompressed } = blob.toc;
    let mut end = [SKIPPABLE, 40u32.to_le_bytes()].concat();
    for number in [offset, compressed, uncompressed, 1] {
        end.extend(number.to_le_bytes());
    }
    end.extend(b"GnUlInUx");
    assert!(blob.bytes.ends_with(&end));
    assert_eq!(blob.bytes[offset as usize - 8..][..4], SKIPPABLE);
    assert_eq!(offset + compressed + 48, blob.bytes.len() as u64);
    let annotations = blob.annotations();
    let keys: Vec<_> = annotations.keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "containerd.io/snapshot/stargz/toc.digest",
            "io.containers.estargz.uncompressed-size",
            "io.containers.zstd-chunked.manifest-checksum",
            "io.containers.zstd-chunked.manifest-position",
        ]
    );
    assert_eq!(annotations[keys[3]], format!("{offset}:{compressed}:{uncompressed}:1"));
    assert!(blob.toc_json.starts_with(b"{\n\t\"version\": 1,"));
    assert_eq!(blob.toc()["entries"][0]["name"], NO_PREFETCH_LANDMARK);
}

#[test]
fn a_blob_of_podman_restores_its_archive() {
    let tree = Tree::new()
        .with("d/file", Entry::file(content(2, 3000)).mtime(0, 0).xattr("user.a", "b"))
        .with("empty", Entry::file(""));
    let tar = tarball::write(&tree);
    let blob = podman::build(&tar, &Default::default());
    assert_eq!(check_whole(&blob), tar);
    let split = blob.tar_split.unwrap();
    assert!(blob.bytes.ends_with(b"GNUlInUx"));
    assert_eq!(split.offset + split.compressed + 8 + 64, blob.bytes.len() as u64);
    assert_eq!(blob.bytes[blob.bytes.len() - 68..][..4], 64u32.to_le_bytes());

    let lines = unzstd(&blob.bytes[split.offset as usize..][..split.compressed as usize]);
    assert_eq!(lines.len() as u64, split.uncompressed);
    let lines = String::from_utf8(lines).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2 * 4 + 1, "headers and files by turns, and the end");
    assert!(lines.iter().enumerate().all(|(number, line)| line["position"] == number));
    assert_eq!((&lines[5]["name"], &lines[5]["size"]), (&json!("d/file"), &json!(3000)));

    let keys: Vec<_> = blob.annotations().into_keys().collect();
    assert_eq!(
        keys,
        [
            "io.github.containers.zstd-chunked.manifest-checksum",
            "io.github.containers.zstd-chunked.manifest-position",
            "io.github.containers.zstd-chunked.tarsplit-position",
        ]
    );
    let digest = Digest::of(&blob.bytes[split.offset as usize..][..split.compressed as usize]);
    assert_eq!(blob.toc()["tarSplitDigest"], digest.to_string());
    let json = std::str::from_utf8(&blob.toc_json).unwrap();
    assert!(
        json.starts_with("{\"version\":1,\"entries\":[{\"type\":\"dir\",\"name\":\"./\",\"mode\":493,"),
        "{json}"
    );
    let file = format!(
        "{{\"type\":\"reg\",\"name\":\"d/file\",\"mode\":420,\"size\":3000,\"modtime\":\"1970-01-01T00:00:00Z\",\
         \"xattrs\":{{\"user.a\":\"Yg==\"}},\"digest\":\"{}\",\"offset\":",
        Digest::of(&content(2, 3000))
    );
    assert!(json.contains(&file), "{json}");
    assert!(
        json.contains(
            "{\"type\":\"reg\",\"name\":\"empty\",\"mode\":420,\"modtime\":\"2001-09-09T01:46:40Z\"}"
        )
    );
}

#[test]
fn older_versions_of_podman_kept_nothing_to_restore_the_archive() {
    let tree = hostile::honest_tree();
    let tar = tarball::write(&tree);
    let blob = podman::build(&tar, &podman::Options { old: true, ..Default::default() });
    assert_eq!(check_whole(&blob), tar);
    check_chunks(&blob, &tree);
    assert!(blob.bytes.ends_with(b"GnUlInUx") && blob.tar_split.is_none());
    assert_eq!(blob.bytes[blob.bytes.len() - 44..][..4], 40u32.to_le_bytes());
    let keys: Vec<_> = blob.annotations().into_keys().collect();
    let known =
        ["manifest-checksum", "manifest-position"].map(|key| format!("io.containers.zstd-chunked.{key}"));
    assert_eq!(keys, known);
    assert_eq!(blob.toc()["entries"][0]["accesstime"], "0001-01-01T00:00:00Z");
    assert!(blob.toc()["entries"].as_array().unwrap().iter().any(|entry| entry["chunkType"] == "zeros"));
}

#[test]
fn holes_are_chunks_of_their_own() {
    let parts: [&[u8]; 6] = [&[0; 1024], b"x", &[0; 1023], b"y", &[0; 5000], b"end"];
    let tree = Tree::new().with("f", Entry::file(parts.concat())).with("zeros", Entry::file(vec![0; 9000]));
    let blob = podman::build(&tarball::write(&tree), &Default::default());
    check_chunks(&blob, &tree);
    let toc = blob.toc();
    let chunks: Vec<_> =
        toc["entries"].as_array().unwrap().iter().filter(|entry| entry["name"] == "f").collect();
    let told: Vec<_> =
        chunks.iter().map(|chunk| (chunk["chunkSize"].as_u64(), chunk["chunkType"].as_str())).collect();
    assert_eq!(
        told,
        [(Some(1024), Some("zeros")), (Some(1025), None), (Some(5000), Some("zeros")), (Some(3), None)]
    );
    let zeros = toc["entries"].as_array().unwrap().last().unwrap();
    assert!(zeros.get("chunkType").is_none(), "a file of one chunk has no fields of chunks");
}

#[test]
fn every_lie_is_told_and_told_only_once() {
    let honest = [Writer::CtrRemote, Writer::Podman].map(|writer| hostile::draft(writer).seal());
    let mut seen: BTreeSet<_> =
        honest.iter().map(|blob| (blob.digest, blob.toc.offset, blob.toc_checksum)).collect();
    for (writer, lie) in Lie::all() {
        let blob = lie.blob(writer);
        assert!(
            seen.insert((blob.digest, blob.toc.offset, blob.toc_checksum)),
            "{lie:?} of {writer:?} is not new"
        );
        assert_eq!(blob.digest, Digest::of(&blob.bytes));
        assert!(blob.bytes.len() < 1 << 20);
        if !matches!(lie, Lie::TocDigest | Lie::TocBomb) {
            assert_eq!(blob.toc_digest, Digest::of(&blob.toc_json), "{lie:?}");
        }
    }
}

#[test]
fn bombs_are_small_and_expand() {
    let expanded = |bytes: &[u8]| {
        let mut frame = zstd::stream::read::Decoder::new(bytes).unwrap().single_frame();
        io::copy(&mut frame, &mut io::sink()).unwrap()
    };
    let blob = Lie::TocBomb.blob(Writer::Podman);
    assert_eq!(expanded(&blob.bytes[blob.toc.offset as usize..]), hostile::BOMB_SIZE);
    let blob = Lie::ChunkBomb.blob(Writer::CtrRemote);
    let toc = blob.toc();
    let victim = toc["entries"].as_array().unwrap().iter().find(|entry| entry["name"] == "victim").unwrap();
    assert_eq!(expanded(&blob.bytes[victim["offset"].as_u64().unwrap() as usize..]), hostile::BOMB_SIZE);
}

#[test]
fn frames_lie_in_their_heads_alone() {
    let frame = |lie: Lie| {
        let blob = lie.blob(Writer::Podman);
        let toc = blob.toc();
        let victim =
            toc["entries"].as_array().unwrap().iter().find(|entry| entry["name"] == "victim").unwrap();
        let get = |key: &str| victim[key].as_u64().unwrap() as usize;
        (blob.bytes.slice(get("offset")..), get("chunkSize"))
    };
    let (much, _) = frame(Lie::ContentSize);
    assert_eq!(zstd::zstd_safe::get_frame_content_size(&much).ok().flatten(), Some(1 << 50));
    let (wide, size) = frame(Lie::Window);
    let mut wide = wide.to_vec();
    assert_eq!(wide[5] >> 3, 31, "2^(10+31) bytes");
    wide[5] = 0x50;
    let mut chunk = vec![0; size];
    let mut decoder = zstd::stream::read::Decoder::new(&wide[..]).unwrap().single_frame();
    decoder.read_exact(&mut chunk).unwrap();
    assert_eq!(chunk, content(2, 20_000)[..size], "an honest frame but for the window");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_blob_is_the_archive_of_the_tree_and_its_toc_finds_every_chunk(
        tree in tree::trees(tree::Options { whiteouts: true, ..Default::default() }),
        chunk_size in 1000usize..20_000,
        min_chunk_size in prop_oneof![Just(0usize), 1usize..30_000],
        chunk_bits in 6u32..14,
        content_size in any::<bool>(),
    ) {
        let tar = tarball::write(&tree);
        let zstd = Zstd { content_size, checksum: !content_size, level: 1, ..Zstd::default() };
        let options = estargz::Options { chunk_size, min_chunk_size, ..Default::default() };
        let blob = build(&tar, &options, zstd);
        let mut unpacked = tarball::tree(&check_whole(&blob));
        for added in [PREFETCH_LANDMARK, NO_PREFETCH_LANDMARK] {
            unpacked.remove(added.as_bytes());
        }
        prop_assert_eq!(&unpacked, &tree);
        check_chunks(&blob, &tree);

        let blob = podman::build(&tar, &podman::Options { chunk_bits, zstd, old: false });
        prop_assert_eq!(check_whole(&blob), tar);
        check_chunks(&blob, &tree);
    }
}
