//! The two compressions of members: gzip and zstd, behind one face.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use zstd::zstd_safe::CParameter;

const VEC: &str = "writing to a Vec cannot fail";

/// How to compress.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Codec {
    /// A gzip member of this level.
    Gzip(u32),
    /// A zstd frame.
    Zstd(Zstd),
}

/// The parameters of zstd frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zstd {
    /// Compression level, 1..=22.
    pub level: i32,
    /// Whether frames end with a checksum of their content.
    pub checksum: bool,
    /// The window, as a power of two in bytes (10..=31); left to the level when `None`.
    pub window_log: Option<u32>,
    /// Whether frames tell the length of their content where the writer knows it beforehand.
    pub content_size: bool,
}

impl Default for Zstd {
    /// What both writers in Go do with all but small frames.
    fn default() -> Zstd {
        Zstd { level: 3, checksum: true, window_log: None, content_size: false }
    }
}

impl Zstd {
    /// A frame of its own for these bytes.
    pub(crate) fn frame(self, bytes: &[u8]) -> Vec<u8> {
        let mut encoder = self.start(Vec::new(), self.content_size.then_some(bytes.len() as u64));
        encoder.write_all(bytes).expect(VEC);
        encoder.finish().expect(VEC)
    }

    fn start(self, out: Vec<u8>, len: Option<u64>) -> zstd::stream::write::Encoder<'static, Vec<u8>> {
        const VALID: &str = "parameters of zstd in their ranges";
        let mut encoder = zstd::stream::write::Encoder::new(out, self.level).expect(VALID);
        encoder.include_checksum(self.checksum).expect(VALID);
        encoder.include_contentsize(self.content_size).expect(VALID);
        encoder.set_pledged_src_size(len).expect(VALID);
        if let Some(log) = self.window_log {
            encoder.set_parameter(CParameter::WindowLog(log)).expect(VALID);
        }
        encoder
    }
}

/// A member that is being written.
pub(crate) enum Encoder {
    Gzip(GzEncoder<Vec<u8>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl Codec {
    /// Starts a member behind `out`.
    pub(crate) fn encoder(self, out: Vec<u8>) -> Encoder {
        match self {
            Codec::Gzip(level) => Encoder::Gzip(GzEncoder::new(out, Compression::new(level))),
            Codec::Zstd(zstd) => Encoder::Zstd(zstd.start(out, None)),
        }
    }
}

impl Encoder {
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        match self {
            Encoder::Gzip(gzip) => gzip.write_all(bytes).expect(VEC),
            Encoder::Zstd(zstd) => zstd.write_all(bytes).expect(VEC),
        }
    }

    /// How long the output is when all that was written so far is in it.
    pub(crate) fn flushed_len(&mut self) -> usize {
        match self {
            Encoder::Gzip(gzip) => gzip.flush().map(|()| gzip.get_ref().len()).expect(VEC),
            Encoder::Zstd(zstd) => zstd.flush().map(|()| zstd.get_ref().len()).expect(VEC),
        }
    }

    /// Ends the member and returns the output.
    pub(crate) fn finish(self) -> Vec<u8> {
        match self {
            Encoder::Gzip(gzip) => gzip.finish().expect(VEC),
            Encoder::Zstd(zstd) => zstd.finish().expect(VEC),
        }
    }
}
