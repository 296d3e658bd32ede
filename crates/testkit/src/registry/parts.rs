//! Several ranges in one answer: `multipart/byteranges` (RFC 9110, section 14.6).

use std::ops::Range;

use bytes::{BufMut as _, BytesMut};

use super::fault::Plan;
use super::http::{Answer, range};
use crate::content::Content;

const BOUNDARY: &str = "testkit-part";

/// The answer to a `Range` header with commas in it; none if it is to be ignored.
pub(super) fn answer(header: &str, plan: &Plan, whole: &Content) -> Option<Answer> {
    let wanted = header.strip_prefix("bytes=")?;
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for one in wanted.split(',') {
        // A range that cannot be satisfied is left out.
        ranges.extend(range(&format!("bytes={}", one.trim()), whole.len())?.ok());
    }
    if ranges.len() < 2 {
        return None;
    }
    let lie = u64::from(plan.wrong_content_range);
    let mut body = BytesMut::new();
    for range in ranges {
        let told = format!("{}-{}/{}", range.start + lie, range.end - 1 + lie, whole.len());
        body.put_slice(format!("\r\n--{BOUNDARY}\r\nContent-Range: bytes {told}\r\n\r\n").as_bytes());
        let mut bytes = BytesMut::from(whole.read(range.start, (range.end - range.start) as usize));
        for offset in plan.corrupt.iter().filter(|offset| range.contains(offset)) {
            let byte = &mut bytes[(offset - range.start) as usize];
            *byte = !*byte;
        }
        body.put_slice(&bytes);
    }
    body.put_slice(format!("\r\n--{BOUNDARY}--\r\n").as_bytes());
    // Bytes of the blob are damaged above, and are not at their offsets in this body.
    let start = u64::MAX / 2;
    let answer = Answer { body: body.freeze().into(), start, ..Answer::empty(206) };
    Some(answer.header("Content-Type", format!("multipart/byteranges; boundary={BOUNDARY}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_framed_and_damaged_where_they_should_be() {
        let whole = Content::from("0123456789");
        let plan = Plan { corrupt: vec![6], ..Plan::default() };
        let answer = answer("bytes=0-1, 5-6,8-99,50-60", &plan, &whole).unwrap();
        let mut expected = b"\r\n--testkit-part\r\nContent-Range: bytes 0-1/10\r\n\r\n01".to_vec();
        expected.extend_from_slice(b"\r\n--testkit-part\r\nContent-Range: bytes 5-6/10\r\n\r\n5\xc9");
        expected.extend_from_slice(b"\r\n--testkit-part\r\nContent-Range: bytes 8-9/10\r\n\r\n89");
        expected.extend_from_slice(b"\r\n--testkit-part--\r\n");
        assert_eq!(answer.body.to_bytes(), expected);
        for ignored in ["bytes=0-1,x", "items=0-1,2-3", "bytes=0-1,50-60"] {
            assert!(super::answer(ignored, &plan, &whole).is_none(), "{ignored}");
        }
    }
}
