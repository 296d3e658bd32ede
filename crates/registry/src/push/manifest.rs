//! Sends manifests and indexes.

use bytes::Bytes;
use format::Digest;
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderValue};

use super::{Pusher, header};
use crate::answer::Answer;
use crate::client::Ask;
use crate::error::{Error, Kind, Result};
use crate::payload::Payload;

impl Pusher {
    /// Sends a manifest or an index by its digest, and with a `tag` also under that name. What it names has to be there.
    ///
    /// # Errors
    /// [`Kind::Digest`] if the host stored something else; what all requests can fail with.
    pub async fn push_manifest(&self, media_type: &str, bytes: &Bytes, tag: Option<&str>) -> Result<Digest> {
        self.put_manifest(media_type, bytes, tag).await.map(|(digest, _)| digest)
    }

    pub(super) async fn put_manifest(
        &self,
        media_type: &str,
        bytes: &Bytes,
        tag: Option<&str>,
    ) -> Result<(Digest, Answer)> {
        let digest = Digest::of(bytes);
        let content_type = HeaderValue::from_str(media_type).map_err(|_| {
            let text = format!("{}: {media_type:?} cannot be a media type", self.reference);
            Error::new(Kind::InvalidOptions, text)
        })?;
        let object = tag.map_or_else(|| digest.to_string(), str::to_owned);
        let (_, answer) = self
            .ask(&[], |site| {
                let url = site.endpoint.url(site.reference, "manifests", &object);
                let mut request = Ask::new(Method::PUT, url).with_body(Payload::Bytes(bytes.clone()));
                request.headers.insert(CONTENT_TYPE, content_type.clone());
                request
            })
            .await?;
        let stored: Option<Digest> =
            header(answer.headers(), "docker-content-digest").and_then(|text| text.parse().ok());
        match stored {
            Some(stored) if stored != digest => {
                let text = format!("{}: it was stored as {stored}, but its digest is {digest}", answer.what);
                Err(Error::new(Kind::Digest, text))
            }
            _ => Ok((digest, answer)),
        }
    }
}
