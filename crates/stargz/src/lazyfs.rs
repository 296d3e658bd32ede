//! The file system behind the snapshotter: from a snapshot's labels to a mounted layer.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use format::Digest;
use futures_util::{StreamExt as _, stream};
use layer::source::{BlobSource, IpfsLayer, RegistryLayer};
use layer::{Layer, Layers, Pin};
use snapshotter::FsError;
use tokio::sync::{Semaphore, watch};

use crate::config::policy::ImagePolicy;
use crate::labels::{self, LayerSource};
use crate::pins;
use crate::profile::Store;
use crate::shelf::{self, Shelf};
use crate::watch::book::Book;

mod ahead;
mod face;
mod learn;
mod policy;

pub use face::SharedFs;
pub use policy::{Policy, Prefetch};

use ahead::RESOLVED_AHEAD_AT_ONCE;
use learn::Learned;
use policy::Rules;

/// Layers of a former process that are loaded at one time.
const LOADED_AT_ONCE: usize = 16;

/// Mounts layers lazily from registries.
///
/// The tables are behind short locks, never held over an await. A task that resolves a layer ahead
/// ends by itself after the layer's time to live, and with the runtime.
#[derive(Debug)]
pub struct LazyFs {
    /// What a reload can change, as it is now.
    rules: Mutex<Rules>,
    layers: Arc<Layers>,
    shelf: Arc<Shelf>,
    /// Where the layers that are mounted come from, by mount point.
    sources: Mutex<HashMap<PathBuf, LayerSource>>,
    /// Layers that were resolved ahead, and since when.
    ahead: Mutex<HashMap<Digest, Instant>>,
    /// Bounds the requests and the memory that a long list of neighbours can cost.
    ahead_permits: Semaphore,
    /// How many mounts of a layer are under way: such a layer is not taken away.
    mounting: Mutex<HashMap<Digest, usize>>,
    /// Prefetches by layer; the value turns true when nobody has to wait for it (any more).
    prefetches: Mutex<HashMap<Digest, watch::Receiver<bool>>>,
    closing: AtomicBool,
    book: Book,
    profiles: Arc<Store>,
    /// First reads that were seen and written down, by image.
    learned: Mutex<HashMap<String, Learned>>,
}

/// A layer at a place where it is mounted.
#[derive(Debug)]
pub struct View {
    /// The place.
    pub path: PathBuf,
    /// The image for which it was mounted there.
    pub image: String,
    /// The layer.
    pub layer: Arc<Layer>,
    /// Whether its contents come through this program.
    pub served: bool,
}

impl LazyFs {
    /// A file system that shows layers on `shelf`.
    pub fn new(
        client: registry::Client,
        layers: Arc<Layers>,
        shelf: Arc<Shelf>,
        policy: Policy,
        profiles: Arc<Store>,
    ) -> Arc<LazyFs> {
        Arc::new(LazyFs {
            rules: Mutex::new(Rules::new(client, policy)),
            layers,
            shelf,
            sources: Mutex::default(),
            ahead: Mutex::default(),
            ahead_permits: Semaphore::new(RESOLVED_AHEAD_AT_ONCE),
            mounting: Mutex::default(),
            prefetches: Mutex::default(),
            closing: AtomicBool::new(false),
            book: Book::default(),
            profiles,
            learned: Mutex::default(),
        })
    }

    fn rules(&self) -> Rules {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How registries are reached now.
    pub fn client(&self) -> registry::Client {
        self.rules().client
    }

    fn policy(&self) -> Policy {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).policy.clone()
    }

    fn sources(&self) -> MutexGuard<'_, HashMap<PathBuf, LayerSource>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What happened until now.
    pub fn book(&self) -> &Book {
        &self.book
    }

    /// The profiles of this node.
    pub fn profiles(&self) -> &Arc<Store> {
        &self.profiles
    }

    /// How layers are shown that are not complete, and why so.
    pub fn backend(&self) -> (String, &str) {
        let (backend, reason) = self.shelf.backend();
        (backend.map_or_else(|| "none".to_owned(), |backend| backend.to_string()), reason)
    }

    /// Everything that is mounted.
    pub fn views(&self) -> Vec<View> {
        let sources: Vec<_> = {
            let sources = self.sources();
            sources.iter().map(|(path, from)| (path.clone(), from.reference.to_string())).collect()
        };
        let view = |(path, image): (PathBuf, String)| {
            let layer = self.shelf.at(&path)?;
            let served = self.shelf.serves(&layer.digest());
            Some(View { path, image, layer, served })
        };
        sources.into_iter().filter_map(view).collect()
    }

