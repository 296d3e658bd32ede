use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::header::number;
use super::pax::{Parsed, time};
use super::*;

/// A header of Version 7, with a checksum.
fn v7(name: &str, flag: u8, size: &[u8]) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..107].copy_from_slice(b"0000644");
    block[108..115].copy_from_slice(b"0000012");
    block[116..123].copy_from_slice(b" 00007 ");
    block[124..124 + size.len()].copy_from_slice(size);
    block[136..147].copy_from_slice(b"00000000144");
    block[156] = flag;
    with_checksum(block)
}

fn with_checksum(mut block: [u8; BLOCK]) -> [u8; BLOCK] {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    block
}

fn pax(records: &[(&str, &[u8])], flag: u8) -> Vec<u8> {
    let mut data = Vec::new();
    for (key, value) in records {
        pax::push_record(&mut data, key.as_bytes(), value);
    }
    let mut out = v7("pax", flag, format!("{:011o}", data.len()).as_bytes()).to_vec();
    out.extend_from_slice(&data);
    out.resize(out.len().next_multiple_of(BLOCK), 0);
    out
}

fn scan(archive: &[u8]) -> Result<Vec<Member>, ScanError> {
    let mut scanner = Scanner::new(archive);
    let mut members = Vec::new();
    while let Some(member) = scanner.next_member()? {
        members.push(member);
    }
    Ok(members)
}

#[track_caller]
fn only(archive: &[u8]) -> Member {
    let mut members = scan(archive).unwrap();
    assert_eq!(members.len(), 1);
    members.remove(0)
}

#[track_caller]
fn problem_of(archive: &[u8]) -> TarProblem {
    match scan(archive) {
        Err(ScanError::Tar { problem, .. }) => problem,
        other => panic!("{other:?}"),
    }
}

#[test]
fn version_7_has_names_and_numbers_only() {
    let file = only(&v7("a", 0, b"00000000000"));
    assert_eq!((file.kind, file.mode, file.uid, file.gid, file.mtime.secs), (Kind::File, 0o644, 10, 7, 100));
    assert_eq!(only(&v7("a/", 0, b"0")).kind, Kind::Dir);
    // What other dialects keep behind the link's name is not looked at.
    let mut block = v7("a", b'3', b"0");
    block[329..345].fill(b'9');
    assert_eq!(only(&with_checksum(block)).major, 0);
}

#[test]
fn a_name_has_a_prefix_where_the_dialect_has_one() {
    let named = |magic: &[u8], trailer: &[u8]| {
        let mut block = v7("name", b'0', b"0");
        block[257..257 + magic.len()].copy_from_slice(magic);
        block[345..351].copy_from_slice(b"prefix");
        block[476] = b'7';
        block[508..508 + trailer.len()].copy_from_slice(trailer);
        only(&with_checksum(block)).name
    };
    assert_eq!(named(b"ustar\x0000", b""), b"prefix/name");
    assert_eq!(named(b"ustar\x0000", b"tar\0"), b"prefix/name");
    assert_eq!(named(b"ustar  \0", b""), b"name");
    assert_eq!(named(b"", b""), b"name");
}

