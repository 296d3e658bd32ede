//! Property: whatever the last bytes of a blob are, a footer that is found lies inside of the blob, with the payload in
//! front of the TOC and a TOC that is not empty.
#![no_main]

use format::Footer;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u64, &[u8])| {
    let (size, tail) = input;
    for blob_size in [size, tail.len() as u64] {
        if let Ok(footer) = Footer::find(tail, blob_size) {
            assert_eq!(footer.payload_end, footer.toc.start);
            assert!(footer.toc.start < footer.toc.end);
            assert!(footer.toc.end < blob_size);
        }
    }
});
