//! Reading a blob by ranges.

mod check;
mod many;
mod tail;

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use format::Digest;
use reqwest::header::{HeaderMap, RANGE};
use reqwest::{Method, StatusCode};
use url::Url;

use crate::answer::Answer;
use crate::body::RangeBody;
use crate::client::Core;
use crate::error::{Error, Kind, Result};
use crate::range::range_header;
use crate::reference::Reference;
use crate::retry::Fault;
use crate::rounds::{Needed, Rounds, Site};

/// How hosts refuse a kind of range that they do not know.
pub(crate) const RANGE_REFUSALS: &[StatusCode] = &[
    StatusCode::BAD_REQUEST,
    StatusCode::METHOD_NOT_ALLOWED,
    StatusCode::RANGE_NOT_SATISFIABLE,
    StatusCode::NOT_IMPLEMENTED,
];

/// How long the host that serves a blob is asked for it before others that come before it in the order.
const PREFERRED_FOR: Duration = Duration::from_secs(60);

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
    /// The key of the host that served the last request, and since when it is preferred to others.
    host: Option<(Arc<str>, Instant)>,
    /// Where that one redirects to. Such addresses are signed and expire.
    location: Option<Url>,
    size: Option<u64>,
    /// When a host last answered as it should.
    served: Option<Instant>,
}

pub use tail::Tail;
pub(crate) use tail::keep_tail;

impl Blob {
    pub(crate) fn new(core: Arc<Core>, reference: &Reference, digest: &Digest) -> Blob {
        Blob { core, reference: Arc::new(reference.clone()), digest: *digest, learned: Arc::default() }
    }

    /// The registry that the reference names: what is learned of the way there holds for all its blobs.
    pub fn place(&self) -> String {
        self.reference.host().to_owned()
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
        let mut rounds = self.rounds().await?;
        loop {
            let site = rounds.next().await?;
            match self.range_at(&site, &range).await {
                Ok(body) => return Ok(body),
                Err(fault) => rounds.note(&site, fault),
            }
        }
    }

    /// Begins with the host that served last, for a while: then one that comes before it may have recovered.
    async fn rounds(&self) -> Result<Rounds<'_>> {
        let preferred = {
            let learned = self.learned();
            let host = learned.host.as_ref().filter(|(_, since)| since.elapsed() < PREFERRED_FOR);
            host.map(|(host, _)| Arc::clone(host))
        };
        Rounds::begin(&self.core, &self.reference, Needed::Pull, preferred.as_deref()).await
    }

    async fn range_at(&self, site: &Site<'_>, range: &Range<u64>) -> Result<RangeBody, Fault> {
        let headers = HeaderMap::from_iter([(RANGE, range_header(range))]);
        let answer = self.get(site, Method::GET, &headers, &[]).await?;
        let body = RangeBody::begin(answer, range, site.budget)?;
        let body = body.watched(&self.core, site.endpoint.key());
        self.learn_size(body.blob_size);
        Ok(body)
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
        if let Some(location) = self.location(site).filter(|_| method == Method::GET) {
            match self.core.attempt(site, method.clone(), location.clone(), headers).await {
                // 400 is what some stores say to an expired address.
                Ok(answer) if !matches!(answer.status().as_u16(), 400 | 401 | 403 | 404 | 410) => {
                    let answer = answer.judge(understands).await?;
                    if answer.status().is_success() {
                        self.learned().served = Some(Instant::now());
                    }
                    return Ok(answer);
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
            match &learned.host {
                Some((host, since)) if host == site.endpoint.key() && since.elapsed() < PREFERRED_FOR => {}
                _ => learned.host = Some((Arc::clone(site.endpoint.key()), Instant::now())),
            }
            learned.served = Some(Instant::now());
            learned.location = answer.redirected.then(|| answer.url.clone());
        }
        Ok(answer)
    }

    /// Where the host redirects to, if that is known.
    fn location(&self, site: &Site<'_>) -> Option<Url> {
        let learned = self.learned();
        let same = learned.host.as_ref().is_some_and(|(host, _)| host == site.endpoint.key());
        learned.location.clone().filter(|_| same)
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