#[test]
fn numbers_are_octal_or_base_256() {
    let cases: &[(&[u8], Option<i64>)] = &[
        (b"0000644\0", Some(0o644)),
        (b"   644 \0", Some(0o644)),
        (b"00000644", Some(0o644)),
        (b"\0\0\0\0", Some(0)),
        (b"    ", Some(0)),
        (b"12x4\0", None),
        (b"-1\0", None),
        (b"0000008\0", None),
        (b"777777777777777777777777", None),
        (b"\x80\0\0\0\0\0\0\0\0\0\x12\x34", Some(0x1234)),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
        (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", Some(i64::MAX)),
        (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None),
        (b"\xff\xff\xff\xff\x80\0\0\0\0\0\0\0", Some(i64::MIN)),
        (b"\xc0\0\0\0\0\0\0\0\0\0\0\0", None),
    ];
    for (field, expected) in cases {
        assert_eq!(number(field), *expected, "{field:?}");
    }
}

#[test]
fn times_have_a_sign_and_a_fraction() {
    let cases: &[(&str, Option<(i64, u32)>)] = &[
        ("1", Some((1, 0))),
        ("1.5", Some((1, 500_000_000))),
        ("1.", Some((1, 0))),
        ("-1", Some((-1, 0))),
        ("-0.25", Some((-1, 750_000_000))),
        ("-1.25", Some((-2, 750_000_000))),
        ("0.1234567899", Some((0, 123_456_789))),
        ("", None),
        (".5", None),
        ("1.5x", None),
        ("99999999999999999999", None),
    ];
    for (text, expected) in cases {
        let expected = expected.map(|(secs, nanos)| Timestamp { secs, nanos });
        assert_eq!(time(text.as_bytes()), expected, "{text}");
    }
}

#[test]
fn pax_records_override_the_header() {
    let mut archive = pax(&[("path", b"global"), ("SCHILY.xattr.user.g", b"1"), ("comment", b"c")], b'g');
    let long = "n".repeat(300);
    archive.extend(pax(
        &[
            ("path", long.as_bytes()),
            ("mtime", b"-5.5"),
            ("uid", b"4000000000"),
            ("gname", "größe".as_bytes()),
            ("size", b"3"),
            ("SCHILY.xattr.user.a=b", b"x"),
            ("SCHILY.xattr.user.bin", b"\0\n\xff"),
            ("hdrcharset", b"BINARY"),
            ("VENDOR.thing", b"kept"),
        ],
        b'x',
    ));
    archive.extend(v7("short", b'0', b"00000000777"));
    archive.extend([0; BLOCK]);
    archive.extend(v7("second", b'5', b"0"));
    let members = scan(&archive).unwrap();
    let first = &members[0];
    assert_eq!((first.header_at, first.content_at), (0, archive.len() as u64 - 1024));
    assert_eq!((first.name.as_slice(), first.uid, first.size), (long.as_bytes(), 4_000_000_000, 3));
    assert_eq!(first.mtime, Timestamp { secs: -6, nanos: 500_000_000 });
    assert_eq!(first.group, "größe".as_bytes());
    let xattrs: Vec<_> = first.xattrs().collect();
    // A key ends at the first equals sign, whatever it stands for.
    assert_eq!(xattrs, [(&b"user.a"[..], &b"b=x"[..]), (b"user.bin", b"\0\n\xff"), (b"user.g", b"1")]);
    assert_eq!(first.records.get(b"VENDOR.thing"), Some(&b"kept"[..]));
    assert_eq!((members[1].name.as_slice(), members[1].xattrs().count()), (&b"global"[..], 1));
}

#[test]
fn an_empty_record_takes_a_global_one_away() {
    let mut archive = pax(&[("path", b"global"), ("uid", b"7")], b'g');
    archive.extend(pax(&[("path", b""), ("SCHILY.xattr.user.empty", b"")], b'x'));
    archive.extend(v7("own", b'0', b"0"));
    let member = only(&archive);
    assert_eq!((member.name.as_slice(), member.uid), (&b"own"[..], 7));
    assert_eq!(member.xattrs().collect::<Vec<_>>(), [(&b"user.empty"[..], &b""[..])]);
}

#[test]
fn the_size_of_a_pax_header_is_its_own() {
    // A record of the size is for the member, not for the long name in between.
    let mut archive = pax(&[("size", b"600")], b'x');
    archive.extend(v7("././@LongLink", b'L', b"00000000005"));
    let mut name = b"long\0".to_vec();
    name.resize(BLOCK, 0);
    archive.extend(name);
    archive.extend(v7("short", b'0', b"00000000000"));
    archive.extend([1; 1024]);
    archive.extend(v7("next", b'5', b"0"));
    let members = scan(&archive).unwrap();
    assert_eq!((members[0].name.as_slice(), members[0].size), (&b"long"[..], 600));
    assert_eq!(members[1].name, b"next");
}

#[test]
fn sizes_of_what_has_no_content_are_not_followed() {
    for flag in b"123456" {
        let mut archive = v7("first", *flag, b"00000001000").to_vec();
        archive.extend(v7("second", b'5', b"0"));
        let members = scan(&archive).unwrap();
        assert_eq!((members.len(), members[0].size), (2, 0), "type {}", char::from(*flag));
    }
}

#[test]
fn what_breaks_the_rules_is_refused() {
    assert_eq!(problem_of(&v7("a", b'V', b"0")), TarProblem::Type(b'V'));
    assert_eq!(problem_of(&v7("a", b'0', b"12z")), TarProblem::Number("size"));
    assert_eq!(problem_of(&v7("a", b'0', b"00000001000")), TarProblem::Truncated("the content of a file"));
    assert_eq!(problem_of(&v7("a", b'0', b"0")[..300]), TarProblem::Truncated("a header"));
    assert_eq!(problem_of(&v7("a", b'x', b"00000000010")), TarProblem::Truncated("an extended header"));
    assert_eq!(problem_of(&pax(&[("path", b"a")], b'x')), TarProblem::DanglingHeader);
    let size = TarProblem::HeaderSize { size: 0o7777777777, limit: 1 << 20 };
    assert_eq!(problem_of(&v7("a", b'x', b"07777777777")), size);
    let lone = [&[0; BLOCK][..], &v7("a", b'0', b"0")].concat();
    assert_eq!(problem_of(&lone), TarProblem::LoneZeroBlock);
    let nul = [pax(&[("path", b"a\0b")], b'x'), v7("a", b'0', b"0").to_vec()].concat();
    assert_eq!(problem_of(&nul), TarProblem::Pax("a name contains a NUL byte"));
}

#[test]
fn pax_headers_that_break_the_rules_are_refused() {
    for data in
        [&b"x"[..], b"5", b"99 a=b\n", b"6 a=b\n7", b"5 a=b", b"4 ab\n", b"6 =abc\n", b"3 \n", b"0 a=b\n"]
    {
        assert!(Parsed::new(data).is_err(), "{:?}", String::from_utf8_lossy(data));
    }
    assert_eq!(Parsed::new(b"6 a=b\n\0\0\0").unwrap().0, [(b"a".to_vec(), b"b".to_vec())]);
}

#[test]
fn sparse_maps_that_contradict_themselves_are_refused() {
    let sparse = |map: &str, size: &str, stored: usize| {
        let records = [
            ("GNU.sparse.map", map.as_bytes()),
            ("GNU.sparse.size", size.as_bytes()),
            ("GNU.sparse.name", b"n"),
        ];
        let mut archive = pax(&records, b'x');
        archive.extend(v7("a", b'0', format!("{stored:011o}").as_bytes()));
        archive.resize(archive.len() + stored.next_multiple_of(BLOCK), 0);
        scan(&archive)
    };
    let good = sparse("0,10,100,20", "200", 30).unwrap().remove(0);
    assert_eq!((good.name.as_slice(), good.size, good.stored), (&b"n"[..], 200, 30));
    for (map, size, stored) in [
        ("0,10,5,20", "200", 30),
        ("100,20,0,10", "200", 30),
        ("0,10,100,20", "110", 30),
        ("0,10,100,20", "200", 31),
        ("0,10,100", "200", 10),
        ("0,x", "200", 10),
        ("0,18446744073709551615,1,1", "18446744073709551615", 10),
        ("0,10", "-1", 10),
    ] {
        assert!(sparse(map, size, stored).is_err(), "{map} of {size}");
    }
}

#[test]
fn a_map_in_front_of_the_content_is_bounded() {
    let sparse = |map: &[u8]| {
        let mut archive = pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.realsize", b"9999")], b'x');
        archive.extend(v7("a", b'0', format!("{:011o}", BLOCK + 5).as_bytes()));
        let mut content = map.to_vec();
        content.resize(BLOCK, 0);
        archive.extend(content);
        archive.extend([1; BLOCK]);
        scan(&archive)
    };
    let good = sparse(b"1\n100\n5\n").unwrap().remove(0);
    assert_eq!((good.size, good.stored, good.sparse), (9999, 5, Some(vec![Region { offset: 100, size: 5 }])));
    for map in [&b"2\n100\n5\n"[..], b"99999999999\n", b"x\n", b"\n", b"1\n100\n5"] {
        assert!(sparse(map).is_err(), "{:?}", String::from_utf8_lossy(map));
    }
    assert!(sparse(&[b'1'; BLOCK]).is_err());
}

fn members() -> impl Strategy<Value = Member> {
    let kind = prop::sample::select(
        &[Kind::File, Kind::Hardlink, Kind::Symlink, Kind::Char, Kind::Block, Kind::Dir, Kind::Fifo][..],
    );
    let name = || prop_oneof!["[a-z/.]{1,300}", "\\PC{1,100}", "[a-z]{90,110}/[a-z]{90,110}"];
    let id = || prop_oneof![0_i64..100, 2_000_000_i64..3_000_000, any::<u32>().prop_map(i64::from)];
    let time =
        (prop_oneof![-100_i64..100, any::<i32>().prop_map(i64::from), 0_i64..1 << 40], 0_u32..1_000_000_000);
    let xattrs = btree_map("[a-z.]{1,20}", vec(any::<u8>(), 0..50), 0..3);
    (kind, name(), name(), id(), id(), time, 0_u32..0o10000, xattrs, "\\PC{0,40}").prop_map(
        |(kind, name, link, uid, gid, (secs, nanos), mode, xattrs, user)| {
            let mut member = Member::new(kind, name.as_bytes());
            if matches!(kind, Kind::Hardlink | Kind::Symlink) {
                member.link = link.into_bytes();
            }
            if matches!(kind, Kind::Char | Kind::Block) {
                (member.major, member.minor) = (mode, mode * 3);
            }
            (member.uid, member.gid, member.mode) = (uid, gid, mode);
            member.user = user.into_bytes();
            member.mtime = Timestamp { secs, nanos };
            for (name, value) in xattrs {
                member.records.insert(&[b"SCHILY.xattr.", name.as_bytes()].concat(), value);
            }
            member
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(member in members()) {
        let mut archive = Vec::new();
        encode(&member, &mut archive);
        let read = only(&archive);
        let expected = Member { content_at: archive.len() as u64, ..member };
        prop_assert_eq!(read, expected);
    }

    #[test]
    fn other_bytes_never_panic(archive in vec(any::<u8>(), 0..3000)) {
        let _ = scan(&archive);
    }

    #[test]
    fn large_files_are_written_with_their_size(size in 0_u64..1 << 62) {
        let mut archive = Vec::new();
        encode(&Member { size, ..Member::new(Kind::File, b"large") }, &mut archive);
        let read = Scanner::new(&archive[..]).next_member().unwrap().unwrap();
        prop_assert_eq!(read.size, size);
    }
}
