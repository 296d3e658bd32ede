//! Property: expanding arbitrary input yields exactly the needed bytes, the same ones as the stream does, or an error, and
//! takes no more memory than the needed bytes and a constant.
#![no_main]

use std::io::Read as _;

use format::{Compression, StreamDecoder, decode};
use libfuzzer_sys::fuzz_target;

const SLACK: usize = 256 << 10;

fuzz_target!(|input: (u16, &[u8])| {
    let (needed, input) = (usize::from(input.0), input.1);
    for compression in [Compression::Gzip, Compression::Zstd] {
        let mut out = Vec::new();
        let result = decode(compression, input, needed, &mut out);
        assert!(out.capacity() <= needed + SLACK);
        let mut stream = vec![0; needed];
        let read = StreamDecoder::new(compression, input).read_exact(&mut stream);
        match result {
            // The stream also insists on a right checksum of a gzip header, if there is one, and on a window that it
            // can hold.
            Ok(()) => assert!(out.len() == needed && (read.is_err() || out == stream)),
            Err(_) => assert!(out.is_empty() && read.is_err()),
        }
    }
});