    /// Goes by these rules from now on, and reads what is mounted already from the registries that they name.
    pub fn obey(&self, client: registry::Client, policy: Policy) {
        // The session's deadline was made for these.
        let policy = Policy { images: self.policy().images, ..policy };
        *self.rules.lock().unwrap_or_else(PoisonError::into_inner) = Rules::new(client, policy);
        let sources: Vec<_> =
            self.sources().iter().map(|(path, from)| (path.clone(), from.clone())).collect();
        for (path, from) in sources {
            if let Some(layer) = self.shelf.at(&path) {
                layer.set_source(self.source_of(&from, from.digest, from.ipfs.as_deref()));
                self.complete(&layer);
            }
        }
    }

    /// From now on unmounting keeps what is on disk: the snapshots stay, only this process goes.
    pub fn closing(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// Goes on with the layers of a former process, if it left a session that can be gone on with: those that are whole on
    /// disk. No registry is asked, but for the manifest of an image whose labels do not pin its layers. A layer that cannot be had this way is left to be mounted anew.
    ///
    /// # Errors
    /// The kernel refuses every session.
    pub async fn go_on(
        self: &Arc<Self>,
        layers: Vec<(PathBuf, HashMap<String, String>)>,
    ) -> anyhow::Result<()> {
        let loaded = stream::iter(layers).map(|(path, labels)| async move {
            let layer = self.load(&labels).await?;
            Some((path, layer))
        });
        let loaded: Vec<_> =
            loaded.buffer_unordered(LOADED_AT_ONCE).filter_map(std::future::ready).collect().await;
        let shelf = self.shelf.clone();
        Ok(tokio::task::spawn_blocking(move || shelf.go_on(loaded)).await??)
    }

    /// A layer from the disk, the same image file that was there before.
    async fn load(self: &Arc<Self>, labels: &HashMap<String, String>) -> Option<Arc<Layer>> {
        let source = labels::parse(labels).ok()?;
        let before = shelf::identity(&self.layers.image_path(&source.digest))?;
        let loaded = self.resolve(&source).await;
        let layer = loaded.inspect_err(|error| tracing::warn!(layer = %source.digest, %error, "a layer of the former daemon is lost")).ok()?;
        (shelf::identity(&layer.image_path()) == Some(before)).then_some(layer)
    }

    /// Removes layers from the disk that no snapshot shows: leftovers of removals that a crash cut off. With a budget they
    /// stay, as all layers do that nobody uses.
    pub async fn remove_orphans(&self) {
        if self.layers.keeps_unused() {
            return;
        }
        let on_disk = self.layers.on_disk().unwrap_or_else(|error| {
            tracing::warn!(%error, "layers on disk are not known");
            Vec::new()
        });
        for digest in on_disk.iter().filter(|digest| !self.shelf.shows(digest)) {
            tracing::info!(layer = %digest, "removing a layer that no snapshot uses");
            self.forget(digest).await;
        }
    }

    /// Mounts a layer at an empty directory.
    ///
    /// # Errors
    /// It cannot be had, is not to be trusted, or the kernel refuses. Nothing is left mounted.
    pub async fn show(
        self: &Arc<Self>,
        source: &LayerSource,
        mountpoint: &Path,
    ) -> Result<Arc<Layer>, FsError> {
        let started = Instant::now();
        let shown = self.try_show(source, mountpoint).await;
        let (image, digest) = (source.reference.to_string(), source.digest.to_string());
        match &shown {
            Ok(_) => {
                self.book.note_mount(mountpoint, started.elapsed());
                self.book.forgive(&image, &digest);
            }
            Err(error) => self.book.note_refusal(&image, &digest, &error.to_string()),
        }
        shown
    }

    async fn try_show(
        self: &Arc<Self>,
        source: &LayerSource,
        mountpoint: &Path,
    ) -> Result<Arc<Layer>, FsError> {
        let _mounting = Mounting::new(self.clone(), source.digest);
        self.layers.starting();
        self.resolve_ahead(source);
        let layer = self.resolve(source).await?;
        let image = source.reference.to_string();
        if let Some(patience) = self.policy().of_image(&image).and_then(ImagePolicy::patience) {
            layer.set_read_timeout(patience);
        }
        self.fetch_ahead(&layer, source);
        let (shelf, path, shown) = (self.shelf.clone(), mountpoint.to_owned(), layer.clone());
        blocking(move || shelf.show(&shown, &path)).await?;
        self.sources().insert(mountpoint.to_owned(), source.clone());
        Ok(layer)
    }

    /// Unmounts what is shown at a directory.
    ///
    /// # Errors
    /// The kernel refuses, or no layer is shown there.
    pub async fn hide(&self, mountpoint: &Path) -> Result<(), FsError> {
        let (shelf, path) = (self.shelf.clone(), mountpoint.to_owned());
        let unused = blocking(move || shelf.hide(&path)).await?;
        self.sources().remove(mountpoint);
        self.book.note_unmount(mountpoint);
        match unused {
            Some(digest) if !self.closing.load(Ordering::Relaxed) => self.forget(&digest).await,
            _ => {}
        }
        Ok(())
    }

    fn mounting(&self) -> MutexGuard<'_, HashMap<Digest, usize>> {
        self.mounting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a layer away that nobody shows and nobody is about to show; with a budget it stays until its room is needed.
    async fn forget(&self, digest: &Digest) {
        let removal = {
            // Held, so that no mount begins between the question and the answer.
            let mounting = self.mounting();
            if mounting.contains_key(digest) || self.shelf.shows(digest) {
                return;
            }
            (!self.layers.keeps_unused()).then(|| self.layers.remove(digest))
        };
        self.prefetches().remove(digest);
        self.ahead().remove(digest);
        let Some(removal) = removal else { return self.layers.release(digest).await };
        if let Err(error) = removal.await {
            tracing::warn!(layer = %digest, %error, "a layer that is not used any more stays on disk");
        }
    }

    /// Where a layer of the same image comes from.
    fn source_of(&self, image: &LayerSource, digest: Digest, ipfs: Option<&str>) -> Arc<dyn BlobSource> {
        let Rules { client, policy, .. } = self.rules();
        let registry = RegistryLayer::new(&client, &image.reference, image.manifest, digest);
        let Some(url) = ipfs.filter(|_| policy.ipfs) else { return Arc::new(registry) };
        match client.ipfs_blob(url) {
            Ok(blob) => Arc::new(IpfsLayer::new(blob, registry)),
            Err(error) => {
                tracing::warn!(layer = %digest, %error, "a URL of a layer is not usable, so its registry is asked");
                Arc::new(registry)
            }
        }
    }

    /// The layer, if the policy lets it be used.
    async fn resolve(&self, source: &LayerSource) -> Result<Arc<Layer>, FsError> {
        let blob = self.source_of(source, source.digest, source.ipfs.as_deref());
        let failed = |error: layer::Error| FsError::from_error(&error);
        let policy = self.policy();
        let waived = if policy.disable_verification {
            Some("verification is disabled by configuration")
        } else if source.toc_digest.is_none() && source.skip_verify && policy.allow_no_verification {
            Some("the image's user asked for no verification")
        } else {
            None
        };
        if let Some(reason) = waived {
            let resolved = self.layers.resolve(source.digest, None, blob).await.map_err(failed)?;
            return Ok(resolved.trust_unverified(reason));
        }
        let pin = match (source.toc_digest, source.compressed_toc_digest) {
            (Some(toc), _) => Some(Pin::Toc(toc)),
            (None, Some(compressed)) => Some(Pin::CompressedToc(compressed)),
            (None, None) => {
                pins::of_manifest(&*blob).await.map_err(|error| FsError::new(error.to_string()))?
            }
        };
        let Some(pin) = pin else {
            return Err(FsError::new(format!(
                "layer {} has no digest of a table of contents in its manifest: an ordinary layer, or its \
                 annotations were lost",
                source.digest
            )));
        };
        let resolved = self.layers.resolve(source.digest, Some(pin), blob).await.map_err(failed)?;
        resolved.verify(&pin).map_err(failed)
    }
}

/// A mount that is under way.
struct Mounting {
    fs: Arc<LazyFs>,
    digest: Digest,
}

impl Mounting {
    fn new(fs: Arc<LazyFs>, digest: Digest) -> Mounting {
        *fs.mounting().entry(digest).or_default() += 1;
        Mounting { fs, digest }
    }
}

impl Drop for Mounting {
    fn drop(&mut self) {
        let mut mounting = self.fs.mounting();
        if let Some(count) = mounting.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                mounting.remove(&self.digest);
            }
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, mount::Error> + Send + 'static,
) -> Result<T, FsError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|error| FsError::from_error(&error)),
        Err(error) => Err(FsError::from_error(&error)),
    }
}
