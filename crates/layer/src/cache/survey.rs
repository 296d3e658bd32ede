//! The layers below a root, seen from outside: works beside the process that owns the root.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use format::Digest;

use crate::error::Error;
use crate::image::{ImageFiles, Taken, last_used};

/// A layer on disk.
#[derive(Clone, Debug)]
pub struct OnDisk {
    /// Digest of the layer's blob.
    pub digest: Digest,
    /// The layer's directory.
    pub dir: PathBuf,
    /// Size of the blob, bytes.
    pub blob_size: u64,
    /// Size of the image file, holes included, bytes.
    pub image_size: u64,
    /// What it takes.
    pub taken: Taken,
    /// Chunks of the layer.
    pub chunks: u64,
    /// Chunks that are filled.
    pub filled: u64,
    /// When it was used last.
    pub used: SystemTime,
}

/// The layers below a root.
#[derive(Debug)]
pub struct Survey {
    /// Least recently used first.
    pub layers: Vec<OnDisk>,
    /// Layers that do not hold together, and why: they will be built again when somebody wants them.
    pub broken: Vec<(Digest, Error)>,
}

/// The digests that layers below a root have.
pub(crate) fn digests(root: &Path) -> io::Result<Vec<Digest>> {
    let mut found = Vec::new();
    for algorithm in ["sha256", "sha512"] {
        let entries = match fs::read_dir(root.join(algorithm)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let name = entry?.file_name();
            let digest = name.to_str().and_then(|hex| format!("{algorithm}:{hex}").parse::<Digest>().ok());
            found.extend(digest);
        }
    }
    Ok(found)
}

/// Where a layer lies below a root.
pub(crate) fn dir_of(root: &Path, digest: &Digest) -> PathBuf {
    root.join(digest.algorithm().name()).join(digest.hex())
}

/// Looks at the layers below `root`. Changes nothing. A layer that is removed meanwhile is left out.
///
/// # Errors
/// The root can't be read.
pub fn survey(root: &Path) -> Result<Survey, Error> {
    let failed = |error| Error::disk(format!("list the layers in {}", root.display()), error);
    let (mut layers, mut broken) = (Vec::new(), Vec::new());
    for digest in digests(root).map_err(failed)? {
        let dir = dir_of(root, &digest);
        match look_at(digest, &dir) {
            Ok(layer) => layers.push(layer),
            Err(_) if !dir.exists() => {}
            Err(error) => broken.push((digest, error)),
        }
    }
    layers.sort_by_key(|layer| (layer.used, layer.digest));
    Ok(Survey { layers, broken })
}

fn look_at(digest: Digest, dir: &Path) -> Result<OnDisk, Error> {
    let io = |error| Error::disk(format!("look at {}", dir.display()), error);
    let files = ImageFiles::open_to_read(dir)?;
    let chunks = files.tables.chunk_count() as u64;
    Ok(OnDisk {
        digest,
        dir: dir.to_owned(),
        blob_size: files.meta.blob_size,
        image_size: files.meta.data_start + files.meta.data_len,
        taken: Taken::of(dir).map_err(io)?,
        chunks,
        filled: chunks - files.filled.missing(),
        used: UNIX_EPOCH + Duration::from_secs(last_used(dir).map_err(io)?),
    })
}
