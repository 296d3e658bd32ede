//! Artifacts that refer to an image: the referrers API of the distribution specification, and the tag that stands in for it
//! where a registry does not have it.

use std::collections::BTreeMap;

use bytes::Bytes;
use format::Digest;
use reqwest::Method;
use reqwest::StatusCode;
use reqwest::header::{ACCEPT, HeaderMap, HeaderValue};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Pushed, Pusher, Upload, header};
use crate::client::Client;
use crate::descriptor::Descriptor;
use crate::error::{Error, Kind, Result};
use crate::http::read_bounded;
use crate::reference::Reference;
use crate::retry::Fault;
use crate::rounds::{Needed, Rounds};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
const EMPTY_BYTES: &[u8] = b"{}";
/// Largest list of referrers, in bytes.
const LIST_MAX: u64 = 4 << 20;
/// How often the stand-in is written anew when somebody else writes it at the same time.
const REWRITES: usize = 3;
/// Lists that continue each other.
const PAGES_MAX: usize = 100;

/// What is attached to an image.
#[derive(Clone, Debug, Default)]
pub struct Artifact {
    /// What kind of thing it is, as a media type.
    pub artifact_type: String,
    /// Its contents, each with its media type.
    pub blobs: Vec<(String, Bytes)>,
    /// Free key-value pairs.
    pub annotations: BTreeMap<String, String>,
}

/// What refers to an image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Referrer {
    /// Its manifest.
    #[serde(flatten)]
    pub descriptor: Descriptor,
    /// What kind of thing it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

#[derive(Default, Serialize, Deserialize)]
struct List {
    #[serde(default)]
    manifests: Vec<Referrer>,
}

impl Pusher {
    /// Attaches an artifact to `subject`, a manifest or an index that the repository has, and returns what names it.
    ///
    /// # Errors
    /// What all requests can fail with; [`Kind::Unavailable`] if the registry has no referrers API, and others wrote the tag
    /// that stands in for it again and again.
    pub async fn push_artifact(&self, subject: &Descriptor, artifact: &Artifact) -> Result<Descriptor> {
        let mut layers = Vec::new();
        for (media_type, bytes) in &artifact.blobs {
            layers.push(self.put_blob(media_type, bytes.clone()).await?);
        }
        let config = self.put_blob(EMPTY, Bytes::from_static(EMPTY_BYTES)).await?;
        if layers.is_empty() {
            layers.push(config.clone());
        }
        let subject = Descriptor::new(subject.media_type.clone(), subject.digest, subject.size);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": artifact.artifact_type,
            "config": config,
            "layers": layers,
            "subject": subject,
            "annotations": artifact.annotations,
        });
        let bytes = Bytes::from(manifest.to_string());
        let (digest, answer) = self.put_manifest(MANIFEST, &bytes, None).await?;
        let mut descriptor = Descriptor::new(MANIFEST.to_owned(), digest, bytes.len() as u64);
        descriptor.annotations.clone_from(&artifact.annotations);
        // By this a registry says that it lists the artifact by itself.
        if header(answer.headers(), "oci-subject").is_none() {
            let artifact_type = Some(artifact.artifact_type.clone());
            let referrer = Referrer { descriptor: descriptor.clone(), artifact_type };
            self.add_to_stand_in(&subject.digest, &referrer).await?;
        }
        Ok(descriptor)
    }

    async fn put_blob(&self, media_type: &str, bytes: Bytes) -> Result<Descriptor> {
        let digest = Digest::of(&bytes);
        let size = bytes.len() as u64;
        let _: Pushed = self.push_blob(&digest, &Upload::bytes(bytes)).await?;
        Ok(Descriptor::new(media_type.to_owned(), digest, size))
    }

    /// The tag may be written by others between our reading and our writing, so it is read again.
    async fn add_to_stand_in(&self, subject: &Digest, referrer: &Referrer) -> Result<()> {
        let client = Client { core: self.core.clone() };
        let tag = stand_in(subject);
        let digest = referrer.descriptor.digest;
        for _ in 0..REWRITES {
            let mut list = client.stand_in_of(&self.reference, subject).await?;
            if list.iter().any(|known| known.descriptor.digest == digest) {
                return Ok(());
            }
            list.push(referrer.clone());
            let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": list });
            self.push_manifest(INDEX, &Bytes::from(index.to_string()), Some(&tag)).await?;
        }
        let list = client.stand_in_of(&self.reference, subject).await?;
        if list.iter().any(|known| known.descriptor.digest == digest) {
            return Ok(());
        }
        let text = format!(
            "{}: others write the tag {tag} at the same time, and lost our artifact from it; push it again",
            self.reference
        );
        Err(Error::new(Kind::Unavailable, text))
    }
}

