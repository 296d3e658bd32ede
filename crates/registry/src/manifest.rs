//! Manifests: from a reference to the layers of an image, every hop verified.

use bytes::Bytes;
use format::Digest;
use serde::Deserialize;

use crate::client::Client;
use crate::descriptor::{Descriptor, Platform};
use crate::document::{Document, Query};
use crate::error::{Error, Kind, Result};
use crate::reference::Reference;

/// Largest manifest, index or image config, in bytes: what registries accept by convention.
const MAX_DOCUMENT: u64 = 4 << 20;
/// Indexes in indexes that are followed.
const MAX_NESTING: usize = 4;

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// An image for one platform.
#[derive(Clone, Debug)]
pub struct Image {
    /// The manifest, as the index describes it if there is one.
    pub manifest: Descriptor,
    /// The verified bytes of the manifest.
    pub manifest_bytes: Bytes,
    /// The image config.
    pub config: Descriptor,
    /// The verified bytes of the config.
    pub config_bytes: Bytes,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct IndexDocument {
    manifests: Vec<Descriptor>,
}

/// The manifest of an image for one platform.
#[derive(Debug, Deserialize)]
pub(crate) struct Manifest {
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

/// Enough of a document to tell what it is when its media type does not say.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outline {
    media_type: Option<String>,
    schema_version: Option<u32>,
    manifests: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
}

impl Client {
    /// Fetches the manifest or index that `reference` names, as the registry has it.
    ///
    /// It is verified against the digest in the reference; a reference without one is a tag, for which only
    /// the digest that the registry states, if any, can be checked.
    ///
    /// # Errors
    /// [`Kind::Digest`] if it is not what it should be, [`Kind::TooLarge`] above 4 MiB, [`Kind::Protocol`]
    /// for Docker's long outdated schema 1; what all requests can fail with.
    pub async fn manifest(&self, reference: &Reference) -> Result<(Descriptor, Bytes)> {
        let query = Query {
            kind: "manifests",
            object: reference.object(),
            accept: Some(ACCEPTED),
            digest: reference.digest().copied(),
            max: MAX_DOCUMENT,
        };
        let Document { digest, content_type, bytes } = self.core.document(reference, &query).await?;
        let media_type =
            media_type(content_type, &bytes).map_err(|reason| unusable(reference, &digest, reason))?;
        Ok((Descriptor::new(media_type, digest, bytes.len() as u64), bytes))
    }

    /// Resolves `reference` to the image for `platform`: through indexes to the manifest that suits best, the
    /// first one of equals, and its config. Each step is verified against the digest that the step before
    /// names.
    ///
    /// # Errors
    /// [`Kind::NoSuchPlatform`], naming the platforms there are; those of [`manifest`](Client::manifest).
    pub async fn image(&self, reference: &Reference, platform: &Platform) -> Result<Image> {
        let (manifest, manifest_bytes, Manifest { config, layers }) = self.fetch(reference, platform).await?;
        let config_bytes = self.config(reference, &config).await?;
        Ok(Image { manifest, manifest_bytes, config, config_bytes, layers })
    }

