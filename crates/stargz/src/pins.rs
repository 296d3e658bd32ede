//! What pins a layer's table of contents when its snapshot's labels do not say.
//!
//! containerd passes on only annotations with its own prefix, so images of Podman and Buildah (zstd:chunked) arrive
//! without any. Their manifest is asked for again: by the digest that containerd verified, where it names that.

use std::collections::BTreeMap;

use format::{ChunkedAnnotations, Digest};
use layer::Pin;
use layer::source::BlobSource;

use crate::labels::TOC_DIGEST;

/// Reads the pin from a layer's annotations in the image's manifest. `None` if it has none: an ordinary layer.
///
/// # Errors
/// An annotation is malformed.
pub fn of_annotations(annotations: &BTreeMap<String, String>) -> anyhow::Result<Option<Pin>> {
    if let Some(digest) = annotations.get(TOC_DIGEST) {
        let digest: Digest = digest
            .parse()
            .map_err(|error| anyhow::anyhow!("malformed TOC digest (annotation {TOC_DIGEST}): {error}"))?;
        return Ok(Some(Pin::Toc(digest)));
    }
    let chunked = ChunkedAnnotations::read(|key| annotations.get(key).map(String::as_str))?;
    Ok(chunked.checksum.map(Pin::CompressedToc))
}

/// The same, from the manifest that the registry has.
///
/// # Errors
/// The manifest can't be had, or an annotation is malformed.
pub async fn of_manifest(layer: &dyn BlobSource) -> anyhow::Result<Option<Pin>> {
    of_annotations(&layer.annotations().await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(annotations: &[(&str, &str)]) -> anyhow::Result<Option<Pin>> {
        let pairs = annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        of_annotations(&pairs.collect())
    }

    #[test]
    fn the_toc_digest_comes_first() {
        let (toc, checksum) = (Digest::of(b"toc"), Digest::of(b"compressed"));
        let (toc_text, checksum_text) = (toc.to_string(), checksum.to_string());
        for prefix in ["io.github.containers", "io.containers"] {
            let key = format!("{prefix}.zstd-chunked.manifest-checksum");
            let checksum_only = [(key.as_str(), checksum_text.as_str())];
            assert_eq!(pin(&checksum_only).unwrap(), Some(Pin::CompressedToc(checksum)));
            let both = [(key.as_str(), checksum_text.as_str()), (TOC_DIGEST, toc_text.as_str())];
            assert_eq!(pin(&both).unwrap(), Some(Pin::Toc(toc)));
        }
        assert_eq!(pin(&[("other", "x")]).unwrap(), None);
        assert!(pin(&[(TOC_DIGEST, "sha256:junk")]).is_err());
    }
}
