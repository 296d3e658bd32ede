//! Layers as an OCI image (image-spec 1.1) in memory.

use std::collections::BTreeMap;
use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use format::Digest;
use serde_json::{Value, json};

use crate::content::Content;
use crate::estargz::{self, Blob};
use crate::zstdchunked;

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

/// Media type of zstd layers, lazy or not.
pub const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// The annotation in a TOC image's manifest that names the layer whose TOC a blob is.
pub const TOC_OF_LAYER_ANNOTATION: &str = "containerd.io/snapshot/stargz/layer.digest";
/// What follows an image's tag in the tag of its TOC image.
pub const TOC_TAG_SUFFIX: &str = "-esgztoc";

/// Each of the media types above, and what docker (image manifest, version 2, schema 2) calls it.
const DOCKER: [(&str, &str); 6] = [
    (MANIFEST, "application/vnd.docker.distribution.manifest.v2+json"),
    (INDEX, "application/vnd.docker.distribution.manifest.list.v2+json"),
    (CONFIG, "application/vnd.docker.container.image.v1+json"),
    (LAYER, "application/vnd.docker.image.rootfs.diff.tar"),
    (LAYER_GZIP, "application/vnd.docker.image.rootfs.diff.tar.gzip"),
    (LAYER_ZSTD, "application/vnd.docker.image.rootfs.diff.tar.zstd"),
];

/// Whose media types an image has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MediaTypes {
    /// Those of the OCI image specification.
    #[default]
    Oci,
    /// Docker's. Annotations are written all the same; whoever wants none takes them from the layers.
    Docker,
}

impl MediaTypes {
    /// What a media type of OCI is called here. Others stay.
    pub fn of(self, oci: &str) -> &str {
        match (self, DOCKER.iter().find(|(known, _)| *known == oci)) {
            (MediaTypes::Docker, Some((_, docker))) => docker,
            _ => oci,
        }
    }
}

/// One layer.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Media type of `content`, as OCI calls it.
    pub media_type: String,
    /// The blob.
    pub content: Content,
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
            content: blob.bytes.clone().into(),
            digest: blob.digest,
            diff_id: blob.diff_id,
            annotations: blob.annotations(),
        }
    }

    /// A lazily pullable layer, zstd.
    pub fn zstd_chunked(blob: &zstdchunked::Blob) -> Layer {
        Layer {
            media_type: LAYER_ZSTD.to_owned(),
            content: blob.bytes.clone().into(),
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
            content: bytes.into(),
            ..Layer::uncompressed(tar)
        }
    }

    /// An ordinary layer, zstd.
    pub fn zstd(tar: &[u8]) -> Layer {
        let bytes = Bytes::from(zstdchunked::Zstd::default().frame(tar));
        Layer {
            media_type: LAYER_ZSTD.to_owned(),
            digest: Digest::of(&bytes),
            content: bytes.into(),
            ..Layer::uncompressed(tar)
        }
    }

    /// An ordinary layer, uncompressed.
    pub fn uncompressed(tar: &[u8]) -> Layer {
        Layer {
            media_type: LAYER.to_owned(),
            content: Bytes::copy_from_slice(tar).into(),
            digest: Digest::of(tar),
            diff_id: Digest::of(tar),
            annotations: BTreeMap::new(),
        }
    }

    /// The descriptor in a manifest.
    pub fn descriptor(&self, media_types: MediaTypes) -> Value {
        let media_type = media_types.of(&self.media_type);
        let mut descriptor =
            json!({ "mediaType": media_type, "digest": self.digest, "size": self.content.len() });
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
    /// Whose media types to write.
    pub media_types: MediaTypes,
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
            media_types: MediaTypes::Oci,
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
    /// The platform, as an index writes it.
    pub platform: Value,
    /// Whose media types it has.
    pub media_types: MediaTypes,
}

impl Image {
    /// The image of these layers, lowest first.
    pub fn new(layers: Vec<Layer>, options: &Options) -> Image {
        let diff_ids: Vec<_> = layers.iter().map(|layer| layer.diff_id).collect();
        let config = json!({
            "architecture": options.architecture,
            "os": "linux",
            "config": { "Env": options.environment, "Cmd": options.command },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let platform = json!({ "architecture": options.architecture, "os": "linux" });
        Image::assemble(layers, &config, platform, options.media_types)
    }

    fn assemble(layers: Vec<Layer>, config: &Value, platform: Value, media_types: MediaTypes) -> Image {
        let config = Document::new(media_types.of(CONFIG), config);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_types.of(MANIFEST),
            "config": config.descriptor(),
            "layers": layers.iter().map(|layer| layer.descriptor(media_types)).collect::<Vec<_>>(),
        });
        let manifest = Document::new(media_types.of(MANIFEST), &manifest);
        let index = index_of([(&manifest, &platform)], media_types);
        Image { layers, config, manifest, index, platform, media_types }
    }
}

