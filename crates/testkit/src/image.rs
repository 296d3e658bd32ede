//! Layers as an OCI image (image-spec 1.1) in memory.

use std::collections::BTreeMap;
use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use format::Digest;
use serde_json::{Value, json};

use crate::estargz::Blob;

/// Media type of manifests.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of indexes.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of configs.
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Media type of uncompressed layers.
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// Media type of gzip layers, lazy or not.
pub const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// One layer.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Media type of `bytes`.
    pub media_type: String,
    /// The blob.
    pub bytes: Bytes,
    /// The digest that the manifest names; the true one, unless a test makes it lie.
    pub digest: Digest,
    /// The digest of the uncompressed archive that the config names.
    pub diff_id: Digest,
    /// Annotations of the descriptor.
    pub annotations: BTreeMap<String, String>,
}

impl Layer {
    /// A lazily pullable layer.
    pub fn estargz(blob: &Blob) -> Layer {
        Layer {
            media_type: LAYER_GZIP.to_owned(),
            bytes: blob.bytes.clone(),
            digest: blob.digest,
            diff_id: blob.diff_id,
            annotations: blob.annotations(),
        }
    }

    /// An ordinary layer, gzip.
    pub fn gzip(tar: &[u8]) -> Layer {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(tar).expect("writing to a Vec cannot fail");
        let bytes: Bytes = gzip.finish().expect("writing to a Vec cannot fail").into();
        Layer {
            media_type: LAYER_GZIP.to_owned(),
            digest: Digest::of(&bytes),
            bytes,
            ..Layer::uncompressed(tar)
        }
    }

    /// An ordinary layer, uncompressed.
    pub fn uncompressed(tar: &[u8]) -> Layer {
        Layer {
            media_type: LAYER.to_owned(),
            bytes: Bytes::copy_from_slice(tar),
            digest: Digest::of(tar),
            diff_id: Digest::of(tar),
            annotations: BTreeMap::new(),
        }
    }

    /// The descriptor in the manifest.
    pub fn descriptor(&self) -> Value {
        let mut descriptor =
            json!({ "mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len() });
        if !self.annotations.is_empty() {
            descriptor["annotations"] = json!(self.annotations);
        }
        descriptor
    }
}

/// A JSON document of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Its media type.
    pub media_type: String,
    /// Its bytes.
    pub bytes: Bytes,
    /// Their digest.
    pub digest: Digest,
}

impl Document {
    /// A value as a document.
    pub fn new(media_type: &str, value: &Value) -> Document {
        let bytes = Bytes::from(value.to_string());
        Document { media_type: media_type.to_owned(), digest: Digest::of(&bytes), bytes }
    }

    /// The descriptor that points at it.
    pub fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len() })
    }
}

/// What the config of an image says.
#[derive(Clone, Debug)]
pub struct Options {
    /// Architecture in Go's words; the one this runs on by default.
    pub architecture: String,
    /// The command of containers.
    pub command: Vec<String>,
    /// The environment of containers.
    pub environment: Vec<String>,
}

impl Default for Options {
    fn default() -> Options {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Options {
            architecture: architecture.to_owned(),
            command: Vec::new(),
            environment: vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()],
        }
    }
}

/// An image for one platform, and an index of that one manifest.
#[derive(Clone, Debug)]
pub struct Image {
    /// Layers, lowest first.
    pub layers: Vec<Layer>,
    /// The config.
    pub config: Document,
    /// The manifest.
    pub manifest: Document,
    /// The index.
    pub index: Document,
}

impl Image {
    /// The image of these layers, lowest first.
    pub fn new(layers: Vec<Layer>, options: &Options) -> Image {
        let platform = json!({ "architecture": options.architecture, "os": "linux" });
        let diff_ids: Vec<_> = layers.iter().map(|layer| layer.diff_id).collect();
        let config = json!({
            "architecture": options.architecture,
            "os": "linux",
            "config": { "Env": options.environment, "Cmd": options.command },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = Document::new(CONFIG, &config);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.descriptor(),
            "layers": layers.iter().map(Layer::descriptor).collect::<Vec<_>>(),
        });
        let manifest = Document::new(MANIFEST, &manifest);
        let mut descriptor = manifest.descriptor();
        descriptor["platform"] = platform;
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor] });
        Image { layers, config, manifest, index: Document::new(INDEX, &index) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tarball;
    use crate::tree::{Entry, Tree};

    #[test]
    fn every_descriptor_points_at_its_bytes() {
        let tar = tarball::write(&Tree::new().with("f", Entry::file("x")));
        let blob = crate::estargz::build(&tar, &Default::default());
        let image = Image::new(vec![Layer::gzip(&tar), Layer::estargz(&blob)], &Options::default());
        let manifest: Value = serde_json::from_slice(&image.manifest.bytes).unwrap();
        let index: Value = serde_json::from_slice(&image.index.bytes).unwrap();
        assert_eq!(index["manifests"][0]["digest"], Digest::of(&image.manifest.bytes).to_string());
        assert_eq!(manifest["config"]["digest"], Digest::of(&image.config.bytes).to_string());
        for (layer, descriptor) in image.layers.iter().zip(manifest["layers"].as_array().unwrap()) {
            assert_eq!(descriptor["digest"], Digest::of(&layer.bytes).to_string());
            assert_eq!(descriptor["size"], layer.bytes.len());
            assert_eq!(layer.diff_id, Digest::of(&crate::estargz::gunzip(&layer.bytes)));
        }
        let annotation = &manifest["layers"][1]["annotations"][crate::estargz::TOC_DIGEST_ANNOTATION];
        assert_eq!(*annotation, blob.toc_digest.to_string());
    }
}
