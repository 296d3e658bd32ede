use std::collections::BTreeSet;
use std::io;

use proptest::prelude::*;

use super::hostile::{CHUNK_SIZE, Lie};
use super::*;
use crate::tree::{self, Entry, Kind, Tree, content};

/// The tree that a blob's tar says, without what eStargz adds.
fn unpacked(blob: &Blob) -> Tree {
    let mut tree = tarball::tree(&gunzip(&blob.bytes));
    for added in [TOC_NAME, PREFETCH_LANDMARK, NO_PREFETCH_LANDMARK] {
        tree.remove(added.as_bytes());
    }
    tree
}

/// Reads every chunk the way a reader does: from the start of its member, skipping the inner offset.
fn check_chunks(blob: &Blob, tree: &Tree) {
    let toc = blob.toc();
    let entries = toc["entries"].as_array().unwrap();
    let mut file: Option<(&Bytes, u64)> = None;
    for entry in entries.iter().filter(|entry| !hostile::is_landmark(entry)) {
        let get = |key: &str| entry[key].as_u64().unwrap_or(0);
        match entry["type"].as_str().unwrap() {
            "reg" => {
                let path = tarball::clean(entry["name"].as_str().unwrap().as_bytes());
                let Some(Kind::File(content)) = tree.get(&path).map(|entry| &entry.kind) else {
                    continue; // a marker
                };
                assert_eq!(entry["digest"], Digest::of(content).to_string());
                assert_eq!(get("size"), content.len() as u64);
                file = Some((content, 0));
            }
            "chunk" => {}
            _ => continue,
        }
        let Some((content, done)) = &mut file else { continue };
        if content.is_empty() {
            continue;
        }
        assert_eq!(get("chunkOffset"), *done);
        let size = if get("chunkSize") == 0 { content.len() as u64 - *done } else { get("chunkSize") };
        let mut member = flate2::read::GzDecoder::new(&blob.bytes[get("offset") as usize..]);
        io::copy(&mut member.by_ref().take(get("innerOffset")), &mut io::sink()).unwrap();
        let mut chunk = vec![0; size as usize];
        member.read_exact(&mut chunk).unwrap();
        assert_eq!(chunk, content[*done as usize..][..size as usize]);
        assert_eq!(entry["chunkDigest"], Digest::of(&chunk).to_string());
        *done += size;
    }
}

