//! The source layer as a plain archive, whatever it is compressed with.

use std::cell::Cell;
use std::io::{self, BufReader, Cursor, Read};
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;

use crate::error::BuildError;

const GZIP: &[u8] = b"\x1f\x8b\x08";
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";
/// Skippable frames have magic numbers 0x184d2a50 to 0x184d2a5f, little endian.
const SKIPPABLE: &[u8] = b"\x2a\x4d\x18";
const MAGIC_SIZE: u64 = 4;
const BUFFER: usize = 256 << 10;
/// Frames with larger windows are refused by zstd(1), too, unless asked otherwise. Bounds memory.
const WINDOW_LOG_MAX: u32 = 27;

/// Reads the archive in a layer.
pub(crate) struct Input<'a> {
    decoder: Box<dyn Read + 'a>,
    compression: Option<&'static str>,
    watch: Watch,
    got: u64,
}

/// What happened below the decoder.
#[derive(Clone, Debug, Default)]
struct Watch {
    failed: Rc<Cell<bool>>,
    read: Rc<Cell<u64>>,
}

struct Watched<R> {
    source: R,
    watch: Watch,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = self.source.read(buffer);
        match &result {
            Ok(got) => self.watch.read.set(self.watch.read.get() + *got as u64),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => self.watch.failed.set(true),
        }
        result
    }
}

impl<'a> Input<'a> {
    /// Finds out by the first bytes how the source is compressed.
    pub fn new(source: impl Read + 'a) -> Result<Input<'a>, BuildError> {
        let watch = Watch::default();
        let mut source = Watched { source, watch: watch.clone() };
        let mut magic = Vec::new();
        source.by_ref().take(MAGIC_SIZE).read_to_end(&mut magic).map_err(BuildError::Input)?;
        let source = BufReader::with_capacity(BUFFER, Cursor::new(magic.clone()).chain(source));
        let skippable = magic.len() == 4 && magic[0] & 0xf0 == 0x50 && magic[1..] == *SKIPPABLE;
        let (compression, decoder): (_, Box<dyn Read>) = if magic.starts_with(GZIP) {
            (Some("gzip"), Box::new(MultiGzDecoder::new(source)))
        } else if magic == ZSTD || skippable {
            let mut decoder = zstd::Decoder::with_buffer(source).map_err(BuildError::Input)?;
            decoder.window_log_max(WINDOW_LOG_MAX).map_err(BuildError::Input)?;
            (Some("zstd"), Box::new(decoder))
        } else {
            (None, Box::new(source))
        };
        Ok(Input { decoder, compression, watch, got: 0 })
    }

    /// Bytes read of the source.
    pub fn consumed(&self) -> u64 {
        self.watch.read.get()
    }

    /// What an error of [`Input::read`] means.
    pub fn explain(&self, source: io::Error) -> BuildError {
        match self.compression {
            Some(compression) if !self.watch.failed.get() => {
                BuildError::Decompress { compression, got: self.got, source }
            }
            _ => BuildError::Input(source),
        }
    }
}

impl Read for Input<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.decoder.read(buffer)?;
        self.got += got as u64;
        Ok(got)
    }
}
