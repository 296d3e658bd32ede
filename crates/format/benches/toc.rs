//! Speed of reading a TOC. `cargo bench -p format --bench toc`.
#![allow(missing_docs, clippy::print_stdout)]

use std::io::Write as _;
use std::time::{Duration, Instant};

use format::{Footer, Limits, TocKind, read_toc};

const TIME: Duration = Duration::from_secs(2);

fn main() {
    for entries in [18_000, 200_000] {
        let json = json(entries);
        let gzip = Footer { kind: TocKind::Estargz, toc: Some(1 << 40..2 << 40), payload_end: 1 << 40 };
        let kind = TocKind::ZstdChunked { json_size: json.len() as u64 };
        let frame = zstd::bulk::compress(&json, 3).expect("a vector takes everything");
        println!("{entries} entries, {} bytes of JSON", json.len());
        measure("gzip", entries, &gzip, &compress(&json));
        measure("zstd", entries, &Footer { kind, ..gzip }, &frame);
    }
}

fn measure(name: &str, entries: usize, footer: &Footer, compressed: &[u8]) {
    let (start, mut rounds) = (Instant::now(), Vec::new());
    while start.elapsed() < TIME {
        let start = Instant::now();
        let toc = read_toc(footer, compressed, &Limits::default()).expect("it was written like this");
        rounds.push(start.elapsed());
        assert_eq!(toc.trust_unverified("a benchmark").chunks().len(), entries);
    }
    rounds.sort();
    let (best, median) = (rounds[0], rounds[rounds.len() / 2]);
    println!("{name}: best {best:.1?}, median {median:.1?}");
}

fn json(entries: usize) -> Vec<u8> {
    let mut json = b"{\n\t\"version\": 1,\n\t\"entries\": [".to_vec();
    for i in 0..entries {
        let digest: String = (0..4)
            .map(|part| format!("{:016x}", ((i * 4 + part + 1) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
            .collect();
        let entry = serde_json::json!({
            "name": format!("usr/lib/python3/dist-packages/package{}/module{}/file{i}.py", i / 400, i / 20),
            "type": "reg",
            "size": i + 1,
            "modtime": "2024-05-01T10:11:12Z",
            "mode": 420,
            "offset": i * 1000,
            "digest": format!("sha256:{digest}"),
            "chunkDigest": format!("sha256:{digest}"),
        });
        json.extend_from_slice(if i == 0 { b"\n" } else { b",\n" });
        json.extend_from_slice(serde_json::to_string_pretty(&entry).expect("it is plain data").as_bytes());
    }
    json.extend_from_slice(b"]}");
    json
}

fn compress(json: &[u8]) -> Vec<u8> {
    let mut header = [0; 512];
    header[..17].copy_from_slice(b"stargz.index.json");
    header[124..135].copy_from_slice(format!("{:011o}", json.len()).as_bytes());
    header[148..156].fill(b' ');
    header[156] = b'0';
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(&header).and_then(|()| encoder.write_all(json)).expect("a vector takes everything");
    encoder.finish().expect("a vector takes everything")
}
