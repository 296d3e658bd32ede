//! A sink that knows its position.

use std::io::{self, BufWriter, Write};

/// Big enough that an unbuffered file underneath costs no more than one call for 16 blocks.
const BUFFER_LEN: usize = 64 * 1024;

const ZEROES: [u8; 4096] = [0; 4096];

#[derive(Debug)]
pub(crate) struct Output<W: Write> {
    inner: BufWriter<W>,
    position: u64,
}

impl<W: Write> Output<W> {
    pub fn new(inner: W) -> Self {
        Output { inner: BufWriter::with_capacity(BUFFER_LEN, inner), position: 0 }
    }

    pub fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.position += bytes.len() as u64;
        self.inner.write_all(bytes)
    }

    /// Writes zeroes up to `position`, which must not lie behind.
    pub fn pad_to(&mut self, position: u64) -> io::Result<()> {
        assert!(self.position <= position, "at byte {}, which is behind byte {position}", self.position);
        while self.position < position {
            let step = (position - self.position).min(ZEROES.len() as u64);
            self.put(&ZEROES[..step as usize])?;
        }
        Ok(())
    }

    pub fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
