//! Whether a blob can still be had.

use std::time::Instant;

use reqwest::header::{HeaderMap, RANGE};
use reqwest::{Method, StatusCode};

use super::Blob;
use crate::error::{Error, Kind, Result};
use crate::range::{ContentRange, range_header};
use crate::retry::Fault;
use crate::rounds::Site;

impl Blob {
    /// Makes sure that the blob can be read: asks for its first byte, which renews credentials and redirects
    /// on the way. Makes no request if a host has served the blob within
    /// [`Options::valid_interval`](crate::Options::valid_interval).
    ///
    /// # Errors
    /// Those of [`read`](Blob::read); [`Kind::Digest`] if what is there has another size than before.
    pub async fn check(&self) -> Result<()> {
        let served = self.learned().served;
        if served.is_some_and(|at| at.elapsed() < self.core.options.valid_interval) {
            return Ok(());
        }
        let mut rounds = self.rounds().await?;
        loop {
            let site = rounds.next().await?;
            match self.check_at(&site).await {
                Ok(()) => return Ok(()),
                Err(fault) => rounds.note(&site, fault),
            }
        }
    }

    async fn check_at(&self, site: &Site<'_>) -> Result<(), Fault> {
        let headers = HeaderMap::from_iter([(RANGE, range_header(&(0..1)))]);
        let answer = self.get(site, Method::GET, &headers, &[StatusCode::RANGE_NOT_SATISFIABLE]).await?;
        // The body, which may be that of the whole blob, is left alone.
        let size = match answer.status() {
            StatusCode::OK => answer.response.content_length(),
            StatusCode::RANGE_NOT_SATISFIABLE => {
                // An empty blob has no first byte.
                let empty = ContentRange::of(answer.headers()).is_some_and(|sent| sent.total == Some(0));
                if !empty {
                    let text = format!("{}: 416 to a request for the first byte", answer.what);
                    return Err(Fault::give_up(Error::new(Kind::RangeNotSatisfiable, text)));
                }
                Some(0)
            }
            _ => ContentRange::of(answer.headers()).and_then(|sent| sent.total),
        };
        let mut learned = self.learned();
        if let (Some(known), Some(size)) = (learned.size, size)
            && known != size
        {
            let text = format!("{}: the blob has {size} bytes now, not {known}", answer.what);
            return Err(Fault::give_up(Error::new(Kind::Digest, text)));
        }
        learned.size = learned.size.or(size);
        learned.served = Some(Instant::now());
        Ok(())
    }
}
