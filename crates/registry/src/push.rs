//! The push side: blobs, manifests, and what refers to them.
//!
//! A blob is asked for first, then mounted from another repository of the same host if there is one that may have it, and
//! only then sent: in one request, or, where a host refuses bodies of that size, in pieces. When the connection breaks, the
//! host is asked how much it has, and the rest follows.
//!
//! Everything goes to the host that the reference names. Mirrors are for reading.

mod manifest;
mod referrers;
mod upload;

use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;
use format::Digest;
use reqwest::header::{HeaderMap, LOCATION};
use reqwest::{Method, StatusCode};
use url::Url;

use crate::answer::Answer;
use crate::client::{Ask, Client, Core};
use crate::error::{Error, Kind, Result};
use crate::payload::Payload;
use crate::reference::Reference;
use crate::retry::Fault;
use crate::rounds::{Needed, Rounds, Site};

pub use referrers::{Artifact, Referrer};

/// Writes to one repository. Clones are the same.
#[derive(Clone, Debug)]
pub struct Pusher {
    core: Arc<Core>,
    reference: Arc<Reference>,
    /// A repository of the same host from which blobs may be mounted.
    from: Option<Arc<str>>,
    /// What tokens have to allow.
    scopes: Arc<str>,
}

/// The bytes of a blob.
#[derive(Clone, Debug)]
pub struct Upload {
    payload: Payload,
}

impl Upload {
    /// Bytes in memory.
    pub fn bytes(bytes: impl Into<Bytes>) -> Upload {
        Upload { payload: Payload::Bytes(bytes.into()) }
    }

    /// The first `size` bytes of a file, which nobody changes meanwhile.
    pub fn file(file: File, size: u64) -> Upload {
        Upload { payload: Payload::File(Arc::new(file), 0..size) }
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.payload.len()
    }
}

/// How a blob came to be in a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It was there.
    There,
    /// The host had it in the other repository.
    Mounted,
    /// It was sent.
    Sent,
}

impl Client {
    /// Writes to the repository of `reference`. Makes no request.
    pub fn pusher(&self, reference: &Reference) -> Pusher {
        let scopes = format!("repository:{}:pull,push", reference.repository());
        Pusher {
            core: Arc::clone(&self.core),
            reference: Arc::new(reference.clone()),
            from: None,
            scopes: scopes.into(),
        }
    }
}

impl Pusher {
    /// Mounts blobs from the repository of `other` where it has them, if that is another one of the same host.
    pub fn mounting_from(mut self, other: &Reference) -> Pusher {
        if other.host() == self.reference.host() && other.repository() != self.reference.repository() {
            let from = other.repository();
            self.scopes = format!("{} repository:{from}:pull", self.scopes).into();
            self.from = Some(from.into());
        }
        self
    }

    /// The reference that was given.
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// Whether the repository has the blob.
    ///
    /// # Errors
    /// What all requests can fail with.
    pub async fn has_blob(&self, digest: &Digest) -> Result<bool> {
        let (_, answer) = self
            .ask(&[StatusCode::NOT_FOUND], |site| {
                let url = site.endpoint.url(site.reference, "blobs", &digest.to_string());
                Ask::new(Method::HEAD, url)
            })
            .await?;
        Ok(answer.status().is_success())
    }

