//! What reading a large TOC costs. A process of its own, because it measures the process.

use std::fs;
use std::io::Write;

use format::{Footer, Limits, NodeKind, TocKind, read_toc};

const ENTRIES: u32 = 200_000;
const PEAK_MAX: u64 = 64 << 20;
/// Podman and Buildah have windows of 8 MiB.
const WINDOW_LOG: u32 = 23;

/// Writes the JSON of a TOC of this many files, about 70 MB, with digests that do not compress, and returns its size.
fn write_json(mut out: impl Write) -> usize {
    let (mut json, mut size) = (Vec::new(), 0);
    for i in 0..ENTRIES {
        json.clear();
        write_entry(&mut json, i);
        size += json.len();
        out.write_all(&json).unwrap();
    }
    out.write_all(b"\n\t]\n}\n").unwrap();
    size + 6
}

/// As in eStargz.
fn gzip() -> (Vec<u8>, Footer) {
    // The size comes first in a tar.
    let size = write_json(std::io::sink());
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&tar_header(size)).unwrap();
    write_json(&mut encoder);
    let footer = Footer { kind: TocKind::Estargz, toc: Some(1 << 30..2 << 30), payload_end: 1 << 30 };
    (encoder.finish().unwrap(), footer)
}

/// As in zstd:chunked.
fn zstd() -> (Vec<u8>, Footer) {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(WINDOW_LOG).unwrap();
    let size = write_json(&mut encoder);
    let kind = TocKind::ZstdChunked { json_size: size as u64 };
    (encoder.finish().unwrap(), Footer { kind, toc: Some(1 << 30..2 << 30), payload_end: 1 << 30 })
}

fn write_entry(json: &mut Vec<u8>, i: u32) {
    json.extend_from_slice(if i == 0 { b"{\n\t\"version\": 1,\n\t\"entries\": [\n" } else { b",\n" });
    let digest: String = (0..4_u64)
        .map(|part| format!("{:016x}", (u64::from(i) * 4 + part + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
        .collect();
    let name = format!("usr/lib/python3/dist-packages/package{}/module{}/file{i}.py", i / 400, i / 20);
    write!(
        json,
        "\t\t{{\n\t\t\t\"name\": \"{name}\",\n\t\t\t\"type\": \"reg\",\n\t\t\t\"size\": {},\n\t\t\t\
         \"modtime\": \"2024-05-01T10:11:12Z\",\n\t\t\t\"mode\": 420,\n\t\t\t\"offset\": {},\n\t\t\t\
         \"digest\": \"sha256:{digest}\",\n\t\t\t\"chunkDigest\": \"sha256:{digest}\"\n\t\t}}",
        i + 1,
        u64::from(i) * 1000,
    )
    .unwrap();
}

fn tar_header(size: usize) -> [u8; 512] {
    let mut header = [0; 512];
    header[..17].copy_from_slice(b"stargz.index.json");
    header[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    header[148..156].fill(b' ');
    header[156] = b'0';
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
    header
}

/// A value of `/proc/self/status`, in bytes.
fn status(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn a_large_toc_takes_little_memory() {
    for (name, (compressed, footer)) in [("gzip", gzip()), ("zstd", zstd())] {
        // Starts the high-water mark anew (proc_pid_clear_refs(5)).
        fs::write("/proc/self/clear_refs", "5").unwrap();
        let before = status("VmRSS");
        let start = std::time::Instant::now();
        let toc = read_toc(&footer, &compressed[..], &Limits::default()).unwrap().trust_unverified("test");
        let peak = status("VmHWM").saturating_sub(before);
        eprintln!("{name}, {ENTRIES} entries: peak {} KiB, {:?}", peak >> 10, start.elapsed());
        let files = toc.nodes().iter().filter(|node| matches!(node.kind, NodeKind::File { .. })).count();
        assert_eq!((files, toc.chunks().len()), (ENTRIES as usize, ENTRIES as usize));
        assert!(peak < PEAK_MAX, "{peak} bytes");
    }
}