    /// Resolves `reference` to the manifest of the image for `platform`.
    pub(crate) async fn resolve(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<(Descriptor, Manifest)> {
        let (descriptor, _, manifest) = self.fetch(reference, platform).await?;
        Ok((descriptor, manifest))
    }

    /// The same, with the bytes of the manifest.
    async fn fetch(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<(Descriptor, Bytes, Manifest)> {
        let (mut descriptor, mut bytes) = self.manifest(reference).await?;
        for _ in 0..=MAX_NESTING {
            match descriptor.media_type.as_str() {
                OCI_INDEX | DOCKER_LIST => {
                    let index: IndexDocument = parse(reference, &descriptor.digest, &bytes)?;
                    let chosen = choose(&index.manifests, platform).map_err(|offered| {
                        let text =
                            format!("{reference}: no image for {}; there is: {offered}", name(platform));
                        Error::new(Kind::NoSuchPlatform, text)
                    })?;
                    let (found, found_bytes) = self.manifest(&reference.with_digest(chosen.digest)).await?;
                    check_size(reference, chosen, found_bytes.len())?;
                    // The index is verified, the media type of the answer is not.
                    let media_type =
                        Some(&chosen.media_type).filter(|m| !m.is_empty()).unwrap_or(&found.media_type);
                    descriptor = Descriptor { media_type: media_type.clone(), ..chosen.clone() };
                    bytes = found_bytes;
                }
                OCI_MANIFEST | DOCKER_MANIFEST => {
                    let manifest = parse(reference, &descriptor.digest, &bytes)?;
                    return Ok((descriptor, bytes, manifest));
                }
                other => {
                    let reason = format!("its media type {other:?} is not an image's");
                    return Err(unusable(reference, &descriptor.digest, reason));
                }
            }
        }
        let text = format!("{reference}: indexes are nested more than {MAX_NESTING} deep");
        Err(Error::new(Kind::Protocol, text))
    }

    async fn config(&self, reference: &Reference, config: &Descriptor) -> Result<Bytes> {
        let query = Query {
            kind: "blobs",
            object: config.digest.to_string(),
            accept: None,
            digest: Some(config.digest),
            max: config.size.min(MAX_DOCUMENT),
        };
        let document = self.core.document(reference, &query).await?;
        check_size(reference, config, document.bytes.len())?;
        Ok(document.bytes)
    }
}

/// The media type of a manifest: what the answer says if that is one of a manifest, else what the document
/// says of itself.
fn media_type(content_type: Option<String>, bytes: &[u8]) -> Result<String, String> {
    let known =
        |media_type: &str| [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST].contains(&media_type);
    let stated = content_type.as_deref().and_then(|text| text.split(';').next()).unwrap_or_default().trim();
    if known(stated) {
        return Ok(stated.to_owned());
    }
    let outline: Outline =
        serde_json::from_slice(bytes).map_err(|error| format!("it is not a JSON object: {error}"))?;
    match outline {
        Outline { media_type: Some(media_type), .. } if known(&media_type) => Ok(media_type),
        Outline { schema_version: Some(1), .. } => {
            Err("it is of Docker's outdated schema 1; push the image again with a current tool".into())
        }
        Outline { manifests: Some(_), .. } => Ok(OCI_INDEX.to_owned()),
        Outline { layers: Some(_), .. } => Ok(OCI_MANIFEST.to_owned()),
        Outline { media_type, .. } => Ok(media_type.unwrap_or_else(|| stated.to_owned())),
    }
}

/// The manifest that suits the platform best, or the platforms that there are.
fn choose<'a>(manifests: &'a [Descriptor], platform: &Platform) -> Result<&'a Descriptor, String> {
    let suitable =
        manifests.iter().filter_map(|offer| Some((platform.suits(offer.platform.as_ref()?)?, offer)));
    // The first one of equals: `max_by_key` gives the last.
    if let Some((_, best)) = suitable.rev().max_by_key(|(rank, _)| *rank) {
        return Ok(best);
    }
    match manifests {
        // Nothing to choose from, nothing said: it is the image.
        [only] if only.platform.is_none() => Ok(only),
        _ => {
            let names: Vec<String> =
                manifests.iter().filter_map(|offer| offer.platform.as_ref().map(name)).take(32).collect();
            Err(if names.is_empty() { "nothing that names its platform".into() } else { names.join(", ") })
        }
    }
}

fn name(platform: &Platform) -> String {
    match &platform.variant {
        Some(variant) => format!("{}/{}/{variant}", platform.os, platform.architecture),
        None => format!("{}/{}", platform.os, platform.architecture),
    }
}

fn parse<'a, T: Deserialize<'a>>(reference: &Reference, digest: &Digest, bytes: &'a [u8]) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|error| unusable(reference, digest, format!("it cannot be read: {error}")))
}

fn check_size(reference: &Reference, descriptor: &Descriptor, size: usize) -> Result<()> {
    if descriptor.size == size as u64 {
        return Ok(());
    }
    let text =
        format!("{reference}: {} has {size} bytes, not {} as said", descriptor.digest, descriptor.size);
    Err(Error::new(Kind::Digest, text))
}

fn unusable(reference: &Reference, digest: &Digest, reason: String) -> Error {
    Error::new(Kind::Protocol, format!("{reference}: the manifest {digest} is not usable: {reason}"))
}

/// Reads a document as whatever it is.
#[cfg(feature = "fuzzing")]
pub(crate) fn read_any(bytes: &[u8]) {
    let _ = media_type(None, bytes);
    if let Ok(IndexDocument { manifests }) = serde_json::from_slice(bytes) {
        let _ = choose(&manifests, &Platform::host());
    }
    let _ = serde_json::from_slice::<Manifest>(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_come_from_the_header_or_else_from_the_document() {
        let rows: &[(Option<&str>, &str, Result<&str, &str>)] = &[
            (Some(OCI_INDEX), "", Ok(OCI_INDEX)),
            (
                Some("application/vnd.docker.distribution.manifest.v2+json; charset=utf-8"),
                "",
                Ok(DOCKER_MANIFEST),
            ),
            (Some("application/json"), r#"{"manifests":[]}"#, Ok(OCI_INDEX)),
            (None, r#"{"layers":[],"config":{}}"#, Ok(OCI_MANIFEST)),
            (
                Some("text/plain"),
                r#"{"mediaType":"application/vnd.docker.distribution.manifest.list.v2+json"}"#,
                Ok(DOCKER_LIST),
            ),
            (
                Some("application/vnd.docker.distribution.manifest.v1+prettyjws"),
                r#"{"schemaVersion":1}"#,
                Err("schema 1"),
            ),
            (Some("application/vnd.cncf.helm"), "{}", Ok("application/vnd.cncf.helm")),
            (None, "<html>", Err("not a JSON object")),
        ];
        for (header, body, expected) in rows {
            match (media_type(header.map(str::to_owned), body.as_bytes()), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, *expected),
                (Err(found), Err(expected)) => assert!(found.contains(expected), "{found}"),
                (found, _) => panic!("{header:?} {body} gives {found:?}"),
            }
        }
    }
}