    /// Makes the blob a part of the repository without sending it, if the host has it there or in the repository to mount
    /// from. None if it does not, or does not tell.
    ///
    /// # Errors
    /// What all requests can fail with.
    pub async fn adopt_blob(&self, digest: &Digest) -> Result<Option<Pushed>> {
        if self.has_blob(digest).await? {
            return Ok(Some(Pushed::There));
        }
        if self.from.is_none() {
            return Ok(None);
        }
        match self.open(digest, true).await {
            Ok(Opened::Mounted) => Ok(Some(Pushed::Mounted)),
            Ok(Opened::Session(session)) => {
                session.close(self).await;
                Ok(None)
            }
            // Some hosts refuse what they cannot mount.
            Err(error) if !may_pass(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes the blob a part of the repository, sending it only if it has to be. The host checks the digest.
    ///
    /// # Errors
    /// What all requests can fail with; [`Kind::Digest`] if the host finds another one.
    pub async fn push_blob(&self, digest: &Digest, content: &Upload) -> Result<Pushed> {
        if let Some(pushed) = self.adopt_blob(digest).await? {
            return Ok(pushed);
        }
        upload::send(self, digest, &content.payload).await?;
        Ok(Pushed::Sent)
    }

    /// Asks for a place to send a blob to.
    async fn open(&self, digest: &Digest, mount: bool) -> Result<Opened> {
        let (site, answer) = self
            .ask(&[], |site| {
                let mut url = site.endpoint.url(site.reference, "blobs", "uploads/");
                if let Some(from) = self.from.as_deref().filter(|_| mount) {
                    url.query_pairs_mut().append_pair("mount", &digest.to_string()).append_pair("from", from);
                }
                Ask::new(Method::POST, url).with_body(Payload::Bytes(Bytes::new()))
            })
            .await?;
        match answer.status() {
            StatusCode::CREATED => Ok(Opened::Mounted),
            StatusCode::ACCEPTED => {
                let location = location(&answer).map_err(|fault| fault.error)?;
                let least =
                    header(answer.headers(), "oci-chunk-min-length").and_then(|text| text.parse().ok());
                drop(site);
                Ok(Opened::Session(Session { location, least: least.unwrap_or(0) }))
            }
            status => {
                let text = format!("{}: {status}, where an upload should begin", answer.what);
                Err(Error::new(Kind::Protocol, text))
            }
        }
    }

    /// Makes a request of the host until it answers with a success or a status that is understood, within bounds.
    async fn ask(
        &self,
        understands: &[StatusCode],
        request: impl Fn(&Site<'_>) -> Ask,
    ) -> Result<(Site<'_>, Answer)> {
        let mut rounds = self.rounds().await?;
        loop {
            let site = rounds.next().await?;
            let answer = match self.core.exchange(&site, request(&site)).await {
                Ok(answer) => answer.judge(understands).await,
                Err(fault) => Err(fault),
            };
            match answer {
                Ok(answer) => return Ok((site, answer)),
                Err(fault) => rounds.note(&site, fault),
            }
        }
    }

    async fn rounds(&self) -> Result<Rounds<'_>> {
        let rounds = Rounds::begin(&self.core, &self.reference, Needed::Push, None).await?;
        Ok(rounds.with_scopes(Arc::clone(&self.scopes)))
    }
}

/// What comes of the wish to send a blob.
enum Opened {
    Mounted,
    Session(Session),
}

/// A place to send a blob to.
struct Session {
    location: Url,
    /// Pieces but the last one have to be this large, in bytes.
    least: u64,
}

impl Session {
    /// Tells the host that nothing will come. It forgets by itself if it is not heard.
    async fn close(self, pusher: &Pusher) {
        let request = |_: &Site<'_>| Ask::new(Method::DELETE, self.location.clone());
        let Ok(mut rounds) = pusher.rounds().await else { return };
        let Ok(site) = rounds.next().await else { return };
        if let Err(fault) = pusher.core.exchange(&site, request(&site)).await {
            tracing::debug!(error = %fault.error, "an upload that is not needed stays open");
        }
    }
}

/// Whether a failure says nothing about what was asked for.
fn may_pass(error: &Error) -> bool {
    matches!(error.kind(), Kind::Unavailable | Kind::Timeout | Kind::Network | Kind::Unauthorized)
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Where a host wants the next request of an upload.
fn location(answer: &Answer) -> Result<Url, Fault> {
    let wrong = |what: &str| {
        let text = format!("{}: {} {what}", answer.what, answer.status());
        Err(Fault::give_up(Error::new(Kind::Protocol, text)))
    };
    let Some(location) = header(answer.headers(), LOCATION.as_str()) else {
        return wrong("without a location for the upload");
    };
    let Ok(to) = answer.url.join(location) else {
        return wrong("with a location for the upload that is not a URL");
    };
    match (answer.url.scheme(), to.scheme()) {
        (_, "https") | ("http", "http") => Ok(to),
        _ => wrong(
            "with a location for the upload on plain HTTP, which is not followed from HTTPS; a registry behind a \
             proxy has to be told its external address",
        ),
    }
}