impl Client {
    /// What refers to the manifest or index `subject` in the repository of `reference`, of one kind if that is given. By the
    /// tag that stands in for it where the registry has no referrers API. Nothing about it is verified but what has a digest.
    ///
    /// # Errors
    /// What all requests can fail with; [`Kind::Protocol`] if the list is not one.
    pub async fn referrers(
        &self,
        reference: &Reference,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Referrer>> {
        let mut list = match self.referrers_api(reference, subject, artifact_type).await? {
            Some(list) => list,
            None => self.stand_in_of(reference, subject).await?,
        };
        // A registry may filter or not.
        if artifact_type.is_some() {
            list.retain(|referrer| referrer.artifact_type.as_deref() == artifact_type);
        }
        Ok(list)
    }

    /// None where the registry does not have the API.
    async fn referrers_api(
        &self,
        reference: &Reference,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Option<Vec<Referrer>>> {
        let mut all = Vec::new();
        let mut next: Option<url::Url> = None;
        for _ in 0..PAGES_MAX {
            let mut rounds = Rounds::begin(&self.core, reference, Needed::Resolve, None).await?;
            let page = loop {
                let site = rounds.next().await?;
                let mut url = site.endpoint.url(reference, "referrers", &subject.to_string());
                if let Some(kind) = artifact_type {
                    url.query_pairs_mut().append_pair("artifactType", kind);
                }
                let url = next.clone().filter(|next| site.endpoint.owns(next)).unwrap_or(url);
                let accept = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(INDEX))]);
                match self.page(&site, url, &accept).await {
                    Ok(page) => break page,
                    Err(fault) => rounds.note(&site, fault),
                }
            };
            let Some((list, link)) = page else { return Ok(None) };
            all.extend(list.manifests);
            match link {
                Some(link) => next = Some(link),
                None => return Ok(Some(all)),
            }
        }
        let text = format!("{reference}: the list of what refers to {subject} does not end");
        Err(Error::new(Kind::TooLarge, text))
    }

    async fn page(
        &self,
        site: &crate::rounds::Site<'_>,
        url: url::Url,
        headers: &HeaderMap,
    ) -> Result<Option<(List, Option<url::Url>)>, Fault> {
        const ABSENT: [StatusCode; 3] =
            [StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED, StatusCode::BAD_REQUEST];
        let answer = self.core.attempt(site, Method::GET, url, headers).await?.judge(&ABSENT).await?;
        if ABSENT.contains(&answer.status()) {
            return Ok(None);
        }
        let link = header(answer.headers(), "link").and_then(next_link).map(str::to_owned);
        let link = link.and_then(|link| answer.url.join(&link).ok());
        let what = answer.what.clone();
        let limit = || site.budget.cap(answer.step);
        let bytes = read_bounded(answer.response, &what, LIST_MAX, limit).await.map_err(Fault::of_body)?;
        let list = serde_json::from_slice(&bytes).map_err(|error| {
            let text = format!("{what}: the answer is not a list of referrers: {error}");
            Fault::give_up(Error::new(Kind::Protocol, text))
        })?;
        Ok(Some((list, link)))
    }

    async fn stand_in_of(&self, reference: &Reference, subject: &Digest) -> Result<Vec<Referrer>> {
        let tag = reference.with_tag(&stand_in(subject));
        match self.manifest(&tag).await {
            Ok((_, bytes)) => {
                serde_json::from_slice::<List>(&bytes).map(|list| list.manifests).map_err(|error| {
                    Error::new(Kind::Protocol, format!("{tag} is not a list of referrers: {error}"))
                })
            }
            Err(error) if error.kind() == Kind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

/// The tag that lists what refers to a digest (distribution-spec, "Referrers Tag Schema").
fn stand_in(subject: &Digest) -> String {
    let hex = subject.hex().to_string();
    format!("{}-{}", subject.algorithm().name(), &hex[..hex.len().min(64)])
}

/// The address in `<ADDRESS>; rel="next"`.
fn next_link(value: &str) -> Option<&str> {
    let (address, rest) = value.trim().strip_prefix('<')?.split_once('>')?;
    rest.replace('"', "").contains("rel=next").then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stand_in_is_a_tag() {
        let digest: Digest = format!("sha512:{}", "ab".repeat(64)).parse().unwrap();
        assert_eq!(stand_in(&digest), format!("sha512-{}", "ab".repeat(32)));
    }

    #[test]
    fn lists_continue_where_they_say() {
        assert_eq!(next_link("</v2/a/referrers/x?n=1>; rel=\"next\""), Some("/v2/a/referrers/x?n=1"));
        assert_eq!(next_link("</v2>; rel=\"prev\""), None);
        assert_eq!(next_link("nothing"), None);
    }
}
