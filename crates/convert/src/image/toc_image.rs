//! The image whose layers are the external TOCs of another image's layers.

use std::collections::BTreeMap;

use format::Digest;
use serde_json::json;

use super::work::{Outcome, Toc};
use super::{ConvertError, Task};
use crate::descriptor::Descriptor;
use crate::media;

/// The annotation of a layer of a TOC image that names the layer whose TOC it is.
pub const ANNOTATION_TOC_OF_LAYER: &str = "containerd.io/snapshot/stargz/layer.digest";
/// What follows an image's name in the name of its TOC image.
pub const TOC_NAME_SUFFIX: &str = "-esgztoc";

impl Task<'_> {
    /// Writes the image of all external TOCs, in the order of the layers' digests; the same for all platforms.
    pub(super) fn toc_image(&self, outcomes: &[Outcome]) -> Result<Option<Descriptor>, ConvertError> {
        let tocs: BTreeMap<Digest, &Toc> = outcomes
            .iter()
            .filter_map(|outcome| {
                let toc = outcome.built.as_ref()?.toc.as_ref()?;
                Some((outcome.digest, toc))
            })
            .collect();
        if tocs.is_empty() {
            return Ok(None);
        }
        let layers: Vec<Descriptor> = tocs
            .iter()
            .map(|(layer, toc)| {
                let mut descriptor = toc.descriptor.clone();
                descriptor.annotations.insert(ANNOTATION_TOC_OF_LAYER.to_owned(), layer.to_string());
                descriptor
            })
            .collect();
        let diff_ids: Vec<Digest> = tocs.values().map(|toc| toc.diff_id).collect();
        // It runs nowhere, but what copies images reads this.
        let config = json!({
            "architecture": "",
            "os": "",
            "config": {},
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = self.put(media::CONFIG, config.to_string().as_bytes())?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media::MANIFEST,
            "config": config,
            "layers": layers,
        });
        Ok(Some(self.put(media::MANIFEST, manifest.to_string().as_bytes())?))
    }
}
