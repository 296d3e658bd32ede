//! What is around the entries in zstd:chunked: sizes, frames, digests of both sides.

use std::io::{self, Read};

use super::fixture::*;
use crate::toc::{Limits, UnverifiedToc, read_toc};
use crate::{Digest, Footer, FormatError, TocKind};

const JSON: &[u8] = b"{\"version\":1,\"entries\":[{\"name\":\"a\",\"type\":\"dir\"}]}";

fn read_with(compressed: &[u8], json_size: usize) -> Result<UnverifiedToc, FormatError> {
    read_toc(&chunked_footer(compressed.len(), json_size), compressed, &Limits::default())
}

#[test]
fn either_side_of_the_compression_pins_the_toc() {
    let compressed = zstd(JSON);
    let read = || read_with(&compressed, JSON.len()).unwrap();
    let (inside, outside, other) = (Digest::of(JSON), Digest::of(&compressed), Digest::of(b"other"));
    assert_eq!((read().digest(), read().compressed_digest()), (inside, Some(outside)));
    let toc = read().verify(&inside).unwrap();
    assert_eq!((toc.digest(), toc.compressed_digest(), toc.trusted_because()), (inside, Some(outside), None));
    assert_eq!(read().verify_compressed(&outside).unwrap().digest(), inside);
    for wrong in
        [read().verify(&outside), read().verify_compressed(&inside), read().verify_compressed(&other)]
    {
        assert!(matches!(wrong, Err(FormatError::TocDigest { .. })));
    }
}

#[test]
fn only_zstd_chunked_is_pinned_from_the_outside() {
    let compressed = compressed(JSON);
    let external = Footer { kind: TocKind::ExternalToc, toc: None, payload_end: PAYLOAD_END };
    for footer in [footer(), external] {
        let toc = read_toc(&footer, &compressed[..], &Limits::default()).unwrap();
        assert_eq!((toc.digest(), toc.compressed_digest()), (Digest::of(JSON), None));
        let error = toc.verify_compressed(&Digest::of(&compressed)).unwrap_err();
        assert!(matches!(error, FormatError::NoCompressedDigest));
    }
}

#[test]
fn the_digest_is_that_of_the_whole_place() {
    // Two frames, one that is skipped, and bytes behind the place.
    let compressed =
        [zstd(&JSON[..20]), zstd(&JSON[20..]), b"\x5f\x2a\x4d\x18\x02\0\0\0xx".to_vec()].concat();
    let more = [&compressed[..], b"the next frame"].concat();
    let footer = chunked_footer(compressed.len(), JSON.len());
    let toc = read_toc(&footer, &more[..], &Limits::default()).unwrap();
    assert_eq!((toc.digest(), toc.compressed_digest()), (Digest::of(JSON), Some(Digest::of(&compressed))));
}

#[test]
fn a_size_that_lies_is_noticed() {
    let compressed = zstd(JSON);
    let error = read_with(&compressed, JSON.len() + 1).unwrap_err();
    let size = JSON.len() as u64;
    assert!(
        matches!(error, FormatError::TocTruncated { got, size: announced } if (got, announced) == (size, size + 1)),
        "{error}"
    );
    let padded = [JSON, b"  "].concat();
    let error = read_with(&zstd(&padded), JSON.len()).unwrap_err();
    assert!(matches!(error, FormatError::TocTooLong { size: announced } if announced == size), "{error}");
    let error = read_with(&compressed, JSON.len() - 1).unwrap_err();
    assert!(matches!(error, FormatError::TocJson { .. }), "{error}");
    for huge in [(512 << 20) + 1, usize::MAX] {
        let error = read_with(&compressed, huge).unwrap_err();
        assert!(matches!(error, FormatError::TocTooLarge { what: "bytes of JSON", .. }), "{error}");
    }
}

#[test]
fn a_bomb_ends_at_the_announced_size() {
    let bomb = zstd(&vec![b' '; 200 << 20]);
    let error = read_with(&bomb, 1000).unwrap_err();
    assert!(matches!(error, FormatError::TocJson { .. }), "{error}");
    let padded = [JSON, &vec![b' '; 64 << 20]].concat();
    let error = read_with(&zstd(&padded), JSON.len()).unwrap_err();
    assert!(matches!(error, FormatError::TocTooLong { .. }), "{error}");
}

#[test]
fn a_window_that_nobody_can_hold_is_refused() {
    // 2 TiB of window, and a raw block.
    let frame =
        [b"\x28\xb5\x2f\xfd\0\xf8", &((JSON.len() as u32) << 3 | 1).to_le_bytes()[..3], JSON].concat();
    let error = read_with(&frame, JSON.len()).unwrap_err();
    assert!(matches!(error, FormatError::TocCompression(_)), "{error}");
}

#[test]
fn damaged_compression_is_told_from_a_failing_source() {
    let whole = zstd(JSON);
    let footer = chunked_footer(whole.len(), JSON.len());
    for damaged in [&b""[..], b"not zstd at all", &whole[..whole.len() / 2]] {
        let error = read_with(damaged, JSON.len()).unwrap_err();
        assert!(
            matches!(error, FormatError::TocCompression(_) | FormatError::TocTruncated { .. }),
            "{error:?}"
        );
    }
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::new(io::ErrorKind::ConnectionReset, "gone"))
        }
    }
    for good in [0, 5, whole.len() - 1] {
        let error = read_toc(&footer, whole[..good].chain(Failing), &Limits::default()).unwrap_err();
        let FormatError::Source(source) = &error else { panic!("{error}") };
        assert_eq!(source.kind(), io::ErrorKind::ConnectionReset);
    }
}
