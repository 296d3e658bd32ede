//! Property: whatever a source holds, a build ends in an error or in a layer. A lossless one decompresses to its source.
#![no_main]

use builder::{Builder, Format, Gzip, Limits, Options};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (bool, bool, u16, &[u8])| {
    let (lossless, shared, chunk_size, source) = input;
    let gzip = Gzip { level: 1, min_chunk_size: if shared { 100 } else { 0 } };
    let format = if lossless { Format::ExternalToc { gzip, lossless } } else { Format::Estargz(gzip) };
    let mut options = Options { threads: 1, chunk_size: u32::from(chunk_size) + 1, ..Options::new(format) };
    options.limits = Limits { uncompressed: 1 << 20, entries: 1000 };
    if let Ok(built) = Builder::new(options).build(source, std::io::sink()) {
        assert!(!lossless || built.diff_id == built.source_diff_id);
    }
});
