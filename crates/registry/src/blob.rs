//! Reading a blob by ranges.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use format::Digest;
use reqwest::header::{CONTENT_LENGTH, HeaderMap, RANGE};
use reqwest::{Method, StatusCode};
use url::Url;

use crate::answer::Answer;
use crate::body::RangeBody;
use crate::client::Core;
use crate::error::{Error, Kind, Result};
use crate::range::{ContentRange, range_header, suffix_header};
use crate::reference::Reference;
use crate::retry::Fault;
use crate::rounds::{Rounds, Site};

/// How hosts refuse a kind of range that they do not know.
const RANGE_REFUSALS: &[StatusCode] = &[
    StatusCode::BAD_REQUEST,
    StatusCode::METHOD_NOT_ALLOWED,
    StatusCode::RANGE_NOT_SATISFIABLE,
    StatusCode::NOT_IMPLEMENTED,
];
/// A whole blob of at most this size is read to its end rather than asked for again by a range.
const SMALL_BLOB: u64 = 256 << 10;

/// A blob in a registry. Clones share what was learned: the host that serves it, where that host redirects
/// to, its size.
#[derive(Clone, Debug)]
pub struct Blob {
    core: Arc<Core>,
    reference: Arc<Reference>,
    digest: Digest,
    learned: Arc<Mutex<Learned>>,
}

#[derive(Debug, Default)]
struct Learned {
    /// Place, in the order of hosts, of the one that served the last request.
    host: usize,
    /// Where that one redirects to. Such addresses are signed and expire.
    location: Option<Url>,
    size: Option<u64>,
}

/// The end of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tail {
    /// Size of the blob, in bytes.
    pub blob_size: u64,
    /// Its last bytes: as many as asked for, or all there are.
    pub bytes: Bytes,
}

impl Blob {
    pub(crate) fn new(core: Arc<Core>, reference: &Reference, digest: &Digest) -> Blob {
        Blob { core, reference: Arc::new(reference.clone()), digest: *digest, learned: Arc::default() }
    }

    /// Asks for `range` of the blob and checks that the answer is about it. A range that reaches over the end
    /// of the blob is cut there.
    ///
    /// # Errors
    /// [`Kind::RangeNotSatisfiable`] if it is empty or begins behind the end; what all requests can fail
    /// with. Content is not verified.
    pub async fn read(&self, range: Range<u64>) -> Result<RangeBody> {
        if range.is_empty() {
            let text = format!("{}@{}: the range {range:?} is empty", self.reference, self.digest);
            return Err(Error::new(Kind::RangeNotSatisfiable, text));
        }
        let mut rounds = self.rounds()?;
        loop {
            let site = rounds.next().await?;
            match self.range_at(&site, &range).await {
                Ok(body) => return Ok(body),
                Err(fault) => rounds.note(&site, fault),
            }
        }
    }

    /// The last `len` bytes, or everything if the blob is shorter, and its size. Mostly one request.
    ///
    /// Holds at most about `len` bytes in memory, also for a host that sends the whole blob.
    ///
    /// # Errors
    /// As of [`read`](Blob::read).
    pub async fn tail(&self, len: u64) -> Result<Tail> {
        let mut rounds = self.rounds()?;
        loop {
            let site = rounds.next().await?;
            match self.tail_at(&site, len).await {
                Ok(tail) => return Ok(tail),
                Err(fault) => rounds.note(&site, fault),
            }
        }
    }

    /// Begins with the host that served last.
    fn rounds(&self) -> Result<Rounds<'_>> {
        let host = self.learned().host;
        Rounds::begin(&self.core, &self.reference, host)
    }

    async fn range_at(&self, site: &Site<'_>, range: &Range<u64>) -> Result<RangeBody, Fault> {
        let headers = HeaderMap::from_iter([(RANGE, range_header(range))]);
        let answer = self.get(site, Method::GET, &headers, &[]).await?;
        let body = RangeBody::begin(answer, range, site.budget)?;
        self.learn_size(body.blob_size);
        Ok(body)
    }

    async fn tail_at(&self, site: &Site<'_>, len: u64) -> Result<Tail, Fault> {
        let known = self.learned().size;
        if known.is_none()
            && len > 0
            && self.core.understands_suffixes(&site.endpoint)
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
                    self.core.note_suffix_refuser(&site.endpoint);
                    return Ok(None);
                };
                self.learn_size(Some(total));
                if sent != (total.saturating_sub(len)..total) {
                    self.core.note_suffix_refuser(&site.endpoint);
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
                    self.core.note_suffix_refuser(&site.endpoint);
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
                    _ => self.core.note_suffix_refuser(&site.endpoint),
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

    /// One request for the blob: straight to where the host redirected last time, or through the host if
    /// there is no such place or it does not serve any more.
    async fn get(
        &self,
        site: &Site<'_>,
        method: Method,
        headers: &HeaderMap,
        understands: &[StatusCode],
    ) -> Result<Answer, Fault> {
        let location = {
            let learned = self.learned();
            learned.location.clone().filter(|_| learned.host == site.index && method == Method::GET)
        };
        if let Some(location) = location {
            match self.core.attempt(site, method.clone(), location.clone(), headers).await {
                // 400 is what some stores say to an expired address.
                Ok(answer) if !matches!(answer.status().as_u16(), 400 | 401 | 403 | 404 | 410) => {
                    return answer.judge(understands).await;
                }
                Ok(answer) => {
                    tracing::debug!(request = answer.what, status = %answer.status(), "redirected location expired");
                    self.forget(&location);
                }
                Err(fault) => {
                    self.forget(&location);
                    return Err(fault);
                }
            }
        }
        let url = site.endpoint.url(&self.reference, "blobs", &self.digest.to_string());
        let answer = self.core.attempt(site, method.clone(), url, headers).await?.judge(understands).await?;
        if method == Method::GET && answer.status().is_success() {
            let mut learned = self.learned();
            learned.host = site.index;
            learned.location = answer.redirected.then(|| answer.url.clone());
        }
        Ok(answer)
    }

    fn learned(&self) -> std::sync::MutexGuard<'_, Learned> {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn learn_size(&self, size: Option<u64>) {
        if size.is_some() {
            self.learned().size = size;
        }
    }

    /// Another request may have learned a newer location meanwhile, which stays.
    fn forget(&self, location: &Url) {
        let mut learned = self.learned();
        if learned.location.as_ref() == Some(location) {
            learned.location = None;
        }
    }

    fn protocol(&self, what: &str) -> Fault {
        let text = format!("{}@{}: {what}", self.reference, self.digest);
        Fault::give_up(Error::new(Kind::Protocol, text))
    }
}

/// Reads a body to its end and keeps the last `len` bytes.
async fn keep_tail(mut body: RangeBody, len: u64) -> Result<Tail, Fault> {
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
