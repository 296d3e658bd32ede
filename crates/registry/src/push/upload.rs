//! Sends one blob.

use std::time::Duration;

use format::Digest;
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderValue, RANGE};
use reqwest::{Method, StatusCode};
use url::Url;

use super::{Opened, Pusher, Session, header, location};
use crate::client::Ask;
use crate::error::{Error, Kind, Result};
use crate::payload::Payload;
use crate::retry::{Fault, Next, backoff};

/// Size of a piece for hosts that refuse larger bodies, in bytes; the least that some stores behind registries take.
const PIECE: u64 = 16 << 20;

/// Sends a blob, again after a failure that may pass: what the host has stays there. Failures without any progress between
/// them are bounded by the retries of the options.
pub(super) async fn send(pusher: &Pusher, digest: &Digest, payload: &Payload) -> Result<()> {
    let retry = &pusher.core.options.retry;
    let mut upload = Upload { pusher, digest, payload, session: None, done: 0, piece: None };
    let (mut failures, mut best) = (0, 0);
    loop {
        let fault = match upload.go_on().await {
            Ok(()) => return Ok(()),
            Err(fault) => fault,
        };
        if upload.done > best {
            (failures, best) = (0, upload.done);
        }
        let asked = match fault.next {
            Next::GiveUp => return Err(fault.error),
            Next::Retry => Duration::ZERO,
            Next::RetryAfter(wait) => wait.min(retry.max_wait),
        };
        if failures >= retry.max_retries {
            let times = failures + 1;
            return Err(fault.error.append(&format!(" ({times} attempts without progress)")));
        }
        tracing::debug!(error = %fault.error, done = upload.done, "an upload broke off, going on");
        tokio::time::sleep(backoff(retry, failures).max(asked)).await;
        failures += 1;
        upload.find_again().await;
    }
}

struct Upload<'a> {
    pusher: &'a Pusher,
    digest: &'a Digest,
    payload: &'a Payload,
    session: Option<Session>,
    /// Bytes that the host has.
    done: u64,
    /// Most bytes of one request; none: all at once.
    piece: Option<u64>,
}

impl Upload<'_> {
    async fn go_on(&mut self) -> Result<(), Fault> {
        let url = match &self.session {
            Some(session) => session.location.clone(),
            None => match self.pusher.open(self.digest, false).await.map_err(Fault::give_up)? {
                Opened::Mounted => return Ok(()),
                Opened::Session(session) => {
                    self.done = 0;
                    let location = session.location.clone();
                    self.session = Some(session);
                    location
                }
            },
        };
        if self.done == 0 && self.piece.is_none() {
            return match self.finish(url, self.payload.clone()).await {
                Err(fault) if is_too_large(&fault) => {
                    self.piece = Some(PIECE);
                    self.session = None;
                    Err(Fault::retry(fault.error))
                }
                result => result,
            };
        }
        let mut url = url;
        while self.done < self.payload.len() {
            url = self.piece(url).await?;
        }
        self.finish(url, self.payload.part(0..0)).await
    }

    /// Sends the next piece, and returns where the one after it goes.
    async fn piece(&mut self, url: Url) -> Result<Url, Fault> {
        let size = self.payload.len();
        let least = self.session.as_ref().map_or(0, |session| session.least);
        let end = self.piece.map_or(size, |piece| size.min(self.done + piece.max(least)));
        let mut request = Ask::new(Method::PATCH, url).with_body(self.payload.part(self.done..end));
        let range = HeaderValue::from_str(&format!("{}-{}", self.done, end - 1));
        request.headers.insert(CONTENT_RANGE, range.expect("numbers are valid in a header"));
        request.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        let answer = self.exchange(request).await?;
        // What the host says it has is what counts.
        let has = header(answer.headers(), RANGE.as_str()).and_then(received);
        let next = location(&answer)?;
        self.done = has.unwrap_or(end).min(size);
        if let Some(session) = &mut self.session {
            session.location = next.clone();
        }
        if self.done < end {
            let text = format!("{}: the host took {} of {end} bytes", answer.what, self.done);
            return Err(Fault::retry(Error::new(Kind::ShortBody, text)));
        }
        Ok(next)
    }

    /// Sends the last bytes, and names the blob.
    async fn finish(&self, mut url: Url, last: Payload) -> Result<(), Fault> {
        url.query_pairs_mut().append_pair("digest", &self.digest.to_string());
        let mut request = Ask::new(Method::PUT, url).with_body(last);
        request.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        let answer = self.exchange(request).await?;
        match answer.status() {
            StatusCode::CREATED | StatusCode::NO_CONTENT | StatusCode::OK => Ok(()),
            status => {
                let text = format!("{}: {status}, where the upload should end", answer.what);
                Err(Fault::give_up(Error::new(Kind::Protocol, text)))
            }
        }
    }

    /// After a failure: finds out how much the host has. If it does not say, all begins anew: the distribution project's
    /// registry of version 2 forgets an upload of which a request broke off in the middle.
    async fn find_again(&mut self) {
        let Some(session) = self.session.take() else { return };
        let request = Ask::new(Method::GET, session.location.clone());
        let Ok(answer) = self.exchange(request).await else { return };
        let Some(has) = header(answer.headers(), RANGE.as_str()).and_then(received) else { return };
        if has == 0 || has > self.payload.len() {
            return;
        }
        let location = location(&answer).unwrap_or(session.location);
        (self.session, self.done) = (Some(Session { location, least: session.least }), has);
    }

    async fn exchange(&self, request: Ask) -> Result<crate::answer::Answer, Fault> {
        let mut rounds = self.pusher.rounds().await.map_err(Fault::give_up)?;
        let site = rounds.next().await.map_err(Fault::give_up)?;
        let answer = self.pusher.core.exchange(&site, request).await?.judge(&[]).await;
        answer.map_err(|fault| match fault.error.kind() {
            // A session that the host has forgotten; there will be another one.
            Kind::NotFound | Kind::RangeNotSatisfiable => Fault::retry(fault.error),
            _ => fault,
        })
    }
}

/// The number of bytes in `0-LAST`; nothing is `0-0` for some hosts, as is one byte.
fn received(range: &str) -> Option<u64> {
    let range = range.trim().trim_start_matches("bytes=");
    let (first, last) = range.split_once('-')?;
    if first != "0" {
        return None;
    }
    match last.parse().ok()? {
        0 => Some(0),
        last => u64::checked_add(last, 1),
    }
}

fn is_too_large(fault: &Fault) -> bool {
    fault.error.kind() == Kind::TooLarge
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_host_has_is_told_by_a_range() {
        let rows = [
            ("0-0", Some(0)),
            ("0-41", Some(42)),
            ("bytes=0-9", Some(10)),
            ("5-9", None),
            ("", None),
            ("0-x", None),
        ];
        for (text, expected) in rows {
            assert_eq!(received(text), expected, "{text}");
        }
    }
}
