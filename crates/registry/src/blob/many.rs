//! Several ranges of a blob by one request.

use std::ops::Range;
use std::sync::Arc;

use reqwest::header::{HeaderMap, RANGE};
use reqwest::{Method, StatusCode};
use url::Url;

use super::{Blob, RANGE_REFUSALS};
use crate::error::{Error, Kind, Result};
use crate::multi::{Asked, MultiRange, Pieces, Refusal};
use crate::quirks::Quirk;
use crate::range::{ContentRange, ranges_header};
use crate::retry::Fault;
use crate::rounds::Site;

impl Blob {
    /// Most ranges of one request: their header stays below the 4 KiB that every server takes.
    pub const MAX_RANGES: usize = 128;

    /// Asks for several ranges of the blob by one request, if the host is not known to refuse that.
    ///
    /// `ranges` must not be empty, must ascend and must not touch each other; what reaches over the end of the
    /// blob is cut there, a range behind it does not come. A single range is asked for as such.
    ///
    /// Whether a host serves several ranges is found out by asking it, and remembered for all blobs on it. A
    /// host that sends all of a blob that is more than twice as large as what was asked for counts as one that
    /// does not.
    ///
    /// # Errors
    /// [`Kind::RangeNotSatisfiable`] for ranges that are not as said, or more than
    /// [`MAX_RANGES`](Blob::MAX_RANGES) of them; those of [`read`](Blob::read). Content is not verified.
    pub async fn read_many(&self, ranges: &[Range<u64>]) -> Result<MultiRange> {
        let ascend = ranges.windows(2).all(|pair| pair[0].end < pair[1].start);
        if ranges.is_empty()
            || ranges.len() > Self::MAX_RANGES
            || !ascend
            || ranges.iter().any(Range::is_empty)
        {
            let text = format!(
                "{}@{}: {} ranges that are not 1 to {} ascending ones",
                self.reference,
                self.digest,
                ranges.len(),
                Self::MAX_RANGES
            );
            return Err(Error::new(Kind::RangeNotSatisfiable, text));
        }
        if self.core.options.force_single_range && ranges.len() > 1 {
            return Ok(MultiRange::Unsupported);
        }
        let mut rounds = self.rounds().await?;
        loop {
            let site = rounds.next().await?;
            let answered = match ranges {
                [range] => self.range_at(&site, range).await.map(|body| {
                    let asked = self.asked(&site, site.endpoint.base().clone());
                    MultiRange::Pieces(Pieces::single(body, asked))
                }),
                _ => self.ranges_at(&site, ranges).await,
            };
            match answered {
                Ok(answer) => return Ok(answer),
                Err(fault) => rounds.note(&site, fault),
            }
        }
    }

    async fn ranges_at(&self, site: &Site<'_>, ranges: &[Range<u64>]) -> Result<MultiRange, Fault> {
        let location = self.location(site);
        let next = location.as_ref().unwrap_or_else(|| site.endpoint.base());
        if self.core.quirks.has(Quirk::NoMultiRange, next) {
            return Ok(MultiRange::Unsupported);
        }
        let headers = HeaderMap::from_iter([(RANGE, ranges_header(ranges))]);
        let answer = self.get(site, Method::GET, &headers, RANGE_REFUSALS).await?;
        if answer.status() == StatusCode::RANGE_NOT_SATISFIABLE
            && let Some(size) = ContentRange::of(answer.headers()).and_then(|sent| sent.total)
            && ranges[0].start >= size
        {
            self.learn_size(Some(size));
            let text = format!("{}: the blob ends at {size}, before {}", answer.what, ranges[0].start);
            return Err(Fault::give_up(Error::new(Kind::RangeNotSatisfiable, text)));
        }
        let what = answer.what.clone();
        let asked = self.asked(site, answer.url.clone());
        match Pieces::begin(answer, ranges, site.budget, asked.clone()) {
            Ok(pieces) => {
                self.learn_size(pieces.blob_size());
                Ok(MultiRange::Pieces(pieces))
            }
            Err(Refusal(reason)) => {
                tracing::debug!(request = what, reason, "not an answer to several ranges");
                asked.note_refusal();
                Ok(MultiRange::Unsupported)
            }
        }
    }

    /// The host that answered, and the one where a request begins that has no redirected location yet.
    fn asked(&self, site: &Site<'_>, answered: Url) -> Asked {
        Asked { core: Arc::clone(&self.core), urls: [answered, site.endpoint.base().clone()] }
    }
}
