//! Shows layers at paths: the place where a [`layer::Layer`] meets the kernel.
//!
//! A layer that is not complete is served as a FUSE file, which the kernel's EROFS takes as the data device of the
//! layer's image. A complete layer is mounted from its image file alone, and this program is not in its path.
//!
//! A layer that is shown at two paths is two mounts of one image file, with a page cache each: overlayfs refuses to stack
//! a directory on itself (ELOOP), and there are images that have a layer twice.
//!
//! One lock guards the table, and is held while the kernel mounts. That never waits for the network: superblock and
//! directories are read from the image file.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use format::Digest;
use layer::{Filled, Layer};
use mount::{
    BoxFuture, Ending, ErofsOptions, Fetched, Image, ImageServer, Session, SessionOptions, Source,
    UnmountMode,
};

/// The layers that are shown, and the session that serves their contents.
#[derive(Debug)]
pub struct Shelf {
    images: Mutex<Option<ImageServer>>,
    dir: PathBuf,
    shown: Mutex<HashMap<Digest, Shown>>,
}

#[derive(Debug)]
struct Shown {
    layer: Arc<Layer>,
    /// Where it is mounted; never empty.
    paths: Vec<PathBuf>,
    /// Whether its contents come through the FUSE session.
    served: bool,
}

impl Shelf {
    /// Mounts the FUSE session at `dir`. What a former process left mounted there is detached.
    ///
    /// Must be called within a tokio runtime. Blocks.
    ///
    /// # Errors
    /// The kernel refuses; the text says what is missing.
    pub fn open(dir: PathBuf, options: SessionOptions) -> Result<Shelf, mount::Error> {
        for stale in mount::mounts_below(&dir)? {
            mount::unmount(&stale.mount_point, UnmountMode::Lazy)?;
        }
        std::fs::create_dir_all(&dir).map_err(|source| mount::Error::File {
            action: "make directory",
            path: dir.clone(),
            source,
        })?;
        let session = Session::mount(&dir, options)?;
        let images = ImageServer::start(session, tokio::runtime::Handle::current(), Vec::new())?;
        Ok(Shelf { images: Mutex::new(Some(images)), dir, shown: Mutex::default() })
    }

    fn shown(&self) -> MutexGuard<'_, HashMap<Digest, Shown>> {
        // Entries are added and removed whole.
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_images<T>(&self, ask: impl FnOnce(&ImageServer) -> T) -> Option<T> {
        self.images.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(ask)
    }

    /// Mounts the layer at `path`, an empty directory. Blocks.
    ///
    /// # Errors
    /// The kernel refuses. Nothing is left mounted.
    pub fn show(&self, layer: &Arc<Layer>, path: &Path) -> Result<(), mount::Error> {
        let mut shown = self.shown();
        let served = match shown.get(&layer.digest()) {
            Some(entry) => entry.served,
            None => self.serve(layer)?,
        };
        let device = served.then(|| self.dir.join(layer.digest().hex()));
        let options = ErofsOptions { device, ..ErofsOptions::default() };
        if let Err(error) = mount::mount_erofs(&layer.image_path(), path, &options) {
            if served && !shown.contains_key(&layer.digest()) {
                self.with_images(|images| images.remove(node_of(&layer.digest())));
            }
            return Err(error);
        }
        let entry = shown.entry(layer.digest()).or_insert_with(|| Shown {
            layer: layer.clone(),
            paths: Vec::new(),
            served,
        });
        entry.paths.push(path.to_owned());
        Ok(())
    }

    /// Makes the layer's contents a FUSE file, unless they are all in the image file. True if it did.
    fn serve(&self, layer: &Arc<Layer>) -> Result<bool, mount::Error> {
        match layer.give_alone() {
            Ok(true) => return Ok(false),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "a complete layer is served all the same"),
        }
        let (node, name) = (node_of(&layer.digest()), layer.digest().hex());
        let image = Image { node, name, source: Arc::new(Served(layer.clone())) };
        self.with_images(|images| images.add(image)).unwrap_or(Ok(()))?;
        Ok(true)
    }

    /// Unmounts `path`. Returns the layer's digest if it is shown nowhere any more. Blocks.
    ///
    /// # Errors
    /// The kernel refuses, or no layer is shown there.
    pub fn hide(&self, path: &Path) -> Result<Option<Digest>, mount::Error> {
        let mut shown = self.shown();
        let found =
            shown.iter().find_map(|(digest, entry)| entry.paths.iter().any(|p| p == path).then_some(*digest));
        let Some(digest) = found else {
            let source = io::Error::new(io::ErrorKind::NotFound, "no layer is mounted there");
            return Err(mount::Error::File { action: "unmount", path: path.to_owned(), source });
        };
        // Lazily: whoever still reads keeps the tree, and nobody else finds it.
        mount::unmount(path, UnmountMode::Lazy)?;
        let Some(entry) = shown.get_mut(&digest) else { return Ok(None) };
        entry.paths.retain(|p| p != path);
        if !entry.paths.is_empty() {
            return Ok(None);
        }
        if entry.served {
            self.with_images(|images| images.remove(node_of(&digest)));
        }
        shown.remove(&digest);
        Ok(Some(digest))
    }

    /// The layer that is shown at `path`.
    pub fn at(&self, path: &Path) -> Option<Arc<Layer>> {
        let shown = self.shown();
        shown.values().find(|entry| entry.paths.iter().any(|p| p == path)).map(|entry| entry.layer.clone())
    }

    /// Whether the layer's contents come through this program.
    pub fn serves(&self, digest: &Digest) -> bool {
        self.shown().get(digest).is_some_and(|entry| entry.served)
    }

    /// Whether the layer is shown anywhere.
    pub fn shows(&self, digest: &Digest) -> bool {
        self.shown().contains_key(digest)
    }

    /// Stops to serve contents. Layers that are still mounted keep their directories and what is cached. Blocks.
    ///
    /// # Errors
    /// The session's directory can't be unmounted.
    pub fn close(&self) -> Result<(), mount::Error> {
        let images = self.images.lock().unwrap_or_else(PoisonError::into_inner).take();
        images.map_or(Ok(()), |images| images.shutdown(Ending::Unmount))
    }
}

/// The node number of a layer's file: a function of its digest alone, so that a later process gives the same one.
fn node_of(digest: &Digest) -> u64 {
    let start = digest.raw().first_chunk().copied().unwrap_or_default();
    // Far above the numbers that FUSE reserves.
    u64::from_be_bytes(start) | 1 << 63
}

/// A layer's data area as a FUSE file.
#[derive(Debug)]
struct Served(Arc<Layer>);

impl Source for Served {
    fn size(&self) -> u64 {
        self.0.data_len()
    }

    fn read_local(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
        self.0.read_local(offset, buf)
    }

    fn fetch(&self, offset: u64, len: usize) -> BoxFuture<'_, io::Result<Fetched>> {
        Box::pin(async move {
            match self.0.fill(offset, len).await.map_err(io::Error::other)? {
                Filled::Stored => Ok(Fetched::Stored),
                Filled::Unkept(bytes) => Ok(Fetched::Unkept(bytes)),
            }
        })
    }
}
