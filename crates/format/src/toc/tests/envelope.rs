//! What is around the entries: gzip, tar, JSON, limits, digest.

use std::io::{self, Read};

use serde_json::json;

use super::fixture::*;
use crate::toc::{Limits, UnverifiedToc, read_toc};
use crate::{Digest, FormatError};

fn read_bytes(compressed: &[u8]) -> Result<UnverifiedToc, FormatError> {
    read_toc(&footer(), compressed, &Limits::default())
}

#[test]
fn the_digest_is_that_of_all_the_json() {
    let json = b" {\"version\": 1,\n\t\"entries\": [ ] } \n\n";
    let unverified = read_json(json).unwrap();
    let digest = Digest::of(json);
    assert_eq!(unverified.digest(), digest);
    let toc = unverified.verify(&digest).unwrap();
    assert_eq!((toc.digest(), toc.trusted_because()), (digest, None));
}

#[test]
fn another_digest_is_refused() {
    let other = Digest::of(b"other");
    let error = read_json(b"{\"entries\":[]}").unwrap().verify(&other).unwrap_err();
    assert!(matches!(error, FormatError::TocDigest { ref expected, .. } if **expected == other), "{error}");
    let toc = read_json(b"{\"entries\":[]}").unwrap().trust_unverified("verification is off");
    assert_eq!(toc.trusted_because(), Some("verification is off"));
}

#[test]
fn fields_around_the_entries_may_vary() {
    for json in [
        r#"{"entries":null,"version":"x"}"#,
        r#"{"a":[{"b":[]}],"entries":[],"z":{"entries":[1]}}"#,
        "{\"entries\":[],\"version\":99}",
    ] {
        assert!(read_json(json.as_bytes()).is_ok(), "{json}");
    }
}

#[test]
fn what_is_no_toc_is_refused() {
    let deep = "[".repeat(100_000);
    for json in [
        "",
        "{",
        "[]",
        "{}",
        "null",
        r#"{"entries":{}}"#,
        r#"{"entries":[1]}"#,
        r#"{"entries":[],"entries":[]}"#,
        r#"{"entries":[]} x"#,
        r#"{"entries":[{"name":1}]}"#,
        r#"{"entries":[{"size":99999999999999999999}]}"#,
        r#"{"entries":[{"type":7}]}"#,
        "{\"entries\":[{\"name\":\"\u{1}\"}]}",
        &deep,
    ] {
        let error = read_json(json.as_bytes()).unwrap_err();
        assert!(matches!(error, FormatError::TocJson { .. }), "{:.40} {error}", json);
    }
    let error = read_json(b"{\"entries\":[{\"name\":\"\xff\"}]}").unwrap_err();
    assert!(matches!(error, FormatError::TocJson { .. }), "{error}");
}

#[test]
fn a_toc_that_is_not_where_it_should_be_is_refused() {
    let valid = tar("stargz.index.json", b"{\"entries\":[]}");
    let changed = |at: usize, byte: u8| {
        let mut tar = valid.clone();
        tar[at] = byte;
        tar
    };
    for tar in [
        tar("etc/passwd", b"{\"entries\":[]}"),
        changed(16, b'x'),
        changed(156, b'5'),
        changed(148, b'7'),
        changed(124, b'9'),
        changed(110, b'1'),
        vec![0; 1024],
    ] {
        let error = read_bytes(&gzip(&tar)).unwrap_err();
        assert!(matches!(error, FormatError::TocTar { .. }), "{error}");
    }
}

#[test]
fn damaged_compression_is_told_from_a_failing_source() {
    let whole = compressed(b"{\"entries\":[]}");
    for damaged in
        [&b""[..], b"not gzip at all", &whole[..whole.len() / 2], &[&whole[..10], &[0xff; 50]].concat()]
    {
        let error = read_bytes(damaged).unwrap_err();
        assert!(matches!(error, FormatError::TocCompression(_)), "{error}");
    }
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::new(io::ErrorKind::ConnectionReset, "gone"))
        }
    }
    for good in [0, 5, whole.len() / 2] {
        let error = read_toc(&footer(), whole[..good].chain(Failing), &Limits::default()).unwrap_err();
        let FormatError::Source(source) = &error else { panic!("{error}") };
        assert_eq!(source.kind(), io::ErrorKind::ConnectionReset);
    }
}

#[test]
fn a_toc_shorter_than_its_header_says_is_refused() {
    let mut tar = tar("stargz.index.json", b"{\"entries\":[           ]}");
    tar.truncate(512 + 15);
    let error = read_bytes(&gzip(&tar)).unwrap_err();
    assert!(matches!(error, FormatError::TocTruncated { got: 15, size: 25 }), "{error}");
}

#[test]
fn a_toc_in_several_members_is_read() {
    let tar = tar("stargz.index.json", b"{\"entries\":[]}");
    let members = [gzip(&tar[..100]), gzip(&tar[100..520]), gzip(&tar[520..])].concat();
    assert!(read_bytes(&members).is_ok());
}

#[test]
fn limits_are_kept() {
    let entries = json!([empty("a/b/c"), empty("d"), empty("e")]);
    let json = json!({ "entries": entries }).to_string();
    let read = |limits| read_toc(&footer(), &compressed(json.as_bytes())[..], &limits);
    let what = |limits| match read(limits) {
        Err(FormatError::TocTooLarge { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    let size = json.len() as u64;
    assert!(read(Limits { json_bytes: size, entries: 5, ..Limits::default() }).is_ok());
    assert_eq!(what(Limits { json_bytes: size - 1, ..Limits::default() }), "bytes of JSON");
    assert_eq!(what(Limits { entries: 4, ..Limits::default() }), "entries");
}

#[test]
fn one_entry_cannot_take_all_the_memory() {
    let string = "x".repeat(3 << 20);
    for json in [
        format!(r#"{{"entries":[{{"name":"a","type":"dir","unknown":"{string}"}}]}}"#),
        format!(r#"{{"entries":[{{"name":"{string}"}}]}}"#),
        format!(r#"{{"{string}":1,"entries":[]}}"#),
        format!(r#"{{"entries":[{}]}}"#, " ".repeat(3 << 20)),
    ] {
        let error = read_json(json.as_bytes()).unwrap_err();
        let FormatError::TocTooLarge { what, .. } = error else { panic!("{error}") };
        assert_eq!(what, "bytes of JSON in one entry");
    }
    // Many entries of ordinary size are another matter.
    let entries: Vec<_> = (0..40_000).map(|i| empty(&format!("{i:0100}"))).collect();
    let toc = toc(json!(entries));
    assert_eq!(toc.nodes().len(), 40_001);
}
