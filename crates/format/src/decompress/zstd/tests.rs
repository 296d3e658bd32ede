use std::io::Write as _;

use proptest::prelude::*;

use super::*;
use crate::decompress::{Compression, StreamDecoder, compressed_bound, decode};

/// A frame that says how long its content is.
fn frame(data: &[u8], level: i32) -> Vec<u8> {
    ::zstd::bulk::compress(data, level).unwrap()
}

/// A frame that does not, as a compressor writes it that did not know.
fn unsized_frame(data: &[u8], level: i32) -> Vec<u8> {
    let mut encoder = ::zstd::stream::write::Encoder::new(Vec::new(), level).unwrap();
    encoder.include_contentsize(false).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn skippable(number: u8, content: &[u8]) -> Vec<u8> {
    let magic = [0x50 | number, 0x2a, 0x4d, 0x18];
    [&magic, &(content.len() as u32).to_le_bytes(), content].concat()
}

const RAW: u32 = 0;
const RLE: u32 = 1;

/// A block; `size` is that of the content for a repeated byte, too.
fn block(last: bool, kind: u32, size: u32, content: &[u8]) -> Vec<u8> {
    let header = (size << 3 | kind << 1 | u32::from(last)).to_le_bytes();
    [&header[..3], content].concat()
}

/// A frame with a window of this size, and without the size of its content.
fn windowed(window_log: u8, blocks: &[Vec<u8>]) -> Vec<u8> {
    [&[0x28, 0xb5, 0x2f, 0xfd, 0, (window_log - 10) << 3][..], &blocks.concat()].concat()
}

fn decoded(input: &[u8], needed: usize) -> Result<Vec<u8>, DecodeError> {
    let mut out = b"left over from the last call".to_vec();
    let result = decode(Compression::Zstd, input, needed, &mut out);
    assert_eq!(out.len(), if result.is_ok() { needed } else { 0 });
    result.map(|()| out)
}

fn streamed(input: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    StreamDecoder::new(Compression::Zstd, input).read_to_end(&mut out)?;
    Ok(out)
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

#[test]
fn exactly_the_needed_bytes_come_out() {
    let data = noise(600_000);
    for frame in [frame(&data, 3), unsized_frame(&data, 3)] {
        for needed in [0, 1, 1000, 300_000, 400_000, 599_999, 600_000] {
            assert_eq!(decoded(&frame, needed).unwrap(), data[..needed]);
        }
        let error = decoded(&frame, 600_001).unwrap_err();
        assert_eq!(error, DecodeError::Truncated { got: 600_000, needed: 600_001 });
        assert_eq!(streamed(&frame).unwrap(), data);
    }
}

#[test]
fn what_follows_the_needed_bytes_does_not_matter() {
    let data = noise(300_000);
    for frame in [frame(&data, 3), unsized_frame(&data, 3)] {
        assert_eq!(decoded(&[&frame[..], b"garbage"].concat(), 300_000).unwrap(), data);
        assert_eq!(decoded(&frame[..frame.len() - 4], 200_000).unwrap(), data[..200_000]);
        assert_eq!(decoded(&frame[..frame.len() / 2], 100_000).unwrap(), data[..100_000]);
    }
}

#[test]
fn following_frames_go_on_where_the_first_ends() {
    let data = noise(30_000);
    let input = [
        skippable(0, b"a TOC, say"),
        frame(&data[..10_000], 9),
        unsized_frame(b"", 1),
        skippable(15, b""),
        frame(b"", 1),
        unsized_frame(&data[10_000..], 1),
        skippable(3, &[0; 40]),
    ]
    .concat();
    for needed in [0, 5, 10_000, 10_001, 30_000] {
        assert_eq!(decoded(&input, needed).unwrap(), data[..needed]);
    }
    assert_eq!(decoded(&input, 30_001), Err(DecodeError::Truncated { got: 30_000, needed: 30_001 }));
    assert_eq!(streamed(&input).unwrap(), data);
}

#[test]
fn input_that_ends_early_is_told_from_damaged_input() {
    let whole = frame(&noise(100_000), 3);
    for end in [4, 5, 9, 50, whole.len() / 2, whole.len() - 1] {
        let error = decoded(&whole[..end], 100_000).unwrap_err();
        assert!(matches!(error, DecodeError::Truncated { needed: 100_000, .. }), "{end} {error}");
        assert_eq!(streamed(&whole[..end]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
    assert_eq!(decoded(b"", 1), Err(DecodeError::Truncated { got: 0, needed: 1 }));
    assert_eq!(streamed(b"").unwrap(), b"");
    let mut damaged = frame(&b"some words ".repeat(10_000), 3);
    damaged[12..].fill(0xff);
    for input in [&damaged[..], &[b'n'; 1000]] {
        let error = decoded(input, 100_000).unwrap_err();
        assert!(matches!(error, DecodeError::Corrupt { .. }), "{error}");
        assert_eq!(streamed(input).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}

#[test]
fn a_skippable_frame_may_lie_about_its_length() {
    let data = noise(100);
    for length in [200, 1 << 20, u32::MAX] {
        let mut input = [skippable(0, b""), frame(&data, 3)].concat();
        input[4..8].copy_from_slice(&u32::to_le_bytes(length));
        assert_eq!(decoded(&input, 10), Err(DecodeError::Truncated { got: 0, needed: 10 }));
        assert_eq!(streamed(&input).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}

#[test]
fn a_bomb_takes_no_more_memory_than_is_needed() {
    let block_of_zeros = |last| block(last, RLE, 128 << 10, &[0]);
    let blocks: Vec<_> = (0..8000).map(|i| block_of_zeros(i == 7999)).collect();
    let zeros = vec![0; 64 << 20];
    for bomb in [windowed(17, &blocks), frame(&zeros, 19), unsized_frame(&zeros, 1)] {
        assert!(bomb.len() < 40_000);
        for needed in [0, 1, 4096, 4 << 20] {
            let mut out = Vec::new();
            decode(Compression::Zstd, &bomb, needed, &mut out).unwrap();
            assert!(out.len() == needed && out.iter().all(|byte| *byte == 0));
            assert!(out.capacity() <= needed + SLACK_MAX, "{} for {needed}", out.capacity());
        }
    }
}

#[test]
fn a_claim_beyond_what_the_input_can_expand_to_allocates_nothing() {
    let mut out = Vec::new();
    let error = decode(Compression::Zstd, &frame(b"x", 3), usize::MAX, &mut out).unwrap_err();
    assert_eq!(error, DecodeError::Truncated { got: 0, needed: usize::MAX });
    assert_eq!(out.capacity(), 0);
}

#[test]
fn nothing_expands_more_than_repeated_blocks() {
    let blocks: Vec<_> = (0..1000).map(|i| block(i == 999, RLE, 128 << 10, b"x")).collect();
    let size = 1000 * (128 << 10);
    let frame = windowed(17, &blocks);
    assert!(size as u64 <= frame.len() as u64 * EXPANSION_MAX);
    assert_eq!(decoded(&frame, size).unwrap(), vec![b'x'; size]);
}

#[test]
fn a_window_costs_nothing_when_the_frame_is_whole_and_is_bounded_otherwise() {
    let huge = windowed(31, &[block(false, RAW, 5, b"hello"), block(true, RLE, 100, b"!")]);
    assert_eq!(decoded(&huge, 105).unwrap()[..6], *b"hello!");
    for (window_log, fine) in [(17, true), (26, true), (27, true), (28, false), (31, false), (41, false)] {
        let cut = windowed(window_log, &[block(false, RAW, 5, b"hello")]);
        let result = decoded(&cut, 5);
        assert_eq!(result.is_ok(), fine, "{window_log} {result:?}");
        assert!(fine || matches!(result, Err(DecodeError::Corrupt { .. })));
        let mut start = [0; 5];
        let read = StreamDecoder::new(Compression::Zstd, &cut[..]).read_exact(&mut start);
        assert_eq!(read.is_ok(), fine, "{window_log} {read:?}");
        assert!(CONTEXT.with_borrow(|context| context.sizeof()) <= KEPT_MAX);
    }
}

#[test]
fn lying_sizes_of_content_are_harmless() {
    let data = noise(1000);
    // Single segment, a size of 8 bytes, one block.
    let with_size = |size: u64| {
        let header = [&[0x28, 0xb5, 0x2f, 0xfd, 0xe0], &size.to_le_bytes()[..]].concat();
        [header, block(true, RAW, 1000, &data)].concat()
    };
    assert_eq!(decoded(&with_size(1000), 1000).unwrap(), data);
    for lie in [0, 1, 999, 1001, 100_000, 1 << 40, u64::MAX] {
        let frame = with_size(lie);
        for needed in [1, 500, 1000, 1001] {
            let mut out = Vec::new();
            let _ = decode(Compression::Zstd, &frame, needed, &mut out);
            assert!(out.capacity() <= needed + SLACK_MAX);
        }
        assert!(decoded(&frame, 1001).is_err());
        assert!(streamed(&frame).is_err());
    }
}

#[test]
fn frames_of_a_dictionary_are_refused() {
    let mut compressor = ::zstd::bulk::Compressor::with_dictionary(3, &noise(2000)).unwrap();
    // Says that it needs dictionary number 7.
    let mut frame = compressor.compress(&noise(2000)).unwrap();
    assert!(decoded(&frame, 2000).is_err());
    frame[4] |= 1;
    frame.insert(if frame[4] & 0x20 == 0 { 6 } else { 5 }, 7);
    assert!(matches!(decoded(&frame, 2000), Err(DecodeError::Corrupt { .. })));
}

#[test]
fn the_end_of_a_stream_can_be_read_again_and_again() {
    let input = frame(b"content", 3);
    let mut decoder = StreamDecoder::new(Compression::Zstd, &input[..]);
    assert_eq!(decoder.read(&mut []).unwrap(), 0);
    let mut content = String::new();
    decoder.read_to_string(&mut content).unwrap();
    assert_eq!(content, "content");
    for _ in 0..40 {
        assert_eq!(decoder.read(&mut [0; 10]).unwrap(), 0);
    }
}

#[test]
fn a_source_may_yield_little_and_fail() {
    /// One byte at a time, then an error.
    struct Drops<'a>(&'a [u8]);
    impl Read for Drops<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            match (self.0.split_first(), buf.first_mut()) {
                (Some((byte, rest)), Some(place)) => {
                    (*place, self.0) = (*byte, rest);
                    Ok(1)
                }
                _ => Err(io::Error::new(io::ErrorKind::ConnectionReset, "gone")),
            }
        }
    }
    let data = noise(300_000);
    let input = [unsized_frame(&data[..200_000], 3), skippable(1, b"x"), frame(&data[200_000..], 3)].concat();
    let mut decoder = StreamDecoder::new(Compression::Zstd, Drops(&input));
    let mut out = vec![0; data.len()];
    decoder.read_exact(&mut out).unwrap();
    assert_eq!(out, data);
    assert_eq!(decoder.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn the_bound_covers_every_level() {
    for length in [0, 1, 1000, 70_000, 3_000_000] {
        let data = noise(length);
        for level in [-5, 1, 3, 9, 15] {
            assert!(unsized_frame(&data, level).len() as u64 <= compressed_bound(length as u64));
        }
    }
    // A stream that is flushed after every block of a tar.
    let mut encoder = ::zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    for block in noise(1 << 20).chunks(512) {
        encoder.write_all(block).unwrap();
        encoder.flush().unwrap();
    }
    assert!(encoder.finish().unwrap().len() as u64 <= compressed_bound(1 << 20));
}

fn piece() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    (prop::collection::vec(0..4_u8, 0..500), 0..4_u8, -3..10_i32).prop_map(|(data, kind, level)| match kind {
        0 => (Vec::new(), skippable(level.unsigned_abs() as u8, &data)),
        1 => (data.clone(), unsized_frame(&data, level)),
        _ => (data.clone(), frame(&data, level)),
    })
}

proptest! {
    #[test]
    fn random_input_never_panics(input in prop::collection::vec(any::<u8>(), 0..200), needed in 0..1000_usize) {
        for start in [&b""[..], b"\x28\xb5\x2f\xfd", b"\x28\xb5\x2f\xfd\x20", b"\x50\x2a\x4d\x18"] {
            let input = [start, &input[..]].concat();
            let _ = decoded(&input, needed);
            let _ = StreamDecoder::new(Compression::Zstd, &input[..]).read_exact(&mut vec![0; needed]);
        }
    }

    #[test]
    fn changed_input_never_panics(at in any::<prop::sample::Index>(), byte in any::<u8>(), needed in 0..4000_usize) {
        for mut frame in [frame(&noise(2000), 3), unsized_frame(&b"word ".repeat(500), 3)] {
            let at = at.index(frame.len());
            frame[at] = byte;
            let _ = decoded(&frame, needed);
        }
    }

    #[test]
    fn whole_frames_and_the_stream_agree(
        pieces in prop::collection::vec(piece(), 1..6),
        cut in any::<prop::sample::Index>(),
        end in any::<prop::sample::Index>(),
    ) {
        let data: Vec<u8> = pieces.iter().flat_map(|(data, _)| data.clone()).collect();
        let input: Vec<u8> = pieces.iter().flat_map(|(_, compressed)| compressed.clone()).collect();
        let needed = cut.index(data.len() + 1);
        prop_assert_eq!(decoded(&input, needed).unwrap(), &data[..needed]);
        prop_assert_eq!(streamed(&input).unwrap(), &data[..]);
        // Cut off anywhere: the same bytes or the news that there are fewer.
        let input = &input[..end.index(input.len() + 1)];
        let mut stream = vec![0; needed];
        let read = StreamDecoder::new(Compression::Zstd, input).read_exact(&mut stream);
        match decoded(input, needed) {
            Ok(out) => prop_assert!(read.is_ok() && out == stream && out == data[..needed]),
            Err(error) => {
                let truncated = matches!(error, DecodeError::Truncated { .. });
                prop_assert!(read.is_err() && truncated);
            }
        }
    }
}