/// The index of several images, one for each platform, with the media types of the first.
///
/// # Panics
/// When there are none.
pub fn index(images: &[&Image]) -> Document {
    let media_types = images.first().expect("an image").media_types;
    index_of(images.iter().map(|image| (&image.manifest, &image.platform)), media_types)
}

fn index_of<'a>(
    manifests: impl IntoIterator<Item = (&'a Document, &'a Value)>,
    media_types: MediaTypes,
) -> Document {
    let descriptor = |(manifest, platform): (&Document, &Value)| {
        let mut descriptor = manifest.descriptor();
        descriptor["platform"] = platform.clone();
        descriptor
    };
    let manifests: Vec<_> = manifests.into_iter().map(descriptor).collect();
    let media_type = media_types.of(INDEX);
    Document::new(media_type, &json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": manifests }))
}

/// The image with the TOCs of layers that have theirs outside ([`estargz::Footer::External`]). It is found under the tag
/// of the image with [`TOC_TAG_SUFFIX`]; [`crate::Registry::push_toc_image`] puts it there.
pub fn toc_image(blobs: &[&Blob]) -> Image {
    let mut layers: Vec<Layer> = blobs
        .iter()
        .map(|blob| {
            let layer = Layer::gzip(&estargz::toc_tar(blob.toc_json.clone()));
            let of = (TOC_OF_LAYER_ANNOTATION.to_owned(), blob.digest.to_string());
            Layer { annotations: BTreeMap::from([of]), ..layer }
        })
        .collect();
    layers.sort_by(|a, b| a.annotations.cmp(&b.annotations));
    Image::assemble(layers, &json!({}), Value::Null, MediaTypes::Oci)
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
            assert_eq!(descriptor["digest"], layer.content.digest().to_string());
            assert_eq!(descriptor["size"], layer.content.len());
            assert_eq!(layer.diff_id, Digest::of(&crate::estargz::gunzip(&layer.content.to_bytes())));
        }
        let annotation = &manifest["layers"][1]["annotations"][crate::estargz::TOC_DIGEST_ANNOTATION];
        assert_eq!(*annotation, blob.toc_digest.to_string());
    }

    #[test]
    fn docker_has_names_of_its_own() {
        let tar = tarball::write(&Tree::new().with("f", Entry::file("x")));
        let options = Options { media_types: MediaTypes::Docker, ..Options::default() };
        let image = Image::new(vec![Layer::gzip(&tar), Layer::zstd(&tar)], &options);
        let manifest: Value = serde_json::from_slice(&image.manifest.bytes).unwrap();
        assert_eq!(image.manifest.media_type, "application/vnd.docker.distribution.manifest.v2+json");
        assert_eq!(manifest["mediaType"], image.manifest.media_type);
        assert_eq!(manifest["config"]["mediaType"], "application/vnd.docker.container.image.v1+json");
        let layers = manifest["layers"].as_array().unwrap().iter().map(|layer| &layer["mediaType"]);
        assert!(layers.eq([
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "application/vnd.docker.image.rootfs.diff.tar.zstd"
        ]));
    }

    #[test]
    fn a_toc_image_names_the_layer_of_each_toc() {
        let blob = |text: &'static str| {
            let tar = tarball::write(&Tree::new().with("f", Entry::file(text)));
            estargz::build(&tar, &estargz::Options::external())
        };
        let (one, two) = (blob("one"), blob("two"));
        let image = toc_image(&[&one, &two]);
        for blob in [one, two] {
            let of = |layer: &&Layer| layer.annotations[TOC_OF_LAYER_ANNOTATION] == blob.digest.to_string();
            let layer = image.layers.iter().find(of).unwrap();
            let tar = estargz::gunzip(&layer.content.to_bytes());
            let members = tarball::parse(&tar);
            assert_eq!(members[0].member.name, estargz::TOC_NAME.as_bytes());
            assert_eq!(members[0].member.content, blob.toc_json);
        }
        assert_eq!(image.config.bytes, "{}");
    }
}
