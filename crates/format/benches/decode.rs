//! Speed of expanding a span, in gzip and in zstd: the whole member or frame at once against the stream.
//!
//! `cargo bench -p format --bench decode [FILE]`: FILE is cut into chunks of 4 MiB; without it, text is made up.
#![allow(missing_docs, clippy::print_stdout)]

use std::hint::black_box;
use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use format::{Compression, StreamDecoder, decode};

const CHUNK: usize = 4 << 20;
const TIME: Duration = Duration::from_secs(2);

fn main() {
    let file = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let data = match file {
        Some(path) => std::fs::read(&path).unwrap_or_else(|error| panic!("cannot read {path}: {error}")),
        None => text(8 * CHUNK),
    };
    let chunks: Vec<&[u8]> = data.chunks(CHUNK).collect();
    measure_both(
        "gzip",
        Compression::Gzip,
        &chunks,
        &chunks.iter().map(|chunk| gzip(chunk)).collect::<Vec<_>>(),
    );
    measure_both(
        "zstd",
        Compression::Zstd,
        &chunks,
        &chunks.iter().map(|chunk| zstd(chunk)).collect::<Vec<_>>(),
    );
}

fn measure_both(name: &str, compression: Compression, chunks: &[&[u8]], spans: &[Vec<u8>]) {
    let size: usize = chunks.iter().map(|chunk| chunk.len()).sum();
    let compressed: usize = spans.iter().map(Vec::len).sum();
    println!("{name}: {} chunks, {size} bytes, {compressed} compressed", chunks.len());
    let mut out = Vec::new();
    measure(&format!("{name}, whole"), size, || {
        for (span, chunk) in spans.iter().zip(chunks) {
            decode(compression, span, chunk.len(), &mut out).expect("it was compressed like this");
            black_box(&out);
        }
    });
    let mut out = vec![0; CHUNK];
    measure(&format!("{name}, stream"), size, || {
        for (span, chunk) in spans.iter().zip(chunks) {
            let mut decoder = StreamDecoder::new(compression, &span[..]);
            decoder.read_exact(&mut out[..chunk.len()]).expect("it was compressed like this");
            black_box(&out);
        }
    });
}

/// Prints the best and the median of as many rounds as fit into [`TIME`].
fn measure(name: &str, bytes: usize, mut round: impl FnMut()) {
    let (start, mut rounds) = (Instant::now(), Vec::new());
    while start.elapsed() < TIME {
        let start = Instant::now();
        round();
        rounds.push(start.elapsed());
    }
    rounds.sort();
    let rate = |time: Duration| bytes as f64 / time.as_secs_f64() / 1e6;
    println!("{name}: best {:.0} MB/s, median {:.0} MB/s", rate(rounds[0]), rate(rounds[rounds.len() / 2]));
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(data).expect("a vector takes everything");
    encoder.finish().expect("a vector takes everything")
}

/// A frame without the size of its content, as the streaming encoders of converters write it.
fn zstd(data: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).expect("the level is valid");
    encoder.write_all(data).expect("a vector takes everything");
    encoder.finish().expect("a vector takes everything")
}

/// Words in random order: compresses about as source code does.
fn text(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut text = Vec::with_capacity(length + 16);
    while text.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let word = format!("{:x}{}", (state >> 52).pow(2), if state >> 40 & 7 == 0 { "\n" } else { " " });
        text.extend_from_slice(word.as_bytes());
    }
    text.truncate(length);
    text
}
