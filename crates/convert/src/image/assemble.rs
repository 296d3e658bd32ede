//! Writes the documents of the new image, from the bottom up.

use serde_json::{Value, json};

use super::options::MediaTypes;
use super::plan::{ANNOTATION_ATTESTS, Content, Image, Node, Plan};
use super::work::{OF_LAYER, Outcome};
use super::{ConvertError, Task};
use crate::descriptor::Descriptor;
use crate::media;

impl Task<'_> {
    /// Writes all documents, and returns what points at the root.
    pub(super) fn assemble(&self, plan: &Plan, outcomes: &[Outcome]) -> Result<Descriptor, ConvertError> {
        self.node(&plan.root, outcomes)
    }

    fn node(&self, node: &Node, outcomes: &[Outcome]) -> Result<Descriptor, ConvertError> {
        let mut document = node.document.clone();
        let media_type = match &node.content {
            Content::Other(_) => node.descriptor.media_type.clone(),
            _ => self.media_type(&node.descriptor.media_type),
        };
        match &node.content {
            Content::Index(children) => document["manifests"] = self.manifests(children, outcomes)?,
            Content::Image(image) => self.image(image, node.is_docker(), outcomes, &mut document)?,
            Content::Other(_) => {}
        }
        // Not every document says what it is.
        if document.get("mediaType").is_some() {
            document["mediaType"] = json!(media_type);
        }
        self.document(&node.descriptor, &media_type, &node.bytes, &node.document, &document)
    }

    fn media_type(&self, old: &str) -> String {
        match self.options.media_types {
            MediaTypes::Oci => media::to_oci(old).to_owned(),
            MediaTypes::Keep => old.to_owned(),
        }
    }

    fn manifests(&self, children: &[Node], outcomes: &[Outcome]) -> Result<Value, ConvertError> {
        let mut new = Vec::new();
        for child in children {
            new.push(self.node(child, outcomes)?);
        }
        let renamed: Vec<(String, String)> = children
            .iter()
            .zip(&new)
            .map(|(old, new)| (old.descriptor.digest.to_string(), new.digest.to_string()))
            .collect();
        for descriptor in &mut new {
            if let Some(subject) = descriptor.annotations.get_mut(ANNOTATION_ATTESTS)
                && let Some((_, new)) = renamed.iter().find(|(old, _)| old == subject)
            {
                subject.clone_from(new);
            }
        }
        Ok(json!(new))
    }

    fn image(
        &self,
        image: &Image,
        docker: bool,
        outcomes: &[Outcome],
        manifest: &mut Value,
    ) -> Result<(), ConvertError> {
        let docker = docker && self.options.media_types == MediaTypes::Keep;
        let mut layers = Vec::new();
        let mut diff_ids = image.diff_ids.clone();
        for (position, (layer, job)) in image.layers.iter().zip(&image.jobs).enumerate() {
            let outcome = &outcomes[*job];
            if let Some(built) = &outcome.built {
                if built.source_diff_id != diff_ids[position] {
                    return Err(ConvertError::DiffId {
                        layer: Box::new(layer.digest),
                        expected: Box::new(diff_ids[position]),
                        found: Box::new(built.source_diff_id),
                    });
                }
                diff_ids[position] = built.diff_id;
            }
            layers.push(self.layer_descriptor(layer, outcome, docker));
        }
        manifest["layers"] = json!(layers);

        let mut config = image.config_document.clone();
        if diff_ids != image.diff_ids {
            config["rootfs"]["diff_ids"] = json!(diff_ids);
        }
        let media_type = self.media_type(&image.config.media_type);
        let config =
            self.document(&image.config, &media_type, &image.config_bytes, &image.config_document, &config)?;
        manifest["config"] = json!(config);
        Ok(())
    }

    fn layer_descriptor(&self, old: &Descriptor, outcome: &Outcome, docker: bool) -> Descriptor {
        let mut new = old.clone();
        new.media_type = self.media_type(&old.media_type);
        let Some(built) = &outcome.built else { return new };
        new.media_type =
            if docker { media::to_docker(built.media_type) } else { built.media_type }.to_owned();
        replace(&mut new, outcome.digest, outcome.size);
        new.annotations.retain(|name, _| !OF_LAYER.contains(&name.as_str()));
        if !docker {
            new.annotations
                .extend(built.annotations.iter().map(|(name, value)| (name.to_string(), value.clone())));
        }
        new
    }

    /// Writes a document, as it came if it is the same, and returns what `old` has become.
    fn document(
        &self,
        old: &Descriptor,
        media_type: &str,
        old_bytes: &[u8],
        old_document: &Value,
        document: &Value,
    ) -> Result<Descriptor, ConvertError> {
        let mut new = old.clone();
        new.media_type = media_type.to_owned();
        if document == old_document {
            // It may be named by a digest of another algorithm.
            self.target.put(media_type, &old.digest, old_bytes)?;
        } else {
            let written = self.put(media_type, document.to_string().as_bytes())?;
            replace(&mut new, written.digest, written.size);
        }
        Ok(new)
    }
}

/// Makes a descriptor name another blob. What else it says about the old one's bytes and places is not true any more.
fn replace(descriptor: &mut Descriptor, digest: format::Digest, size: u64) {
    (descriptor.digest, descriptor.size) = (digest, size);
    descriptor.rest.remove("data");
    descriptor.rest.remove("urls");
}
