//! A range of a blob as a stream, which is taken up again where it broke off.

use std::io::{self, Read};
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use registry::{Blob, Error, Kind};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinHandle;

/// Pieces that wait to be read; one is what arrived at once, 16 KiB mostly.
const WAITING: usize = 64;
/// Answers in a row that break off with little.
const FRUITLESS_MAX: u32 = 5;
/// Less than this, in bytes, is little: a host that gives a few bytes for each request will not give a layer.
const LITTLE: u64 = 64 << 10;
const PAUSE: Duration = Duration::from_millis(100);

/// Reads what a task fetches. Dropped, the task ends.
#[derive(Debug)]
pub(super) struct Pull {
    pieces: Receiver<Result<Bytes, Error>>,
    piece: Bytes,
    task: JoinHandle<()>,
}

impl Pull {
    pub fn start(runtime: &Handle, blob: Blob, range: Range<u64>) -> Pull {
        let (sender, pieces) = channel(WAITING);
        let task = runtime.spawn(async move {
            if let Err(error) = fetch(&blob, range, &sender).await {
                // Nobody waits for it any more if this fails.
                let _ = sender.send(Err(error)).await;
            }
        });
        Pull { pieces, piece: Bytes::new(), task }
    }

    /// Waits for the first bytes, so that a blob that is not there is found out before it is read.
    pub fn first(&mut self) -> Result<(), Error> {
        match self.pieces.blocking_recv() {
            Some(Ok(piece)) => self.piece = piece,
            Some(Err(error)) if error.kind() == Kind::RangeNotSatisfiable => {}
            Some(Err(error)) => return Err(error),
            None => {}
        }
        Ok(())
    }
}

impl Drop for Pull {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Read for Pull {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() && !buffer.is_empty() {
            match self.pieces.blocking_recv() {
                Some(Ok(piece)) => self.piece = piece,
                Some(Err(error)) => return Err(io::Error::other(error)),
                None => return Ok(0),
            }
        }
        let got = self.piece.len().min(buffer.len());
        buffer[..got].copy_from_slice(&self.piece.split_to(got));
        Ok(got)
    }
}

async fn fetch(blob: &Blob, range: Range<u64>, out: &Sender<Result<Bytes, Error>>) -> Result<(), Error> {
    let Range { start: mut at, end } = range;
    let mut fruitless = 0;
    while at < end {
        let before = at;
        match fetch_some(blob, &mut at, end, out).await {
            Ok(()) => return Ok(()),
            Err(error) => {
                let may_pass = matches!(error.kind(), Kind::ShortBody | Kind::Network | Kind::Timeout);
                fruitless = if at - before >= LITTLE { 0 } else { fruitless + 1 };
                if !may_pass || fruitless > FRUITLESS_MAX {
                    return Err(error);
                }
                tokio::time::sleep(PAUSE * (fruitless + 1)).await;
            }
        }
    }
    Ok(())
}

async fn fetch_some(
    blob: &Blob,
    at: &mut u64,
    end: u64,
    out: &Sender<Result<Bytes, Error>>,
) -> Result<(), Error> {
    let mut body = blob.read(*at..end).await?;
    // A host that knows no ranges sends what is before as well.
    let mut offset = body.offset;
    while let Some(mut piece) = body.next().await? {
        let skip = usize::try_from(at.saturating_sub(offset)).unwrap_or(usize::MAX).min(piece.len());
        offset += piece.len() as u64;
        let _ = piece.split_to(skip);
        piece.truncate(usize::try_from(end - *at).unwrap_or(usize::MAX).min(piece.len()));
        *at += piece.len() as u64;
        if !piece.is_empty() && out.send(Ok(piece)).await.is_err() {
            return Ok(());
        }
        if *at >= end {
            return Ok(());
        }
    }
    Ok(())
}
