//! Property: whatever the body is and however it is cut, no part gives more bytes than its range has.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    let (step, body) = input;
    registry::fuzzing::multipart("multipart/byteranges; boundary=B", body, usize::from(step));
    if let Ok(content_type) = std::str::from_utf8(body) {
        registry::fuzzing::multipart(content_type, body, usize::from(step));
    }
});
