use std::ops::Range;

use proptest::prelude::*;

use super::*;

const TYPE: &str = "multipart/byteranges; boundary=XyZ";

/// Parts, and whether the body ended well.
type Read = (Vec<(ContentRange, Vec<u8>)>, bool);

/// Everything that a body says, with it cut into pieces of `step` bytes; whether it ended well.
fn run(body: &[u8], step: usize) -> Result<Read, &'static str> {
    let mut parser = Multipart::new(TYPE).unwrap();
    let mut pieces = body.chunks(step.max(1));
    let mut parts: Vec<(ContentRange, Vec<u8>)> = Vec::new();
    loop {
        match parser.next()? {
            Event::More => match pieces.next() {
                Some(piece) => parser.push(Bytes::copy_from_slice(piece)),
                None => return Ok((parts, false)),
            },
            Event::Part(range) => parts.push((range, Vec::new())),
            Event::Data(bytes) => parts.last_mut().unwrap().1.extend_from_slice(&bytes),
            Event::End => return Ok((parts, true)),
        }
    }
}

fn part(range: Range<u64>, total: u64, content: &[u8]) -> Vec<u8> {
    let head = format!(
        "\r\n--XyZ\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes {}-{}/{total}\r\n\r\n",
        range.start,
        range.end - 1
    );
    [head.as_bytes(), content].concat()
}

fn body(parts: &[Vec<u8>]) -> Vec<u8> {
    [parts.concat(), b"\r\n--XyZ--\r\n".to_vec()].concat()
}

fn range(range: Range<u64>, total: u64) -> ContentRange {
    ContentRange { range: Some(range), total: Some(total) }
}

#[test]
fn parts_are_found_however_the_body_is_cut() {
    // Contents that look like boundaries are contents.
    let contents: [&[u8]; 3] = [b"0123456789", b"\r\n--XyZ--\r\n", b"\n"];
    let body = body(&[
        part(0..10, 100, contents[0]),
        part(20..31, 100, contents[1]),
        part(99..100, 100, contents[2]),
    ]);
    let expected: Vec<_> = [0..10, 20..31, 99..100]
        .into_iter()
        .zip(contents)
        .map(|(at, content)| (range(at, 100), content.to_vec()))
        .collect();
    for step in 1..body.len() {
        assert_eq!(run(&body, step), Ok((expected.clone(), true)), "pieces of {step}");
    }
}

#[test]
fn the_framing_may_vary() {
    let plain = "--XyZ\r\ncontent-range: bytes 0-1/9\r\n\r\nab\r\n--XyZ--";
    let padded =
        "a preamble\r\n--XyZ \t\r\nContent-Range:bytes 0-1/*\r\nX: y\r\n\r\nab\r\n--XyZ-- \r\nan epilogue";
    let bare = "--XyZ\nContent-Range: bytes 0-1/9\n\nab\n--XyZ--\n";
    for body in [plain, padded, bare] {
        let (parts, ended) = run(body.as_bytes(), 3).unwrap();
        assert!(ended && parts.len() == 1 && parts[0].1 == b"ab", "{body}");
    }
}

#[test]
fn hostile_bodies_are_refused() {
    let rows = [
        ("--XyZ--\r\n", "no parts"),
        ("--XyZ\r\n\r\nab", "no Content-Range"),
        ("--XyZ\r\nContent-Range: bytes 5-1/9\r\n\r\n", "unusable"),
        ("--XyZ\r\nContent-Range: bytes */9\r\n\r\n", "no bytes"),
        ("--XyZ\r\nContent-Range: bytes 0-1/9\r\nContent-Range: bytes 0-2/9\r\n\r\n", "two"),
        ("--XyZ\r\nContent-Encoding: gzip\r\n", "encoded"),
        ("--XyZ\r\nnonsense\r\n", "no colon"),
        ("--XyZ\r\n\u{0}\r\n", "no colon"),
        ("--XyZ\r\nContent-Range: bytes 0-1/9\r\n\r\nabc\r\n--XyZ--", "longer"),
        ("--XyZ\r\nContent-Range: bytes 0-1/9\r\n\r\nab\r\n--Other--\r\n", "longer"),
    ];
    for (body, reason) in rows {
        let error = run(body.as_bytes(), 7).unwrap_err();
        assert!(error.contains(reason), "{body:?}: {error}");
    }
    let endless = [b"--XyZ\r\nX: ".to_vec(), vec![b'a'; MAX_HEAD]].concat();
    assert!(run(&endless, 100).unwrap_err().contains("too much"));
    let preamble = b"\r\n".repeat(MAX_HEAD);
    assert!(run(&preamble, 100).unwrap_err().contains("too much"));
}

#[test]
fn a_body_that_stops_does_not_end() {
    let whole = body(&[part(0..10, 100, b"0123456789"), part(20..22, 100, b"ab")]);
    let closing = whole.len() - 2;
    for cut in 0..closing {
        let (_, ended) = run(&whole[..cut], 9).unwrap();
        assert!(!ended, "cut at {cut}");
    }
}

#[test]
fn boundaries_are_read_from_the_content_type() {
    let rows: &[(&str, Option<&str>)] = &[
        ("multipart/byteranges; boundary=abc", Some("abc")),
        ("Multipart/ByteRanges;charset=x; Boundary=\"a b=c\"", Some("a b=c")),
        ("multipart/byteranges", None),
        ("multipart/byteranges; boundary=", None),
        ("multipart/byteranges; boundary=\"abc", None),
        ("multipart/byteranges; boundary=a\r\nb", None),
        ("multipart/byteranges; boundary=\"a \"", None),
        ("multipart/mixed; boundary=abc", None),
        ("application/octet-stream", None),
    ];
    for (text, expected) in rows {
        assert_eq!(boundary(text).as_deref(), expected.map(str::as_bytes), "{text}");
    }
    assert!(boundary(&format!("multipart/byteranges; boundary={}", "x".repeat(71))).is_none());
}

proptest! {
    #[test]
    fn what_was_written_is_read(contents in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..200), 1..8), step in 1_usize..300) {
        let mut at = 0;
        let mut parts = Vec::new();
        let mut expected = Vec::new();
        for content in &contents {
            let here = at..at + content.len() as u64;
            at = here.end + 3;
            parts.push(part(here.clone(), 10_000, content));
            expected.push((range(here, 10_000), content.clone()));
        }
        prop_assert_eq!(run(&body(&parts), step), Ok((expected, true)));
    }

    #[test]
    fn damage_never_panics_and_never_invents(mut at in 0_usize..10_000, byte in any::<u8>(), step in 1_usize..64) {
        let mut body = body(&[part(0..10, 100, b"0123456789"), part(20..22, 100, b"ab")]);
        at %= body.len();
        body[at] = byte;
        if let Ok((parts, _)) = run(&body, step) {
            for (range, content) in parts {
                let range = range.range.unwrap();
                prop_assert!(content.len() as u64 <= range.end - range.start);
            }
        }
    }

    #[test]
    fn noise_is_survived(body in prop::collection::vec(prop::sample::select(b"-XyZ\r\n:a 0/bytesContent-Range".to_vec()), 0..400), step in 1_usize..64) {
        let _ = run(&body, step);
    }
}
