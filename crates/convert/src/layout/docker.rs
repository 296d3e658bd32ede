//! The archives of `docker save`: `manifest.json` names configs and layers; image manifests are made from that.

use std::collections::HashMap;
use std::io::{self, Read as _};

use format::Digest;
use format::digest::{Algorithm, Hasher};
use serde::Deserialize;
use serde_json::{Value, json};

use super::archive::{Extent, Members, Window};
use super::{LayoutError, NamedImage, parse};
use crate::descriptor::Descriptor;
use crate::media;

pub(super) const MANIFEST_FILE: &str = "manifest.json";
const BUFFER: usize = 256 << 10;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Image {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

type Read = (Vec<NamedImage>, HashMap<Digest, Extent>, HashMap<Digest, Vec<u8>>);

pub(super) fn read(members: &Members<'_>, manifest: &[u8]) -> Result<Read, LayoutError> {
    let images: Vec<Image> = parse(members.path, MANIFEST_FILE, manifest)?;
    let mut reader =
        Reader { members, extents: HashMap::new(), made: HashMap::new(), hashed: HashMap::new() };
    let named: Result<_, _> = images.into_iter().map(|image| reader.image(image)).collect();
    Ok((named?, reader.extents, reader.made))
}

struct Reader<'a> {
    members: &'a Members<'a>,
    extents: HashMap<Digest, Extent>,
    made: HashMap<Digest, Vec<u8>>,
    /// Digests of compressed layers by their offset.
    hashed: HashMap<u64, Digest>,
}

impl Reader<'_> {
    fn image(&mut self, image: Image) -> Result<NamedImage, LayoutError> {
        let path = self.members.path;
        let invalid = |document: &str, problem: String| LayoutError::Document {
            path: path.to_owned(),
            document: document.to_owned(),
            problem,
        };
        let missing = |name: &str| invalid(MANIFEST_FILE, format!("{name:?}, which it names, is not there"));
        let config = self.members.document(&image.config)?.ok_or_else(|| missing(&image.config))?;
        let parsed: Value = parse(path, &image.config, &config)?;
        let diff_ids: Vec<Digest> = Vec::deserialize(&parsed["rootfs"]["diff_ids"])
            .map_err(|error| invalid(&image.config, format!("rootfs.diff_ids: {error}")))?;
        if diff_ids.len() != image.layers.len() {
            let problem = format!("it has {} layers, its config {}", image.layers.len(), diff_ids.len());
            return Err(invalid(MANIFEST_FILE, problem));
        }
        let mut layers = Vec::new();
        for (name, diff_id) in image.layers.iter().zip(diff_ids) {
            let extent = self.members.find(name).ok_or_else(|| missing(name))?;
            layers.push(self.layer(extent, diff_id)?);
        }
        let config_digest = Digest::of(&config);
        let config_size = config.len() as u64;
        self.made.insert(config_digest, config);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media::DOCKER_MANIFEST,
            "config": Descriptor::new(media::DOCKER_CONFIG, config_digest, config_size),
            "layers": layers,
        });
        let manifest = manifest.to_string().into_bytes();
        let descriptor =
            Descriptor::new(media::DOCKER_MANIFEST, Digest::of(&manifest), manifest.len() as u64);
        self.made.insert(descriptor.digest, manifest);
        Ok(NamedImage { names: image.repo_tags.unwrap_or_default(), descriptor })
    }

    /// A plain layer is named by its diff ID, and checked when it is read; a compressed one has no other name than its
    /// digest, which has to be found first.
    fn layer(&mut self, extent: Extent, diff_id: Digest) -> Result<Descriptor, LayoutError> {
        let failed = |source| LayoutError::io("reading", self.members.path)(source);
        let mut magic = Vec::new();
        Window::new(self.members.file, extent).take(4).read_to_end(&mut magic).map_err(failed)?;
        let (media_type, digest) = match magic.as_slice() {
            [0x1f, 0x8b, ..] => (media::DOCKER_LAYER_GZIP, None),
            [0x28, 0xb5, 0x2f, 0xfd] => (media::DOCKER_LAYER_ZSTD, None),
            _ => (media::DOCKER_LAYER, Some(diff_id)),
        };
        let digest = match (digest, self.hashed.get(&extent.offset)) {
            (Some(digest), _) | (None, Some(&digest)) => digest,
            (None, None) => {
                let digest = hash(Window::new(self.members.file, extent)).map_err(failed)?;
                self.hashed.insert(extent.offset, digest);
                digest
            }
        };
        self.extents.insert(digest, extent);
        Ok(Descriptor::new(media_type, digest, extent.size))
    }
}

fn hash(mut source: impl io::Read) -> io::Result<Digest> {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut buffer = vec![0; BUFFER];
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(got) => hasher.update(&buffer[..got]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
