//! The source archive in a temporary file: contents are wanted in another order than they come in.

use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use format::Digest;
use format::digest::{Algorithm, Hasher};

use crate::error::BuildError;
use crate::input::Input;
use crate::options::{Control, Progress};

/// What is handed over at a time.
const PIECE: usize = 1 << 20;
/// How many pieces wait for the disk.
const QUEUE: usize = 4;

/// An archive that can be read at any place.
#[derive(Debug)]
pub(crate) struct Spool {
    file: File,
    directory: PathBuf,
    pub size: u64,
    pub digest: Digest,
}

impl Spool {
    /// Fills `buffer` from byte `at` on.
    pub fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> Result<(), BuildError> {
        self.file.read_exact_at(buffer, at).map_err(|error| self.error(error))
    }

    /// A stream from byte `at` on, for short reads that go forward.
    pub fn reader(&self) -> SpoolReader<'_> {
        SpoolReader { spool: self, buffer: Vec::new(), start: 0, at: 0 }
    }

    pub fn error(&self, source: io::Error) -> BuildError {
        temporary(&self.directory, source)
    }
}

pub(crate) fn temporary(directory: &Path, source: io::Error) -> BuildError {
    BuildError::Temporary { directory: directory.display().to_string(), source }
}

/// Reads small things here and there; keeps what it read around them.
#[derive(Debug)]
pub(crate) struct SpoolReader<'a> {
    spool: &'a Spool,
    buffer: Vec<u8>,
    /// Where in the file the buffer starts.
    start: u64,
    at: u64,
}

/// Headers are half a KiB; the next ones are likely to be near when files are small.
const READ_AROUND: u64 = 64 << 10;

impl SpoolReader<'_> {
    pub fn seek(&mut self, at: u64) {
        self.at = at;
    }
}

impl BufRead for SpoolReader<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let end = self.start + self.buffer.len() as u64;
        if !(self.start..end).contains(&self.at) {
            let size = READ_AROUND.min(self.spool.size.saturating_sub(self.at));
            self.buffer.resize(size as usize, 0);
            self.start = self.at;
            self.spool.file.read_exact_at(&mut self.buffer, self.at)?;
        }
        Ok(&self.buffer[(self.at - self.start) as usize..])
    }

    fn consume(&mut self, amount: usize) {
        self.at += amount as u64;
    }
}

impl Read for SpoolReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let got = available.len().min(out.len());
        out[..got].copy_from_slice(&available[..got]);
        self.consume(got);
        Ok(got)
    }
}

/// Passes an archive through to a reader, and keeps it. Hashing and writing have a thread of their own.
pub(crate) struct Spooling<'a> {
    input: Input<'a>,
    control: Control,
    limit: u64,
    directory: PathBuf,
    piece: Vec<u8>,
    next: usize,
    read: u64,
    ended: bool,
    writer: Option<Writer>,
    failure: Option<BuildError>,
}

struct Writer {
    pieces: SyncSender<Vec<u8>>,
    thread: JoinHandle<io::Result<(File, Digest)>>,
}

impl<'a> Spooling<'a> {
    /// At most `limit` bytes of archive.
    pub fn new(
        input: Input<'a>,
        directory: Option<&Path>,
        limit: u64,
        control: Control,
    ) -> Result<Spooling<'a>, BuildError> {
        let directory = directory.map_or_else(std::env::temp_dir, Path::to_owned);
        let file = tempfile::tempfile_in(&directory).map_err(|error| temporary(&directory, error))?;
        let (pieces, queue) = sync_channel::<Vec<u8>>(QUEUE);
        let thread = thread::Builder::new()
            .name("spool".to_owned())
            .spawn(move || {
                let (mut file, mut hasher) = (file, Hasher::new(Algorithm::Sha256));
                for piece in queue {
                    hasher.update(&piece);
                    file.write_all(&piece)?;
                }
                Ok((file, hasher.finish()))
            })
            .map_err(|error| temporary(&directory, error))?;
        Ok(Spooling {
            input,
            control,
            limit,
            directory,
            piece: Vec::new(),
            next: 0,
            read: 0,
            ended: false,
            writer: Some(Writer { pieces, thread }),
            failure: None,
        })
    }

    /// Reads on to the end of the source and gives out what was kept.
    pub fn finish(mut self) -> Result<Spool, BuildError> {
        while !self.ended {
            self.next_piece()?;
        }
        let (file, digest) = self.join()?.map_err(|error| temporary(&self.directory, error))?;
        Ok(Spool { file, directory: std::mem::take(&mut self.directory), size: self.read, digest })
    }

    /// What an error of [`Spooling::read`] means.
    pub fn explain(&mut self, error: io::Error) -> BuildError {
        self.failure.take().unwrap_or_else(|| self.input.explain(error))
    }

    fn next_piece(&mut self) -> Result<(), BuildError> {
        if self.control.cancelled() {
            return Err(BuildError::Cancelled);
        }
        let full = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        self.next = 0;
        self.send(full)?;
        let read = self.input.by_ref().take(PIECE as u64).read_to_end(&mut self.piece);
        read.map_err(|error| self.input.explain(error))?;
        self.ended = self.piece.is_empty();
        self.read += self.piece.len() as u64;
        if self.read > self.limit {
            return Err(BuildError::Limit { what: "uncompressed bytes", limit: self.limit });
        }
        self.control.report(Progress::Reading { source: self.input.consumed() });
        Ok(())
    }

    fn send(&mut self, piece: Vec<u8>) -> Result<(), BuildError> {
        let Some(writer) = &self.writer else { return Ok(()) };
        if piece.is_empty() || writer.pieces.send(piece).is_ok() {
            return Ok(());
        }
        // The thread hangs up only when it failed.
        let error = self.join()?.err().unwrap_or_else(|| io::Error::other("the writer went away"));
        Err(temporary(&self.directory, error))
    }

    /// Waits for the thread; it ends when nothing more can come.
    fn join(&mut self) -> Result<io::Result<(File, Digest)>, BuildError> {
        let gone = || temporary(&self.directory, io::Error::other("the writer went away"));
        let Writer { pieces, thread } = self.writer.take().ok_or_else(gone)?;
        drop(pieces);
        thread.join().map_err(|_| gone())
    }
}

impl Drop for Spooling<'_> {
    fn drop(&mut self) {
        if self.writer.is_some() {
            let _ = self.join(); // the build has failed with an error of its own already
        }
    }
}

impl Read for Spooling<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.next == self.piece.len()
            && !self.ended
            && let Err(failure) = self.next_piece()
        {
            self.failure = Some(failure);
            return Err(io::Error::other("see the failure that was kept"));
        }
        let available = &self.piece[self.next..];
        let got = available.len().min(out.len());
        out[..got].copy_from_slice(&available[..got]);
        self.next += got;
        Ok(got)
    }
}
