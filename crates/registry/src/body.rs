//! The body of a ranged read.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::{Response, StatusCode};

use crate::answer::Answer;
use crate::client::Core;
use crate::error::{Error, Kind, Result};
use crate::http::next_piece;
use crate::range::ContentRange;
use crate::retry::{Budget, Fault};

/// A body may outlive the budget of its call as long as it has come in at least this fast on average, in
/// bytes per second: a large layer on a slow line is fine, a host that drips is not.
const SLOWEST: u64 = 16 << 10;

/// Bytes of a blob, as they arrive.
#[derive(Debug)]
pub struct RangeBody {
    /// Where in the blob the first byte lies that [`next`](RangeBody::next) gives: the start of the range
    /// asked for, or 0 if the host sends everything whatever is asked for.
    pub offset: u64,
    /// Whether the host sends the whole blob.
    pub whole: bool,
    /// Size of the blob, if the host says.
    pub blob_size: Option<u64>,
    response: Option<Response>,
    what: String,
    /// Bytes still to come; none if the host does not say where the body ends.
    left: Option<u64>,
    received: u64,
    step: Duration,
    budget: Budget,
    started: Instant,
    failure: Option<Error>,
    /// Called when the body fails.
    watch: Option<Watch>,
}

/// Who wants to know that a host does not deliver.
#[derive(Debug)]
struct Watch {
    core: Arc<Core>,
    host: Arc<str>,
}

impl RangeBody {
    /// Checks the answer to a request for `range`, which is not empty.
    pub(crate) fn begin(answer: Answer, range: &Range<u64>, budget: Budget) -> Result<RangeBody, Fault> {
        let wrong = |what: String| {
            Err(Fault::give_up(Error::new(Kind::Protocol, format!("{}: {what}", answer.what))))
        };
        let length = answer.response.content_length();
        match answer.status() {
            StatusCode::OK => Ok(RangeBody::whole(answer, budget)),
            StatusCode::PARTIAL_CONTENT => {
                let asked = format!("bytes {}-{}", range.start, range.end - 1);
                let Some(ContentRange { range: Some(sent), total }) = ContentRange::of(answer.headers())
                else {
                    return wrong(format!("206 without a usable Content-Range (asked for {asked})"));
                };
                let ends_well = sent.end == range.end || (sent.end < range.end && total == Some(sent.end));
                if sent.start != range.start || !ends_well {
                    return wrong(format!("sends bytes {}-{} (asked for {asked})", sent.start, sent.end - 1));
                }
                let promised = sent.end - sent.start;
                if length.is_some_and(|length| length != promised) {
                    return wrong(format!("Content-Length does not fit to Content-Range ({promised} bytes)"));
                }
                Ok(RangeBody::new(answer, sent.start, total, Some(promised), budget))
            }
            status => wrong(format!("unexpected {status} to a range request")),
        }
    }

    /// The body of an answer that holds the whole blob.
    pub(crate) fn whole(answer: Answer, budget: Budget) -> RangeBody {
        let length = answer.response.content_length();
        let body = RangeBody::new(answer, 0, length, length, budget);
        RangeBody { whole: true, ..body }
    }

    /// The body of an answer whose range is checked already.
    pub(crate) fn new(
        answer: Answer,
        offset: u64,
        blob_size: Option<u64>,
        left: Option<u64>,
        budget: Budget,
    ) -> RangeBody {
        let Answer { response, what, step, .. } = answer;
        RangeBody {
            offset,
            whole: false,
            blob_size,
            response: Some(response),
            what,
            left,
            received: 0,
            step,
            budget,
            started: Instant::now(),
            failure: None,
            watch: None,
        }
    }

    /// The next piece; none at the end, which is exactly where the host promised it.
    ///
    /// # Errors
    /// [`Kind::ShortBody`] if the body ends early, [`Kind::Timeout`] if it stalls or drips, [`Kind::Network`]
    /// if the connection breaks. Nothing is tried again here: the caller knows how far it came and asks for
    /// the rest. After an error, every further call gives it again.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let result = self.advance().await;
        match &result {
            Ok(Some(_)) => {}
            Ok(None) => self.response = None,
            Err(error) => {
                self.failure = Some(error.clone());
                self.response = None;
                if let Some(Watch { core, host }) = self.watch.take() {
                    core.health.note_failure(&host, None);
                }
            }
        }
        result
    }

    /// Tells the health of hosts when the body fails.
    pub(crate) fn watched(mut self, core: &Arc<Core>, host: &Arc<str>) -> RangeBody {
        self.watch = Some(Watch { core: Arc::clone(core), host: Arc::clone(host) });
        self
    }

    /// A failure to make sense of the body.
    pub(crate) fn error(&self, kind: Kind, what: &str) -> Error {
        note_progress(Error::new(kind, format!("{}: {what}", self.what)), self.received, self.left)
    }

    async fn advance(&mut self) -> Result<Option<Bytes>> {
        let Some(response) = &mut self.response else { return Ok(None) };
        loop {
            if self.left == Some(0) {
                return Ok(None);
            }
            let earned = Duration::from_secs(self.received / SLOWEST);
            let rest = self.budget.left_with(earned);
            if rest.is_zero() {
                let text = format!(
                    "{}: only {} bytes came in {:.0?}",
                    self.what,
                    self.received,
                    self.started.elapsed()
                );
                return Err(Error::new(Kind::Timeout, text));
            }
            let piece = next_piece(response, &self.what, self.step.min(rest)).await;
            let Some(mut piece) = piece.map_err(|error| note_progress(error, self.received, self.left))?
            else {
                let Some(left) = self.left else { return Ok(None) };
                let error = Error::new(Kind::ShortBody, format!("{}: the body ended early", self.what));
                return Err(note_progress(error, self.received, Some(left)));
            };
            if let Some(left) = &mut self.left {
                // A host that sends more than it promised is not listened to.
                piece.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= piece.len() as u64;
            }
            self.received += piece.len() as u64;
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
        }
    }
}

fn note_progress(error: Error, received: u64, left: Option<u64>) -> Error {
    match left {
        Some(left) => error.append(&format!(" (after {received} of {} bytes)", received + left)),
        None => error.append(&format!(" (after {received} bytes)")),
    }
}
