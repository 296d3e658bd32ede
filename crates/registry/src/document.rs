//! Small objects that are read whole and verified here: manifests, indexes, image configs.

use bytes::Bytes;
use format::Digest;
use reqwest::Method;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};

use crate::client::Core;
use crate::error::{Error, Kind, Result};
use crate::http::read_bounded;
use crate::reference::Reference;
use crate::retry::Fault;
use crate::rounds::{Needed, Rounds, Site};

/// Which document to fetch.
#[derive(Debug)]
pub(crate) struct Query {
    /// `manifests` or `blobs`.
    pub kind: &'static str,
    /// Tag or digest.
    pub object: String,
    pub accept: Option<&'static str>,
    /// What the bytes must have; without it only what the host itself states is checked.
    pub digest: Option<Digest>,
    /// Largest size accepted, in bytes.
    pub max: u64,
}

/// A verified document.
#[derive(Debug)]
pub(crate) struct Document {
    pub digest: Digest,
    /// As the host says, which nothing verifies.
    pub content_type: Option<String>,
    pub bytes: Bytes,
}

impl Core {
    /// Fetches a document from the first host that gives the right one.
    pub async fn document(&self, reference: &Reference, query: &Query) -> Result<Document> {
        let needed = if query.digest.is_some() { Needed::Pull } else { Needed::Resolve };
        let mut rounds = Rounds::begin(self, reference, needed, None).await?;
        loop {
            let site = rounds.next().await?;
            match self.document_at(&site, query).await {
                Ok(document) => return Ok(document),
                Err(fault) => rounds.note(&site, fault),
            }
        }
    }

    async fn document_at(&self, site: &Site<'_>, query: &Query) -> Result<Document, Fault> {
        let url = site.endpoint.url(site.reference, query.kind, &query.object);
        let accept = query.accept.map(|accept| (ACCEPT, HeaderValue::from_static(accept)));
        let headers = HeaderMap::from_iter(accept);
        let answer = self.attempt(site, Method::GET, url, &headers).await?.judge(&[]).await?;
        let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
        let content_type = header(CONTENT_TYPE.as_str()).map(str::to_owned);
        let stated = header("docker-content-digest").and_then(|digest| digest.parse::<Digest>().ok());
        let limit = || site.budget.cap(answer.step);
        let bytes =
            read_bounded(answer.response, &answer.what, query.max, limit).await.map_err(Fault::of_body)?;
        let digest = match query.digest.or(stated) {
            None => Digest::of(&bytes),
            Some(digest) if digest.matches(&bytes) => digest,
            Some(digest) => {
                let text = format!(
                    "{}: {} bytes came that do not have the digest {digest}",
                    answer.what,
                    bytes.len()
                );
                return Err(Fault::give_up(Error::new(Kind::Digest, text)));
            }
        };
        Ok(Document { digest, content_type, bytes })
    }
}
