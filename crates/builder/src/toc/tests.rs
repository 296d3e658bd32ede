use super::*;
use crate::tar::Records;

#[test]
fn times_are_rounded_and_kept_within_four_digits_of_year() {
    let cases = [
        (0, 0, None),
        (0, 900_000_000, None),
        (1, 0, Some("1970-01-01T00:00:01Z")),
        (-1, 0, Some("1969-12-31T23:59:59Z")),
        (951_782_399, 500_000_000, Some("2000-02-29T00:00:00Z")),
        (951_782_399, 499_999_999, Some("2000-02-28T23:59:59Z")),
        (1_700_000_000, 0, Some("2023-11-14T22:13:20Z")),
        (-62_135_596_800, 0, Some("0001-01-01T00:00:00Z")),
        (i64::MAX, 999_999_999, Some("9999-12-31T23:59:59Z")),
        (i64::MIN, 0, Some("0000-01-01T00:00:00Z")),
    ];
    for (secs, nanos, expected) in cases {
        assert_eq!(rfc3339(Timestamp { secs, nanos }).as_deref(), expected, "{secs}.{nanos}");
    }
}

#[test]
fn times_are_read_as_they_were_written() {
    for secs in (-62_000_000_000..253_000_000_000_i64).step_by(9_876_543_211).filter(|secs| *secs != 0) {
        let time = Timestamp { secs, nanos: 0 };
        assert_eq!(rfc3339(time).unwrap().parse(), Ok(time));
    }
}

fn json(members: &[(Member, Vec<Chunk>)]) -> String {
    let mut toc = TocWriter::new(10, None).unwrap();
    for (member, chunks) in members {
        toc.member(member, chunks, Digest::of(b"whole"), &FileRanges::NONE).unwrap();
    }
    let mut toc = toc.finish().unwrap();
    let mut json = Vec::new();
    toc.for_each_piece(7, |piece| {
        json.extend_from_slice(piece);
        Ok(())
    })
    .unwrap();
    assert_eq!((toc.size, toc.digest), (json.len() as u64, Digest::of(&json)));
    String::from_utf8(json).unwrap()
}

#[test]
fn the_document_has_the_known_shape() {
    let chunk =
        |file_offset, size| Chunk { offset: 77, inner_offset: 5, file_offset, size, digest: [0xab; 32] };
    let mut file = Member { size: 13, mode: 0o4755, uid: 3, ..Member::new(Kind::File, b"a\"\xc3\xa9\n") };
    (file.user, file.mtime) = (b"somebody".to_vec(), Timestamp { secs: 1, nanos: 0 });
    let mut records = Records::default();
    records.insert(b"SCHILY.xattr.user.x", vec![0, 255]);
    records.insert(b"other", b"not here".to_vec());
    file.records = records;
    let mut device = Member { major: 1, minor: 3, uid: 3, ..Member::new(Kind::Char, b"null") };
    device.user = b"somebody".to_vec();
    let text = json(&[(file, vec![chunk(0, 10), chunk(10, 3)]), (device, vec![])]);
    let digest = "ab".repeat(32);
    let whole = Digest::of(b"whole");
    let expected = format!(
        r#"{{
	"version": 1,
	"entries": [
		{{
			"name": "a\"é\n",
			"type": "reg",
			"size": 13,
			"modtime": "1970-01-01T00:00:01Z",
			"mode": 2541,
			"uid": 3,
			"userName": "somebody",
			"offset": 77,
			"innerOffset": 5,
			"xattrs": {{
				"user.x": "AP8="
			}},
			"digest": "{whole}",
			"chunkSize": 10,
			"chunkDigest": "sha256:{digest}"
		}},
		{{
			"name": "a\"é\n",
			"type": "chunk",
			"offset": 77,
			"innerOffset": 5,
			"chunkOffset": 10,
			"chunkDigest": "sha256:{digest}"
		}},
		{{
			"name": "null",
			"type": "char",
			"uid": 3,
			"devMajor": 1,
			"devMinor": 3
		}}
	]
}}"#
    );
    assert_eq!(text, expected);
}

#[test]
fn a_document_without_entries_is_one() {
    assert_eq!(json(&[]), "{\n\t\"version\": 1,\n\t\"entries\": []\n}");
}
