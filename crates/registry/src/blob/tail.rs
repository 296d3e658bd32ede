//! The end of a blob, where the footers of most formats are, and its size.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use reqwest::header::{CONTENT_LENGTH, HeaderMap, RANGE};
use reqwest::{Method, StatusCode};

use super::{Blob, RANGE_REFUSALS};
use crate::body::RangeBody;
use crate::error::Result;
use crate::quirks::Quirk;
use crate::range::{ContentRange, range_header, suffix_header};
use crate::retry::Fault;
use crate::rounds::Site;

/// A whole blob of at most this size is read to its end rather than asked for again by a range.
const SMALL_BLOB: u64 = 256 << 10;

/// The end of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tail {
    /// Size of the blob, in bytes.
    pub blob_size: u64,
    /// Its last bytes: as many as asked for, or all there are.
    pub bytes: Bytes,
}

impl Blob {
    /// The last `len` bytes, or everything if the blob is shorter, and its size. Mostly one request.
    ///
    /// Holds at most about `len` bytes in memory, also for a host that sends the whole blob.
    ///
    /// # Errors
    /// As of [`read`](Blob::read).
    pub async fn tail(&self, len: u64) -> Result<Tail> {
        let mut rounds = self.rounds().await?;
        loop {
            let site = rounds.next().await?;
            match self.tail_at(&site, len).await {
                Ok(tail) => return Ok(tail),
                Err(fault) => rounds.note(&site, fault),
            }
        }
    }

    async fn tail_at(&self, site: &Site<'_>, len: u64) -> Result<Tail, Fault> {
        let known = self.learned().size;
        if known.is_none()
            && len > 0
            && !self.core.quirks.has(Quirk::NoSuffixRange, site.endpoint.base())
            && let Some(tail) = self.suffix_at(site, len).await?
        {
            return Ok(tail);
        }
        let known = self.learned().size;
        let size = match known {
            Some(size) => size,
            None => self.size_at(site).await?,
        };
        if size == 0 || len == 0 {
            return Ok(Tail { blob_size: size, bytes: Bytes::new() });
        }
        let range = size.saturating_sub(len)..size;
        let body = self.range_at(site, &range).await?;
        if body.whole {
            return keep_tail(body, len).await;
        }
        let tail = keep_tail(body, len).await?;
        if tail.bytes.len() as u64 != range.end - range.start {
            return Err(self.protocol("the blob ends before the size that the registry told"));
        }
        Ok(Tail { blob_size: size, ..tail })
    }

    /// Tries `bytes=-len`. None if the host does not understand it; the size may be known then.
    async fn suffix_at(&self, site: &Site<'_>, len: u64) -> Result<Option<Tail>, Fault> {
        let headers = HeaderMap::from_iter([(RANGE, suffix_header(len))]);
        let answer = self.get(site, Method::GET, &headers, RANGE_REFUSALS).await?;
        match answer.status() {
            StatusCode::PARTIAL_CONTENT => {
                let sent = ContentRange::of(answer.headers());
                let Some(ContentRange { range: Some(sent), total: Some(total) }) = sent else {
                    self.core.quirks.note(Quirk::NoSuffixRange, site.endpoint.base());
                    return Ok(None);
                };
                self.learn_size(Some(total));
                if sent != (total.saturating_sub(len)..total) {
                    self.core.quirks.note(Quirk::NoSuffixRange, site.endpoint.base());
                    return Ok(None);
                }
                let body =
                    RangeBody::new(answer, sent.start, Some(total), Some(sent.end - sent.start), site.budget);
                keep_tail(body, len).await.map(Some)
            }
            StatusCode::OK => {
                let body = RangeBody::whole(answer, site.budget);
                // An empty blob, or one not longer than the tail, is sent whole by hosts that do understand.
                if body.blob_size.is_none_or(|size| size > len) {
                    self.core.quirks.note(Quirk::NoSuffixRange, site.endpoint.base());
                }
                self.learn_size(body.blob_size);
                match body.blob_size {
                    Some(size) if size > len.saturating_mul(2).max(SMALL_BLOB) => Ok(None),
                    _ => keep_tail(body, len).await.map(Some),
                }
            }
            _ => {
                // No range of an empty blob can be satisfied, which does not tell against the host.
                let total = ContentRange::of(answer.headers()).and_then(|sent| sent.total);
                match total {
                    Some(0) => self.learn_size(total),
                    _ => self.core.quirks.note(Quirk::NoSuffixRange, site.endpoint.base()),
                }
                Ok(None)
            }
        }
    }

    /// Finds out how large the blob is: by its first byte, or by HEAD where that does not tell.
    async fn size_at(&self, site: &Site<'_>) -> Result<u64, Fault> {
        let headers = HeaderMap::from_iter([(RANGE, range_header(&(0..1)))]);
        let answer = self.get(site, Method::GET, &headers, RANGE_REFUSALS).await?;
        let size = match answer.status() {
            StatusCode::OK => answer.response.content_length(),
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                ContentRange::of(answer.headers()).and_then(|sent| sent.total)
            }
            _ => None,
        };
        let size = match size {
            Some(size) => size,
            None => {
                let answer = self.get(site, Method::HEAD, &HeaderMap::new(), &[]).await?;
                let length = answer
                    .headers()
                    .get(CONTENT_LENGTH)
                    .and_then(|length| length.to_str().ok()?.parse().ok());
                length.ok_or_else(|| self.protocol("the registry does not tell the size of the blob"))?
            }
        };
        self.learn_size(Some(size));
        Ok(size)
    }
}

/// Reads a body to its end and keeps the last `len` bytes.
pub(crate) async fn keep_tail(mut body: RangeBody, len: u64) -> Result<Tail, Fault> {
    let mut pieces = VecDeque::new();
    let (mut kept, mut position) = (0, body.offset);
    while let Some(piece) = body.next().await.map_err(Fault::of_body)? {
        position += piece.len() as u64;
        kept += piece.len() as u64;
        pieces.push_back(piece);
        while let Some(first) = pieces.front().map(|piece: &Bytes| piece.len() as u64)
            && kept - first >= len
        {
            pieces.pop_front();
            kept -= first;
        }
    }
    let mut bytes = BytesMut::with_capacity(kept as usize);
    for piece in pieces {
        bytes.extend_from_slice(&piece);
    }
    let surplus = kept.saturating_sub(len) as usize;
    Ok(Tail { blob_size: position, bytes: bytes.freeze().slice(surplus..) })
}
