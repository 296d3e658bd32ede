use std::io::Write as _;

use proptest::prelude::*;

use super::*;

fn gzip(data: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level));
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn decoded(input: &[u8], needed: usize) -> Result<Vec<u8>, DecodeError> {
    let mut out = b"left over from the last call".to_vec();
    let result = decode(Compression::Gzip, input, needed, &mut out);
    assert_eq!(out.len(), if result.is_ok() { needed } else { 0 });
    result.map(|()| out)
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
    let member = gzip(&data, 6);
    for needed in [0, 1, 1000, 300_000, 400_000, 599_999, 600_000] {
        assert_eq!(decoded(&member, needed).unwrap(), data[..needed]);
    }
    assert_eq!(decoded(&member, 600_001), Err(DecodeError::Truncated { got: 600_000, needed: 600_001 }));
}

#[test]
fn what_follows_the_needed_bytes_does_not_matter() {
    let data = noise(100_000);
    let member = gzip(&data, 6);
    let input = [&member[..], b"garbage"].concat();
    assert_eq!(decoded(&input, 100_000).unwrap(), data);
    assert_eq!(decoded(&member[..member.len() - 8], 100_000).unwrap(), data);
    assert_eq!(decoded(&member[..member.len() / 2], 40_000).unwrap(), data[..40_000]);
}

#[test]
fn following_members_go_on_where_the_first_ends() {
    let data = noise(30_000);
    let input = [gzip(&data[..10_000], 9), gzip(b"", 1), gzip(&data[10_000..], 0)].concat();
    for needed in [5, 10_000, 10_001, 30_000] {
        assert_eq!(decoded(&input, needed).unwrap(), data[..needed]);
    }
}

#[test]
fn input_that_ends_early_is_told_from_damaged_input() {
    let member = gzip(&noise(100_000), 6);
    for end in [0, 1, 9, 50, member.len() / 2] {
        let error = decoded(&member[..end], 100_000).unwrap_err();
        assert!(matches!(error, DecodeError::Truncated { needed: 100_000, .. }), "{end} {error}");
    }
    let mut damaged = gzip(&vec![b'x'; 100_000], 6);
    damaged[12..].fill(0xff);
    for input in [&damaged[..], &[b'n'; 1000]] {
        let error = decoded(input, 100_000).unwrap_err();
        assert!(matches!(error, DecodeError::Corrupt { .. }), "{error}");
    }
}

#[test]
fn a_bomb_takes_no_more_memory_than_is_needed() {
    let bomb = gzip(&vec![0; 64 << 20], 9);
    assert!(bomb.len() < 100_000);
    for needed in [0, 1, 4096, 4 << 20] {
        let mut out = Vec::new();
        decode(Compression::Gzip, &bomb, needed, &mut out).unwrap();
        assert!(out.len() == needed && out.iter().all(|byte| *byte == 0));
        assert!(out.capacity() <= needed + SLACK_MAX, "{} for {needed}", out.capacity());
    }
}

#[test]
fn a_claim_beyond_what_the_input_can_expand_to_allocates_nothing() {
    let mut out = Vec::new();
    let error = decode(Compression::Gzip, &gzip(b"x", 6), usize::MAX, &mut out).unwrap_err();
    assert_eq!(error, DecodeError::Truncated { got: 0, needed: usize::MAX });
    assert_eq!(out.capacity(), 0);
}

#[test]
fn a_lying_size_in_the_trailer_changes_nothing() {
    let data = noise(10_000);
    let mut member = gzip(&data, 6);
    let trailer = member.len() - 4;
    for lie in [0, 5_000, 10_001, 20_000, u32::MAX] {
        member[trailer..].copy_from_slice(&lie.to_le_bytes());
        assert_eq!(decoded(&member, 10_000).unwrap(), data, "{lie}");
        assert_eq!(decoded(&member, 5_000).unwrap(), data[..5_000], "{lie}");
    }
}

#[test]
fn a_stream_yields_the_same_bytes() {
    let data = noise(300_000);
    let input = [gzip(&data[..100_000], 6), gzip(&data[100_000..], 1)].concat();
    let mut out = Vec::new();
    StreamDecoder::new(Compression::Gzip, &input[..]).read_to_end(&mut out).unwrap();
    assert_eq!(out, data);
    let error = StreamDecoder::new(Compression::Gzip, &input[..200_000]).read_to_end(&mut out).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn the_bound_covers_every_compressor() {
    for length in [0, 1, 1000, 70_000, 3_000_000] {
        let data = noise(length);
        for level in 0..10 {
            assert!(gzip(&data, level).len() as u64 <= compressed_bound(length as u64));
        }
    }
    // A stream that is flushed after every block of a tar.
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    for block in noise(1 << 20).chunks(512) {
        encoder.write_all(block).unwrap();
        encoder.flush().unwrap();
    }
    assert!(encoder.finish().unwrap().len() as u64 <= compressed_bound(1 << 20));
    assert_eq!(compressed_bound(u64::MAX), u64::MAX);
}

proptest! {
    #[test]
    fn random_input_never_panics(input in prop::collection::vec(any::<u8>(), 0..200), needed in 0..1000_usize) {
        let _ = decoded(&input, needed);
        let header = b"\x1f\x8b\x08\0\0\0\0\0\0\xff";
        let _ = decoded(&[header, &input[..]].concat(), needed);
    }

    #[test]
    fn changed_input_never_panics(at in any::<prop::sample::Index>(), byte in any::<u8>(), needed in 0..4000_usize) {
        let mut member = gzip(&noise(2000), 6);
        let at = at.index(member.len());
        member[at] = byte;
        let _ = decoded(&member, needed);
    }

    #[test]
    fn the_fast_way_and_the_stream_agree(
        pieces in prop::collection::vec((prop::collection::vec(0..4_u8, 0..500), 0..10_u32), 1..5),
        cut in any::<prop::sample::Index>(),
    ) {
        let data: Vec<u8> = pieces.iter().flat_map(|(piece, _)| piece.clone()).collect();
        let input: Vec<u8> = pieces.iter().flat_map(|(piece, level)| gzip(piece, *level)).collect();
        let needed = cut.index(data.len() + 1);
        prop_assert_eq!(decoded(&input, needed).unwrap(), &data[..needed]);
        let mut stream = vec![0; needed];
        StreamDecoder::new(Compression::Gzip, &input[..]).read_exact(&mut stream).unwrap();
        prop_assert_eq!(stream, &data[..needed]);
    }
}
