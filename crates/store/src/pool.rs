//! The pool: what is on disk of each image that is in use.
//!
//! ```text
//! <root>/pool/metadata--sha256-<hex>/    the hex digits are those of the reference's SHA-256
//!   manifest, config                     as the registry gave them last
//!   uses                                 which layers are used how often, and what it takes to show them; JSON
//! ```
//!
//! `uses` is replaced as a whole and durable before a client is told that it was understood.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use format::Digest;
use serde::{Deserialize, Serialize};

use crate::engine::Pin;
use crate::image::{Image, ImageLayer};

/// A change of the format of `uses` is a change of this number.
const VERSION: u32 = 1;
/// No image has so many layers that they need more, bytes.
const SIZE_MAX: u64 = 16 << 20;
const USES: &str = "uses";

/// What `uses` holds.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Uses {
    version: u32,
    /// The image, as clients write it.
    pub reference: String,
    /// By the names that clients have for the layers.
    pub layers: BTreeMap<Digest, Used>,
}

/// A layer that is in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Used {
    /// How often; above 0.
    pub uses: u64,
    /// What is known of it; it was used without having been looked up otherwise.
    pub layer: Option<Known>,
}

/// What it takes to show a layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Known {
    pub manifest: Digest,
    pub layer: ImageLayer,
    pub pin: Pin,
}

/// The pool below one root.
#[derive(Debug)]
pub(crate) struct Pool {
    dir: PathBuf,
}

impl Pool {
    /// Makes the directory.
    pub(crate) fn open(dir: PathBuf) -> io::Result<Pool> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        Ok(Pool { dir })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    fn dir_of(&self, reference: &str) -> PathBuf {
        self.dir.join(format!("metadata--sha256-{}", Digest::of(reference.as_bytes()).hex()))
    }

    /// Writes down what is in use of an image; takes its directory away if nothing is.
    pub(crate) fn write(&self, reference: &str, layers: BTreeMap<Digest, Used>) -> io::Result<()> {
        let dir = self.dir_of(reference);
        if layers.is_empty() {
            return match fs::remove_file(dir.join(USES)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        let uses = Uses { version: VERSION, reference: reference.to_owned(), layers };
        make(&dir)?;
        replace(&dir, USES, &serde_json::to_vec(&uses).map_err(io::Error::other)?)
    }

    /// Keeps manifest and config, for people.
    pub(crate) fn keep(&self, reference: &str, image: &Image) -> io::Result<()> {
        let dir = self.dir_of(reference);
        make(&dir)?;
        replace(&dir, "manifest", &image.manifest)?;
        replace(&dir, "config", &image.config)
    }

    /// Takes an image's directory away, whatever is in it.
    pub(crate) fn remove(&self, reference: &str) -> io::Result<()> {
        match fs::remove_dir_all(self.dir_of(reference)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// What is in use of all images. What cannot be read is logged, and left for people; directories of images of which
    /// nothing is in use are removed.
    pub(crate) fn read(&self) -> io::Result<Vec<Uses>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let dir = entry?.path();
            match read_uses(&dir.join(USES)) {
                Ok(uses) => all.push(uses),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    if let Err(error) = fs::remove_dir_all(&dir) {
                        tracing::warn!(dir = %dir.display(), %error, "an image that is not used stays in the pool");
                    }
                }
                Err(error) => {
                    tracing::warn!(dir = %dir.display(), %error, "it is not known which layers of an image are used");
                }
            }
        }
        Ok(all)
    }
}

fn make(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

fn read_uses(path: &Path) -> io::Result<Uses> {
    let mut text = Vec::new();
    File::open(path)?.take(SIZE_MAX).read_to_end(&mut text)?;
    let uses: Uses = serde_json::from_slice(&text)?;
    if uses.version != VERSION {
        let reason = format!("it is of version {}, this program knows {VERSION}", uses.version);
        return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    }
    Ok(uses)
}

/// Replaces a file as a whole, durably.
fn replace(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let new = dir.join(format!("{name}.new"));
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, dir.join(name))?;
    File::open(dir)?.sync_all()
}
