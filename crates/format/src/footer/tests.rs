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

fn external() -> Vec<u8> {
    let header = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x15\0SG\x11\0";
    [&header[..], b"STARGZEXTERNALTOC", b"\x01\0\0\xff\xff", &[0; 8]].concat()
}

/// A skippable frame.
fn frame(content: &[u8]) -> Vec<u8> {
    [b"\x50\x2a\x4d\x18", &(content.len() as u32).to_le_bytes()[..], content].concat()
}

fn numbers(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// The footers of zstd:chunked of all sizes, with these four numbers.
fn zstd(toc: [u64; 4]) -> [Vec<u8>; 3] {
    let toc = numbers(&toc);
    [
        frame(&[&toc[..], b"GnUlInUx"].concat()),
        frame(&[&toc[..], b"GnUlInUx", &[0; 16]].concat()),
        frame(&[&toc[..], &numbers(&[0, 0, 0]), b"GNUlInUx"].concat()),
    ]
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
    let footer = |kind| Footer { kind, toc: Some(600..PAYLOAD), payload_end: 600 };
    assert_eq!(find(&estargz(&hex(600))).unwrap(), footer(TocKind::Estargz));
    assert_eq!(find(&legacy(&hex(600))).unwrap(), footer(TocKind::LegacyStargz));
}

#[test]
fn a_blob_may_have_no_toc() {
    let footer = Footer { kind: TocKind::ExternalToc, toc: None, payload_end: PAYLOAD };
    assert_eq!(find(&external()).unwrap(), footer);
    assert_eq!(Footer::find(&external(), 46).unwrap().payload_end, 0);
}

#[test]
fn footers_of_all_sizes_lead_to_the_toc() {
    let kind = TocKind::ZstdChunked { json_size: 5000 };
    let expected = Footer { kind, toc: Some(608..900), payload_end: 600 };
    for footer in zstd([608, 292, 5000, 1]) {
        assert_eq!(find(&footer).unwrap(), expected);
        assert_eq!(expected.compression(), Compression::Zstd);
    }
    // From the first byte to the last.
    for footer in zstd([8, PAYLOAD - 8, 1, 1]) {
        let found = find(&footer).unwrap();
        assert_eq!((found.toc, found.payload_end), (Some(8..PAYLOAD), 0));
    }
}

#[test]
fn a_manifest_stands_in_for_the_footer() {
    let position = ChunkedPosition { offset: 608, size: 292, json_size: 5000, toc_type: 1 };
    assert_eq!(position.locate(1048).unwrap(), find(&zstd([608, 292, 5000, 1])[0]).unwrap());
    assert_eq!(position.locate(948).unwrap().toc, Some(608..900));
    for blob_size in [0, 600, 900, 947] {
        assert!(matches!(position.locate(blob_size), Err(FormatError::FooterRange { .. })));
    }
}

#[test]
fn a_toc_in_a_wrong_place_is_refused() {
    for (offset, size) in [
        (0, 10),
        (7, 10),
        (600, 401),
        (PAYLOAD, 1),
        (PAYLOAD + 100, 1),
        (PAYLOAD + 8, 0),
        (600, 0),
        (u64::MAX, 1),
        (u64::MAX, u64::MAX),
        (600, u64::MAX),
    ] {
        for footer in zstd([offset, size, 5000, 1]) {
            let error = find(&footer).unwrap_err();
            assert!(
                matches!(error, FormatError::FooterRange { offset: o, size: s, end: PAYLOAD, .. } if (o, s) == (offset, size)),
                "{offset} {size} {error}"
            );
        }
    }
    for footer in zstd([600, 10, 0, 1]) {
        assert!(matches!(find(&footer), Err(FormatError::FooterRange { .. })));
    }
    for footer in zstd([600, 10, 10, 2]) {
        assert!(matches!(find(&footer), Err(FormatError::TocType { found: 2 })));
    }
}

#[test]
fn tar_split_data_lies_beside_the_toc() {
    let with_split = |offset, size| {
        let numbers = numbers(&[608, 100, 5000, 1, offset, size, 1]);
        find(&frame(&[&numbers[..], b"GNUlInUx"].concat()))
    };
    for (offset, size) in [(0, 0), (716, 284), (708, 1), (716, 0), (8, 600)] {
        assert_eq!(with_split(offset, size).unwrap().toc, Some(608..708));
    }
    for (offset, size) in
        [(716, 285), (707, 1), (608, 100), (8, 601), (u64::MAX, 1), (1, u64::MAX), (1001, 0)]
    {
        let error = with_split(offset, size).unwrap_err();
        assert!(matches!(error, FormatError::FooterRange { what: "the tar-split data", .. }), "{error}");
    }
}

#[test]
fn the_magic_alone_is_no_footer() {
    let [short, middle, long] = zstd([608, 292, 5000, 1]);
    let without_frame = [&short[8..], &middle[8..], &long[8..]].map(<[u8]>::to_vec);
    let wrong_frame = [&short, &middle, &long].map(|footer| {
        let mut footer = footer.clone();
        footer[4] ^= 1;
        footer
    });
    let mut short_with_new_magic = short.clone();
    short_with_new_magic[41] = b'N';
    let mut long_with_old_magic = long.clone();
    long_with_old_magic[65] = b'n';
    let behind = [&short[..], b"\0"].concat();
    let lone = b"GNUlInUx".to_vec();
    let cases = [short_with_new_magic, long_with_old_magic, behind, lone, short[..47].to_vec()];
    for end in without_frame.into_iter().chain(wrong_frame).chain(cases) {
        assert!(matches!(find(&end), Err(FormatError::NotLazy)), "{end:x?}");
    }
}

#[test]
fn ordinary_layers_are_not_lazy() {
    let data: Vec<u8> = (0..100_000_u32).map(|i| (i % 251) as u8).collect();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &data).unwrap();
    let zstd = ::zstd::bulk::compress(&data, 3).unwrap();
    let tar = [&data[..], &[0; 1024]].concat();
    let skippable = [&zstd[..], &frame(&[7; 40])].concat();
    for blob in [gzip.finish().unwrap(), zstd, skippable, tar, data, Vec::new()] {
        assert!(matches!(Footer::find(&blob, blob.len() as u64), Err(FormatError::NotLazy)));
        let tail = &blob[blob.len().saturating_sub(FOOTER_SIZE_MAX)..];
        assert!(matches!(Footer::find(tail, blob.len() as u64), Err(FormatError::NotLazy)));
    }
}

