use proptest::prelude::*;

use super::*;

const PAYLOAD: u64 = 1000;

/// A footer of 51 bytes as the specification shows it.
fn estargz(offset: &str) -> Vec<u8> {
    let header = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x1a\0SG\x16\0";
    [header, offset.as_bytes(), b"STARGZ", b"\x01\0\0\xff\xff", &[0; 8]].concat()
}

fn legacy(offset: &str) -> Vec<u8> {
    let header = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x16\0";
    [header, offset.as_bytes(), b"STARGZ", b"\x01\0\0\xff\xff", &[0; 8]].concat()
}

fn hex(offset: u64) -> String {
    format!("{offset:016x}")
}

/// Finds the footer of a blob that ends in these bytes, after `PAYLOAD` others.
fn find(end: &[u8]) -> Result<Footer, FormatError> {
    let tail = [&[7; 200], end].concat();
    Footer::find(&tail, PAYLOAD + end.len() as u64)
}

#[test]
fn both_footers_are_found() {
    let footer = |kind| Footer { kind, toc: 600..PAYLOAD, payload_end: 600 };
    assert_eq!(find(&estargz(&hex(600))).unwrap(), footer(TocKind::Estargz));
    assert_eq!(find(&legacy(&hex(600))).unwrap(), footer(TocKind::LegacyStargz));
}

#[test]
fn a_footer_is_a_valid_empty_gzip_member() {
    for footer in [estargz(&hex(1)), legacy(&hex(1))] {
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&footer[..]), &mut content).unwrap();
        assert!(content.is_empty());
    }
}

#[test]
fn the_tail_may_have_any_length() {
    for length in FOOTER_SIZE_MAX..=1051 {
        let blob = [vec![7; 1000], estargz(&hex(600))].concat();
        assert_eq!(Footer::find(&blob[blob.len() - length..], 1051).unwrap().payload_end, 600);
    }
    let blob = [b"xx".to_vec(), legacy(&hex(1))].concat();
    assert_eq!(Footer::find(&blob, blob.len() as u64).unwrap().toc, 1..2);
}

#[test]
fn the_header_may_name_another_writer() {
    let mut footer = estargz(&hex(600));
    footer[4..10].copy_from_slice(&[1, 2, 3, 4, 2, 3]);
    assert!(find(&footer).is_ok());
}

#[test]
fn an_ordinary_blob_is_not_lazy() {
    for end in
        [&b""[..], b"x", &[0; 51], &estargz(&hex(600))[1..], &[&estargz(&hex(600))[..], b"\0"].concat()]
    {
        assert!(matches!(find(end), Err(FormatError::NotLazy)), "{end:x?}");
    }
    for (at, byte) in [(0, 0), (3, 0), (10, 0x1b), (12, b'T'), (14, 0x15), (32, b'X'), (37, b'S')] {
        let mut footer = estargz(&hex(600));
        footer[at] = byte;
        assert!(matches!(find(&footer), Err(FormatError::NotLazy)), "byte {at}");
    }
    for size in 0..60 {
        assert!(matches!(Footer::find(&vec![0; size], size as u64), Err(FormatError::NotLazy)));
    }
}

#[test]
fn an_offset_outside_of_the_blob_is_refused() {
    for offset in [PAYLOAD, PAYLOAD + 51, u64::MAX, 1 << 63] {
        for footer in [estargz(&hex(offset)), legacy(&hex(offset))] {
            let error = find(&footer).unwrap_err();
            assert!(
                matches!(error, FormatError::FooterOffsetRange { offset: got, end: PAYLOAD } if got == offset),
                "{error}"
            );
        }
    }
    assert_eq!(find(&estargz(&hex(PAYLOAD - 1))).unwrap().toc, PAYLOAD - 1..PAYLOAD);
    assert_eq!(find(&estargz(&hex(0))).unwrap().toc, 0..PAYLOAD);
}

#[test]
fn an_offset_that_is_no_number_is_refused() {
    for text in [
        "+000000000000001",
        "-000000000000001",
        "000000000000000g",
        "                ",
        "00000000000000\u{e9}",
    ] {
        let error = find(&estargz(text)).unwrap_err();
        assert!(matches!(&error, FormatError::FooterOffsetSyntax { text: got } if got == text), "{error}");
    }
}

#[test]
fn a_tail_of_impossible_length_is_refused() {
    for (tail, blob_size) in [(50, 100), (0, 1), (50, 51), (52, 51), (1, 0)] {
        let error = Footer::find(&vec![0; tail], blob_size).unwrap_err();
        assert!(matches!(error, FormatError::TailSize { .. }), "{error}");
    }
}

proptest! {
    #[test]
    fn random_tails_never_panic(tail in prop::collection::vec(any::<u8>(), 0..120), blob_size in any::<u64>()) {
        let _ = Footer::find(&tail, blob_size);
        let _ = Footer::find(&tail, tail.len() as u64);
    }

    #[test]
    fn a_footer_lies_inside_of_its_blob(
        offset in any::<u64>(),
        shift in 0..64_u32,
        blob_size in 51..u64::MAX,
        at in 0..51_usize,
        byte in any::<u8>(),
    ) {
        let mut tail = estargz(&hex(offset >> shift));
        tail[at] = byte;
        if let Ok(footer) = Footer::find(&tail, blob_size) {
            prop_assert_eq!(footer.payload_end, footer.toc.start);
            prop_assert!(footer.toc.start < footer.toc.end && footer.toc.end <= blob_size - 47);
        }
    }
}
