//! The files of a probe.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use erofs::{Attributes, Content, ImageWriter, Options};

use crate::error::Error;
use crate::mounts::{UnmountMode, mounts_below, unmount};

/// The one file of the image.
pub(super) const FILE: &str = "data";
/// What it holds.
pub(super) const PATTERN: [u8; erofs::BLOCK_SIZE as usize] = [0x5a; erofs::BLOCK_SIZE as usize];

/// A directory with a small image, its data beside it, and places to mount on. It goes with everything mounted in it when
/// the probe ends.
pub(super) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    pub(super) fn new(dir: &Path) -> Result<Self, Error> {
        /// Probes may run side by side in one process.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        // As the mount table has it, which is asked for what is left to unmount.
        let dir = fs::canonicalize(dir).map_err(|source| failed("find", dir, source))?;
        let path = dir.join(format!(".mount-probe-{}-{next}", std::process::id()));
        let created = fs::create_dir(&path).or_else(|error| match error.kind() {
            // From a process of the same number that was killed in the middle.
            io::ErrorKind::AlreadyExists => {
                remove(&path);
                fs::create_dir(&path)
            }
            _ => Err(error),
        });
        created.map_err(|source| failed("create", &path, source))?;
        let scratch = Self { path };
        for dir in [scratch.mount(), scratch.empty(), scratch.merged()] {
            fs::create_dir(&dir).map_err(|source| failed("create", &dir, source))?;
        }
        for (path, bytes) in [(scratch.image(), image()?), (scratch.device(), PATTERN.to_vec())] {
            fs::write(&path, bytes).map_err(|source| failed("write", &path, source))?;
        }
        Ok(scratch)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The metadata area of the image.
    pub(super) fn image(&self) -> PathBuf {
        self.path.join("image")
    }

    /// Its data area.
    pub(super) fn device(&self) -> PathBuf {
        self.path.join("device")
    }

    pub(super) fn mount(&self) -> PathBuf {
        self.path.join("mount")
    }

    pub(super) fn empty(&self) -> PathBuf {
        self.path.join("empty")
    }

    pub(super) fn merged(&self) -> PathBuf {
        self.path.join("merged")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

fn remove(path: &Path) {
    let mounts = mounts_below(path).unwrap_or_default();
    let gone = mounts.iter().rev().try_for_each(|mount| unmount(&mount.mount_point, UnmountMode::Lazy));
    if let Err(error) = gone.map_err(io::Error::other).and_then(|()| fs::remove_dir_all(path)) {
        tracing::warn!(path = %path.display(), %error, "cannot remove the files of a mount probe");
    }
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::File { action, path: path.to_path_buf(), source }
}

/// The smallest image that has what those of layers have.
fn image() -> Result<Vec<u8>, Error> {
    let mut writer = ImageWriter::new(Options::default());
    let content = Content::File { size: PATTERN.len() as u64, data_offset: 0 };
    let attributes = Attributes { mode: 0o444, ..Attributes::default() };
    let mut bytes = Vec::new();
    writer
        .add(writer.root(), FILE.as_bytes(), attributes, content)
        .and_then(|_| writer.write(PATTERN.len() as u64, &mut bytes))
        .map_err(|error| failed("make", Path::new("the image of a probe"), io::Error::other(error)))?;
    Ok(bytes)
}
