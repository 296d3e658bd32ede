//! Property: whatever the last bytes of a blob are, or its manifest says, a footer that is found lies inside of the blob,
//! with the payload in front of the TOC and a TOC that is not empty.
#![no_main]

use format::{ChunkedAnnotations, Footer, TocKind};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u64, &[u8])| {
    let (size, tail) = input;
    for blob_size in [size, tail.len() as u64] {
        if let Ok(footer) = Footer::find(tail, blob_size) {
            check(&footer, blob_size);
        }
        let position = std::str::from_utf8(tail).ok().and_then(|text| {
            ChunkedAnnotations::read(|key| key.ends_with("position").then_some(text)).ok()?.position
        });
        if let Some(Ok(footer)) = position.map(|position| position.locate(blob_size)) {
            check(&footer, blob_size);
        }
    }
});

fn check(footer: &Footer, blob_size: u64) {
    let frame = if matches!(footer.kind, TocKind::ZstdChunked { .. }) { 8 } else { 0 };
    match &footer.toc {
        None => assert!(footer.kind == TocKind::ExternalToc && footer.payload_end < blob_size),
        Some(toc) => {
            assert_eq!(footer.payload_end + frame, toc.start);
            assert!(toc.start < toc.end && toc.end < blob_size);
        }
    }
}