#[test]
fn footers_have_their_exact_bytes() {
    let estargz = footer(Footer::Estargz, 0x1234);
    assert_eq!(estargz.len(), 51);
    assert_eq!(&estargz[..16], b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x1a\0SG\x16\0");
    assert_eq!(&estargz[16..], b"0000000000001234STARGZ\x01\0\0\xff\xff\0\0\0\0\0\0\0\0");
    let legacy = footer(Footer::Legacy, 0x1234);
    assert_eq!(legacy.len(), 47);
    assert_eq!(&legacy[10..], b"\x16\x000000000000001234STARGZ\x01\0\0\xff\xff\0\0\0\0\0\0\0\0");
    assert!(gunzip(&legacy).is_empty());
    let external = footer(Footer::External, 0x1234);
    assert_eq!(external.len(), 46);
    assert_eq!(&external[10..], b"\x15\0SG\x11\0STARGZEXTERNALTOC\x01\0\0\xff\xff\0\0\0\0\0\0\0\0");
    assert!(gunzip(&external).is_empty());
}

#[test]
fn an_external_toc_is_not_in_the_blob() {
    let tree = hostile::honest_tree();
    let tar = tarball::write(&tree);
    let blob = build(&tar, &Options { chunk_size: CHUNK_SIZE, ..Options::external() });
    check_chunks(&blob, &tree);
    assert_eq!(unpacked(&blob), tree);
    assert_eq!(Digest::of(&gunzip(&blob.bytes)), blob.diff_id);
    assert_eq!(blob.bytes.len() as u64, blob.toc_offset + 46);
    assert!(
        tarball::parse(&gunzip(&blob.bytes)).iter().all(|parsed| parsed.member.name != TOC_NAME.as_bytes())
    );
}

#[test]
fn old_writers_digest_files_only() {
    let blob = build(
        &tarball::write(&hostile::honest_tree()),
        &Options { chunk_size: CHUNK_SIZE, ..Options::legacy() },
    );
    let toc = blob.toc();
    let entries = toc["entries"].as_array().unwrap();
    assert!(entries.iter().all(|entry| entry.get("chunkDigest").is_none() && !hostile::is_landmark(entry)));
    assert_eq!(entries.iter().filter(|entry| entry.get("digest").is_some()).count(), 3);
    assert_eq!(entries[0]["NumLink"], 0);
    assert_eq!(
        blob.bytes.len() - 47,
        blob.bytes.windows(10).rposition(|w| w == b"\x1f\x8b\x08\x04\0\0\0\0\0\xff").unwrap()
    );
}

#[test]
fn prioritized_files_come_first_with_what_they_need() {
    let tree = Tree::new()
        .with("a/target", Entry::file("t"))
        .with_link("z/link", "a/target")
        .with("b", Entry::file("b"))
        .with("c", Entry::file("c"));
    let options = Options { prioritized: vec![b"/c".to_vec(), b"z/link".to_vec()], ..Options::default() };
    let mut draft = Draft::new(&tarball::write(&tree), &options);
    let names: Vec<_> =
        draft.entries().iter().map(|entry| entry["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names, ["./", "c", "z/", "a/", "a/target", "z/link", PREFETCH_LANDMARK, "b"]);
}

#[test]
fn small_chunks_share_a_member_up_to_the_minimum() {
    let tree =
        (0..20).fold(Tree::new(), |tree, n| tree.with(format!("f{n:02}"), Entry::file(content(n + 2, 1000))));
    let tar = tarball::write(&tree);
    let members = |min_chunk_size| {
        let blob = build(&tar, &Options { min_chunk_size, landmark: false, ..Options::default() });
        check_chunks(&blob, &tree);
        let toc = blob.toc();
        let entries = toc["entries"].as_array().unwrap().iter();
        entries
            .filter(|entry| entry["type"] == "reg")
            .map(|entry| entry["offset"].as_u64())
            .collect::<BTreeSet<_>>()
            .len()
    };
    assert_eq!(members(0), 20);
    assert_eq!(members(1 << 20), 1);
    assert!((4..10).contains(&members(4000)));
}

#[test]
fn the_toc_is_written_as_the_go_encoder_writes_it() {
    let tree =
        Tree::new().with("<a&b>", Entry::file("x").owner(7, 0).xattr("user.b", "\0").xattr("user.a", ""));
    let blob = build(&tarball::write(&tree), &Options { landmark: false, ..Options::default() });
    let json = std::str::from_utf8(&blob.toc_json).unwrap();
    let digest = Digest::of(b"x");
    let entry = format!(
        "\t\t{{\n\t\t\t\"name\": \"\\u003ca\\u0026b\\u003e\",\n\t\t\t\"type\": \"reg\",\n\t\t\t\"size\": 1,\n\
         \t\t\t\"modtime\": \"2001-09-09T01:46:40Z\",\n\t\t\t\"mode\": 420,\n\t\t\t\"uid\": 7,\n\
         \t\t\t\"offset\": {},\n\t\t\t\"xattrs\": {{\n\t\t\t\t\"user.a\": \"\",\n\t\t\t\t\"user.b\": \"AA==\"\n\t\t\t}},\n\
         \t\t\t\"digest\": \"{digest}\",\n\t\t\t\"chunkDigest\": \"{digest}\"\n\t\t}}\n\t]\n}}",
        blob.toc()["entries"][1]["offset"]
    );
    assert!(json.starts_with("{\n\t\"version\": 1,\n\t\"entries\": [\n\t\t{\n"), "{json}");
    assert!(json.ends_with(&entry), "{json}");
}

#[test]
fn owners_are_named_when_their_name_changes() {
    let member = |name: &str, user: &str| tarball::Member {
        user: user.to_owned(),
        ..tarball::Member::new(Type::Fifo, name)
    };
    let tar = tarball::archive(&[member("a", "root"), member("b", "root"), member("c", "toor")]);
    let toc = build(&tar, &Options { landmark: false, ..Options::default() }).toc();
    let names: Vec<_> = toc["entries"].as_array().unwrap().iter().map(|entry| &entry["userName"]).collect();
    assert_eq!(names, [&json_text("root"), &Value::Null, &json_text("toor")]);
}

fn json_text(text: &str) -> Value {
    text.into()
}

#[test]
fn every_lie_is_told_and_told_only_once() {
    let honest = hostile::draft().seal();
    let mut seen = BTreeSet::from([(honest.digest, honest.toc_digest)]);
    for lie in Lie::ALL {
        let blob = lie.blob();
        assert!(seen.insert((blob.digest, blob.toc_digest)), "{lie:?} is not new");
        assert_eq!(blob.digest, Digest::of(&blob.bytes));
        if lie != Lie::TocDigest {
            assert_eq!(blob.toc_digest, Digest::of(&blob.toc_json), "{lie:?}");
        }
    }
    assert_eq!(honest_chunks(&honest), 3);
}

/// Chunks of `victim` after the first.
fn honest_chunks(blob: &Blob) -> usize {
    assert_eq!(CHUNK_SIZE, 8192);
    blob.toc()["entries"].as_array().unwrap().iter().filter(|entry| entry["type"] == "chunk").count()
}

#[test]
fn bombs_are_small_and_expand() {
    let expand = |mut gzip: flate2::bufread::GzDecoder<&[u8]>| io::copy(&mut gzip, &mut io::sink()).unwrap();

    let bomb = hostile::zero_bomb(hostile::CLAIMED_4_KIB);
    assert!(bomb.bytes.len() < 2 << 20, "{} bytes", bomb.bytes.len());
    let offset = bomb.toc()["entries"][0]["offset"].as_u64().unwrap() as usize;
    assert_eq!(expand(flate2::bufread::GzDecoder::new(&bomb.bytes[offset..])), hostile::BOMB_SIZE);

    let bomb = hostile::toc_bomb();
    let mut toc = flate2::bufread::GzDecoder::new(&bomb.bytes[..]);
    let mut header = [0; 512];
    toc.read_exact(&mut header).unwrap();
    assert_eq!(&header[124..136], b"10000000000\0");
    assert_eq!(expand(toc), hostile::BOMB_SIZE);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_blob_is_a_gzipped_tar_of_the_tree_and_its_toc_finds_every_chunk(
        tree in tree::trees(tree::Options { whiteouts: true, before_epoch: true, ..Default::default() }),
        chunk_size in 1000usize..20_000,
        min_chunk_size in prop_oneof![Just(0usize), 1usize..30_000],
        legacy in any::<bool>(),
    ) {
        let footer = if legacy { Footer::Legacy } else { Footer::Estargz };
        let options = Options { chunk_size, min_chunk_size, footer, ..Options::default() };
        let blob = build(&tarball::write(&tree), &options);
        let tar = gunzip(&blob.bytes);
        prop_assert_eq!(Digest::of(&tar), blob.diff_id);
        prop_assert_eq!(tar.len() as u64, blob.uncompressed_size);
        prop_assert_eq!(&unpacked(&blob), &tree);
        check_chunks(&blob, &tree);
    }
}
