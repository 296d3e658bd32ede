//! Speed and size of building a layer: threads, formats, and what the gzip levels are worth.
//!
//! `cargo bench -p builder [LAYER]`: LAYER is a tar archive, compressed or not; without it, a layer is made up.
#![allow(missing_docs, clippy::print_stdout)]

use std::io::{self, Read as _, Write as _};
use std::time::{Duration, Instant};

use builder::{Builder, Format, Gzip, Options, Zstd};
use testkit::tarball;
use testkit::tree::{Entry, Tree};

/// What is compressed to compare encoders: enough to be typical, not so much that it takes minutes.
const SAMPLE: usize = 48 << 20;
const CHUNK: usize = 4 << 20;

fn main() {
    let file = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let source = match file {
        Some(path) => std::fs::read(&path).unwrap_or_else(|error| panic!("cannot read {path}: {error}")),
        None => made_up(),
    };
    let gzip = |level| Format::Estargz(Gzip { level, min_chunk_size: 0 });
    let shared = Format::Estargz(Gzip { level: 9, min_chunk_size: 64 << 10 });
    let zstd = Format::ZstdChunked(Zstd { level: 3, podman: false });
    println!("{:24} {:>9} {:>12}", "whole build", "seconds", "bytes");
    build("eStargz, 1 thread", &source, gzip(9), 1);
    build("eStargz, all threads", &source, gzip(9), 0);
    build("  level 1", &source, gzip(1), 0);
    build("  shared members", &source, shared, 0);
    build("zstd:chunked, 1 thread", &source, zstd, 1);
    build("zstd:chunked", &source, zstd, 0);
    levels(&source);
}

fn build(name: &str, source: &[u8], format: Format, threads: usize) {
    let options = Options { threads, ..Options::new(format) };
    let start = Instant::now();
    let built = Builder::new(options).build(source, io::sink()).expect("the layer can be built");
    println!("{name:24} {:9.2} {:12}", start.elapsed().as_secs_f64(), built.blob_size);
}

/// The uncompressed archive by each level: what libdeflate makes of it, and zlib.
fn levels(source: &[u8]) {
    let mut data = Vec::new();
    let mut reader: Box<dyn io::Read> = match source {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(source)),
        source => Box::new(source),
    };
    reader.by_ref().take(SAMPLE as u64).read_to_end(&mut data).expect("the layer can be read");
    println!("\n{:24} {:>9} {:>12} {:>8}", "one thread, by chunks", "MB/s", "bytes", "of zlib");
    let (time, zlib) = chunks(&data, |chunk| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(chunk).expect("a vector takes everything");
        encoder.finish().expect("a vector takes everything").len()
    });
    row("zlib-rs 9", data.len(), time, zlib, zlib);
    for level in 1..=9 {
        let level_of = libdeflater::CompressionLvl::new(level).expect("a level of libdeflate");
        let mut compressor = libdeflater::Compressor::new(level_of);
        let mut out = vec![0; compressor.gzip_compress_bound(CHUNK)];
        let (time, size) = chunks(&data, |chunk| {
            compressor.gzip_compress(chunk, &mut out).expect("the buffer has the size that was asked for")
        });
        row(&format!("libdeflate {level}"), data.len(), time, size, zlib);
    }
}

fn chunks(data: &[u8], mut compress: impl FnMut(&[u8]) -> usize) -> (Duration, usize) {
    let start = Instant::now();
    let size = data.chunks(CHUNK).map(&mut compress).sum();
    (start.elapsed(), size)
}

fn row(name: &str, data: usize, time: Duration, size: usize, zlib: usize) {
    let rate = data as f64 / time.as_secs_f64() / 1e6;
    println!("{name:24} {rate:9.1} {size:12} {:8.3}", size as f64 / zlib as f64);
}

/// 64 MiB: text in many sizes, and something that does not compress.
fn made_up() -> Vec<u8> {
    let mut tree = Tree::new().with("model.bin", Entry::file(testkit::tree::content(7, 16 << 20)));
    let (mut state, mut size) = (1_u64, 0);
    for i in 0.. {
        let length = 1 << (8 + i % 14);
        let mut text = Vec::with_capacity(length + 16);
        while text.len() < length {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let word = format!("{:x}{}", (state >> 52).pow(2), if state >> 40 & 7 == 0 { "\n" } else { " " });
            text.extend_from_slice(word.as_bytes());
        }
        size += text.len();
        tree.insert(format!("usr/share/d{}/f{i}", i % 31).as_bytes(), Entry::file(text));
        if size > 48 << 20 {
            break;
        }
    }
    tarball::write(&tree)
}
