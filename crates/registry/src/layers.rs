//! What manifests say about layers that does not come with them.

use std::collections::BTreeMap;
use std::sync::Arc;

use format::Digest;

use crate::blob::Blob;
use crate::client::Client;
use crate::descriptor::Platform;
use crate::error::{Error, Kind, Result};
use crate::manifest::Manifest;
use crate::reference::Reference;

/// What the tag of an image with the tables of contents for another image's layers ends with.
const TOC_SUFFIX: &str = "-esgztoc";
/// The annotation of a layer of such an image: the digest of the layer that it is for.
const TOC_FOR_LAYER: &str = "containerd.io/snapshot/stargz/layer.digest";

impl Client {
    /// The annotations of a layer in its image's manifest, for what containerd does not pass on as labels.
    ///
    /// The manifest is the one with `manifest` as its digest if that is given, which makes the annotations as
    /// trustworthy as that digest; else the one that `reference` names for this machine's platform. None if it
    /// does not have the layer. The manifest is kept for a minute, and fetched once however many layers of an
    /// image are asked for at the same time.
    ///
    /// # Errors
    /// Those of [`image`](Client::image).
    pub async fn layer_annotations(
        &self,
        reference: &Reference,
        manifest: Option<&Digest>,
        layer: &Digest,
    ) -> Result<Option<BTreeMap<String, String>>> {
        let reference = manifest.map_or_else(|| reference.clone(), |digest| reference.with_digest(*digest));
        let fetch = async { self.resolve_here(&reference).await.map(Some) };
        let Some(manifest) = self.core.manifests.get(&reference.to_string(), fetch).await? else {
            return Ok(None);
        };
        let found = manifest.layers.iter().find(|descriptor| descriptor.digest == *layer);
        Ok(found.map(|descriptor| descriptor.annotations.clone()))
    }

    /// The blob that holds the table of contents of an eStargz layer that does not hold it itself: a layer of
    /// the image whose tag is that of `reference` with `-esgztoc` at its end, marked as being for `layer`. None
    /// if there is no such image or it has nothing for the layer. Kept as those of
    /// [`layer_annotations`](Client::layer_annotations).
    ///
    /// Who reads it verifies it: a tag is no proof of anything.
    ///
    /// # Errors
    /// [`Kind::InvalidReference`] if the reference has no tag, or one that is too long for that. Those of
    /// [`image`](Client::image).
    pub async fn external_toc(&self, reference: &Reference, layer: &Digest) -> Result<Option<Blob>> {
        let Some(toc_reference) = reference.with_tag_suffix(TOC_SUFFIX) else {
            let text = format!(
                "{reference}: an external table of contents is found by the image's tag with {TOC_SUFFIX:?} at its \
                 end, and this reference has no tag or one that is too long; pull the image by its tag"
            );
            return Err(Error::new(Kind::InvalidReference, text));
        };
        let fetch = async {
            match self.resolve_here(&toc_reference).await {
                Ok(manifest) => Ok(Some(manifest)),
                Err(error) if error.kind() == Kind::NotFound => Ok(None),
                Err(error) => Err(error),
            }
        };
        let Some(manifest) = self.core.manifests.get(&toc_reference.to_string(), fetch).await? else {
            return Ok(None);
        };
        let layer = layer.to_string();
        let found = manifest
            .layers
            .iter()
            .find(|descriptor| descriptor.annotations.get(TOC_FOR_LAYER).is_some_and(|of| *of == layer));
        Ok(found.map(|descriptor| self.blob(&toc_reference, &descriptor.digest)))
    }

    async fn resolve_here(&self, reference: &Reference) -> Result<Arc<Manifest>> {
        let (_, manifest) = self.resolve(reference, &Platform::host()).await?;
        Ok(Arc::new(manifest))
    }
}
