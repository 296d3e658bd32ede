use std::io::Read as _;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::*;
use crate::Registry;
use crate::image::{self, Image};
use crate::tree::Kind;

/// The TOC of a layer, read as a reader does.
fn toc(layer: &SyntheticLayer) -> Value {
    let end = layer.content.len() - 51;
    let footer = layer.content.read(end, 51);
    assert_eq!(footer, estargz::footer(estargz::Footer::Estargz, layer.toc_offset));
    let member = layer.content.slice(layer.toc_offset..end).to_bytes();
    let tar = estargz::gunzip(&member);
    let parsed = tarball::parse(&tar);
    assert_eq!(parsed[0].member.name, estargz::TOC_NAME.as_bytes());
    let json = &parsed[0].member.content;
    assert_eq!((Digest::of(json), json.len() as u64), (layer.toc_digest, layer.toc_len));
    serde_json::from_slice(json).unwrap()
}

/// Bytes of the member before the first chunk.
fn first_member(layer: &SyntheticLayer) -> usize {
    toc(layer)["entries"][0]["offset"].as_u64().unwrap() as usize
}

/// The chunk of a TOC's entry, decompressed from its offset.
fn chunk(layer: &SyntheticLayer, entry: &Value, len: usize) -> Vec<u8> {
    let offset = entry["offset"].as_u64().unwrap();
    let bytes =
        layer.content.read(offset, (layer.content.len() - offset).min(len as u64 + (64 << 10)) as usize);
    let mut chunk = vec![0; len];
    flate2::read::GzDecoder::new(&bytes[..]).read_exact(&mut chunk).unwrap();
    chunk
}

#[test]
fn a_small_big_file_is_an_estargz_like_any_other() {
    let file = BigFile::new(19, 128 << 10);
    let layer = file.layer().hashed();
    let tar = estargz::gunzip(&layer.content.to_bytes());
    let mut tree = tarball::tree(&tar);
    tree.remove(estargz::TOC_NAME.as_bytes());
    let Some(Kind::File(bytes)) = tree.get(b"big").map(|entry| &entry.kind) else { panic!("{tree:?}") };
    assert_eq!(*bytes, file.read(0, file.size() as usize));
    assert_eq!(layer.digest, Digest::of(&layer.content.to_bytes()));
    let toc = toc(&layer);
    let entries = toc["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 19);
    let digests: std::collections::BTreeSet<_> =
        entries.iter().map(|entry| entry["chunkDigest"].as_str().unwrap()).collect();
    assert_eq!(digests.len(), 16);
    for entry in entries {
        let chunk = chunk(&layer, entry, 128 << 10);
        assert_eq!(entry["chunkDigest"], Digest::of(&chunk).to_string());
        assert_eq!(chunk, file.read(entry["chunkOffset"].as_u64().unwrap_or(0), chunk.len()));
    }
}

#[test]
fn any_piece_of_a_synthetic_blob_is_the_same_as_in_the_whole() {
    for layer in [BigFile::new(3, 64 << 10).layer(), ManyFiles::new(1200, 77).layer()] {
        let whole = layer.content.to_bytes();
        for step in [1, 7, 4093] {
            let ends = [0, whole.len() / 2, whole.len() - 20_000];
            for at in ends.into_iter().flat_map(|start| (start..).step_by(step).take(20_000 / step)) {
                let len = step.min(whole.len() - at);
                assert_eq!(layer.content.read(at as u64, len), whole[at..at + len], "{len} at {at}");
            }
        }
    }
}

#[test]
fn many_files_are_an_estargz_like_any_other() {
    let files = ManyFiles::new(2500, 100);
    let layer = files.layer();
    let mut tree = tarball::tree(&estargz::gunzip(&layer.content.to_bytes()));
    tree.remove(estargz::TOC_NAME.as_bytes());
    assert_eq!(tree.entries.len() as u64, 1 + files.count() + files.directories());
    let toc = toc(&layer);
    let entries: Vec<&Value> =
        toc["entries"].as_array().unwrap().iter().filter(|entry| entry["type"] == "reg").collect();
    assert_eq!(entries.len(), 2500);
    for number in [0, 1, 999, 1000, 2498, 2499] {
        let (entry, content) = (entries[number as usize], files.content(number));
        assert_eq!(entry["name"], files.path(number));
        assert_eq!(tree.get(files.path(number).as_bytes()).and_then(Entry::content), Some(&content));
        assert_eq!(chunk(&layer, entry, 100), content);
        assert_eq!(entry["chunkDigest"], Digest::of(&content).to_string());
    }
}

#[test]
fn twenty_gigabytes_are_served_without_having_them() {
    let start = Instant::now();
    let file = BigFile::new(5 << 10, 4 << 20);
    assert_eq!(file.size(), 20 << 30);
    let layer = file.layer();
    assert!(layer.toc_len < 2 << 20, "{}", layer.toc_len);
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    let header = estargz::gunzip(
        &layer.content.read(0, layer.content.len().min(2048) as usize)[..first_member(&layer)],
    );
    assert!(String::from_utf8_lossy(&header).contains(" size=21474836480\n"), "beyond what ustar can tell");
    let toc = toc(&layer);
    let entry = &toc["entries"][4321];
    let bytes = chunk(&layer, entry, 4 << 20);
    assert_eq!(bytes, file.read(4321 * (4 << 20), 4 << 20));
    assert_eq!(entry["chunkDigest"], Digest::of(&bytes).to_string());

    let registry = Registry::start();
    let image = Image::new(vec![layer.layer()], &image::Options::default());
    registry.push("big", "v1", &image);
    let mut stream = std::net::TcpStream::connect(registry.addr()).unwrap();
    let (first, last) = (15u64 << 30, (15u64 << 30) + 99_999);
    let request = format!(
        "GET /v2/big/blobs/{} HTTP/1.1\r\nConnection: close\r\nRange: bytes={first}-{last}\r\n\r\n",
        layer.digest
    );
    std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer.ends_with(&layer.content.read(first, 100_000)));
    assert!(answer.starts_with(b"HTTP/1.1 206 "));
}

#[test]
fn two_hundred_thousand_files_have_a_toc() {
    let files = ManyFiles::new(200_000, 64);
    let layer = files.layer();
    assert!(layer.toc_len > 40 << 20, "{}", layer.toc_len);
    let held = layer.content.len() - layer.toc_offset;
    assert!(held < 200_000 * 80, "{held} bytes of TOC are held in memory");
    let toc = toc(&layer);
    assert_eq!(toc["entries"].as_array().unwrap().len() as u64, 200_000 + 200);
    let entry = &toc["entries"][200 + 123_456];
    assert_eq!(chunk(&layer, entry, 64), files.content(123_456));
}

#[test]
fn many_layers_make_one_tree() {
    let (blobs, tree) = many_layers(120);
    let image = Image::new(blobs.iter().map(Layer::estargz).collect(), &image::Options::default());
    assert_eq!(image.layers.len(), 120);
    assert_eq!(tree.get(b"version").and_then(Entry::content).unwrap(), "119\n");
    assert_eq!(tree.paths().len(), 2 + 120 + 1);
    let digests: std::collections::BTreeSet<_> = blobs.iter().map(|blob| blob.digest).collect();
    assert_eq!(digests.len(), 120);
}
