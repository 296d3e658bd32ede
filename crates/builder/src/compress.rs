//! Pieces of a blob that decompress on their own.

use std::io;

use libdeflater::{CompressionLvl, Compressor as Deflate};

use crate::options::{Format, Zstd};

/// A compressor; each thread has its own.
pub(crate) enum Compressor {
    Gzip(Deflate),
    Zstd(Box<zstd::bulk::Compressor<'static>>),
}

/// libdeflate's level for each level of gzip(1): 9 is the fastest that stays a hundredth below zlib's and Go's 9, which
/// layers are compared with; libdeflate's own 9 takes three times as long for half a percent. Changing it changes the
/// bytes of every layer.
const LEVELS: [i32; 10] = [0, 1, 2, 3, 4, 5, 5, 5, 6, 6];

impl Compressor {
    pub fn new(format: Format) -> io::Result<Compressor> {
        match format {
            Format::Estargz(gzip) | Format::ExternalToc { gzip, .. } => Ok(Compressor::gzip(gzip.level)),
            Format::ZstdChunked(zstd) => Compressor::zstd(zstd),
        }
    }

    fn gzip(level: u8) -> Compressor {
        let level = LEVELS.get(usize::from(level)).copied().unwrap_or(9);
        let level = CompressionLvl::new(level).unwrap_or(CompressionLvl::best());
        Compressor::Gzip(Deflate::new(level))
    }

    fn zstd(options: Zstd) -> io::Result<Compressor> {
        let mut compressor = zstd::bulk::Compressor::new(options.level)?;
        compressor.include_checksum(true)?;
        compressor.include_contentsize(true)?;
        Ok(Compressor::Zstd(Box::new(compressor)))
    }

    /// Appends `data` as one gzip member or zstd frame.
    pub fn append(&mut self, data: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        let start = out.len();
        match self {
            Compressor::Gzip(deflate) => {
                out.resize(start + deflate.gzip_compress_bound(data.len()), 0);
                let size = deflate.gzip_compress(data, &mut out[start..]).map_err(io::Error::other)?;
                out.truncate(start + size);
            }
            Compressor::Zstd(zstd) => {
                out.resize(start + zstd::zstd_safe::compress_bound(data.len()), 0);
                let size = zstd.compress_to_buffer(data, &mut out[start..])?;
                out.truncate(start + size);
            }
        }
        Ok(())
    }
}

/// Guesses how small data will become, from samples of it: cheap, and the same everywhere.
pub(crate) struct Estimator {
    deflate: Deflate,
    out: Vec<u8>,
}

/// One part in eight is looked at.
const SAMPLE: usize = 4 << 10;
const STRIDE: usize = 32 << 10;

impl Estimator {
    pub fn new() -> Estimator {
        Estimator { deflate: Deflate::new(CompressionLvl::fastest()), out: Vec::new() }
    }

    pub fn compressed_size(&mut self, data: &[u8]) -> u64 {
        let (mut sampled, mut compressed) = (0, 0);
        for stride in data.chunks(STRIDE) {
            let sample = &stride[..stride.len().min(SAMPLE)];
            self.out.resize(self.deflate.deflate_compress_bound(sample.len()), 0);
            // The buffer is as large as the compressor can need; if it were not, the sample would not compress.
            compressed += self.deflate.deflate_compress(sample, &mut self.out).unwrap_or(sample.len()) as u64;
            sampled += sample.len() as u64;
        }
        match sampled {
            0 => 0,
            sampled => compressed * data.len() as u64 / sampled,
        }
    }
}
