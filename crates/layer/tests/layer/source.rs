//! A blob in memory that misbehaves on demand and counts what it is asked for.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use layer::Error;
use layer::source::{BlobBody, BlobSource, Piece, Tail};

/// What to do with one read.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// Give only so many bytes, then fail.
    Break(usize),
    /// Give a byte that is not the blob's, this far into the answer.
    Flip(usize),
    /// Give so many bytes, then nothing more, without an end.
    Silence(usize),
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
    /// Requests that were made.
    pub requests: AtomicUsize,
    /// The ranges that were read.
    pub reads: Mutex<Vec<Range<u64>>>,
    /// Bytes in one piece of a body.
    pub piece: usize,
    /// The blob with the TOC, if that is not in this one.
    pub external_toc: Option<Bytes>,
    /// Answers several ranges at once.
    pub many: bool,
    /// A wait after every so many bytes of an answer.
    pub pause: Option<(usize, Duration)>,
}

impl MemorySource {
    pub fn new(blob: impl Into<Bytes>) -> MemorySource {
        MemorySource {
            blob: blob.into(),
            faults: Mutex::default(),
            ignores_ranges: AtomicBool::new(false),
            down: AtomicBool::new(false),
            requests: AtomicUsize::new(0),
            reads: Mutex::default(),
            piece: 10_000,
            external_toc: None,
            many: true,
            pause: None,
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
        self.answer(vec![range]).await
    }

    async fn external_toc(&self) -> Result<Option<Arc<dyn BlobSource>>, Error> {
        let toc = self.external_toc.clone();
        Ok(toc.map(|toc| Arc::new(MemorySource::new(toc)) as Arc<dyn BlobSource>))
    }

    async fn read_many(&self, ranges: &[Range<u64>]) -> Result<Option<Box<dyn BlobBody>>, Error> {
        if !self.many {
            return Ok(None);
        }
        self.answer(ranges.to_vec()).await.map(Some)
    }
}

impl MemorySource {
    async fn answer(&self, ranges: Vec<Range<u64>>) -> Result<Box<dyn BlobBody>, Error> {
        if self.down.load(Ordering::Relaxed) {
            return Err(layer::source::unreachable("the test says so"));
        }
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.reads.lock().unwrap().extend(ranges.iter().cloned());
        let whole = self.ignores_ranges.load(Ordering::Relaxed);
        let all = 0..self.blob.len() as u64;
        let ranges = if whole { Vec::from([all]) } else { ranges };
        let fault = self.faults.lock().unwrap().pop_front();
        if let Some(Fault::Hang) = fault {
            std::future::pending::<()>().await;
        }
        let mut parts: VecDeque<Piece> = ranges
            .into_iter()
            .map(|range| {
                let bytes = self.blob.slice(range.start as usize..range.end as usize);
                Piece { offset: range.start, bytes }
            })
            .collect();
        if let (Some(Fault::Flip(at)), Some(part)) = (fault, parts.front_mut()) {
            let mut bytes = part.bytes.to_vec();
            bytes[at] ^= 0x55;
            part.bytes = bytes.into();
        }
        let left = match fault {
            Some(Fault::Break(after) | Fault::Silence(after)) => after,
            _ => usize::MAX,
        };
        let silent = matches!(fault, Some(Fault::Silence(_)));
        let (piece, pause) = self.pause.map_or((self.piece, Duration::ZERO), |(piece, pause)| (piece, pause));
        Ok(Box::new(MemoryBody { whole, parts, left, silent, piece, pause }))
    }
}

#[derive(Debug)]
struct MemoryBody {
    whole: bool,
    parts: VecDeque<Piece>,
    /// Bytes until the answer breaks off.
    left: usize,
    silent: bool,
    piece: usize,
    pause: Duration,
}

#[async_trait]
impl BlobBody for MemoryBody {
    fn whole(&self) -> bool {
        self.whole
    }

    async fn next(&mut self) -> Result<Option<Piece>, Error> {
        while self.parts.front().is_some_and(|part| part.bytes.is_empty()) {
            self.parts.pop_front();
        }
        let Some(part) = self.parts.front_mut() else { return Ok(None) };
        let len = part.bytes.len().min(self.piece).min(self.left);
        if len == 0 && self.silent {
            std::future::pending::<()>().await;
        }
        if len == 0 {
            return Err(layer::source::unreachable("the test says so"));
        }
        self.left -= len;
        tokio::task::yield_now().await;
        if !self.pause.is_zero() {
            tokio::time::sleep(self.pause).await;
        }
        let piece = Piece { offset: part.offset, bytes: part.bytes.split_to(len) };
        part.offset += len as u64;
        Ok(Some(piece))
    }
}
