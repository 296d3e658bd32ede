//! A blob in memory that misbehaves on demand and counts what it is asked for.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use layer::Error;
use layer::source::{BlobBody, BlobSource, Tail};

/// What to do with one read.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// Give only so many bytes, then fail.
    Break(usize),
    /// Give a byte that is not the blob's, this far into the answer.
    Flip(usize),
    /// Never answer.
    Hang,
}

#[derive(Debug)]
pub struct MemorySource {
    blob: Bytes,
    /// Applied to the next reads, one each.
    pub faults: Mutex<VecDeque<Fault>>,
    /// Answers every read with the whole blob.
    pub ignores_ranges: AtomicBool,
    /// Fails everything.
    pub down: AtomicBool,
    /// The ranges that were read.
    pub reads: Mutex<Vec<Range<u64>>>,
    /// Bytes in one piece of a body.
    pub piece: usize,
}

impl MemorySource {
    pub fn new(blob: impl Into<Bytes>) -> MemorySource {
        MemorySource {
            blob: blob.into(),
            faults: Mutex::default(),
            ignores_ranges: AtomicBool::new(false),
            down: AtomicBool::new(false),
            reads: Mutex::default(),
            piece: 10_000,
        }
    }

    pub fn fault(&self, fault: Fault) {
        self.faults.lock().unwrap().push_back(fault);
    }

    pub fn take_reads(&self) -> Vec<Range<u64>> {
        std::mem::take(&mut *self.reads.lock().unwrap())
    }
}

#[async_trait]
impl BlobSource for MemorySource {
    async fn tail(&self, len: u64) -> Result<Tail, Error> {
        if self.down.load(Ordering::Relaxed) {
            return Err(layer::source::unreachable("the test says so"));
        }
        let size = self.blob.len() as u64;
        let bytes = self.blob.slice(size.saturating_sub(len) as usize..);
        Ok(Tail { blob_size: size, bytes })
    }

    async fn read(&self, range: Range<u64>) -> Result<Box<dyn BlobBody>, Error> {
        if self.down.load(Ordering::Relaxed) {
            return Err(layer::source::unreachable("the test says so"));
        }
        self.reads.lock().unwrap().push(range.clone());
        let whole = self.ignores_ranges.load(Ordering::Relaxed);
        let range = if whole { 0..self.blob.len() } else { range.start as usize..range.end as usize };
        let fault = self.faults.lock().unwrap().pop_front();
        if let Some(Fault::Hang) = fault {
            std::future::pending::<()>().await;
        }
        let mut rest = self.blob.slice(range.clone());
        if let Some(Fault::Flip(at)) = fault {
            let mut bytes = rest.to_vec();
            bytes[at] ^= 0x55;
            rest = bytes.into();
        }
        let left = match fault {
            Some(Fault::Break(after)) => after,
            _ => usize::MAX,
        };
        Ok(Box::new(MemoryBody { offset: range.start as u64, whole, rest, left, piece: self.piece }))
    }
}

#[derive(Debug)]
struct MemoryBody {
    offset: u64,
    whole: bool,
    rest: Bytes,
    /// Bytes until the answer breaks off.
    left: usize,
    piece: usize,
}

#[async_trait]
impl BlobBody for MemoryBody {
    fn offset(&self) -> u64 {
        self.offset
    }

    fn whole(&self) -> bool {
        self.whole
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let len = self.rest.len().min(self.piece).min(self.left);
        if len == 0 {
            return Err(layer::source::unreachable("the test says so"));
        }
        self.left -= len;
        tokio::task::yield_now().await;
        Ok(Some(self.rest.split_to(len)))
    }
}