#[test]
fn a_footer_is_a_valid_empty_gzip_member() {
    for footer in [estargz(&hex(1)), legacy(&hex(1)), external()] {
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
    assert_eq!(Footer::find(&blob, blob.len() as u64).unwrap().toc, Some(1..2));
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
    assert_eq!(find(&estargz(&hex(PAYLOAD - 1))).unwrap().toc, Some(PAYLOAD - 1..PAYLOAD));
    assert_eq!(find(&estargz(&hex(0))).unwrap().toc, Some(0..PAYLOAD));
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
    for (tail, blob_size) in [(71, 100), (0, 1), (50, 51), (52, 51), (1, 0)] {
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
        blob_size in 72..u64::MAX,
        at in 0..51_usize,
        byte in any::<u8>(),
    ) {
        let mut tail = [vec![0; 21], estargz(&hex(offset >> shift))].concat();
        tail[21 + at] = byte;
        if let Ok(footer) = Footer::find(&tail, blob_size) {
            let toc = footer.toc.unwrap();
            prop_assert_eq!(footer.payload_end, toc.start);
            prop_assert!(toc.start < toc.end && toc.end <= blob_size - 47);
        }
    }
    #[test]
    fn a_zstd_footer_lies_inside_of_its_blob(
        fields in prop::array::uniform7(any::<u64>()),
        shift in 0..64_u32,
        blob_size in prop_oneof![72..2000_u64, any::<u64>().prop_map(|size| size.max(72))],
        at in 0..72_usize,
        byte in any::<u8>(),
    ) {
        let fields = fields.map(|field| field >> shift);
        let toc = [fields[0], fields[1], fields[2], 1 + fields[3] % 2];
        let [short, middle, _] = zstd(toc);
        let long = frame(&[&numbers(&toc)[..], &numbers(&fields[4..]), b"GNUlInUx"].concat());
        for footer in [short, middle, long] {
            let mut tail = [vec![0; 72 - footer.len()], footer].concat();
            tail[at] = byte;
            if let Ok(footer) = Footer::find(&tail, blob_size) {
                let toc = footer.toc.unwrap();
                prop_assert_eq!(footer.payload_end + 8, toc.start);
                prop_assert!(toc.start < toc.end && toc.end <= blob_size - 48);
                let TocKind::ZstdChunked { json_size } = footer.kind else { panic!() };
                prop_assert!(json_size > 0);
            }
        }
    }
}
