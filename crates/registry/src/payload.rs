//! The body of a request that is sent to a registry, made anew for each attempt.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// Bytes of one read of a file.
const PIECE: u64 = 256 << 10;

/// What is sent.
#[derive(Clone, Debug)]
pub(crate) enum Payload {
    Bytes(Bytes),
    File(Arc<File>, Range<u64>),
}

impl Payload {
    pub fn len(&self) -> u64 {
        match self {
            Payload::Bytes(bytes) => bytes.len() as u64,
            Payload::File(_, range) => range.end - range.start,
        }
    }

    /// A part of it; `range` lies inside.
    pub fn part(&self, range: Range<u64>) -> Payload {
        match self {
            Payload::Bytes(bytes) => Payload::Bytes(bytes.slice(range.start as usize..range.end as usize)),
            Payload::File(file, whole) => {
                Payload::File(Arc::clone(file), whole.start + range.start..whole.start + range.end)
            }
        }
    }

    /// A body of a request, which counts in `sent` what it has given away.
    pub fn body(&self, sent: &Arc<AtomicU64>) -> reqwest::Body {
        reqwest::Body::wrap(Reader { payload: self.clone(), at: 0, sent: Arc::clone(sent) })
    }
}

struct Reader {
    payload: Payload,
    at: u64,
    sent: Arc<AtomicU64>,
}

impl Body for Reader {
    type Data = Bytes;
    type Error = io::Error;

    /// Reads a file as it is asked, which is in the page cache or near it: a piece is too small for a thread of its own.
    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let left = self.payload.len() - self.at;
        if left == 0 {
            return Poll::Ready(None);
        }
        let end = self.at + left.min(PIECE);
        let piece = match self.payload.part(self.at..end) {
            Payload::Bytes(bytes) => bytes,
            Payload::File(file, range) => {
                let mut buffer = vec![0; (range.end - range.start) as usize];
                if let Err(error) = file.read_exact_at(&mut buffer, range.start) {
                    return Poll::Ready(Some(Err(error)));
                }
                buffer.into()
            }
        };
        self.at = end;
        self.sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.at == self.payload.len()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.payload.len() - self.at)
    }
}
